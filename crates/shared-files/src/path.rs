//! Paths as clients write them.

use crate::FilesError;

/// Bytes of a path: more than the kernel takes, so that all of a file's names are within.
const MAX_LENGTH: usize = 4096;
/// Characters of a bad path that its error shows.
const SHOWN: usize = 200;

/// The path's parts from the file system's root, however it was written: `/a//./b/` and `a/b` are the same.
///
/// # Errors
/// When a part is `..`: nobody who means a file of this file system writes that. When it is longer than any path: what a
/// pattern costs grows with it.
pub fn parts(path: &str) -> Result<Vec<&str>, FilesError> {
    if path.len() > MAX_LENGTH {
        return Err(bad(path));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    match parts.iter().any(|part| *part == ".." || part.contains('\0')) {
        true => Err(bad(path)),
        false => Ok(parts),
    }
}

fn bad(path: &str) -> FilesError {
    let shown: String = path.chars().take(SHOWN).collect();
    let rest = if shown.len() < path.len() { "…" } else { "" };
    FilesError::BadPath(format!("{}{rest}", shown.escape_debug()))
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

    #[test]
    fn a_path_longer_than_any_is_refused_and_shown_by_its_beginning() {
        assert_eq!(parts(&"ü/".repeat(MAX_LENGTH / 3)).unwrap().len(), MAX_LENGTH / 3);
        let FilesError::BadPath(shown) = parts(&"ü*".repeat(MAX_LENGTH)).unwrap_err() else { panic!() };
        assert_eq!(shown, format!("{}…", "ü*".repeat(SHOWN / 2)));
    }
}
