//! What is in a network file system.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::{FilesError, glob, path};

/// Symbolic links are followed as far as the folder reaches: its root is theirs.
pub const WITHIN: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// How deep a search goes: deeper than any tree that somebody made on purpose.
const MAX_DEPTH: usize = 128;
/// Entries that a search holds in memory. They are sorted, so all of a folder's are read before the first is told; some
/// hundred bytes each.
pub const MAX_HELD: usize = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Folder,
    Link,
    Pipe,
    Socket,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder that was listed, or to the root of the file system when it was found by a pattern.
    pub path: String,
    pub kind: EntryKind,
    pub size: u64,
    /// Seconds since 1970.
    pub modified: u64,
}

/// Calls `found` for each entry; it returns false to stop.
///
/// A folder's path stands for what is in it, by name; a file's for the file itself. A pattern (with `*`) stands for all
/// that it matches, in the order of a walk: a folder before what is in it. `most`: see [`MAX_HELD`].
pub fn find(
    root: BorrowedFd<'_>,
    asked: &str,
    most: usize,
    found: &mut dyn FnMut(Entry) -> bool,
) -> Result<(), FilesError> {
    let held = Held { asked, most, count: 0 };
    let parts = path::parts(asked)?;
    if let Some(first) = parts.iter().position(|part| part.contains(['*', '?'])) {
        if !parts.iter().any(|part| part.contains('*')) {
            return one(root, &parts, held, found);
        }
        let start = parts[..first].join("/");
        let Ok(folder) = open_folder(root, &start) else { return Ok(()) };
        let mut walk = Walk { pattern: &parts, held, found };
        return walk.go(folder.as_fd(), &start, first).map(drop);
    }
    one(root, &parts, held, found)
}

fn one(
    root: BorrowedFd<'_>,
    parts: &[&str],
    mut held: Held<'_>,
    found: &mut dyn FnMut(Entry) -> bool,
) -> Result<(), FilesError> {
    let (whole, asked) = (parts.join("/"), held.asked);
    match open_folder(root, &whole) {
        Ok(folder) => {
            for entry in held.entries(folder.as_fd())? {
                if !found(entry) {
                    break;
                }
            }
            Ok(())
        }
        Err(Errno::NOTDIR) => {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let file = rustix::fs::openat2(root, whole.as_str(), flags, Mode::empty(), WITHIN);
            let stat = file.and_then(|file| rustix::fs::fstat(&file)).map_err(|error| io("look at", asked, error))?;
            found(entry(whole, &stat));
            Ok(())
        }
        Err(error) => Err(io("list", asked, error)),
    }
}

struct Walk<'a> {
    pattern: &'a [&'a str],
    held: Held<'a>,
    found: &'a mut dyn FnMut(Entry) -> bool,
}

impl Walk<'_> {
    /// False when enough was found. Links are shown, not followed, so a walk ends.
    fn go(&mut self, folder: BorrowedFd<'_>, at: &str, depth: usize) -> Result<bool, FilesError> {
        if depth > MAX_DEPTH {
            return Ok(true);
        }
        let entries = self.held.entries(folder)?;
        let count = entries.len();
        for entry in entries {
            let name = entry.path.clone();
            let path = if at.is_empty() { name.clone() } else { format!("{at}/{name}") };
            let is_folder = entry.kind == EntryKind::Folder;
            let parts: Vec<&str> = path.split('/').collect();
            if glob::matches(self.pattern, &parts) && !(self.found)(Entry { path: path.clone(), ..entry }) {
                return Ok(false);
            }
            let goes_deeper = self.pattern.contains(&"**") || parts.len() < self.pattern.len();
            if !is_folder || !goes_deeper {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // What has gone meanwhile is not there.
            let Ok(inner) = rustix::fs::openat(folder, name.as_str(), flags, Mode::empty()) else { continue };
            if !self.go(inner.as_fd(), &path, depth + 1)? {
                return Ok(false);
            }
        }
        self.held.count -= count;
        Ok(true)
    }
}

pub fn open_folder(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, if path.is_empty() { "." } else { path }, flags, Mode::empty(), WITHIN)
}

/// The entries that one search has in memory.
struct Held<'a> {
    asked: &'a str,
    most: usize,
    count: usize,
}

impl Held<'_> {
    /// All of a folder, by name. Names that are no UTF-8 cannot be told to a client.
    fn entries(&mut self, folder: BorrowedFd<'_>) -> Result<Vec<Entry>, FilesError> {
        let failed = |error| io("list", self.asked, error);
        let mut entries = Vec::new();
        for item in Dir::read_from(folder).map_err(failed)? {
            let item = item.map_err(failed)?;
            let Ok(name) = item.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) if self.count + entries.len() == self.most => {
                    return Err(FilesError::TooMany { path: self.asked.to_owned(), most: self.most });
                }
                Ok(stat) => entries.push(entry(name.to_owned(), &stat)),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        self.count += entries.len();
        Ok(entries)
    }
}

fn entry(path: String, stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Folder,
        FileType::Symlink => EntryKind::Link,
        FileType::Fifo => EntryKind::Pipe,
        FileType::Socket => EntryKind::Socket,
        _ => EntryKind::Other,
    };
    let size = if kind == EntryKind::Folder { 0 } else { stat.st_size.unsigned_abs() };
    Entry { path, kind, size, modified: stat.st_mtime.unsigned_abs() }
}

pub fn io(doing: &'static str, path: &str, error: Errno) -> FilesError {
    let path = path.to_owned();
    match error {
        Errno::NOENT => FilesError::NotFound(path),
        Errno::NOTDIR | Errno::LOOP => FilesError::NoFolder(path),
        Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => FilesError::FolderInTheWay(path),
        Errno::NOSPC | Errno::DQUOT => FilesError::NoSpace(path),
        Errno::NXIO | Errno::NODEV => FilesError::NoFile(path),
        Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ => FilesError::BadPath(path),
        error => FilesError::Io { doing, path: path.into(), source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn count(root: &std::path::Path, asked: &str, most: usize) -> Result<usize, FilesError> {
        let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut count = 0;
        find(root.as_fd(), asked, most, &mut |_| {
            count += 1;
            true
        })?;
        Ok(count)
    }

    #[test]
    fn a_search_holds_no_more_in_memory_than_its_limit() {
        let root = tempfile::tempdir().unwrap();
        // Three folders with three files each, side by side.
        for folder in ["a", "b", "c"] {
            fs::create_dir(root.path().join(folder)).unwrap();
            for file in 0..3 {
                fs::write(root.path().join(folder).join(file.to_string()), "").unwrap();
            }
        }
        let is_too_many = |asked, most| match count(root.path(), asked, most) {
            Err(FilesError::TooMany { path, most: told }) => path == asked && told == most,
            _ => false,
        };
        assert_eq!(count(root.path(), "a", 3).unwrap(), 3);
        assert!(is_too_many("a", 2));
        // What is over makes room again: of twelve entries at most six are held at once.
        assert_eq!(count(root.path(), "**", 6).unwrap(), 12);
        assert!(is_too_many("**", 5));
    }
}
