//! Which key is which path.
//!
//! A path is a key without the mount's prefix, and `/` separates folders. Not every key is a path: one with an empty
//! segment, with a segment `.` or `..`, with a zero byte or a segment longer than Linux takes cannot be named, and is not
//! shown. A key that ends in `/` marks a folder.

/// The longest name of a file, in bytes.
const MAX_NAME: usize = 255;
/// The longest key that stores take, in bytes.
pub const MAX_KEY: usize = 1024;

/// Whether a segment of a key can be a file's name.
pub fn is_name(segment: &str) -> bool {
    !segment.is_empty()
        && segment != "."
        && segment != ".."
        && segment.len() <= MAX_NAME
        && !segment.contains(['\0', '/'])
}

/// `name` in folder `parent`; the mount's root is the empty path.
pub fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

/// The folder that holds `path`; none for the root.
pub fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/') {
        Some((parent, _)) => Some(parent),
        None if path.is_empty() => None,
        None => Some(""),
    }
}

pub fn object_key(prefix: &str, path: &str) -> String {
    format!("{prefix}{path}")
}

/// What all keys inside a folder begin with.
pub fn folder_key(prefix: &str, path: &str) -> String {
    if path.is_empty() { prefix.to_owned() } else { format!("{prefix}{path}/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_linux_takes() {
        assert!(is_name("a") && is_name("…") && is_name("...") && is_name(&"x".repeat(255)) && is_name(" \n*"));
        for bad in ["", ".", "..", "a/b", "a\0b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(!is_name(&"x".repeat(256)) && !is_name(&"ü".repeat(128)));
    }

    #[test]
    fn a_path_below_a_prefix_is_the_key_behind_it() {
        assert_eq!(object_key("data/", &join("", "a")), "data/a");
        assert_eq!(object_key("", &join("a", "b")), "a/b");
        assert_eq!(folder_key("data/", ""), "data/");
        assert_eq!(folder_key("data/", "a/b"), "data/a/b/");
        assert_eq!((parent("a/b/c"), parent("a"), parent("")), (Some("a/b"), Some(""), None));
    }
}
