//! Names inside a volume.

use std::path::{Component, Path, PathBuf};

/// The limits of every Linux file system.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;

/// Why text cannot be a path in a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("path `{0}` leads out of the volume: `..` is not allowed")]
    Outside(String),
    #[error("path `{0}` has a name of more than {MAX_NAME} bytes")]
    LongName(String),
    #[error("path `{0}…` is longer than {MAX_PATH} bytes")]
    LongPath(String),
    #[error("path `{0}` has a zero byte in it")]
    Zero(String),
}

/// The path relative to the volume's root, which itself is empty: `/a//b/` and `./a/b` are `a/b`.
pub fn normalize(text: &str) -> Result<PathBuf, PathError> {
    let shown = || text.escape_debug().to_string();
    if text.len() > MAX_PATH {
        return Err(PathError::LongPath(text.chars().take(60).collect()));
    }
    if text.contains('\0') {
        return Err(PathError::Zero(shown()));
    }
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) if name.len() > MAX_NAME => return Err(PathError::LongName(shown())),
            Component::Normal(name) => path.push(name),
            Component::ParentDir => return Err(PathError::Outside(shown())),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(path)
}

/// Where a symbolic link at `link` leads, inside the volume; `None` when it leads out of it. An absolute target is one of the
/// container's file system, which is not known here.
pub fn resolve(link: &Path, target: &Path) -> Option<PathBuf> {
    let mut path = link.parent()?.to_owned();
    for component in target.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_and_dots_make_no_difference() {
        for (text, wanted) in [("/a//b/", "a/b"), ("./a/./b", "a/b"), ("/", ""), ("", ""), ("ä b/…", "ä b/…")] {
            assert_eq!(normalize(text).unwrap(), Path::new(wanted), "{text}");
        }
    }

    #[test]
    fn a_link_is_followed_inside_the_volume_only() {
        let resolved = |target: &str| resolve(Path::new("a/b/link"), Path::new(target));
        assert_eq!(resolved("x"), Some("a/b/x".into()));
        assert_eq!(resolved("../../x"), Some("x".into()));
        assert_eq!(resolved("../../../x"), None);
        assert_eq!(resolved("/etc/passwd"), None);
    }

    #[test]
    fn what_leads_out_or_cannot_be_stored_is_refused() {
        let long = "x".repeat(256);
        for text in ["..", "a/../b", "/../etc/passwd", "a\0b", long.as_str()] {
            assert!(normalize(text).is_err(), "{text}");
        }
        assert!(normalize(&"x".repeat(255)).is_ok());
        assert!(normalize(&"x/".repeat(3000)).is_err());
    }
}
