//! How much of what lies in lower layers a layer hides: what merging it with them would give back.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::content::ContentStore;
use crate::error::{Doing, VolumeError};
use crate::sys;
use crate::view::{Resolved, content_of, names_in, resolve};

/// Bytes by number of the layer in `below`, whose `diff` folders come highest first. Only what could be seen before counts:
/// the rest was hidden by another layer.
pub(crate) fn hidden_by(
    top: &Path,
    below: &[PathBuf],
    contents: &ContentStore,
) -> Result<HashMap<usize, u64>, VolumeError> {
    let mut count = Count { below, contents, bytes: HashMap::new() };
    count.folder(top, below)?;
    Ok(count.bytes)
}

struct Count<'a> {
    below: &'a [PathBuf],
    contents: &'a ContentStore,
    bytes: HashMap<usize, u64>,
}

impl Count<'_> {
    /// `parts` are the parts of the same folder in the layers below.
    fn folder(&mut self, top: &Path, parts: &[PathBuf]) -> Result<(), VolumeError> {
        for entry in fs::read_dir(top).doing("list", top)? {
            let entry = entry.doing("list", top)?;
            let found = resolve(parts, &entry.file_name())?;
            let Some(metadata) = &found.metadata else { continue };
            let (path, is_folder) = (entry.path(), entry.file_type().doing("look at", top)?.is_dir());
            if is_folder && metadata.is_dir() && !sys::is_opaque(&path).doing("look at", &path)? {
                self.folder(&path, &found.real)?;
            } else if is_folder || !self.is_same_content(&path, &found.real[0])? {
                self.all_of(&found)?;
            }
        }
        Ok(())
    }

    /// A file whose attributes alone have changed refers to the same bytes; nothing would be freed.
    fn is_same_content(&self, top: &Path, below: &Path) -> Result<bool, VolumeError> {
        let content = content_of(top).doing("read", top)?;
        Ok(content.is_some() && content == content_of(below).doing("read", below)?)
    }

    fn all_of(&mut self, found: &Resolved) -> Result<(), VolumeError> {
        let Some(metadata) = &found.metadata else { return Ok(()) };
        if metadata.is_dir() {
            for name in names_in(&found.real)? {
                self.all_of(&resolve(&found.real, &name)?)?;
            }
            return Ok(());
        }
        let real = &found.real[0];
        let in_content = content_of(real).doing("read", real)?;
        let blocks = match in_content {
            Some(id) => fs::metadata(self.contents.path(&id)).map_or(0, |content| content.blocks()),
            None => metadata.blocks(),
        };
        if let Some(layer) = self.below.iter().position(|layer| real.starts_with(layer)) {
            *self.bytes.entry(layer).or_default() += blocks * 512;
        }
        Ok(())
    }
}
