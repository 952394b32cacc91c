//! What a folder shows: the store's pages one after the other, and what exists only here.
//!
//! A key and a folder may have the same name (`a` and `a/b`); then only the folder is shown, as when the name is looked
//! up. In the store's order other keys may lie between the two (`a!`, then `a/b`), even pages, so a name that
//! came as a file is remembered as long as its folder may still come. Those names are prefixes of each other, hence few.

use std::collections::{HashMap, HashSet};

use super::Kind;
use crate::keys;
use crate::s3::{Object, Page};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownEntry {
    pub name: String,
    pub kind: Kind,
    /// Of a file in the store.
    pub object: Option<Object>,
}

/// One pass over a folder.
pub struct Listing {
    /// What all keys in the folder begin with.
    prefix: String,
    only_here: HashMap<String, Kind>,
    /// Files whose folder may still come, each a prefix of the next.
    pending: Vec<String>,
}

impl Listing {
    pub fn new(prefix: String, only_here: Vec<(String, Kind)>) -> Self {
        Self { prefix, only_here: only_here.into_iter().collect(), pending: Vec::new() }
    }

    /// What to show for a page of the store's.
    pub fn on_page(&mut self, page: Page) -> Vec<ShownEntry> {
        let mut entries = self.in_order(page);
        let folders: HashSet<String> =
            entries.iter().filter(|e| e.kind == Kind::Folder).map(|e| e.name.clone()).collect();
        entries.retain(|entry| self.is_shown(entry, &folders));
        for entry in &entries {
            self.only_here.remove(&entry.name);
        }
        entries
    }

    /// What the store did not have, after its last page.
    pub fn rest(&mut self) -> Vec<ShownEntry> {
        let mut rest: Vec<ShownEntry> =
            self.only_here.drain().map(|(name, kind)| ShownEntry { name, kind, object: None }).collect();
        rest.sort_by(|a, b| a.name.cmp(&b.name));
        rest
    }

    /// By their keys; that of a folder ends in a slash.
    fn in_order(&self, page: Page) -> Vec<ShownEntry> {
        let name = |key: &str| key.strip_prefix(&self.prefix).map(str::to_owned);
        let files = page.objects.into_iter().filter_map(|listed| {
            Some(ShownEntry { name: name(&listed.key)?, kind: Kind::File, object: Some(listed.object) })
        });
        let folders = page.folders.into_iter().filter_map(|folder| {
            let name = name(folder.strip_suffix('/')?)?;
            Some(ShownEntry { name, kind: Kind::Folder, object: None })
        });
        let mut entries: Vec<ShownEntry> = files.chain(folders).filter(|e| keys::is_name(&e.name)).collect();
        let order = |entry: &ShownEntry| match entry.kind {
            Kind::Folder => format!("{}/", entry.name),
            Kind::File => entry.name.clone(),
        };
        entries.sort_by_cached_key(order);
        entries
    }

    fn is_shown(&mut self, entry: &ShownEntry, folders_of_page: &HashSet<String>) -> bool {
        self.pending.retain(|file| entry.name.starts_with(file.as_str()));
        match entry.kind {
            Kind::Folder => !self.pending.contains(&entry.name),
            Kind::File if folders_of_page.contains(&entry.name) => false,
            // A new folder of that name is what a look-up finds.
            Kind::File if self.only_here.get(&entry.name) == Some(&Kind::Folder) => false,
            Kind::File => {
                self.pending.push(entry.name.clone());
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::s3::Listed;

    fn object() -> Object {
        Object { size: 1, modified: SystemTime::UNIX_EPOCH, etag: String::new() }
    }

    fn page(files: &[&str], folders: &[&str]) -> Page {
        let objects = files.iter().map(|key| Listed { key: (*key).to_owned(), object: object() }).collect();
        Page { objects, folders: folders.iter().map(|f| (*f).to_owned()).collect(), next: None }
    }

    fn names(entries: &[ShownEntry]) -> Vec<String> {
        let name = |e: &ShownEntry| format!("{}{}", e.name, if e.kind == Kind::Folder { "/" } else { "" });
        entries.iter().map(name).collect()
    }

    #[test]
    fn files_and_folders_are_shown_by_name_without_their_marker() {
        let mut listing = Listing::new("p/".to_owned(), Vec::new());
        let shown = listing.on_page(page(&["p/", "p/b", "p/ü"], &["p/a/"]));
        assert_eq!(names(&shown), ["a/", "b", "ü"]);
    }

    #[test]
    fn what_cannot_be_a_name_is_not_shown() {
        let mut listing = Listing::new(String::new(), Vec::new());
        let long = "x".repeat(256);
        assert!(listing.on_page(page(&[".", "..", &long, "a\0"], &["/", "./", "../"])).is_empty());
    }

    #[test]
    fn a_folder_hides_the_file_of_its_name_and_comes_once() {
        let mut listing = Listing::new(String::new(), Vec::new());
        assert_eq!(names(&listing.on_page(page(&["a", "a!"], &["a/"]))), ["a!", "a/"]);
        let mut listing = Listing::new(String::new(), Vec::new());
        assert_eq!(names(&listing.on_page(page(&["a", "a!"], &[]))), ["a", "a!"]);
        assert_eq!(names(&listing.on_page(page(&["a-"], &["a/", "b/"]))), ["a-", "b/"]);
    }

    #[test]
    fn what_is_only_here_comes_last_and_once() {
        let here = vec![("new".to_owned(), Kind::Folder), ("old".to_owned(), Kind::File)];
        let mut listing = Listing::new(String::new(), here);
        assert_eq!(names(&listing.on_page(page(&["old"], &[]))), ["old"]);
        assert_eq!(names(&listing.rest()), ["new/"]);
    }

    proptest! {
        /// Whatever keys there are and however they are cut into pages: each name once.
        #[test]
        fn no_name_comes_twice(keys in proptest::collection::btree_set("[a!/0]{1,5}", 0..40), per_page in 1usize..4) {
            // As a store lists: keys in order, those with a slash as their folder, once.
            let mut shown: Vec<String> = Vec::new();
            for key in keys.iter() {
                let entry = key.split_once('/').map_or(key.clone(), |(folder, _)| format!("{folder}/"));
                if shown.last() != Some(&entry) {
                    shown.push(entry);
                }
            }
            let mut listing = Listing::new(String::new(), Vec::new());
            let mut seen = BTreeMap::new();
            for part in shown.chunks(per_page) {
                let (folders, files): (Vec<&str>, Vec<&str>) = part.iter().map(String::as_str).partition(|e| e.ends_with('/'));
                for entry in listing.on_page(page(&files, &folders)) {
                    *seen.entry(entry.name).or_insert(0) += 1;
                }
            }
            let expected: std::collections::BTreeSet<&str> =
                shown.iter().map(|e| e.trim_end_matches('/')).filter(|name| keys::is_name(name)).collect();
            prop_assert!(seen.values().all(|times| *times == 1), "{:?}", seen);
            prop_assert_eq!(seen.keys().map(String::as_str).collect::<std::collections::BTreeSet<_>>(), expected);
        }
    }
}
