//! From what a container wrote to a layer.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use manifest::changes::{Change, Committed, Data, Entry, EntryKind, Stamp, plan_commit};

use crate::content::ContentStore;
use crate::error::{Doing, VolumeError};
use crate::layer::{Attributes, BuiltLayer, LayerBuilder, Source};
use crate::sys;
use crate::view::{View, content_of};

/// How to take a container's writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// The container goes on: bytes are copied.
    All,
    /// As `All`, but files that somebody writes to at this moment are left for later.
    WithoutOpenFiles,
    /// Nobody uses the upper folder any more: large files are moved, not copied.
    Final,
}

/// Builds a layer of what changed in `upper` since `committed`, for a container whose mount lies on `below`. `None`
/// when nothing did. The second value is what will be committed once the layer is published.
pub fn collect(
    contents: &ContentStore,
    building: &Path,
    upper: &Path,
    below: &View,
    committed: &Committed,
    taking: Taking,
) -> Result<(Option<BuiltLayer>, Committed), VolumeError> {
    let mut entries = Vec::new();
    scan(upper, Path::new(""), committed, taking == Taking::WithoutOpenFiles, &mut entries)?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let (changes, now_committed) = plan_commit(&entries, committed, below, taking == Taking::WithoutOpenFiles);
    if changes.is_empty() {
        return Ok((None, now_committed));
    }
    let mut layer = LayerBuilder::new(contents, building, below)?.over_upper(upper);
    for change in &changes {
        match apply(&mut layer, change, upper, below, taking) {
            // Deleted or renamed since the look at it: the next commit sees that.
            Err(VolumeError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && taking != Taking::Final => {}
            other => other?,
        }
    }
    Ok((layer.finish()?, now_committed))
}

fn apply(
    layer: &mut LayerBuilder<'_>,
    change: &Change,
    upper: &Path,
    below: &View,
    taking: Taking,
) -> Result<(), VolumeError> {
    match change {
        Change::Folder(path) => layer.folder(path, &Attributes::of(&upper.join(path))?),
        Change::Graft { from, to } => match below.find(from)? {
            Some(node) => {
                layer.graft(below, &node, to)?;
                // A graft brings its own attributes; the folder's are those that it has now.
                layer.folder(to, &Attributes::of(&upper.join(to))?)
            }
            None => Ok(()),
        },
        Change::File { path, data: Data::Upper } => {
            let from = upper.join(path);
            let source = if taking == Taking::Final { Source::Take(&from) } else { Source::Copy(&from) };
            layer.file(path, source, &Attributes::of(&from)?)
        }
        Change::File { path, data: Data::Below(from) } => {
            let attributes = Attributes::of(&upper.join(path))?;
            match below.find(from)? {
                Some(node) => layer.file_like(path, &node, &attributes),
                None => from_stub(layer, path, &upper.join(path), &attributes),
            }
        }
        Change::Special(path) => layer.special(path, &upper.join(path)),
        Change::Remove(path) => layer.remove(path),
    }
}

/// A stub in the upper folder whose name below is gone still names its content.
fn from_stub(
    layer: &mut LayerBuilder<'_>,
    path: &Path,
    stub: &Path,
    attributes: &Attributes,
) -> Result<(), VolumeError> {
    let size = fs::symlink_metadata(stub).doing("look at", stub)?.len();
    match content_of(stub).doing("read", stub)? {
        Some(id) => layer.file(path, Source::Content(&id, size), attributes),
        None => Err(VolumeError::NotFound(path.to_owned())),
    }
}

fn scan(
    upper: &Path,
    below: &Path,
    committed: &Committed,
    asks_for_writers: bool,
    entries: &mut Vec<Entry>,
) -> Result<(), VolumeError> {
    let folder = upper.join(below);
    let listed = match fs::read_dir(&folder) {
        Ok(listed) => listed,
        // Deleted while we looked.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).doing("list", &folder),
    };
    for found in listed {
        let name = found.doing("list", &folder)?.file_name();
        let (path, real) = (below.join(&name), folder.join(&name));
        let Ok(metadata) = fs::symlink_metadata(&real) else { continue };
        let Some(kind) = kind_of(&real, &metadata).doing("look at", &real)? else { continue };
        let mut entry = Entry { path, kind, stamp: stamp(&metadata), is_being_written: false };
        if asks_for_writers && metadata.is_file() && !committed.has(&entry) {
            entry.is_being_written = File::open(&real).is_ok_and(|file| sys::is_being_written(&file));
        }
        let into = metadata.is_dir().then(|| entry.path.clone());
        entries.push(entry);
        if let Some(into) = into {
            scan(upper, &into, committed, asks_for_writers, entries)?;
        }
    }
    Ok(())
}

fn kind_of(real: &Path, metadata: &Metadata) -> std::io::Result<Option<EntryKind>> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        let redirect = sys::redirect(real)?;
        return Ok(Some(EntryKind::Folder { opaque: sys::is_opaque(real)?, redirect }));
    }
    if kind.is_file() {
        let data_below = sys::xattr(real, sys::METACOPY)?.is_some();
        let redirect: Option<PathBuf> = if data_below { sys::redirect(real)? } else { None };
        return Ok(Some(EntryKind::File { data_below, redirect }));
    }
    if sys::is_whiteout(metadata) {
        return Ok(Some(EntryKind::Whiteout));
    }
    // A socket is of use only to the program that made it; devices cannot be made inside.
    Ok((kind.is_symlink() || kind.is_fifo()).then_some(EntryKind::Special))
}

fn stamp(metadata: &Metadata) -> Stamp {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Stamp {
        inode: metadata.ino(),
        size: metadata.len(),
        modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
    }
}
