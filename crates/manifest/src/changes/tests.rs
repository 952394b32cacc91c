use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use super::*;

/// Folders below, by their names.
struct Folders(BTreeMap<PathBuf, Vec<&'static str>>);

impl Folders {
    fn of(folders: &[(&'static str, &[&'static str])]) -> Self {
        Self(folders.iter().map(|(path, names)| (PathBuf::from(path), names.to_vec())).collect())
    }
}

impl Below for Folders {
    fn folder(&self, path: &Path) -> Option<(u32, (u32, u32))> {
        self.0.contains_key(path).then_some((0o755, (0, 0)))
    }

    fn names(&self, folder: &Path) -> Vec<OsString> {
        self.0.get(folder).into_iter().flatten().map(OsString::from).collect()
    }
}

/// A name in an upper folder.
#[derive(Clone)]
struct Written {
    path: PathBuf,
    entry: Entry,
    is_being_written: bool,
}

/// An upper folder: what is in each folder, in order.
#[derive(Default)]
struct Looked(HashMap<PathBuf, Vec<Written>>);

impl Looked {
    fn at(written: &[Written]) -> Self {
        let mut looked = Self::default();
        for one in written {
            looked.0.entry(one.path.parent().unwrap().to_owned()).or_default().push(one.clone());
        }
        looked.0.values_mut().for_each(|inside| inside.sort_by(|a, b| a.path.cmp(&b.path)));
        looked
    }
}

impl Upper for Looked {
    type Error = Infallible;

    fn list(&self, folder: &Path) -> Result<Option<Vec<Entry>>, Infallible> {
        Ok(Some(self.0.get(folder).into_iter().flatten().map(|written| written.entry.clone()).collect()))
    }

    fn is_being_written(&self, file: &Path) -> bool {
        self.0.values().flatten().any(|written| written.path == file && written.is_being_written)
    }

    fn changed_ns(&self, folder: &Path) -> Option<i64> {
        let found = self.0.values().flatten().find(|written| written.path == folder);
        if folder == Path::new("") { Some(0) } else { found.map(|written| written.entry.stamp.changed_ns) }
    }
}

/// An upper folder that is another one after so many folders were listed.
struct Changing {
    before: Looked,
    after: Looked,
    left: Cell<usize>,
}

impl Changing {
    fn new(before: &[Written], after: &[Written], lists: usize) -> Self {
        Self { before: Looked::at(before), after: Looked::at(after), left: Cell::new(lists) }
    }

    fn now(&self) -> &Looked {
        if self.left.get() > 0 { &self.before } else { &self.after }
    }
}

impl Upper for Changing {
    type Error = Infallible;

    fn list(&self, folder: &Path) -> Result<Option<Vec<Entry>>, Infallible> {
        let now = self.now();
        self.left.set(self.left.get().saturating_sub(1));
        if now.changed_ns(folder).is_some() { now.list(folder) } else { Ok(None) }
    }

    fn is_being_written(&self, file: &Path) -> bool {
        self.now().is_being_written(file)
    }

    fn changed_ns(&self, folder: &Path) -> Option<i64> {
        self.now().changed_ns(folder)
    }
}

/// An upper folder in which something is always going on.
struct Busy(Looked, Cell<i64>);

impl Upper for Busy {
    type Error = Infallible;

    fn list(&self, folder: &Path) -> Result<Option<Vec<Entry>>, Infallible> {
        self.0.list(folder)
    }

    fn is_being_written(&self, file: &Path) -> bool {
        self.0.is_being_written(file)
    }

    fn changed_ns(&self, _: &Path) -> Option<i64> {
        self.1.set(self.1.get() + 1);
        Some(self.1.get())
    }
}

fn plan(written: &[Written], committed: &Committed, below: &Folders, leave_open: bool) -> (Vec<Change>, Committed) {
    let Ok(planned) = plan_commit(&Looked::at(written), committed, below, leave_open, false);
    planned
}

fn entry(path: &str, kind: EntryKind, change: i64) -> Written {
    let inode = path.bytes().map(u64::from).sum();
    let stamp = Stamp { inode, size: 1, modified_ns: 0, changed_ns: change, mode: 0o755, owner: (0, 0) };
    let path = PathBuf::from(path);
    let name = path.file_name().unwrap().to_owned();
    Written { path, entry: Entry { name, kind, stamp }, is_being_written: false }
}

fn file(path: &str, change: i64) -> Written {
    entry(path, EntryKind::File { data_below: false, redirect: None }, change)
}

fn folder(path: &str, opaque: bool, redirect: Option<&str>) -> Written {
    entry(path, EntryKind::Folder { opaque, redirect: redirect.map(|to| Path::new(to).into()) }, 1)
}

fn put(path: &str) -> Change {
    Change::File { path: path.into(), data: Data::Upper }
}

fn remove(path: &str) -> Change {
    Change::Remove(path.into())
}

fn make(path: &str) -> Change {
    Change::Folder(path.into())
}

fn first(written: &[Written], below: &Folders) -> (Vec<Change>, Committed) {
    plan(written, &Committed::default(), below, false)
}

#[test]
fn a_second_commit_holds_only_what_changed_since_the_first() {
    let below = Folders::of(&[]);
    let (changes, committed) = first(&[file("a", 1), file("b", 1)], &below);
    assert_eq!(changes, [put("a"), put("b")]);
    let (changes, committed) = plan(&[file("a", 1), file("b", 2)], &committed, &below, false);
    assert_eq!(changes, [put("b")]);
    assert!(plan(&[file("a", 1), file("b", 2)], &committed, &below, false).0.is_empty());
}

#[test]
fn what_was_committed_and_then_deleted_is_removed_once_at_its_highest_name() {
    let below = Folders::of(&[]);
    let (_, committed) = first(&[folder("d", true, None), file("d/x", 1), file("e", 1)], &below);
    let (changes, committed) = plan(&[file("e", 1)], &committed, &below, false);
    assert_eq!(changes, [remove("d")]);
    assert!(plan(&[file("e", 1)], &committed, &below, false).0.is_empty());
}

fn changed(path: &str, change: i64) -> Written {
    let mut written = folder(path, true, None);
    written.entry.stamp.changed_ns = change;
    written
}

#[test]
fn a_file_that_moves_during_the_look_is_not_gone() {
    let below = Folders::of(&[]);
    let before = [changed("a", 1), changed("b", 1), file("b/f", 1)];
    let after = [changed("a", 2), file("a/f", 1), changed("b", 2)];
    let (_, committed) = first(&before, &below);
    for leave_open in [true, false] {
        // After the root and `a`, before `b`.
        let Ok((changes, committed)) =
            plan_commit(&Changing::new(&before, &after, 2), &committed, &below, leave_open, false);
        assert_eq!(changes, [put("a/f"), remove("b/f")]);
        assert!(plan(&after, &committed, &below, leave_open).0.is_empty());
    }
}

#[test]
fn a_folder_that_is_renamed_during_the_look_is_not_gone() {
    let below = Folders::of(&[]);
    let before = [changed("a", 1), file("a/x", 1), file("a/y", 1)];
    let after = [changed("z", 1), file("z/x", 1), file("z/y", 1)];
    let (_, committed) = first(&before, &below);
    let Ok((changes, committed)) = plan_commit(&Changing::new(&before, &after, 1), &committed, &below, true, false);
    // The root looks as before here; so it is seen by the next commit, and nothing is gone meanwhile.
    assert_eq!(changes, []);
    let (changes, committed) = plan(&after, &committed, &below, true);
    assert_eq!(changes, [make("z"), put("z/x"), put("z/y"), remove("a")]);
    assert!(plan(&after, &committed, &below, true).0.is_empty());
}

#[test]
fn deletions_wait_while_files_are_moved_about_unless_somebody_waits_for_them() {
    let below = Folders::of(&[]);
    let (_, committed) = first(&[file("a", 1), file("b", 1)], &below);
    let now = [file("a", 2)];
    let busy = || Busy(Looked::at(&now), Cell::new(0));
    let Ok((changes, later)) = plan_commit(&busy(), &committed, &below, true, false);
    assert_eq!(changes, [put("a")]);
    assert_eq!(plan(&now, &later, &below, true).0, [remove("b")]);
    let Ok((changes, _)) = plan_commit(&busy(), &committed, &below, false, false);
    assert_eq!(changes, [put("a"), remove("b")]);
}

#[test]
fn a_name_that_was_removed_is_not_removed_again() {
    let below = Folders::of(&[]);
    let whiteout = |path, change| entry(path, EntryKind::Whiteout, change);
    let (changes, committed) = first(&[whiteout("f", 1)], &below);
    assert_eq!(changes, [remove("f")]);
    // All whiteouts are links of one file: each new one changes them all.
    let (changes, committed) = plan(&[whiteout("f", 2), whiteout("g", 2)], &committed, &below, false);
    assert_eq!(changes, [remove("g")]);
    let (changes, committed) = plan(&[file("f", 3), whiteout("g", 2)], &committed, &below, false);
    assert_eq!(changes, [put("f")]);
    assert_eq!(plan(&[whiteout("f", 4), whiteout("g", 4)], &committed, &below, false).0, [remove("f")]);
}

#[test]
fn what_comes_to_lie_in_the_place_of_another_folder_is_taken_whole() {
    let below = Folders::of(&[("a", &["x", "y"]), ("b", &["x", "y"])]);
    let gone = |path| entry(path, EntryKind::Whiteout, 1);
    let now = |from: &str| {
        let mut renamed = folder("new", false, Some(from));
        renamed.entry.stamp.inode = from.len() as u64 + u64::from(from.as_bytes()[1]);
        [renamed, gone("new/x"), file("new/z", 1), gone("a"), gone("b")]
    };
    let (_, committed) = first(&now("/a"), &below);
    let (changes, committed) = plan(&now("/b"), &committed, &below, false);
    let graft = || Change::Graft { from: "b".into(), to: "new".into() };
    let whole = [make("new"), remove("new/y"), graft(), remove("new/x"), put("new/z")];
    assert_eq!(changes, whole);
    assert!(plan(&now("/b"), &committed, &below, false).0.is_empty());
    // Also when deletions wait, since the graft brings what was deleted in it.
    let (_, committed) = first(&now("/a"), &below);
    let Ok((changes, committed)) = plan_commit(&Looked::at(&now("/b")), &committed, &below, true, true);
    assert_eq!(changes, whole);
    assert!(plan(&now("/b"), &committed, &below, false).0.is_empty());
}

#[test]
fn what_a_new_folder_hides_waits_with_the_other_deletions() {
    let below = Folders::of(&[("d", &["f"])]);
    let open = Written { is_being_written: true, ..file("e", 1) };
    let now = [folder("d", true, None), file("d/g", 1), open];
    let (changes, committed) = plan(&now, &Committed::default(), &below, true);
    assert_eq!(changes, [make("d"), put("d/g")]);
    let closed = [folder("d", true, None), file("d/g", 1), file("e", 1)];
    let (changes, committed) = plan(&closed, &committed, &below, true);
    assert_eq!(changes, [remove("d/f"), put("e")]);
    assert!(plan(&closed, &committed, &below, true).0.is_empty());
}

#[test]
fn what_waits_to_be_removed_is_removed_whatever_comes_in_its_place() {
    let below = Folders::of(&[("a", &["g", "h"]), ("b", &["y"]), ("c", &["h"])]);
    let gone = |path| entry(path, EntryKind::Whiteout, 1);
    let later = |now: &[Written], committed: &Committed| {
        let Ok(planned) = plan_commit(&Looked::at(now), committed, &below, true, true);
        planned
    };
    let graft = |from: &str| Change::Graft { from: from.into(), to: "b".into() };
    let renamed = [gone("a"), folder("b", false, Some("/a")), file("b/g", 1)];
    let (changes, committed) = later(&renamed, &Committed::default());
    assert_eq!(changes, [make("b"), graft("a"), put("b/g")]);
    let (changes, committed) = later(&renamed, &committed);
    assert_eq!(changes, [], "nothing is brought twice");
    let (changes, ended) = plan(&renamed, &committed, &below, true);
    assert_eq!(changes, [remove("a"), remove("b/y")]);
    assert!(plan(&renamed, &ended, &below, true).0.is_empty());
    let anew = [gone("a"), gone("c"), changed("b", 2)];
    let (changes, ended) = plan(&anew, &committed, &below, true);
    assert_eq!(changes, [remove("a"), remove("b/g"), remove("b/h"), remove("b/y"), remove("b/g"), remove("c")]);
    assert!(plan(&anew, &ended, &below, true).0.is_empty());
    let other = [gone("a"), folder("b", false, Some("/c")), gone("c")];
    let (changes, ended) = plan(&other, &committed, &below, true);
    let removed = [remove("b/g"), remove("b/y"), remove("b/h")];
    assert_eq!(changes, [&[remove("a")], &removed[..], &[graft("c"), remove("b/g"), remove("c")]].concat());
    assert!(plan(&other, &ended, &below, true).0.is_empty());
}

#[test]
fn a_folder_that_comes_back_to_its_name_is_there_again() {
    let below = Folders::of(&[("d", &["x"])]);
    let away = [entry("d", EntryKind::Whiteout, 1), folder("e", false, Some("/d"))];
    let (changes, committed) = first(&away, &below);
    let graft = |to: &str| Change::Graft { from: "d".into(), to: to.into() };
    assert_eq!(changes, [remove("d"), make("e"), graft("e")]);
    let back = [folder("d", false, Some("/d"))];
    let (changes, committed) = plan(&back, &committed, &below, false);
    assert_eq!(changes, [make("d"), graft("d"), remove("e")]);
    assert!(plan(&back, &committed, &below, false).0.is_empty());
}

#[test]
fn a_folder_that_is_made_anew_in_a_renamed_one_hides_what_that_brings() {
    let below = Folders::of(&[("d", &["s"]), ("d/s", &["x", "y"])]);
    let now = [folder("e", false, Some("/d")), folder("e/s", true, None), file("e/s/y", 1)];
    let graft = Change::Graft { from: "d".into(), to: "e".into() };
    let (changes, committed) = first(&now, &below);
    assert_eq!(changes, [make("e"), graft, make("e/s"), remove("e/s/x"), put("e/s/y")]);
    assert!(plan(&now, &committed, &below, false).0.is_empty());
}

#[test]
fn what_a_graft_brings_is_not_removed_as_what_had_its_name_before() {
    let below = Folders::of(&[("b", &[]), ("c", &["c"]), ("c/c", &[])]);
    let (_, committed) = first(&[folder("b", false, None), file("b/c", 1)], &below);
    let now = [folder("b", false, Some("/c")), entry("c", EntryKind::Whiteout, 1)];
    let (changes, committed) = plan(&now, &committed, &below, false);
    let graft = Change::Graft { from: "c".into(), to: "b".into() };
    assert_eq!(changes, [remove("b/c"), graft, remove("c")]);
    assert!(plan(&now, &committed, &below, false).0.is_empty());
}

#[test]
fn a_folder_in_one_that_is_made_anew_hides_what_was_in_it() {
    let below = Folders::of(&[("a", &["b", "c"]), ("a/b", &["x"])]);
    // In a folder that hides what is below, overlayfs marks nothing.
    let now = [folder("a", true, None), folder("a/b", false, None)];
    let (changes, committed) = first(&now, &below);
    assert_eq!(changes, [make("a"), remove("a/c"), make("a/b"), remove("a/b/x")]);
    assert!(plan(&now, &committed, &below, false).0.is_empty());
}

#[test]
fn a_file_that_is_written_to_while_its_folder_is_replaced_is_taken_later() {
    let below = Folders::of(&[("a", &["f"]), ("b", &["f"])]);
    let at = |from: &str, open| {
        let file = Written { is_being_written: open, ..file("n/f", 1) };
        [folder("n", false, Some(from)), file]
    };
    let (_, committed) = first(&at("/a", false), &below);
    let (changes, committed) = plan(&at("/b", true), &committed, &below, true);
    assert_eq!(changes, [Change::Graft { from: "b".into(), to: "n".into() }]);
    assert_eq!(plan(&at("/b", false), &committed, &below, true).0, [put("n/f")]);
}

#[test]
fn what_was_never_published_is_not_removed() {
    let below = Folders::of(&[]);
    let (_, mut committed) = first(&[folder("e", true, None), file("e/x", 1), file("tmp", 1)], &below);
    let none = Committed::default();
    for path in ["tmp", "e/x", "e"] {
        committed.take_back(Path::new(path), &none);
    }
    assert_eq!(plan(&[], &committed, &below, false).0, []);
    let (_, mut committed) = first(&[folder("e", true, None), file("e/x", 1)], &below);
    committed.take_back(Path::new("e"), &none);
    assert_eq!(plan(&[], &committed, &below, false).0, [remove("e")], "what was in it had been published");
}

#[test]
fn what_could_not_be_taken_is_planned_again() {
    let below = Folders::of(&[]);
    let (_, before) = first(&[changed("d", 1), file("d/old", 1)], &below);
    let now = [changed("d", 2), file("d/new", 1), file("d/old", 2), changed("e", 1), file("e/x", 1)];
    let (changes, committed) = plan(&now, &before, &below, false);
    assert_eq!(changes, [put("d/new"), put("d/old"), make("e"), put("e/x")]);
    for (failed, again) in [("d/new", vec![put("d/new")]), ("d/old", vec![put("d/old")]), ("e", vec![make("e")])] {
        let mut committed = committed.clone();
        committed.take_back(Path::new(failed), &before);
        let (changes, committed) = plan(&now, &committed, &below, false);
        assert_eq!(changes, again);
        assert!(plan(&now, &committed, &below, false).0.is_empty());
    }
    let mut none = committed.clone();
    for nothing in ["nowhere", "d/nowhere", "d/new/nowhere"] {
        none.take_back(Path::new(nothing), &before);
    }
    assert_eq!(none, committed);
}

#[test]
fn two_containers_that_make_the_same_folder_both_keep_their_files() {
    // Overlayfs marks a new folder opaque, to save itself looks below; nothing was there.
    let (changes, _) = first(&[folder("results", true, None), file("results/mine", 1)], &Folders::of(&[]));
    assert_eq!(changes, [make("results"), put("results/mine")]);
}

#[test]
fn a_folder_that_was_deleted_and_made_again_removes_what_was_in_it_by_name() {
    let below = Folders::of(&[("d", &["old", "kept"])]);
    let (changes, _) = first(&[folder("d", true, None), file("d/kept", 1)], &below);
    assert_eq!(changes, [make("d"), remove("d/old"), put("d/kept")]);
}

#[test]
fn a_renamed_folder_is_grafted_under_its_new_name() {
    let below = Folders::of(&[("old", &["a", "b"])]);
    let whiteout = entry("old", EntryKind::Whiteout, 1);
    let moved = [folder("new", false, Some("/old")), file("new/c", 1), whiteout];
    let (changes, committed) = first(&moved, &below);
    let graft = Change::Graft { from: "old".into(), to: "new".into() };
    assert_eq!(changes, [make("new"), graft, put("new/c"), remove("old")]);
    assert!(plan(&moved, &committed, &below, false).0.is_empty());
}

#[test]
fn a_name_inside_a_renamed_folder_is_found_where_it_was() {
    let below = Folders::of(&[("old", &["a"])]);
    let changed_rights = entry("new/a", EntryKind::File { data_below: true, redirect: None }, 1);
    let renamed = entry("new/z", EntryKind::File { data_below: true, redirect: Some(Path::new("a").into()) }, 1);
    let (changes, _) = first(&[folder("new", false, Some("/old")), changed_rights, renamed], &below);
    let from = |path: &str| Change::File { path: path.into(), data: Data::Below("old/a".into()) };
    assert_eq!(changes[2..], [from("new/a"), from("new/z")]);
}

#[test]
fn a_file_in_the_place_of_a_committed_folder_is_all_that_is_said_of_it() {
    let below = Folders::of(&[]);
    let (_, committed) = first(&[folder("d", true, None), file("d/x", 1)], &below);
    assert_eq!(plan(&[file("d", 2)], &committed, &below, false).0, [put("d")]);
}

#[test]
fn a_file_that_somebody_writes_to_waits_for_a_later_commit() {
    let below = Folders::of(&[]);
    let writing = Written { is_being_written: true, ..file("log", 2) };
    let (_, committed) = first(&[file("log", 1)], &below);
    let (changes, committed) = plan(std::slice::from_ref(&writing), &committed, &below, true);
    assert!(changes.is_empty(), "neither taken nor taken for deleted: {changes:?}");
    assert_eq!(plan(&[writing], &committed, &below, false).0, [put("log")]);
}

#[test]
fn a_file_that_is_renamed_while_somebody_writes_to_it_is_always_somewhere() {
    let below = Folders::of(&[]);
    let (_, committed) = first(&[folder("d", true, None), file("d/log", 1), file("d/other", 1)], &below);
    let renamed = Written { is_being_written: true, ..file("d/log.1", 2) };
    let look = [folder("d", true, None), renamed, file("d/other", 2)];
    let (changes, committed) = plan(&look, &committed, &below, true);
    assert_eq!(changes, [put("d/other")]);
    let (changes, committed) = plan(&look, &committed, &below, false);
    assert_eq!(changes, [put("d/log.1"), remove("d/log")]);
    assert!(plan(&look, &committed, &below, false).0.is_empty());
    // One that was below left a mark.
    let below = Folders::of(&[("", &["log"])]);
    let renamed = Written { is_being_written: true, ..file("log.1", 2) };
    let look = [entry("log", EntryKind::Whiteout, 1), renamed];
    let (changes, committed) = plan(&look, &Committed::default(), &below, true);
    assert_eq!((changes, committed.is_empty()), (Vec::new(), true));
    assert_eq!(plan(&look, &committed, &below, false).0, [remove("log"), put("log.1")]);
}

#[test]
fn a_folder_that_only_leads_to_a_change_is_none_itself() {
    let below = Folders::of(&[("d", &["x"])]);
    assert_eq!(first(&[folder("d", false, None), file("d/x", 1)], &below).0, [put("d/x")]);
}
