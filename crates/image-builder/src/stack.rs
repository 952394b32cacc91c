//! A stack of layers read as one tree, without mounting it.
//!
//! COPY and WORKDIR write a layer of their own on top of others and need to know what is below: whether the destination
//! is a folder, where a symlink on the way leads (Debian's `/lib` is one; writing a folder over it would hide half of the
//! system), which owner and mode an existing folder has. Reading the layers directly needs no privilege, leaves no
//! mount behind when the server is killed, and cannot be tricked out of the layers by a symlink, since links are
//! followed here and not by the kernel.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

pub(crate) struct LayerStack {
    /// Topmost first.
    layers: Vec<PathBuf>,
}

/// What stands at a place of the merged tree.
pub(crate) struct Found {
    /// The file on disk.
    pub path: PathBuf,
    pub meta: Metadata,
}

/// A place with all links on the way followed.
pub(crate) struct Resolved {
    /// Relative to the root, without `.`, `..` and links.
    pub path: PathBuf,
    /// What is there, if anything.
    pub found: Option<Found>,
}

impl LayerStack {
    /// `layers`: lowest first.
    pub fn new(layers: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut layers: Vec<PathBuf> = layers.into_iter().collect();
        layers.reverse();
        Self { layers }
    }

    /// Follows every link, also a last one.
    pub fn resolve(&self, path: &str) -> io::Result<Resolved> {
        self.resolve_path(Path::new(path))
    }

    /// As [`LayerStack::resolve`], for paths that may be no text.
    pub fn resolve_path(&self, path: &Path) -> io::Result<Resolved> {
        let mut todo = parts(path);
        let mut at = PathBuf::new();
        let mut links = 0;
        let mut found = self.entry(Path::new(""))?;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                at.pop();
                found = self.entry(&at)?;
                continue;
            }
            let next = at.join(&part);
            found = self.entry(&next)?;
            let link = found.as_ref().filter(|found| found.meta.is_symlink());
            let Some(link) = link else {
                at = next;
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                let message = format!("too many symbolic links on the way to `{}`", path.display());
                return Err(io::Error::other(message));
            }
            let target = fs::read_link(&link.path)?;
            if target.has_root() {
                at = PathBuf::new();
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
            found = self.entry(&at)?;
        }
        Ok(Resolved { path: at, found })
    }

    /// Reads a small text file of the image.
    pub fn read(&self, path: &str) -> io::Result<Option<String>> {
        match self.resolve(path)?.found {
            Some(found) if found.meta.is_file() => {
                Ok(Some(String::from_utf8_lossy(&fs::read(found.path)?).into_owned()))
            }
            _ => Ok(None),
        }
    }

    /// Names in a folder, whose own path holds no links, sorted.
    pub fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let mut names = BTreeSet::new();
        for layer in &self.layers {
            match look(layer, folder)? {
                Look::Here { found, covers } if found.meta.is_dir() => {
                    for entry in fs::read_dir(&found.path)? {
                        names.insert(entry?.file_name());
                    }
                    if covers || is_opaque(&found.path) {
                        break;
                    }
                }
                Look::Here { .. } | Look::Hidden => break,
                Look::Below => {}
            }
        }
        // A whiteout has a name, too, but no entry.
        let mut kept = Vec::with_capacity(names.len());
        for name in names {
            if self.entry(&folder.join(&name))?.is_some() {
                kept.push(name);
            }
        }
        Ok(kept)
    }

    /// The folder on disk that holds everything of a folder of the merged tree, if there is one: only one layer has it.
    pub fn sole_folder(&self, folder: &Path) -> io::Result<Option<PathBuf>> {
        let mut sole = None;
        for layer in &self.layers {
            match look(layer, folder)? {
                Look::Here { found, covers } if found.meta.is_dir() => {
                    let closed = covers || is_opaque(&found.path);
                    if sole.replace(found.path).is_some() {
                        return Ok(None);
                    }
                    if closed {
                        break;
                    }
                }
                Look::Here { .. } | Look::Hidden => break,
                Look::Below => {}
            }
        }
        Ok(sole)
    }

    /// What the merged tree has at `path`, whose folders are known to be no links.
    pub fn entry(&self, path: &Path) -> io::Result<Option<Found>> {
        for layer in &self.layers {
            match look(layer, path)? {
                Look::Here { found, .. } => return Ok(Some(found)),
                Look::Hidden => return Ok(None),
                Look::Below => {}
            }
        }
        Ok(None)
    }
}

#[expect(clippy::large_enum_variant, reason = "returned and taken apart at once, never stored")]
enum Look {
    /// `covers`: a folder above it is opaque, so nothing of lower layers shows through.
    Here {
        found: Found,
        covers: bool,
    },
    /// This layer says that there is nothing, whatever is below.
    Hidden,
    Below,
}

fn look(layer: &Path, path: &Path) -> io::Result<Look> {
    let mut at = layer.to_owned();
    let mut opaque = false;
    for part in path.components() {
        let Some(meta) = metadata(&at)? else {
            return Ok(if opaque { Look::Hidden } else { Look::Below });
        };
        if !meta.is_dir() {
            return Ok(Look::Hidden);
        }
        opaque |= is_opaque(&at);
        at.push(part);
    }
    match metadata(&at)? {
        Some(meta) if is_whiteout(&meta) => Ok(Look::Hidden),
        Some(meta) => Ok(Look::Here { found: Found { path: at, meta }, covers: opaque }),
        None if opaque => Ok(Look::Hidden),
        None => Ok(Look::Below),
    }
}

fn metadata(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

pub(crate) fn is_opaque(folder: &Path) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::lgetxattr(folder, OPAQUE, &mut value[..]), Ok(1)) && value[0] == b'y'
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..count).map(|index| folder.path().join(index.to_string())).collect();
        layers.iter().for_each(|layer| fs::create_dir(layer).unwrap());
        (folder, layers)
    }

    fn write(layer: &Path, path: &str, text: &str) {
        let path = layer.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_upper_layer_wins_and_the_lower_shows_through() {
        let (_folder, layers) = layers(2);
        write(&layers[0], "etc/a", "low");
        write(&layers[0], "etc/b", "low");
        write(&layers[1], "etc/a", "high");
        let stack = LayerStack::new(layers);
        assert_eq!(stack.read("/etc/a").unwrap().unwrap(), "high");
        assert_eq!(stack.read("/etc/b").unwrap().unwrap(), "low");
        assert_eq!(stack.read("/etc/c").unwrap(), None);
    }

    #[test]
    fn links_are_followed_inside_the_stack_only() {
        let (_folder, layers) = layers(2);
        write(&layers[0], "usr/lib/x", "found");
        std::os::unix::fs::symlink("usr/lib", layers[1].join("lib")).unwrap();
        std::os::unix::fs::symlink("/../../../../usr/lib/x", layers[1].join("out")).unwrap();
        std::os::unix::fs::symlink("loop", layers[1].join("loop")).unwrap();
        let stack = LayerStack::new(layers);
        assert_eq!(stack.resolve("/lib/new").unwrap().path, Path::new("usr/lib/new"));
        assert_eq!(stack.read("/out").unwrap().unwrap(), "found");
        assert!(stack.resolve("/loop").is_err());
    }

    #[test]
    fn a_whiteout_hides_what_is_below() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, layers) = layers(2);
        write(&layers[0], "etc/a/b", "low");
        fs::create_dir(layers[1].join("etc")).unwrap();
        let mode = rustix::fs::Mode::empty();
        rustix::fs::mknodat(rustix::fs::CWD, layers[1].join("etc/a"), rustix::fs::FileType::CharacterDevice, mode, 0)
            .unwrap();
        let stack = LayerStack::new(layers);
        assert_eq!(stack.read("/etc/a/b").unwrap(), None);
        assert!(stack.resolve("/etc/a").unwrap().found.is_none());
    }

    #[test]
    fn an_opaque_folder_hides_what_is_below() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, layers) = layers(2);
        write(&layers[0], "etc/a", "low");
        fs::create_dir(layers[1].join("etc")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(layers[1].join("etc"), OPAQUE, b"y", flags).unwrap();
        assert_eq!(LayerStack::new(layers).read("/etc/a").unwrap(), None);
    }
}
