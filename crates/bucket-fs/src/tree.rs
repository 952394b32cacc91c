//! What is known of the mount's files: numbers that the kernel knows them by, what was said of them and until when, and
//! what exists only here (new folders, files being written). One value behind one lock; nothing here waits.

mod known;
mod listing;
mod nodes;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

pub use known::{Facts, Known};
pub use listing::{Listing, ShownEntry};
pub use nodes::Nodes;
#[cfg(test)]
pub use nodes::ROOT;

use crate::keys;

/// Folders that exist only here: at most 100 MiB of the longest names. A program that fills its folders has few.
const MAX_NEW_FOLDERS: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Folder,
    File,
}

/// A file that is being written and that the store does not have yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    pub size: u64,
    pub begun: SystemTime,
}

pub struct Tree {
    pub nodes: Nodes,
    known: Known,
    /// Made here, and not in the store until a file is in them.
    new_folders: BTreeSet<String>,
    drafts: HashMap<String, Draft>,
}

impl Tree {
    pub fn new(ttl: Duration) -> Self {
        let nodes = Nodes::default();
        Self { nodes, known: Known::new(ttl), new_folders: BTreeSet::new(), drafts: HashMap::new() }
    }

    /// What can be told of `path` without asking the store.
    pub fn facts(&self, path: &str, now: Instant) -> Option<Facts> {
        if let Some(draft) = self.drafts.get(path) {
            return Some(Facts::file(draft.size, draft.begun, String::new()));
        }
        if path.is_empty() || self.new_folders.contains(path) {
            return Some(Facts::folder());
        }
        self.known.get(path, now)
    }

    pub fn learn(&mut self, path: &str, facts: Facts, now: Instant) {
        self.known.learn(path, facts, now);
    }

    /// Its folders were there because it was, and may be gone with it; but who removed it may go on to remove them, and
    /// saw them a moment ago.
    pub fn remove(&mut self, path: &str, now: Instant) {
        self.known.forget(path);
        let mut folder = keys::parent(path);
        while let Some(path) = folder {
            self.known.learn(path, Facts::folder(), now);
            folder = keys::parent(path);
        }
    }

    pub fn is_draft(&self, path: &str) -> bool {
        self.drafts.contains_key(path)
    }

    pub fn draft(&self, path: &str) -> Option<Draft> {
        self.drafts.get(path).copied()
    }

    pub fn is_new_folder(&self, path: &str) -> bool {
        self.new_folders.contains(path)
    }

    /// False when it is being written already.
    pub fn begin_draft(&mut self, path: &str, begun: SystemTime) -> bool {
        if self.is_draft(path) {
            return false;
        }
        self.drafts.insert(path.to_owned(), Draft { size: 0, begun });
        true
    }

    pub fn grow_draft(&mut self, path: &str, size: u64) {
        if let Some(draft) = self.drafts.get_mut(path) {
            draft.size = size;
        }
    }

    /// The store has it now: its folders are there because it is.
    pub fn publish_draft(&mut self, path: &str, facts: Facts, now: Instant) {
        self.drafts.remove(path);
        self.known.learn(path, facts, now);
        let mut folder = keys::parent(path);
        while let Some(path) = folder {
            self.new_folders.remove(path);
            folder = keys::parent(path);
        }
    }

    pub fn drop_draft(&mut self, path: &str) {
        self.drafts.remove(path);
        self.known.forget(path);
    }

    /// False when there are too many.
    pub fn make_folder(&mut self, path: &str) -> bool {
        if self.new_folders.len() >= MAX_NEW_FOLDERS {
            return false;
        }
        self.new_folders.insert(path.to_owned());
        true
    }

    pub fn remove_folder(&mut self, path: &str, now: Instant) {
        self.new_folders.remove(path);
        self.remove(path, now);
    }

    /// What is in `folder` and only here.
    pub fn only_here(&self, folder: &str) -> Vec<(String, Kind)> {
        let inside = |path: &str| (keys::parent(path) == Some(folder)).then(|| name_of(path).to_owned());
        let folders = self.new_folders.iter().filter_map(|path| Some((inside(path)?, Kind::Folder)));
        let drafts = self.drafts.keys().filter_map(|path| Some((inside(path)?, Kind::File)));
        folders.chain(drafts).collect()
    }
}

pub fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree::new(Duration::from_secs(1))
    }

    #[test]
    fn a_file_is_seen_while_it_is_written_and_one_writer_has_it() {
        let (mut tree, now) = (tree(), Instant::now());
        assert!(tree.begin_draft("a/f", SystemTime::now()) && !tree.begin_draft("a/f", SystemTime::now()));
        tree.grow_draft("a/f", 7);
        assert_eq!(tree.facts("a/f", now).unwrap().size, 7);
        assert_eq!(tree.only_here("a"), [("f".to_owned(), Kind::File)]);
        assert_eq!(tree.only_here(""), []);
    }

    #[test]
    fn a_new_folder_becomes_the_stores_with_its_first_file() {
        let (mut tree, now) = (tree(), Instant::now());
        tree.make_folder("a");
        tree.make_folder("a/b");
        tree.begin_draft("a/b/f", SystemTime::now());
        assert_eq!(tree.facts("a", now), Some(Facts::folder()));
        tree.publish_draft("a/b/f", Facts::file(1, SystemTime::now(), "\"e\"".to_owned()), now);
        assert_eq!((tree.facts("a", now), tree.facts("a/b", now)), (None, None));
        assert_eq!(tree.facts("a/b/f", now).unwrap().size, 1);
    }

    #[test]
    fn folders_that_are_only_here_are_bounded() {
        let (mut tree, now) = (tree(), Instant::now());
        assert!((0..MAX_NEW_FOLDERS).all(|number| tree.make_folder(&number.to_string())));
        assert!(!tree.make_folder("more"));
        tree.remove_folder("7", now);
        assert!(tree.make_folder("more"));
    }

    #[test]
    fn a_draft_that_came_to_nothing_leaves_nothing() {
        let (mut tree, now) = (tree(), Instant::now());
        tree.begin_draft("f", SystemTime::now());
        tree.drop_draft("f");
        assert_eq!(tree.facts("f", now), None);
        assert!(tree.begin_draft("f", SystemTime::now()));
    }
}
