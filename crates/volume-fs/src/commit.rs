//! From what a container wrote to a layer.

use std::fs::{self, FileType, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use manifest::changes::{Change, Committed, Data, Entry, EntryKind, Stamp, Upper, plan_commit};

use crate::content::ContentStore;
use crate::error::{Doing, VolumeError};
use crate::layer::{Attributes, BuiltLayer, LayerBuilder, Source};
use crate::sys;
use crate::upper::UpperFolder;
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
    let folder = UpperFolder::open(upper)?;
    let leave_open = taking == Taking::WithoutOpenFiles;
    for look in 1.. {
        // A file that moves on after the look must not be gone from where it was before it is where it is now, unless
        // somebody waits for what is deleted.
        let keeps_deleted = look > 1 && leave_open;
        let (changes, mut now_committed) = plan_commit(&folder, committed, below, leave_open, keeps_deleted)?;
        if changes.is_empty() {
            return Ok((None, now_committed));
        }
        let mut layer = LayerBuilder::new(contents, building, below)?.over_upper(&folder);
        let mut is_whole = true;
        for change in &changes {
            if !take(&mut layer, change, &folder, below, taking)? {
                now_committed.take_back(change.path(), committed);
                is_whole = false;
            }
        }
        let removes = changes.iter().any(|change| matches!(change, Change::Remove(_)));
        if is_whole || !removes || look > 1 {
            return Ok((layer.finish()?, now_committed));
        }
    }
    unreachable!("some look is the last")
}

/// Times that a name is taken which is gone when it is read, and there again when it is looked for.
const TRIES: usize = 20;

/// False when it was deleted, renamed or replaced since the look at it: the next commit sees that, or finds it there again.
fn take(
    layer: &mut LayerBuilder<'_>,
    change: &Change,
    upper: &UpperFolder,
    below: &View,
    taking: Taking,
) -> Result<bool, VolumeError> {
    for _ in 1..TRIES {
        let applied = apply(layer, change, upper, below, taking);
        if taking == Taking::Final || !applied.as_ref().is_err_and(is_gone) {
            return applied.map(|()| true);
        }
        if !is_there(upper, change) {
            return Ok(false);
        }
        // It was away for a moment only, or it is something else that is missing.
    }
    apply(layer, change, upper, below, taking).map(|()| true)
}

/// Whether there is a name of the kind that the change speaks of. A removal needs none.
fn is_there(upper: &UpperFolder, change: &Change) -> bool {
    let kind = || Some(fs::symlink_metadata(&*upper.entry(change.path()).ok()?).ok()?.file_type());
    match change {
        Change::Folder(_) | Change::Graft { .. } => kind().is_some_and(|kind| kind.is_dir()),
        Change::File { .. } => kind().is_some_and(|kind| kind.is_file()),
        Change::Special(_) => kind().is_some_and(|kind| kind.is_symlink() || kind.is_fifo()),
        Change::Remove(_) => true,
    }
}

fn apply(
    layer: &mut LayerBuilder<'_>,
    change: &Change,
    upper: &UpperFolder,
    below: &View,
    taking: Taking,
) -> Result<(), VolumeError> {
    match change {
        Change::Folder(path) => layer.folder(path, &Attributes::of(&upper.folder(path)?)?),
        Change::Graft { from, to } => match below.find(from)? {
            Some(node) => {
                // Before anything is done: it may be gone by now.
                let attributes = Attributes::of(&upper.folder(to)?)?;
                layer.graft(below, &node, to)?;
                // A graft brings its own attributes; the folder's are those that it has now.
                layer.folder(to, &attributes)
            }
            None => Ok(()),
        },
        Change::File { path, data: Data::Upper } => {
            let from = upper.entry(path)?;
            // A program may have handed an open file to another container, which can still write to it.
            let may_take = taking == Taking::Final && !upper.is_being_written(path);
            let source = if may_take { Source::Take(&from) } else { Source::Copy(&from) };
            layer.file(path, source, &Attributes::of_kind(&from, FileType::is_file)?)
        }
        Change::File { path, data: Data::Below(from) } => {
            let stub = upper.entry(path)?;
            let attributes = Attributes::of_kind(&stub, FileType::is_file)?;
            match below.find(from)? {
                Some(node) => layer.file_like(path, &node, &attributes),
                None => from_stub(layer, path, &stub, &attributes),
            }
        }
        Change::Special(path) => layer.special(path, &upper.entry(path)?),
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
        // Somebody has opened it for writing since the look, and it has bytes of its own now.
        None if sys::xattr(stub, sys::METACOPY).doing("read", stub)?.is_none() => {
            layer.file(path, Source::Copy(stub), attributes)
        }
        None => Err(VolumeError::NotFound(path.to_owned())),
    }
}

impl Upper for UpperFolder {
    type Error = VolumeError;

    fn list(&self, path: &Path) -> Result<Option<Vec<Entry>>, VolumeError> {
        let folder = match self.folder(path) {
            Err(error) if is_gone(&error) => return Ok(None),
            folder => folder?,
        };
        let mut entries = Vec::new();
        for found in fs::read_dir(&*folder).doing("list", path)? {
            let name = found.doing("list", path)?.file_name();
            let real = folder.join(&name);
            let Ok(metadata) = fs::symlink_metadata(&real) else { continue };
            match kind_of(&real, &metadata) {
                Ok(Some(kind)) => entries.push(Entry { name, kind, stamp: stamp(&metadata) }),
                Ok(None) => {}
                // Deleted while we looked.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).doing("look at", &path.join(name)),
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(entries))
    }

    fn is_being_written(&self, file: &Path) -> bool {
        let opened = self.entry(file).ok().and_then(|place| sys::open_file(&place).ok());
        opened.is_some_and(|file| sys::is_being_written(&file))
    }

    fn changed_ns(&self, path: &Path) -> Option<i64> {
        let metadata = self.folder(path).ok().and_then(|place| fs::symlink_metadata(&*place).ok())?;
        Some(stamp(&metadata).changed_ns)
    }
}

/// Deleted, renamed or replaced since the look at it.
fn is_gone(error: &VolumeError) -> bool {
    matches!(error, VolumeError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn kind_of(real: &Path, metadata: &Metadata) -> std::io::Result<Option<EntryKind>> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        let redirect = sys::redirect(real)?.map(PathBuf::into_boxed_path);
        return Ok(Some(EntryKind::Folder { opaque: sys::is_opaque(real)?, redirect }));
    }
    if kind.is_file() {
        let data_below = sys::xattr(real, sys::METACOPY)?.is_some();
        let redirect = if data_below { sys::redirect(real)? } else { None };
        return Ok(Some(EntryKind::File { data_below, redirect: redirect.map(PathBuf::into_boxed_path) }));
    }
    if sys::is_whiteout(metadata) {
        return Ok(Some(EntryKind::Whiteout));
    }
    // A socket is of use only to the program that made it; devices cannot be made inside.
    Ok((kind.is_symlink() || kind.is_fifo()).then_some(EntryKind::Special))
}

fn stamp(metadata: &Metadata) -> Stamp {
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Stamp {
        inode: metadata.ino(),
        size: metadata.len(),
        modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        contents: ContentStore,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir_in("/var/tmp").unwrap();
            let contents = ContentStore::open(&folder.path().join("volumes")).unwrap();
            fs::create_dir_all(folder.path().join("building")).unwrap();
            fs::create_dir_all(folder.path().join("upper")).unwrap();
            Self { folder, contents }
        }

        fn upper(&self) -> PathBuf {
            self.folder.path().join("upper")
        }

        /// Whether the change is taken, and of what kind it is in the layer.
        fn take(&self, change: &Change) -> (bool, Option<FileType>) {
            let (upper, below) = (UpperFolder::open(&self.upper()).unwrap(), View::of([].into_iter()));
            let building = self.folder.path().join("building");
            let mut layer = LayerBuilder::new(&self.contents, &building, &below).unwrap().over_upper(&upper);
            let is_taken = take(&mut layer, change, &upper, &below, Taking::All).unwrap();
            let Some(built) = layer.finish().unwrap() else { return (is_taken, None) };
            let found = fs::symlink_metadata(built.folder.join("diff").join(change.path()));
            (is_taken, found.ok().map(|metadata| metadata.file_type()))
        }
    }

    const KINDS: [&str; 6] = ["folder", "file", "link", "pipe", "deletion", "nothing"];

    fn make(kind: &str, place: &Path) {
        match kind {
            "folder" => fs::create_dir(place).unwrap(),
            "file" => fs::write(place, "x").unwrap(),
            "link" => symlink("/etc", place).unwrap(),
            "pipe" => sys::make_fifo(place).unwrap(),
            "deletion" => sys::make_whiteout(place).unwrap(),
            _ => {}
        }
    }

    fn changes(path: &str) -> [(&'static [&'static str], Change); 4] {
        let path = PathBuf::from(path);
        let file = |data| Change::File { path: path.clone(), data };
        [
            (&["folder"], Change::Folder(path.clone())),
            (&["file"], file(Data::Upper)),
            (&["file"], file(Data::Below(PathBuf::from("elsewhere")))),
            (&["link", "pipe"], Change::Special(path.clone())),
        ]
    }

    #[test]
    fn what_has_become_something_else_since_the_look_is_left_for_the_next_commit() {
        for kind in KINDS {
            for (own_kinds, change) in changes("name") {
                let bench = Bench::new();
                make(kind, &bench.upper().join("name"));
                let (is_taken, in_layer) = bench.take(&change);
                assert_eq!(is_taken, own_kinds.contains(&kind), "{change:?} with a {kind} in its place");
                assert_eq!(in_layer.is_some(), is_taken, "{change:?} with a {kind} in its place");
            }
        }
    }

    #[test]
    fn what_lies_in_a_folder_that_has_become_something_else_is_left_for_the_next_commit() {
        for kind in KINDS.into_iter().filter(|kind| *kind != "folder") {
            for (_, change) in changes("folder/name") {
                let bench = Bench::new();
                make(kind, &bench.upper().join("folder"));
                assert_eq!(bench.take(&change), (false, None), "{change:?} with a {kind} for its folder");
            }
        }
    }

    #[test]
    fn a_link_that_has_become_a_folder_after_the_look_at_it_is_not_found() {
        let bench = Bench::new();
        let error = sys::read_link(&bench.upper()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn a_name_that_never_stops_changing_fails_no_commit() {
        let bench = Bench::new();
        let (upper, is_over) = (bench.upper(), AtomicBool::new(false));
        let (restless, twins) = (upper.join("restless"), [upper.join("twin"), upper.join("other")]);
        let restless_program = || {
            for kind in KINDS.iter().filter(|kind| **kind != "nothing").cycle() {
                make(kind, &restless);
                make(kind, &twins[0]);
                if *kind == "file" {
                    fs::hard_link(&twins[0], &twins[1]).unwrap();
                }
                for place in [&restless, &twins[0], &twins[1]] {
                    let _ = fs::remove_file(place).or_else(|_| fs::remove_dir(place));
                }
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        };
        std::thread::scope(|threads| {
            threads.spawn(restless_program);
            let (building, below) = (bench.folder.path().join("building"), View::of([].into_iter()));
            let mut committed = Committed::default();
            let commits: Vec<_> = (0..100)
                .map(|_| {
                    let (layer, now) = collect(&bench.contents, &building, &upper, &below, &committed, Taking::All)?;
                    committed = now;
                    Ok::<_, VolumeError>(layer)
                })
                .collect();
            is_over.store(true, Ordering::Relaxed);
            let failed = commits.iter().find_map(|commit| commit.as_ref().err().map(|e| types::errors::with_causes(e)));
            assert_eq!(failed, None);
        });
    }
}
