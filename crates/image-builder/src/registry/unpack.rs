//! One layer's archive to a folder in overlayfs's own format.
//!
//! The archive was made by strangers. Nothing in it is believed:
//! - paths are taken apart here, `..` is refused, and every folder on the way is looked up in the stack of layers with
//!   links followed inside of it, so an entry below a link lands where the link leads *in the image* and nowhere else;
//! - a hard link's target is found the same way; one that is only in a layer below is copied;
//! - devices are left out: a container could not use them, and one with the numbers 0/0 would be a whiteout;
//! - set-user bits are kept, since `su` and `ping` are nothing without them: in a container they lead to a user of that
//!   container, and on this machine only root can reach the files (the folder of all layers is closed to others);
//! - what is unpacked is counted against a limit, since a small archive can unpack to any size.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps, XattrFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};
use types::owners;

use crate::blocking::Stop;
use crate::stack::{LayerStack, OPAQUE};

/// What one layer may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerLimits {
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

impl Default for LayerLimits {
    /// Far beyond the largest machine-learning images, far below what fills a disk farm.
    fn default() -> Self {
        Self { bytes: 200 << 30, entries: 5_000_000 }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("entry `{path}`: {reason}")]
    Entry { path: String, reason: String },
    #[error("the archive is damaged: {0}")]
    Archive(#[source] io::Error),
    #[error("it unpacks to more than {limit}")]
    TooLarge { limit: String, setting: &'static str },
    /// The archive is not to blame.
    #[error("cannot write its files: {0}")]
    Disk(#[source] io::Error),
    #[error("its content has digest `{found}`, not `{expected}` as the image says")]
    Digest { found: String, expected: String },
}

/// Long names and extended attributes of one entry, with room to spare.
const LONGEST_HEADERS: u64 = 4 << 20;
/// Archives are filled up to whole blocks, the largest in use being megabytes.
const LONGEST_END: u64 = 64 << 20;

/// Unpacks the archive at `archive` into `diff`, which is new. `below`: the layers under it, lowest first. Checks the
/// digest of the uncompressed archive.
pub(crate) fn unpack(
    archive: &Path,
    diff: &Path,
    below: &[PathBuf],
    expected: &str,
    limits: LayerLimits,
    stop: &Stop,
) -> Result<(), UnpackError> {
    let inner = decompress(archive, stop).map_err(UnpackError::Archive)?;
    let mut reader = unpack_entries(inner, Unpacker::new(diff, below, limits).map_err(UnpackError::Disk)?)?;
    // What follows the end mark belongs to the digest, too.
    reader.budget.set(LONGEST_END);
    io::copy(&mut reader, &mut io::sink()).map_err(UnpackError::Archive)?;
    let found = format!("sha256:{}", hex::encode(reader.hasher.finalize()));
    if found != expected {
        return Err(UnpackError::Digest { found, expected: expected.to_owned() });
    }
    Ok(())
}

/// Unpacks an archive that a user adds, with nothing below it and nothing to check it against, into `folder`, which is
/// new. `archive` is uncompressed.
pub(crate) fn unpack_alone(
    archive: Box<dyn Read + Send>,
    folder: &Path,
    limits: LayerLimits,
    stop: &Stop,
) -> Result<(), UnpackError> {
    unpack_entries(Box::new(stop.reader(archive)), Unpacker::new(folder, &[], limits).map_err(UnpackError::Disk)?)
        .map(drop)
}

/// Gives the reader back at the archive's end mark.
fn unpack_entries(inner: Box<dyn Read>, mut unpacker: Unpacker) -> Result<Hashing<Box<dyn Read>>, UnpackError> {
    let budget = Rc::new(Cell::new(LONGEST_HEADERS));
    let mut archive = Archive::new(Hashing { inner, hasher: Sha256::new(), budget: budget.clone() });
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        budget.set(entry.size().saturating_add(LONGEST_HEADERS));
        let path = entry.path_bytes().into_owned();
        unpacker.entry(&path, &mut entry)?;
    }
    unpacker.finish().map_err(UnpackError::Disk)?;
    Ok(archive.into_inner())
}

/// By the first bytes rather than the announced type, which registries get wrong.
fn decompress(path: &Path, stop: &Stop) -> io::Result<Box<dyn Read>> {
    let mut start = [0; 4];
    let mut file = File::open(path)?;
    let length = file.read(&mut start)?;
    let file = BufReader::with_capacity(1 << 20, File::open(path)?);
    // What comes out is counted in gigabytes where what goes in is not, so it is stopped behind the decompression.
    Ok(match &start[..length] {
        [0x1f, 0x8b, ..] => Box::new(stop.reader(MultiGzDecoder::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(stop.reader(zstd::stream::read::Decoder::with_buffer(file)?)),
        _ => Box::new(stop.reader(file)),
    })
}

struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    /// What may still be read before the next entry: headers are read into memory whole, whatever size they announce.
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.budget.get().checked_sub(count as u64);
        self.budget.set(left.ok_or_else(|| io::Error::other("what is between two files of it does not end"))?);
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

struct Unpacker {
    diff: PathBuf,
    /// The new layer on top of those below.
    stack: LayerStack,
    /// Those below alone.
    below: LayerStack,
    limits: LayerLimits,
    bytes: u64,
    entries: u64,
    /// Folders by their path in the archive to where they are. Emptied when a link or a removal could change that.
    folders: HashMap<PathBuf, PathBuf>,
    /// Times of folders, set last: filling a folder changes them.
    times: Vec<(PathBuf, i64)>,
}

impl Unpacker {
    fn new(diff: &Path, below: &[PathBuf], limits: LayerLimits) -> io::Result<Self> {
        fs::create_dir(diff)?;
        fs::set_permissions(diff, fs::Permissions::from_mode(0o755))?;
        let all = below.iter().cloned().chain([diff.to_owned()]);
        let unpacker = Self {
            diff: diff.to_owned(),
            stack: LayerStack::new(all),
            below: LayerStack::new(below.iter().cloned()),
            limits,
            bytes: 0,
            entries: 0,
            folders: HashMap::new(),
            times: Vec::new(),
        };
        if let Some(root) = unpacker.below.entry(Path::new(""))? {
            copy_attributes(&root.meta, diff)?;
        }
        Ok(unpacker)
    }

    fn entry(&mut self, raw: &[u8], entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let shown = String::from_utf8_lossy(raw).into_owned();
        let fail = |reason: String| UnpackError::Entry { path: shown.clone(), reason };
        self.count(entry.size())?;
        let path = relative(raw).ok_or_else(|| fail("its path leads outside of the image".to_owned()))?;
        self.place(&path, entry).map_err(|error| match is_disks_fault(&error) {
            true => UnpackError::Disk(error),
            false => fail(error.to_string()),
        })
    }

    fn count(&mut self, size: u64) -> Result<(), UnpackError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            let limit = format!("{} bytes", self.limits.bytes);
            return Err(UnpackError::TooLarge { limit, setting: "registries.largest_layer_bytes" });
        }
        if self.entries > self.limits.entries {
            let limit = format!("{} files", self.limits.entries);
            return Err(UnpackError::TooLarge { limit, setting: "registries.most_layer_files" });
        }
        Ok(())
    }

    fn place(&mut self, path: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            // The root itself.
            return self.set_attributes(&self.diff.clone(), entry);
        };
        let parent = self.folder(path.parent().unwrap_or(Path::new("")))?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&parent, hidden);
        }
        let target = self.diff.join(&parent).join(name);
        match entry.header().entry_type() {
            EntryType::Directory => self.make_folder(&parent.join(name), &target, entry),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.clear(&target)?;
                let mut file = File::options().write(true).create_new(true).mode(0o600).open(&target)?;
                io::copy(entry, &mut file)?;
                drop(file);
                self.set_attributes(&target, entry)
            }
            EntryType::Symlink => {
                let link = entry.link_name_bytes().ok_or_else(|| io::Error::other("a link without a target"))?;
                self.clear(&target)?;
                self.folders.clear();
                symlink(OsStr::from_bytes(&link), &target)?;
                self.set_attributes(&target, entry)
            }
            EntryType::Link => {
                let link = entry.link_name_bytes().ok_or_else(|| io::Error::other("a hard link without a target"))?;
                self.hard_link(&link, &target)
            }
            EntryType::Fifo => {
                self.clear(&target)?;
                rustix::fs::mknodat(rustix::fs::CWD, &target, FileType::Fifo, Mode::from_bits_truncate(0o600), 0)?;
                self.set_attributes(&target, entry)
            }
            // Devices: see the head of this file.
            EntryType::Char | EntryType::Block => Ok(()),
            // Extension headers are read by the archive; what it does not know is not a file.
            _ => Ok(()),
        }
    }

    /// The folder for `path` of the archive, relative, made where it is missing.
    fn folder(&mut self, path: &Path) -> io::Result<PathBuf> {
        if let Some(known) = self.folders.get(path) {
            return Ok(known.clone());
        }
        let found = self.stack.resolve_path(path)?.path;
        self.make_missing(&found)?;
        self.folders.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// `path` holds no links. Folders of layers below are repeated with their attributes.
    fn make_missing(&mut self, path: &Path) -> io::Result<()> {
        let full = self.diff.join(path);
        match fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_dir() => return Ok(()),
            Ok(_) => fs::remove_file(&full)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(parent) = path.parent() {
            self.make_missing(parent)?;
        }
        fs::create_dir(&full)?;
        match self.below.entry(path)? {
            Some(found) if found.meta.is_dir() => copy_attributes(&found.meta, &full),
            _ => fs::set_permissions(&full, fs::Permissions::from_mode(0o755)),
        }
    }

    fn make_folder(&mut self, path: &Path, target: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        match fs::symlink_metadata(target) {
            Ok(meta) if meta.is_dir() => {}
            Ok(meta) => {
                // A whiteout that came first: the folder is new, and nothing from below may show through.
                let opaque = crate::stack::is_whiteout(&meta);
                self.clear(target)?;
                fs::create_dir(target)?;
                if opaque {
                    set_opaque(target)?;
                }
            }
            Err(_) => fs::create_dir(target)?,
        }
        self.folders.clear();
        let _ = path;
        self.set_attributes(target, entry)?;
        self.times.push((target.to_owned(), entry.header().mtime().unwrap_or(0).try_into().unwrap_or(0)));
        Ok(())
    }

    /// `.wh.name` hides `name` of the layers below, `.wh..wh..opq` all that they have in this folder.
    fn whiteout(&mut self, parent: &Path, hidden: &[u8]) -> io::Result<()> {
        let folder = self.diff.join(parent);
        if hidden == b".wh..opq" {
            return set_opaque(&folder);
        }
        // Other names of this kind are another storage driver's bookkeeping.
        if hidden.is_empty() || hidden.starts_with(b".wh.") || hidden == b"." || hidden == b".." {
            return Ok(());
        }
        let name = OsStr::from_bytes(hidden);
        if self.below.entry(&parent.join(name))?.is_none() {
            return Ok(());
        }
        self.folders.clear();
        let target = folder.join(name);
        match fs::symlink_metadata(&target) {
            // The same layer brings a new one; only what is below goes away.
            Ok(meta) if meta.is_dir() => set_opaque(&target),
            Ok(_) => Ok(()),
            Err(_) => Ok(rustix::fs::mknodat(rustix::fs::CWD, &target, FileType::CharacterDevice, Mode::empty(), 0)?),
        }
    }

    fn hard_link(&mut self, link: &[u8], target: &Path) -> io::Result<()> {
        let outside = || io::Error::other("a hard link to a place outside of the image");
        let link = relative(link).ok_or_else(outside)?;
        let name = link.file_name().ok_or_else(outside)?;
        let parent = self.stack.resolve_path(link.parent().unwrap_or(Path::new("")))?.path;
        let source = parent.join(name);
        let missing = || io::Error::other(format!("a hard link to `{}`, which is not there", source.display()));
        let found = self.stack.entry(&source)?.ok_or_else(missing)?;
        if found.meta.is_dir() {
            return Err(io::Error::other("a hard link to a folder"));
        }
        if found.path == target {
            return Ok(());
        }
        self.clear(target)?;
        if found.path.starts_with(&self.diff) {
            return fs::hard_link(&found.path, target);
        }
        if found.meta.is_symlink() {
            return symlink(fs::read_link(&found.path)?, target);
        }
        if !found.meta.is_file() {
            return Err(io::Error::other("a hard link to a special file"));
        }
        self.bytes = self.bytes.saturating_add(found.meta.len());
        fs::copy(&found.path, target)?;
        copy_attributes(&found.meta, target)
    }

    /// Makes room: a later entry of the same name replaces the earlier one.
    fn clear(&mut self, target: &Path) -> io::Result<()> {
        match fs::symlink_metadata(target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(meta) => {
                if meta.is_dir() {
                    self.folders.clear();
                    self.times.retain(|(path, _)| !path.starts_with(target));
                    return trees::remove(target);
                }
                fs::remove_file(target)
            }
        }
    }

    fn set_attributes(&mut self, target: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        let (uid, gid) = (id(header.uid()?)?, id(header.gid()?)?);
        let mode = header.mode()? & 0o7777;
        let mtime = header.mtime()?.try_into().unwrap_or(0);
        lchown(target, Some(uid), Some(gid))?;
        if kind != EntryType::Symlink {
            // After the owner: changing it clears the set-user bit.
            fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
            set_capabilities(target, entry)?;
        }
        if kind != EntryType::Directory {
            set_time(target, mtime)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        for (path, mtime) in self.times.iter().rev() {
            if path.is_dir() {
                set_time(path, *mtime)?;
            }
        }
        Ok(())
    }
}

/// File capabilities (`ping` has them) are the one extended attribute that images rely on.
fn set_capabilities(target: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    const NAME: &str = "security.capability";
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        if extension.key_bytes() == format!("SCHILY.xattr.{NAME}").as_bytes() {
            rustix::fs::lsetxattr(target, NAME, extension.value_bytes(), XattrFlags::empty())?;
        }
    }
    Ok(())
}

fn set_opaque(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())?)
}

fn set_time(path: &Path, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn copy_attributes(meta: &fs::Metadata, target: &Path) -> io::Result<()> {
    lchown(target, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(meta.mode() & 0o7777))
}

/// Whether the disk, and not the archive, is why a file could not be written.
fn is_disks_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem) || error.raw_os_error() == Some(libc::EIO)
}

fn id(number: u64) -> io::Result<u32> {
    owners::of_container(number).map_err(|reason| io::Error::other(format!("its owner cannot be kept: {reason}")))
}

/// A path of the archive without `.`, a leading `/` and doubled slashes; none when it has `..`.
fn relative(raw: &[u8]) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(raw)).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
#[path = "unpack_test.rs"]
mod tests;
