//! Cures for failures of user code that the platform's own ways bring about.

/// What a container reports of a module that cannot be found, up to the name: Python's `repr` of the exception.
const NOT_FOUND: &str = "ModuleNotFoundError(\"No module named '";

/// A program that imports its own files runs on the machine it was written on; in the container they have to be added.
/// Whether a name is the user's own or a package's cannot be seen here, so both cures are named.
pub fn missing_module(exception: &str, is_legacy: bool) -> Option<String> {
    let (module, _) = exception.strip_prefix(NOT_FOUND)?.split_once('\'')?;
    // Of a package, what is missing is the whole or a part; either comes with the package.
    let name = module.split('.').next()?;
    let is_identifier = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let own = if is_legacy {
        format!("mounts=[modal.Mount.from_local_python_packages(\"{name}\")]")
    } else {
        format!("image=image.add_local_python_source(\"{name}\")")
    };
    is_identifier.then(|| {
        format!(
            "the container has no module `{name}`: if it is yours, add it with `{own}`; if it is a package, install it \
             with `image.pip_install(...)`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_gets_both_cures_with_its_name() {
        let hint = missing_module(r#"ModuleNotFoundError("No module named 'helpers.text'")"#, false).unwrap();
        assert!(hint.contains("add_local_python_source(\"helpers\")") && hint.contains("pip_install"), "{hint}");
        let old = missing_module(r#"ModuleNotFoundError("No module named 'helpers'")"#, true).unwrap();
        assert!(old.contains("from_local_python_packages(\"helpers\")"), "{old}");
    }

    #[test]
    fn other_failures_get_none() {
        for exception in ["ValueError('No module named x')", "ModuleNotFoundError(\"No module named '\")", "", "\u{e9}"]
        {
            assert_eq!(missing_module(exception, false), None, "{exception}");
        }
        assert_eq!(missing_module("ModuleNotFoundError(\"No module named 'a b'\")", false), None);
    }
}
