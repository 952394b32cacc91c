//! How large a process's environment may be. Linux refuses to start a program with a larger one, and says no more than that
//! something is too long; here it is said what that is. Pure.

/// Of Linux (`MAX_ARG_STRLEN`): one `NAME=value` with the zero byte behind it.
const MAX_VARIABLE: usize = 128 << 10;
/// Of Linux: arguments and variables share a quarter of what the stack may grow to, which is 8 MiB.
const MAX_ALL: usize = 2 << 20;
/// Of that, what is left for arguments, and for what the program gives to those that it starts itself.
const LEFT: usize = 256 << 10;
/// Each variable costs a pointer more.
const POINTER: usize = size_of::<usize>();

/// # Errors
/// A sentence: which variable is too large, and what to do.
pub fn check_variable(name: &str, value: &str) -> Result<(), String> {
    match bytes(name, value) <= MAX_VARIABLE {
        true => Ok(()),
        false => Err(format!(
            "the variable `{name}` with its value has {} KiB, and Linux starts no program with one of more than {} KiB; \
             put it into a file or a volume",
            bytes(name, value).div_ceil(1 << 10),
            MAX_VARIABLE >> 10
        )),
    }
}

/// `of_secrets`: secrets by name, with the bytes of their variables. Asked for when there is something to say.
///
/// # Errors
/// A sentence: what is too large, and what to do.
pub fn check<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    of_secrets: impl FnOnce() -> Vec<(String, usize)>,
) -> Result<(), String> {
    let mut all = 0;
    for (name, value) in variables {
        check_variable(name, value)?;
        all += bytes(name, value) + POINTER;
    }
    if all <= MAX_ALL - LEFT {
        return Ok(());
    }
    let mut secrets = of_secrets();
    secrets.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let of = |(name, bytes): &(String, usize)| format!("`{name}` {} KiB", bytes.div_ceil(1 << 10));
    let secrets: Vec<String> = secrets.iter().map(of).collect();
    Err(format!(
        "the variables have {} KiB together, and Linux starts no program with more than {} KiB; of secrets: {}; use fewer, \
         or put large values into a file or a volume",
        all.div_ceil(1 << 10),
        (MAX_ALL - LEFT) >> 10,
        if secrets.is_empty() { "none".to_owned() } else { secrets.join(", ") },
    ))
}

/// Of `NAME=value` and the zero byte behind it.
fn bytes(name: &str, value: &str) -> usize {
    name.len() + value.len() + 2
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A value with which `A` is as large as a variable may be.
    fn longest() -> String {
        "x".repeat(MAX_VARIABLE - 3)
    }

    #[test]
    fn what_is_accepted_starts_a_program_and_a_byte_more_would_not() {
        let starts = |value: &str| Command::new("/bin/true").env_clear().env("A", value).status().is_ok();
        let longer = longest() + "x";
        assert!(check_variable("A", &longest()).is_ok() && starts(&longest()));
        assert!(check_variable("A", &longer).unwrap_err().contains("`A`") && !starts(&longer));
    }

    #[test]
    fn too_many_together_are_told_with_the_secrets_they_are_from() {
        let value = longest();
        let many = |count| vec![("A", value.as_str()); count];
        let secrets = || vec![("small".to_owned(), 1000), ("large".to_owned(), 1 << 20)];
        assert!(check(many(13), secrets).is_ok());
        let refused = check(many(14), secrets).unwrap_err();
        assert!(refused.contains("of secrets: `large` 1024 KiB, `small` 1 KiB;"), "{refused}");
    }
}
