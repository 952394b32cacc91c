//! What a container has changed in a volume since its last commit.
//!
//! A container writes into the *upper* folder of its own overlay mount, above the layers that it started from. That folder
//! stays while the container runs, so each look finds what earlier commits have published too: their stamps tell it
//! apart. What is found is turned into changes of single names, because somebody else may have committed meanwhile and the
//! last writer wins *per file*: a folder that two containers made keeps the files of both. So overlayfs's two marks that
//! speak of whole folders are resolved here: *opaque* (nothing below shows) into the removal of each name that was below,
//! *redirect* (this is that folder, renamed) into a graft of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What a file's inode says. The change time cannot be set by a program, so equal stamps mean the same file, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub inode: u64,
    pub size: u64,
    pub modified_ns: i128,
    pub changed_ns: i128,
    pub mode: u32,
    pub owner: (u32, u32),
}

/// One entry of an upper folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the volume's root.
    pub path: PathBuf,
    pub kind: EntryKind,
    pub stamp: Stamp,
    /// Somebody writes to the file at this moment.
    pub is_being_written: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File {
        /// Only owner, mode or times were changed: the bytes are those of the layers below.
        data_below: bool,
        redirect: Option<PathBuf>,
    },
    Folder {
        opaque: bool,
        redirect: Option<PathBuf>,
    },
    /// A symbolic link or a named pipe.
    Special,
    /// A name that was below and is deleted.
    Whiteout,
}

/// The layers that the container's mount lies on.
pub trait Below {
    /// Mode and owner of the folder of this name, if there is one.
    fn folder(&self, path: &Path) -> Option<(u32, (u32, u32))>;
    fn names(&self, folder: &Path) -> Vec<OsString>;
}

/// One thing to put into the new layer. Folders come before what is in them, grafts before what lies on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make the folder, or change its owner and mode; what is in it stays.
    Folder(PathBuf),
    /// Everything that was below at `from`.
    Graft {
        from: PathBuf,
        to: PathBuf,
    },
    File {
        path: PathBuf,
        data: Data,
    },
    Special(PathBuf),
    Remove(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// In the upper folder, at the same path.
    Upper,
    /// In the layers below, at this path.
    Below(PathBuf),
}

/// What has been committed of an upper folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed(BTreeMap<PathBuf, Known>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    stamp: Stamp,
    kind: EntryKind,
    /// Of a folder: the folder below whose names show in it.
    origin: Option<PathBuf>,
}

impl Committed {
    /// Whether this very file, as it is, has been committed.
    pub fn has(&self, entry: &Entry) -> bool {
        self.0.get(&entry.path).is_some_and(|known| known.stamp == entry.stamp && known.kind == entry.kind)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The changes since `committed`, and what will be committed with them. `entries` are sorted by path, so that a folder
/// comes before what is in it.
///
/// With `leave_open`, files that somebody writes to stay out: they are half of something. They are taken by a later call.
pub fn plan_commit(
    entries: &[Entry],
    committed: &Committed,
    below: &impl Below,
    leave_open: bool,
) -> (Vec<Change>, Committed) {
    let mut planner =
        Planner { below, committed, changes: Vec::new(), known: BTreeMap::new(), origins: BTreeMap::new() };
    planner.origins.insert(PathBuf::new(), Some(PathBuf::new()));
    let children = names_by_folder(entries);
    for entry in entries {
        if leave_open && entry.is_being_written && !committed.has(entry) {
            // As committed last, if it was.
            if let Some(known) = committed.0.get(&entry.path) {
                planner.known.insert(entry.path.clone(), known.clone());
            }
            continue;
        }
        planner.take(entry, &children);
    }
    planner.remove_vanished(entries);
    (planner.changes, Committed(planner.known))
}

fn names_by_folder(entries: &[Entry]) -> BTreeMap<&Path, BTreeSet<OsString>> {
    let mut children: BTreeMap<&Path, BTreeSet<OsString>> = BTreeMap::new();
    for entry in entries {
        if let (Some(folder), Some(name)) = (entry.path.parent(), entry.path.file_name()) {
            children.entry(folder).or_default().insert(name.to_owned());
        }
    }
    children
}

struct Planner<'a, B> {
    below: &'a B,
    committed: &'a Committed,
    changes: Vec<Change>,
    known: BTreeMap<PathBuf, Known>,
    /// Which folder below each folder of the upper one lies on.
    origins: BTreeMap<PathBuf, Option<PathBuf>>,
}

impl<B: Below> Planner<'_, B> {
    fn take(&mut self, entry: &Entry, children: &BTreeMap<&Path, BTreeSet<OsString>>) {
        let path = &entry.path;
        let is_committed = self.committed.has(entry);
        let mut lies_on = None;
        match &entry.kind {
            EntryKind::Folder { opaque, redirect } => {
                let origin = if *opaque { None } else { self.origin(path, redirect.as_deref()) };
                self.origins.insert(path.clone(), origin.clone());
                lies_on = origin.clone();
                // A folder may have lost what is below it through its parent, and look the same itself.
                let is_where_it_was = self.committed.0.get(path).is_some_and(|known| known.origin == origin);
                if !(is_committed && is_where_it_was) {
                    let upper_names = children.get(path.as_path());
                    self.take_folder(entry, origin, upper_names.unwrap_or(&BTreeSet::new()));
                }
            }
            _ if is_committed => {}
            EntryKind::File { data_below, redirect } => {
                let data = match data_below {
                    true => Data::Below(self.origin(path, redirect.as_deref()).unwrap_or_else(|| path.clone())),
                    false => Data::Upper,
                };
                self.changes.push(Change::File { path: path.clone(), data });
            }
            EntryKind::Special => self.changes.push(Change::Special(path.clone())),
            EntryKind::Whiteout => self.changes.push(Change::Remove(path.clone())),
        }
        self.known.insert(path.clone(), Known { stamp: entry.stamp, kind: entry.kind.clone(), origin: lies_on });
    }

    /// Where below an entry's own counterpart is: at the redirect, else at the same name in its folder's counterpart.
    fn origin(&self, path: &Path, redirect: Option<&Path>) -> Option<PathBuf> {
        if let Some(absolute) = redirect.and_then(|to| to.strip_prefix("/").ok()) {
            return Some(absolute.to_owned());
        }
        let folder = self.origins.get(path.parent()?)?.as_ref()?;
        Some(folder.join(redirect.map_or(path.file_name()?, Path::as_os_str)))
    }

    fn take_folder(&mut self, entry: &Entry, origin: Option<PathBuf>, upper_names: &BTreeSet<OsString>) {
        let path = &entry.path;
        let before = self.committed.0.get(path);
        let lies_here = origin.as_ref() == Some(path);
        let is_same = before.is_some_and(|known| {
            known.kind == entry.kind && known.origin == origin && known.stamp.inode == entry.stamp.inode
        });
        let here = self.below.folder(path);
        let rights_before = match before.filter(|_| is_same) {
            Some(known) => Some((known.stamp.mode, known.stamp.owner)),
            None if lies_here => here,
            // Whatever had this name may be gone from the volume by now.
            None => None,
        };
        if rights_before != Some((entry.stamp.mode, entry.stamp.owner)) {
            self.changes.push(Change::Folder(path.clone()));
        }
        // The common case, and no look at what may be a very large folder.
        if is_same || (lies_here && before.is_none_or(|known| known.origin == origin)) {
            return;
        }
        let mut stays = upper_names.clone();
        stays.extend(origin.iter().flat_map(|origin| self.below.names(origin)));
        // What showed before: the names below, and those of a folder that an earlier commit grafted here.
        let mut shown: BTreeSet<OsString> = BTreeSet::new();
        shown.extend(here.iter().flat_map(|_| self.below.names(path)));
        let grafted = before.and_then(|known| known.origin.as_ref()).filter(|origin| *origin != path);
        shown.extend(grafted.iter().flat_map(|origin| self.below.names(origin)));
        let hidden = shown.difference(&stays).map(|name| Change::Remove(path.join(name)));
        self.changes.extend(hidden);
        if let Some(from) = origin.filter(|_| !lies_here) {
            self.changes.push(Change::Graft { from, to: path.clone() });
        }
    }

    /// What was committed and is nowhere now. (A name that was below leaves a whiteout; one that was only here does not.)
    fn remove_vanished(&mut self, entries: &[Entry]) {
        let is_folder = |entry: &&Entry| matches!(entry.kind, EntryKind::Folder { .. });
        // Nothing is below a name that is deleted, or of something else now.
        let leaves: BTreeSet<&Path> =
            entries.iter().filter(|entry| !is_folder(entry)).map(|entry| entry.path.as_path()).collect();
        let present: BTreeSet<&Path> = entries.iter().map(|entry| entry.path.as_path()).collect();
        let mut removed: BTreeSet<&Path> = BTreeSet::new();
        for (path, known) in &self.committed.0 {
            let went_with = |folder: &Path| removed.contains(folder) || leaves.contains(folder);
            if present.contains(path.as_path()) || path.ancestors().skip(1).any(went_with) {
                continue;
            }
            if known.kind != EntryKind::Whiteout {
                removed.insert(path);
                self.changes.push(Change::Remove(path.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
