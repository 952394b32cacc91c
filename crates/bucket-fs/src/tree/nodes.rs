//! Numbers that the kernel knows paths by.
//!
//! The kernel counts how often it was told a number and says when it has forgotten it; until then the number means the
//! same path and kind. A path that becomes a folder where a file was gets another number.

use std::collections::HashMap;

use super::Kind;

pub const ROOT: u64 = 1;

#[derive(Debug)]
struct Node {
    path: String,
    kind: Kind,
    told: u64,
    /// Names the content that the kernel may have in its cache.
    content: String,
}

#[derive(Debug)]
pub struct Nodes {
    by_number: HashMap<u64, Node>,
    by_path: HashMap<(String, Kind), u64>,
    next: u64,
}

impl Default for Nodes {
    fn default() -> Self {
        let root = Node { path: String::new(), kind: Kind::Folder, told: 1, content: String::new() };
        let by_path = HashMap::from([((String::new(), Kind::Folder), ROOT)]);
        Self { by_number: HashMap::from([(ROOT, root)]), by_path, next: ROOT + 1 }
    }
}

impl Nodes {
    pub fn path(&self, number: u64) -> Option<(&str, Kind)> {
        self.by_number.get(&number).map(|node| (node.path.as_str(), node.kind))
    }

    /// The number of `path`, which the kernel is told now.
    pub fn tell(&mut self, path: &str, kind: Kind) -> u64 {
        let key = (path.to_owned(), kind);
        if let Some(number) = self.by_path.get(&key) {
            if let Some(node) = self.by_number.get_mut(number) {
                node.told += 1;
            }
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.by_number.insert(number, Node { path: path.to_owned(), kind, told: 1, content: String::new() });
        self.by_path.insert(key, number);
        number
    }

    /// Whether what the kernel has of the file is this content; from now on it will be.
    pub fn has_content(&mut self, number: u64, etag: &str) -> bool {
        let Some(node) = self.by_number.get_mut(&number) else { return false };
        let is_same = !etag.is_empty() && node.content == etag;
        etag.clone_into(&mut node.content);
        is_same
    }

    /// The kernel does not use the number any more that it was told `times` times.
    pub fn forget(&mut self, number: u64, times: u64) {
        let Some(node) = self.by_number.get_mut(&number) else { return };
        node.told = node.told.saturating_sub(times);
        if node.told > 0 || number == ROOT {
            return;
        }
        if let Some(node) = self.by_number.remove(&number) {
            self.by_path.remove(&(node.path, node.kind));
        }
    }

    /// For listings, which tell numbers without counting: that of a known path, else one that nobody else has. Never 0,
    /// which means no entry.
    pub fn shown(&self, path: &str, kind: Kind) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        self.by_path.get(&(path.to_owned(), kind)).copied().unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            path.hash(&mut hasher);
            hasher.finish() | 1 << 63
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_until_the_kernel_has_forgotten_each_telling() {
        let mut nodes = Nodes::default();
        let number = nodes.tell("a", Kind::File);
        assert_eq!(nodes.tell("a", Kind::File), number);
        nodes.forget(number, 1);
        assert_eq!(nodes.path(number), Some(("a", Kind::File)));
        nodes.forget(number, 1);
        assert_eq!(nodes.path(number), None);
        assert_ne!(nodes.tell("a", Kind::File), number);
    }

    #[test]
    fn a_file_that_becomes_a_folder_gets_another_number() {
        let mut nodes = Nodes::default();
        let (file, folder) = (nodes.tell("a", Kind::File), nodes.tell("a", Kind::Folder));
        assert_ne!(file, folder);
        assert_eq!(nodes.path(file), Some(("a", Kind::File)));
    }

    #[test]
    fn what_the_kernel_has_is_good_for_the_same_content_only() {
        let mut nodes = Nodes::default();
        let number = nodes.tell("a", Kind::File);
        let known = ["x", "x", "y", "", ""].map(|etag| nodes.has_content(number, etag));
        assert_eq!(known, [false, true, false, false, false]);
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let mut nodes = Nodes::default();
        nodes.forget(ROOT, 1000);
        assert_eq!(nodes.path(ROOT), Some(("", Kind::Folder)));
        assert_eq!(nodes.tell("", Kind::Folder), ROOT);
    }

    #[test]
    fn listings_have_a_number_for_everything() {
        let mut nodes = Nodes::default();
        assert_ne!(nodes.shown("a", Kind::File), 0);
        let number = nodes.tell("a", Kind::File);
        assert_eq!(nodes.shown("a", Kind::File), number);
    }
}
