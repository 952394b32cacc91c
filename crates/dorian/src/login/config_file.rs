//! The client's configuration file on disk: where it is, and how it is replaced without a moment of being half there.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::person;

/// The file that was asked for, or the one that the client would read.
pub fn locate(asked: Option<&Path>) -> Result<PathBuf> {
    let path = match (asked, std::env::var_os("MODAL_CONFIG_PATH")) {
        (Some(path), _) => path.to_owned(),
        (None, Some(path)) if !path.is_empty() => path.into(),
        _ => person::home()
            .context("cannot tell where your home is, since HOME is not set; name the file with --config")?
            .join(".modal.toml"),
    };
    // A link, as people have it who keep their settings elsewhere, stays a link: its target is replaced.
    Ok(path.canonicalize().unwrap_or(path))
}

/// The file's text; none yet is an empty file.
pub fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

/// Replaces the file in one step. It holds tokens, so only its owner may read it.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().with_context(|| format!("`{}` is not the name of a file", path.display()))?;
    // Beside the file, because a rename cannot leave its file system; the process id keeps two of us apart.
    let temporary = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut out = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        out.set_permissions(Permissions::from_mode(0o600))?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        give_to_owner(&temporary, path, folder)?;
        fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| _ = fs::remove_file(&temporary))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// Under `sudo`, a person's file stays theirs; a new one belongs to whoever owns the folder.
fn give_to_owner(new: &Path, old: &Path, folder: &Path) -> std::io::Result<()> {
    if !person::is_root() {
        return Ok(());
    }
    let owner = fs::metadata(old).or_else(|_| fs::metadata(folder))?;
    chown(new, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_readable_by_its_owner_only_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("modal.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        replace(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(&locate(Some(&link)).unwrap(), "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_with_the_path() {
        let error = replace(Path::new("/nonexistent/modal.toml"), "").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/modal.toml"));
    }
}
