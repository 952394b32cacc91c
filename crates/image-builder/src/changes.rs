//! A layer from what a container of somebody else's wrote: `run_function`, whose containers the worker starts.

use std::fs;
use std::path::Path;

use image_plan::LayerKey;

use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::request::BuiltImage;

impl ImageBuilder {
    /// `base` with one more layer, if that layer was made before.
    pub async fn find_with_layer(&self, base: &BuiltImage, key: &LayerKey) -> Result<Option<BuiltImage>, BuildError> {
        match self.inner.store.has(key) {
            true => self.with_layer(base, key).await.map(Some),
            false => Ok(None),
        }
    }

    /// `base` with one more layer: the writable folder `changes` of a container that has ended, which is moved away. `owner`
    /// removes the folder when it is dropped, and is kept until the work is over, also when nobody waits for it any more.
    /// `not_the_images`: paths of files that were laid over the image and are no part of it; what was written at these
    /// places, and the bytecode beside them, is left out.
    pub async fn commit_changes(
        &self,
        base: &BuiltImage,
        key: &LayerKey,
        (changes, owner): (&Path, impl Send + 'static),
        title: &str,
        not_the_images: &[String],
    ) -> Result<BuiltImage, BuildError> {
        let (this, wanted) = (self.clone(), key.clone());
        let (changes, title, paths) = (changes.to_owned(), title.to_owned(), not_the_images.to_vec());
        let work = move || {
            let _owner = owner;
            let workspace = this.inner.store.workspace()?;
            let diff = workspace.diff();
            fs::rename(&changes, &diff).map_err(BuildError::on("move", &changes))?;
            for path in &paths {
                drop_path(&diff, path)?;
            }
            this.inner.store.commit(&workspace, &wanted, &title)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(BuildError::Abandoned))?;
        self.with_layer(base, key).await
    }

    async fn with_layer(&self, base: &BuiltImage, key: &LayerKey) -> Result<BuiltImage, BuildError> {
        let mut layers = base.layers.clone();
        layers.push(key.clone());
        let metadata = self.metadata(&layers, &base.config).await?;
        Ok(BuiltImage { layers, config: base.config.clone(), metadata })
    }
}

/// Nothing here follows a link: each folder on the way is looked at first.
fn drop_path(diff: &Path, path: &str) -> Result<(), BuildError> {
    let relative = Path::new(path.trim_start_matches('/'));
    let Some(name) = relative.file_name() else { return Ok(()) };
    let mut folder = diff.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        if !fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_dir()) {
            return Ok(());
        }
    }
    for gone in [folder.join(name), folder.join("__pycache__")] {
        trees::remove(&gone).map_err(BuildError::on("remove", &gone))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_mounts_and_their_bytecode_are_left_out_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (diff, outside) = (folder.path().join("diff"), folder.path().join("outside"));
        for kept in ["root/__pycache__/main.pyc", "root/main.py", "root/weights.bin"] {
            let path = diff.join(kept);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("main.py"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, diff.join("link")).unwrap();
        for path in ["/root/main.py", "/link/main.py", "/missing/main.py", "/"] {
            drop_path(&diff, path).unwrap();
        }
        assert!(!diff.join("root/main.py").exists() && !diff.join("root/__pycache__").exists());
        assert!(diff.join("root/weights.bin").exists() && outside.join("main.py").exists());
    }
}
