//! A tree of files that becomes a layer by itself: a mount's files, put above an image by overlayfs.
//!
//! The key is the tree's content, so the same files are one layer, whatever app sends them. The layer knows nothing of
//! the image below it: folders are owned by root with mode 755, except those that every image has otherwise
//! ([`usual_mode`]).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use image_plan::{KeyHasher, LayerKey};
use types::words::counted;

use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::request::TreeEntry;
use crate::store::Workspace;

impl ImageBuilder {
    pub async fn tree_layer(&self, files: &[TreeEntry]) -> Result<LayerKey, BuildError> {
        let key = tree_key(files);
        if self.inner.store.has(&key) {
            return Ok(key);
        }
        let (this, wanted, files) = (self.clone(), key.clone(), files.to_vec());
        let make = move |_| async move {
            let work = move || {
                let workspace = this.inner.store.workspace()?;
                write_tree(&workspace, &files)?;
                this.inner.store.commit(&workspace, &wanted, &format!("{} of a mount", counted(files.len(), "file")))
            };
            tokio::task::spawn_blocking(work).await.unwrap_or(Err(BuildError::Abandoned))
        };
        self.inner.layers.run(key.clone(), &LogSink::discard(), make).await?;
        Ok(key)
    }
}

fn tree_key(files: &[TreeEntry]) -> LayerKey {
    let mut sorted: Vec<&TreeEntry> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let hash = |hasher: KeyHasher, file: &TreeEntry| {
        hasher.field(&file.path).field(&file.digest).field(format!("{:o}", file.mode))
    };
    sorted.into_iter().fold(KeyHasher::new("tree"), hash).finish()
}

fn write_tree(workspace: &Workspace, files: &[TreeEntry]) -> Result<(), BuildError> {
    let diff = workspace.diff();
    fs::create_dir(&diff).map_err(BuildError::on("create", &diff))?;
    set_mode(&diff, 0o755)?;
    for file in files {
        let relative = relative_path(&file.path)?;
        if let Some(parent) = relative.parent() {
            make_folders(&diff, parent)?;
        }
        let target = diff.join(&relative);
        // A copy, not a hard link: a link would share mode and owner with the stored blob.
        fs::copy(&file.source, &target).map_err(BuildError::io(format!(
            "copy `{}` to `{}`",
            file.source.display(),
            target.display()
        )))?;
        set_mode(&target, file.mode & 0o7777)?;
    }
    Ok(())
}

fn make_folders(diff: &Path, folder: &Path) -> Result<(), BuildError> {
    let full = diff.join(folder);
    if folder.as_os_str().is_empty() || full.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folders(diff, parent)?;
    }
    fs::create_dir(&full).map_err(BuildError::on("create", &full))?;
    set_mode(&full, usual_mode(folder))
}

/// The mode of folders that a layer must not change by merely having something inside them.
fn usual_mode(folder: &Path) -> u32 {
    match folder.to_str() {
        Some("tmp" | "var/tmp") => 0o1777,
        Some("root") => 0o700,
        _ => 0o755,
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), BuildError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(BuildError::on("set the mode of", path))
}

/// Refuses anything that could leave the layer.
fn relative_path(path: &str) -> Result<PathBuf, BuildError> {
    let relative = Path::new(path.trim_start_matches('/'));
    let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain || relative.as_os_str().is_empty() {
        return Err(BuildError::Refused(format!("`{path}` is not a path for a mounted file")));
    }
    Ok(relative.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, digest: &str) -> TreeEntry {
        TreeEntry { path: path.to_owned(), mode: 0o644, digest: digest.to_owned(), source: PathBuf::new() }
    }

    #[test]
    fn the_order_of_files_does_not_matter_and_their_content_does() {
        let (a, b) = (entry("/a", "1"), entry("/b", "2"));
        assert_eq!(tree_key(&[a.clone(), b.clone()]), tree_key(&[b.clone(), a.clone()]));
        assert_ne!(tree_key(&[a.clone(), b.clone()]), tree_key(&[a, entry("/b", "3")]));
    }

    #[test]
    fn a_path_that_leaves_the_layer_is_refused() {
        assert!(relative_path("/root/../../etc/passwd").is_err());
        assert!(relative_path("/").is_err());
        assert_eq!(relative_path("/root/a.py").unwrap(), Path::new("root/a.py"));
    }
}
