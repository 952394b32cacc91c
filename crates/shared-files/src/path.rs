//! Paths as clients write them.

use crate::FilesError;

/// The path's parts from the file system's root, however it was written: `/a//./b/` and `a/b` are the same.
///
/// # Errors
/// When a part is `..`: nobody who means a file of this file system writes that.
pub fn parts(path: &str) -> Result<Vec<&str>, FilesError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    match parts.iter().any(|part| *part == ".." || part.contains('\0')) {
        true => Err(FilesError::BadPath(path.escape_debug().to_string())),
        false => Ok(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_same_however_it_is_written() {
        assert_eq!(parts("/a//./b/").unwrap(), ["a", "b"]);
        assert_eq!(parts("a/b").unwrap(), ["a", "b"]);
        assert!(parts("/").unwrap().is_empty() && parts("").unwrap().is_empty());
    }

    #[test]
    fn nobody_climbs_out() {
        for bad in ["..", "/../etc", "a/../../b", "a\0b"] {
            assert!(matches!(parts(bad), Err(FilesError::BadPath(_))), "{bad:?}");
        }
    }
}
