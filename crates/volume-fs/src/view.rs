//! A stack of layers read as one tree, by the rules of overlayfs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use manifest::changes::Below;
use manifest::content::ContentId;

use crate::error::{Doing, VolumeError};
use crate::store::Pinned;
use crate::sys;

/// What a volume is at one moment. It stays readable as long as it is held.
#[derive(Debug)]
pub struct View {
    /// The layers' trees, the highest first.
    layers: Vec<PathBuf>,
    _pinned: Option<Pinned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Symlink,
    Fifo,
    Socket,
}

/// One name in a view.
#[derive(Debug, Clone)]
pub struct Node {
    pub kind: Kind,
    pub size: u64,
    pub modified_s: u64,
    /// Permission bits.
    pub mode: u32,
    pub owner: (u32, u32),
    /// Where it lies. Of a folder, each layer's part of it, the highest first.
    pub(crate) real: Vec<PathBuf>,
}

impl Node {
    /// The path in its layer.
    pub fn path(&self) -> &Path {
        &self.real[0]
    }

    /// Where its bytes are, if not in the layer.
    pub fn content(&self) -> Result<Option<ContentId>, VolumeError> {
        if self.kind != Kind::File {
            return Ok(None);
        }
        content_of(self.path()).doing("read", self.path())
    }
}

/// The content that a stub names. Overlayfs marks files that it renames, too, and leaves that mark when they get bytes of
/// their own; so a stub is what has none.
pub(crate) fn content_of(stub: &Path) -> io::Result<Option<ContentId>> {
    let Some(target) = sys::redirect(stub)? else { return Ok(None) };
    if sys::xattr(stub, sys::METACOPY)?.is_none() {
        return Ok(None);
    }
    let in_data_layer = target.strip_prefix("/").ok().and_then(Path::to_str);
    Ok(in_data_layer.and_then(ContentId::parse))
}

impl View {
    /// `layers` are the layers' `diff` folders, the lowest first.
    pub fn of(layers: impl DoubleEndedIterator<Item = PathBuf>) -> Self {
        Self { layers: layers.rev().collect(), _pinned: None }
    }

    pub(crate) fn pinned(layers: impl DoubleEndedIterator<Item = PathBuf>, pinned: Pinned) -> Self {
        Self { layers: layers.rev().collect(), _pinned: Some(pinned) }
    }

    pub fn find(&self, path: &Path) -> Result<Option<Node>, VolumeError> {
        let mut node = self.root();
        for name in path.iter() {
            match self.child(&node, name)? {
                Some(child) => node = child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    fn root(&self) -> Node {
        let modified_s = self.layers.first().and_then(|top| fs::metadata(top).ok()).map_or(0, |m| m.mtime().max(0));
        let (kind, size, mode) = (Kind::Folder, 0, 0o755);
        Node { kind, size, modified_s: modified_s as u64, mode, owner: (0, 0), real: self.layers.clone() }
    }

    pub(crate) fn child(&self, folder: &Node, name: &OsStr) -> Result<Option<Node>, VolumeError> {
        if folder.kind != Kind::Folder {
            return Ok(None);
        }
        find_in(&folder.real, name)
    }

    /// Everything in a folder, by name.
    pub fn list(&self, folder: &Node) -> Result<BTreeMap<OsString, Node>, VolumeError> {
        let mut found = BTreeMap::new();
        for name in names_in(&folder.real)? {
            if let Some(node) = find_in(&folder.real, &name)? {
                found.insert(name, node);
            }
        }
        Ok(found)
    }
}

/// Names in a folder's parts, deleted ones too.
pub(crate) fn names_in(parts: &[PathBuf]) -> Result<BTreeSet<OsString>, VolumeError> {
    let mut names = BTreeSet::new();
    for part in parts {
        for entry in fs::read_dir(part).doing("list", part)? {
            names.insert(entry.doing("list", part)?.file_name());
        }
    }
    Ok(names)
}

/// What a name means in the parts of one folder, the highest first.
fn find_in(parts: &[PathBuf], name: &OsStr) -> Result<Option<Node>, VolumeError> {
    Ok(match resolve(parts, name)? {
        Resolved { real, metadata: Some(metadata), .. } => node(real, &metadata),
        _ => None,
    })
}

pub(crate) struct Resolved {
    pub real: Vec<PathBuf>,
    /// Of the highest; none when the name is not there, or deleted.
    pub metadata: Option<Metadata>,
    pub is_deleted: bool,
    /// Nothing in layers below these parts shows through.
    pub hides_below: bool,
}

pub(crate) fn resolve(parts: &[PathBuf], name: &OsStr) -> Result<Resolved, VolumeError> {
    let mut found = Resolved { real: Vec::new(), metadata: None, is_deleted: false, hides_below: false };
    for part in parts {
        let path = part.join(name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).doing("look at", &path),
        };
        if !metadata.is_dir() {
            found.hides_below = true;
            if found.real.is_empty() {
                found.is_deleted = sys::is_whiteout(&metadata);
                found.metadata = (!found.is_deleted).then_some(metadata);
                found.real.push(path);
            }
            break;
        }
        found.hides_below = sys::is_opaque(&path).doing("look at", &path)?;
        found.metadata.get_or_insert(metadata);
        found.real.push(path);
        if found.hides_below {
            break;
        }
    }
    Ok(found)
}

fn node(real: Vec<PathBuf>, metadata: &Metadata) -> Option<Node> {
    let kind = match metadata.file_type() {
        t if t.is_dir() => Kind::Folder,
        t if t.is_symlink() => Kind::Symlink,
        t if t.is_fifo() => Kind::Fifo,
        t if t.is_socket() => Kind::Socket,
        t if t.is_file() => Kind::File,
        _ => return None,
    };
    Some(Node {
        kind,
        size: if kind == Kind::Folder { 0 } else { metadata.len() },
        modified_s: metadata.mtime().max(0) as u64,
        mode: metadata.permissions().mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        real,
    })
}

impl Below for View {
    fn folder(&self, path: &Path) -> Option<(u32, (u32, u32))> {
        let node = self.find(path).ok().flatten()?;
        (node.kind == Kind::Folder).then_some((node.mode, node.owner))
    }

    fn names(&self, folder: &Path) -> Vec<OsString> {
        let listed = self.find(folder).ok().flatten().and_then(|node| self.list(&node).ok());
        listed.map(|names| names.into_keys().collect()).unwrap_or_default()
    }
}
