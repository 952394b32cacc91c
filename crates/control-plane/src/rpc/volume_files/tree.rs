//! Finding and copying files in a view, by the rules of `cp`.

use std::path::Path;

use volume_fs::layer::{Attributes, LayerBuilder};
use volume_fs::{Kind, Node, View, VolumeError};

pub fn file_in(view: &View, path: &Path) -> Result<Node, VolumeError> {
    let node = view.find(path)?.ok_or_else(|| VolumeError::NotFound(path.to_owned()))?;
    match node.kind {
        Kind::File => Ok(node),
        Kind::Symlink => follow(view, path, &node),
        Kind::Folder => Err(VolumeError::IsFolder(path.to_owned())),
        Kind::Fifo | Kind::Socket => Err(VolumeError::NotFound(path.to_owned())),
    }
}

/// A link inside the volume leads on; one that leads out of it leads nowhere here.
pub fn follow(view: &View, path: &Path, link: &Node) -> Result<Node, VolumeError> {
    const MOST_LINKS: usize = 40;
    let (mut path, mut node) = (path.to_owned(), link.clone());
    for _ in 0..MOST_LINKS {
        let target = std::fs::read_link(node.path()).map_err(|source| VolumeError::Io {
            doing: "read link",
            path: path.clone(),
            source,
        })?;
        path = manifest::path::resolve(&path, &target).ok_or_else(|| VolumeError::NotFound(path.clone()))?;
        node = view.find(&path)?.ok_or_else(|| VolumeError::NotFound(path.clone()))?;
        match node.kind {
            Kind::Symlink => {}
            Kind::File => return Ok(node),
            Kind::Folder => return Err(VolumeError::IsFolder(path)),
            Kind::Fifo | Kind::Socket => break,
        }
    }
    Err(VolumeError::NotFound(path))
}

pub fn must_be_free(view: &View, path: &Path) -> Result<(), VolumeError> {
    match view.find(path)? {
        Some(_) => Err(VolumeError::Exists(path.to_owned())),
        None => Ok(()),
    }
}

/// A file never takes the place of a folder, nor a folder that of a file.
pub fn must_be_file(view: &View, path: &Path) -> Result<(), VolumeError> {
    if view.find(path)?.is_some_and(|node| node.kind == Kind::Folder) {
        return Err(VolumeError::IsFolder(path.to_owned()));
    }
    for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        match view.find(folder)? {
            Some(node) if node.kind == Kind::Folder => return Ok(()),
            Some(_) => return Err(VolumeError::NotFolder(folder.to_owned())),
            None => {}
        }
    }
    Ok(())
}

/// As `cp`, a copy makes no folders on the way.
pub fn must_have_folder(view: &View, path: &Path) -> Result<(), VolumeError> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    match view.find(folder)? {
        Some(node) if node.kind == Kind::Folder => Ok(()),
        Some(_) => Err(VolumeError::NotFolder(folder.to_owned())),
        None => Err(VolumeError::NotFound(folder.to_owned())),
    }
}

pub fn copy(
    view: &View,
    layer: &mut LayerBuilder<'_>,
    (source, node): (&Path, &Node),
    to: &Path,
    recursive: bool,
) -> Result<(), VolumeError> {
    if node.kind == Kind::Folder {
        if !recursive {
            return Err(VolumeError::IsFolder(source.to_owned()));
        }
        if to.starts_with(source) {
            return Err(VolumeError::IntoItself(source.to_owned()));
        }
        if view.find(to)?.is_some_and(|there| there.kind != Kind::Folder) {
            return Err(VolumeError::NotFolder(to.to_owned()));
        }
        return layer.graft(view, node, to);
    }
    if source == to {
        return Ok(());
    }
    must_be_file(view, to)?;
    match node.kind {
        Kind::File => {
            layer.file_like(to, node, &Attributes { mode: node.mode, owner: node.owner, ..Attributes::now() })
        }
        _ => layer.graft(view, node, to),
    }
}
