//! What a container has changed in a volume since its last commit.
//!
//! A container writes into the *upper* folder of its own overlay mount, above the layers that it started from. That folder
//! stays while the container runs, so each look finds what earlier commits have published too: their stamps tell it
//! apart. What is found is turned into changes of single names, because somebody else may have committed meanwhile and the
//! last writer wins *per file*: a folder that two containers made keeps the files of both. So overlayfs's two marks that
//! speak of whole folders are resolved here: *opaque* (nothing below shows) into the removal of each name that was below,
//! *redirect* (this is that folder, renamed) into a graft of it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What a file's inode says. The change time cannot be set by a program, so equal stamps mean the same file, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub inode: u64,
    pub size: u64,
    pub modified_ns: i64,
    pub changed_ns: i64,
    pub mode: u32,
    pub owner: (u32, u32),
}

/// One entry of an upper folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: OsString,
    pub kind: EntryKind,
    pub stamp: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File {
        /// Only owner, mode or times were changed: the bytes are those of the layers below.
        data_below: bool,
        redirect: Option<Box<Path>>,
    },
    Folder {
        opaque: bool,
        redirect: Option<Box<Path>>,
    },
    /// A symbolic link or a named pipe.
    Special,
    /// A name that was below and is deleted.
    Whiteout,
}

/// What a container has written. Paths are relative to the volume's root.
pub trait Upper {
    type Error;
    /// What is in a folder, sorted by name. None when it is gone by now.
    fn list(&self, folder: &Path) -> Result<Option<Vec<Entry>>, Self::Error>;
    /// Whether somebody writes to the file at this moment.
    fn is_being_written(&self, file: &Path) -> bool;
    /// When a folder, or which names are in it, was changed last: [`Stamp::changed_ns`]. None when it is gone by now.
    fn changed_ns(&self, folder: &Path) -> Option<i64>;
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

impl Change {
    /// What it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::File { path, .. } | Self::Special(path) | Self::Remove(path) => path,
            Self::Graft { to, .. } => to,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// In the upper folder, at the same path.
    Upper,
    /// In the layers below, at this path.
    Below(PathBuf),
}

/// What has been committed of a folder: its entries, sorted by name. (A container may write a million files, and all are
/// remembered while it runs.)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed(Vec<(Box<OsStr>, Known)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    stamp: Stamp,
    kind: EntryKind,
    folder: Option<Box<KnownFolder>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownFolder {
    /// The folder below whose names show in it.
    origin: Option<PathBuf>,
    /// All folders below whose names show in it in the volume, when there are others: their removal waits.
    waits: Option<Box<[PathBuf]>>,
    inside: Committed,
}

static NOTHING: Committed = Committed(Vec::new());

/// Looks at a container that moves files about meanwhile, before what is deleted waits or is believed.
const LOOKS: usize = 2;

impl Stamp {
    /// Of nothing that there is.
    const NONE: Self =
        Self { inode: 0, size: 0, modified_ns: 0, changed_ns: i64::MIN, mode: u32::MAX, owner: (u32::MAX, u32::MAX) };

    /// Of the same rights, and never found again.
    fn of_another_inode(self) -> Self {
        Self { inode: 0, ..self }
    }
}

impl Committed {
    fn get(&self, name: &OsStr) -> Option<&Known> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok().map(|at| &self.0[at].1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was planned for this name could not be done: it counts as it did `before`, so that the next plan has it again.
    pub fn take_back(&mut self, path: &Path, before: &Self) {
        let mut names = path.iter();
        if let Some(name) = names.next() {
            self.take_back_in(name, names, before);
        }
    }

    fn take_back_in(&mut self, name: &OsStr, mut deeper: std::path::Iter<'_>, before: &Self) {
        let Ok(at) = self.0.binary_search_by(|(known, _)| (**known).cmp(name)) else { return };
        let (known, before) = (&mut self.0[at].1, before.get(name));
        let before_inside = before.and_then(|known| known.folder.as_ref()).map_or(&NOTHING, |folder| &folder.inside);
        let folder_before = before.and_then(|known| known.folder.as_deref());
        match (deeper.next(), &mut known.folder, before) {
            (Some(name), Some(folder), _) => folder.inside.take_back_in(name, deeper, before_inside),
            (Some(_), None, _) => {}
            // What is in it is spoken of by itself.
            (None, Some(folder), _) => {
                known.stamp = before.map_or(Stamp::NONE, |known| known.stamp.of_another_inode());
                folder.origin = folder_before.and_then(|folder| folder.origin.clone());
                folder.waits = folder_before.and_then(|folder| folder.waits.clone());
            }
            (None, None, Some(before)) => *known = before.clone(),
            // Taking the name out would move all behind it, and there may be a million.
            (None, None, None) => known.stamp = Stamp::NONE,
        }
    }
}

impl Known {
    /// Of a folder: that what shows in it is what is below at `origin`, and nothing else.
    fn shows_only(&self, origin: Option<&Path>) -> bool {
        self.folder.as_ref().is_some_and(|folder| folder.waits.is_none() && folder.origin.as_deref() == origin)
    }

    /// Whether this entry is it. Overlayfs makes all its whiteouts as links of one file, whose change time is that of the
    /// newest: they are alike.
    fn is(&self, entry: &Entry) -> bool {
        self.kind == entry.kind && (self.kind == EntryKind::Whiteout || self.stamp == entry.stamp)
    }

    /// Whether there is something in the volume that would have to be removed.
    fn is_published(&self) -> bool {
        let is_of_inside = |folder: &KnownFolder| folder.inside.0.iter().any(|(_, known)| known.is_published());
        let is_there = self.stamp != Stamp::NONE && self.kind != EntryKind::Whiteout;
        is_there || self.folder.as_deref().is_some_and(is_of_inside)
    }
}

/// The changes since `committed`, and what will be committed with them.
///
/// With `leave_open`, files that somebody writes to stay out: they are half of something. They are taken by a later call. If
/// one of them has a name that was never committed, deletions wait too: it may be a file that was renamed while it was
/// open, and must not be gone from where it was before it is where it is now. So does a file that is moved between two
/// folders, of which one is looked at before and the other after: when folders change during the look, there is another one,
/// and when they change again, deletions wait with `leave_open`. (Without it, somebody waits for them.) With
/// `keeps_deleted` they wait in any case.
///
/// # Errors
/// Those of `upper`.
pub fn plan_commit<U: Upper>(
    upper: &U,
    committed: &Committed,
    below: &impl Below,
    leave_open: bool,
    mut keeps_deleted: bool,
) -> Result<(Vec<Change>, Committed), U::Error> {
    let root = Path::new("");
    for look in 1.. {
        let seen_at = upper.changed_ns(root);
        let mut planner = Planner { upper, below, leave_open, keeps_deleted, has_left_out: false, changes: Vec::new() };
        let entries = upper.list(root)?.unwrap_or_default();
        let around = Around { origin: Some(root), shown: vec![root.to_owned()], grafted: Vec::new() };
        let now_committed = planner.inside(root, &around, committed, entries)?;
        let removes = planner.changes.iter().any(|change| matches!(change, Change::Remove(_)));
        if !removes || keeps_deleted {
            return Ok((planner.changes, now_committed));
        }
        if planner.has_left_out {
            keeps_deleted = true;
            continue;
        }
        let is_sure = upper.changed_ns(root) == seen_at && is_as_seen(upper, root, &now_committed);
        if is_sure || (look >= LOOKS && !leave_open) {
            return Ok((planner.changes, now_committed));
        }
        keeps_deleted = look >= LOOKS;
    }
    unreachable!("some look is the last")
}

/// Whether no folder has changed since it was looked at.
fn is_as_seen(upper: &impl Upper, folder: &Path, inside: &Committed) -> bool {
    inside.0.iter().all(|(name, known)| {
        let Some(inner) = &known.folder else { return true };
        let path = folder.join(&**name);
        upper.changed_ns(&path) == Some(known.stamp.changed_ns) && is_as_seen(upper, &path, &inner.inside)
    })
}

struct Planner<'a, U, B> {
    upper: &'a U,
    below: &'a B,
    leave_open: bool,
    /// Names that are deleted stay, until a later call.
    keeps_deleted: bool,
    /// A file that was never committed is written to at this moment.
    has_left_out: bool,
    changes: Vec<Change>,
}

/// What a folder lies on.
struct Around<'a> {
    /// The folder below whose names the container sees in it.
    origin: Option<&'a Path>,
    /// Those whose names showed in it in the volume before this plan, or were brought by it.
    shown: Vec<PathBuf>,
    /// Those of which this plan brings everything: it lies over whatever was committed there before.
    grafted: Vec<PathBuf>,
}

impl<U: Upper, B: Below> Planner<'_, U, B> {
    /// Takes what is in a folder.
    fn inside(
        &mut self,
        folder: &Path,
        around: &Around<'_>,
        committed: &Committed,
        entries: Vec<Entry>,
    ) -> Result<Committed, U::Error> {
        let anew = !around.grafted.is_empty();
        let mut known = Vec::with_capacity(entries.len());
        for entry in entries {
            let (path, before) = (folder.join(&entry.name), committed.get(&entry.name));
            let is_committed = !anew && before.is_some_and(|known| known.is(&entry));
            let may_be_open = self.leave_open && !is_committed && matches!(entry.kind, EntryKind::File { .. });
            if may_be_open && self.upper.is_being_written(&path) {
                // As committed last, if it was, and if nothing was grafted over that.
                self.has_left_out |= before.is_none();
                let before = before.cloned().map(|known| match anew {
                    true => Known { stamp: known.stamp.of_another_inode(), ..known },
                    false => known,
                });
                known.extend(before.map(|before| (entry.name.into_boxed_os_str(), before)));
                continue;
            }
            // What a graft brings and is deleted there was never seen under this name.
            if self.keeps_deleted && !is_committed && !anew && entry.kind == EntryKind::Whiteout {
                known.extend(before.map(|before| (entry.name.into_boxed_os_str(), before.clone())));
                continue;
            }
            let taken = match &entry.kind {
                EntryKind::Folder { .. } => self.folder(&path, &entry, is_committed, around, before)?,
                kind => {
                    if !is_committed {
                        self.leaf(path, &entry, around.origin);
                    }
                    Some(Known { stamp: entry.stamp, kind: kind.clone(), folder: None })
                }
            };
            // A folder that was renamed or deleted since: what is gone with it shows in the next plan.
            let taken = taken.or_else(|| before.cloned());
            known.extend(taken.map(|taken| (entry.name.into_boxed_os_str(), taken)));
        }
        self.remove_vanished(folder, around, committed, &mut known);
        Ok(Committed(known))
    }

    fn folder(
        &mut self,
        path: &Path,
        entry: &Entry,
        is_committed: bool,
        around: &Around<'_>,
        before: Option<&Known>,
    ) -> Result<Option<Known>, U::Error> {
        let origin = match &entry.kind {
            EntryKind::Folder { opaque: false, redirect } => {
                counterpart(around.origin, &entry.name, redirect.as_deref())
            }
            _ => None,
        };
        let origin = origin.as_deref();
        let Some(entries) = self.upper.list(path)? else { return Ok(None) };
        let before_inside = before.and_then(|known| known.folder.as_ref()).map_or(&NOTHING, |folder| &folder.inside);
        // A folder may have lost what is below it through its parent, and look the same itself.
        let (inner, waits) = match is_committed && before.is_some_and(|known| known.shows_only(origin)) {
            true => {
                let shown = origin.map(Path::to_owned).into_iter().collect();
                (Around { origin, shown, grafted: Vec::new() }, false)
            }
            false => {
                let names = entries.iter().map(|entry| entry.name.clone()).collect();
                self.take_folder(path, entry, origin, before, around, &names)
            }
        };
        let inside = self.inside(path, &inner, before_inside, entries)?;
        let waits = waits.then(|| inner.shown.into_boxed_slice());
        let folder = Some(Box::new(KnownFolder { origin: origin.map(Path::to_owned), waits, inside }));
        Ok(Some(Known { stamp: entry.stamp, kind: entry.kind.clone(), folder }))
    }

    fn leaf(&mut self, path: PathBuf, entry: &Entry, around: Option<&Path>) {
        self.changes.push(match &entry.kind {
            EntryKind::File { data_below: true, redirect } => {
                let from = counterpart(around, &entry.name, redirect.as_deref());
                Change::File { data: Data::Below(from.unwrap_or_else(|| path.clone())), path }
            }
            EntryKind::Whiteout => Change::Remove(path),
            EntryKind::Special => Change::Special(path),
            EntryKind::File { .. } | EntryKind::Folder { .. } => Change::File { path, data: Data::Upper },
        });
    }

    /// `names`: of the folder in the upper one. Answers also whether something waits to be removed.
    fn take_folder<'a>(
        &mut self,
        path: &Path,
        entry: &Entry,
        origin: Option<&'a Path>,
        before: Option<&Known>,
        around: &Around<'_>,
        names: &BTreeSet<OsString>,
    ) -> (Around<'a>, bool) {
        let before = before.filter(|known| known.stamp != Stamp::NONE);
        let (mut shown, mut grafted) = self.shown_before(&entry.name, before, around);
        let source = origin.map(Path::to_owned).filter(|origin| self.below.folder(origin).is_some());
        let rights_before = match before {
            None if shown.len() == 1 && source.as_deref() == Some(path) => self.below.folder(path),
            Some(Known { stamp, folder: Some(_), .. }) if grafted.is_empty() && stamp.inode == entry.stamp.inode => {
                Some((stamp.mode, stamp.owner))
            }
            // Whatever had this name may be gone from the volume by now.
            _ => None,
        };
        if rights_before != Some((entry.stamp.mode, entry.stamp.owner)) {
            self.changes.push(Change::Folder(path.to_owned()));
        }
        let graft = source.clone().filter(|source| !shown.contains(source));
        let is_others = |folder: &&PathBuf| Some(*folder) != source.as_ref();
        // Mostly there are none, and no look at what may be a very large folder.
        let others = shown.iter().filter(is_others).flat_map(|folder| self.below.names(folder)).collect();
        let mut waits = false;
        if !BTreeSet::is_empty(&others) || graft.is_some() {
            let brought = source.iter().flat_map(|folder| self.below.names(folder)).collect();
            waits = self.hide(path, &others, names, &brought);
            if graft.is_some() {
                self.make_way(path, &others, names, &brought, before);
            }
        }
        if let Some(from) = graft {
            self.changes.push(Change::Graft { from: from.clone(), to: path.to_owned() });
            grafted.insert(from);
        }
        shown.extend(source);
        (Around { origin, shown: shown.into_iter().collect(), grafted: grafted.into_iter().collect() }, waits)
    }

    /// The folders below whose names show in this one in the volume; and which of them were brought with the folder around it.
    fn shown_before(
        &self,
        name: &OsStr,
        before: Option<&Known>,
        around: &Around<'_>,
    ) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
        let is_below = |path: &PathBuf| self.below.folder(path).is_some();
        let with_parent = |parents: &[PathBuf]| -> BTreeSet<PathBuf> {
            parents.iter().map(|parent| parent.join(name)).filter(is_below).collect()
        };
        let grafted = with_parent(&around.grafted);
        let Some(known) = before else { return (with_parent(&around.shown), grafted) };
        let folders = known.folder.iter().flat_map(|folder| match &folder.waits {
            Some(waits) => waits.to_vec(),
            None => Vec::from_iter(folder.origin.clone()),
        });
        (folders.filter(is_below).chain(grafted.iter().cloned()).collect(), grafted)
    }

    /// Removes from a folder those of the `others` that show in it no more; answers whether that waits.
    fn hide(
        &mut self,
        path: &Path,
        others: &BTreeSet<OsString>,
        names: &BTreeSet<OsString>,
        brought: &BTreeSet<OsString>,
    ) -> bool {
        let mut hidden = others.difference(names).filter(|name| !brought.contains(*name)).peekable();
        if self.keeps_deleted {
            return hidden.peek().is_some();
        }
        self.changes.extend(hidden.map(|name| Change::Remove(path.join(name))));
        false
    }

    /// Removes what a graft brings something else in the place of.
    fn make_way(
        &mut self,
        path: &Path,
        others: &BTreeSet<OsString>,
        names: &BTreeSet<OsString>,
        brought: &BTreeSet<OsString>,
        before: Option<&Known>,
    ) {
        let inside = before.and_then(|known| known.folder.as_deref()).map_or(&NOTHING, |folder| &folder.inside);
        let is_replaced =
            |name: &&OsString| others.contains(*name) || inside.get(name).is_some_and(Known::is_published);
        let replaced = brought.difference(names).filter(is_replaced);
        self.changes.extend(replaced.map(|name| Change::Remove(path.join(name))));
    }

    /// What was committed and is nowhere now. (A name that was below leaves a whiteout; one that was only here does not.)
    fn remove_vanished(
        &mut self,
        folder: &Path,
        around: &Around<'_>,
        committed: &Committed,
        now: &mut Vec<(Box<OsStr>, Known)>,
    ) {
        let is_there = |name: &OsStr| now.binary_search_by(|(known, _)| (**known).cmp(name)).is_ok();
        let is_gone = |name: &OsStr, known: &Known| known.is_published() && !is_there(name);
        // Something else has come in its place.
        let brought: BTreeSet<OsString> = around.grafted.iter().flat_map(|grafted| self.below.names(grafted)).collect();
        let vanished = committed.0.iter().filter(|(name, known)| is_gone(name, known) && !brought.contains(&**name));
        if self.keeps_deleted {
            let vanished: Vec<_> = vanished.cloned().collect();
            now.extend(vanished);
            now.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            return;
        }
        self.changes.extend(vanished.map(|(name, _)| Change::Remove(folder.join(&**name))));
    }
}

/// Where below an entry's own counterpart is: at the redirect, else at the same name in its folder's counterpart.
fn counterpart(around: Option<&Path>, name: &OsStr, redirect: Option<&Path>) -> Option<PathBuf> {
    match redirect.map(|to| to.strip_prefix("/").map_err(|_| to)) {
        Some(Ok(absolute)) => Some(absolute.to_owned()),
        Some(Err(relative)) => Some(around?.join(relative)),
        None => Some(around?.join(name)),
    }
}

#[cfg(test)]
mod tests;
