//! Several layers made into one that means the same.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::content::ContentStore;
use crate::error::VolumeError;
use crate::layer::{Attributes, BuiltLayer, LayerBuilder};
use crate::view::{View, names_in, resolve};

/// `parts` are the layers' `diff` folders, the highest first. When nothing lies below them, deletions need no mark any more.
pub(crate) fn merge(
    contents: &ContentStore,
    building: &Path,
    parts: &[PathBuf],
    is_lowest: bool,
) -> Result<Option<BuiltLayer>, VolumeError> {
    let nothing = View::of(std::iter::empty());
    let mut layer = LayerBuilder::new(contents, building, &nothing)?;
    merge_folder(&mut layer, Path::new(""), parts, is_lowest)?;
    layer.finish()
}

fn merge_folder(
    layer: &mut LayerBuilder<'_>,
    path: &Path,
    parts: &[PathBuf],
    is_lowest: bool,
) -> Result<(), VolumeError> {
    for name in names_in(parts)? {
        merge_name(layer, path, parts, &name, is_lowest)?;
    }
    Ok(())
}

fn merge_name(
    layer: &mut LayerBuilder<'_>,
    folder: &Path,
    parts: &[PathBuf],
    name: &OsStr,
    is_lowest: bool,
) -> Result<(), VolumeError> {
    let (found, path) = (resolve(parts, name)?, folder.join(name));
    let Some(metadata) = found.metadata else {
        return if found.is_deleted && !is_lowest { layer.remove(&path) } else { Ok(()) };
    };
    if !metadata.is_dir() {
        return layer.link(&found.real[0], &path);
    }
    let attributes = Attributes::of(&found.real[0])?;
    layer.folder(&path, &attributes)?;
    if found.hides_below && !is_lowest {
        layer.make_opaque(&path)?;
    }
    merge_folder(layer, &path, &found.real, is_lowest || found.hides_below)?;
    // What was put into it has changed its time.
    layer.folder(&path, &attributes)
}
