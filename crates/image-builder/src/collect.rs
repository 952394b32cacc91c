//! What lies in the store, and taking it away. What to take is decided by whoever knows who needs it.
//!
//! A layer must not vanish under somebody who has just found it. So finding one leaves a mark with the time
//! ([`LayerStore::has`]), and [`ImageBuilder::remove_layer`] refuses what was found since a time that its caller names:
//! the moment before the caller looked at who needs what, or the beginning of the oldest work that goes on. Mark and
//! look, and look and removal, are each done under one lock; whoever comes too late finds nothing and makes it again.
//!
//! A removal is a rename into `tmp/` first: a server killed in the middle leaves no half of a layer.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use image_plan::LayerKey;
use serde_json::Value;

use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::store::{LayerMeta, LayerStore};

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    pub key: LayerKey,
    /// What made it.
    pub title: String,
    pub created_unix: u64,
    /// When it was last found by a build or a container. After a restart it may be an hour too early.
    pub used_unix: u64,
    /// On disk.
    pub bytes: u64,
}

/// What went away besides layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Folders and files of package downloads.
    pub caches: usize,
    pub cache_bytes: u64,
    /// Notes about layers that are gone, and facts that nobody asked for in a long time.
    pub records: usize,
}

impl ImageBuilder {
    /// All layers. Blocks; the first time it measures each, which takes seconds for large images.
    pub fn layers(&self) -> Result<Vec<LayerInfo>, BuildError> {
        self.inner.store.list()
    }

    /// Layers that a build or a container found or made since then.
    pub fn layers_found_since(&self, time: Instant) -> Vec<LayerKey> {
        self.inner
            .store
            .marked_since(time)
            .iter()
            .filter_map(|path| LayerKey::parse(path.strip_prefix("layers/")?))
            .collect()
    }

    /// Whether the layer is there; it then counts as used now.
    pub fn find_layer(&self, key: &LayerKey) -> bool {
        self.inner.store.has(key)
    }

    /// Takes a layer away unless somebody found it since `unused_since`; false then. Blocks.
    pub fn remove_layer(&self, key: &LayerKey, unused_since: Instant) -> Result<bool, BuildError> {
        let store = &self.inner.store;
        store.remove(&format!("layers/{key}"), unused_since).map_err(BuildError::io(format!("remove layer `{key}`")))
    }

    /// Takes away downloads that nobody used since `before`, and notes about layers that are gone. Blocks. Only while
    /// nothing is built: a build uses its downloads for longer than it takes to find them.
    pub fn sweep(&self, before: SystemTime, unused_since: Instant) -> Result<Swept, BuildError> {
        let store = &self.inner.store;
        let mut swept = Swept { records: store.sweep_records(before), ..Swept::default() };
        for (path, used, bytes) in store.caches() {
            let remove = || store.remove(&path, unused_since).map_err(BuildError::io(format!("remove `{path}`")));
            if used < before && remove()? {
                swept.caches += 1;
                swept.cache_bytes += bytes;
            }
        }
        Ok(swept)
    }
}

impl LayerStore {
    fn list(&self) -> Result<Vec<LayerInfo>, BuildError> {
        let folder = self.root().join("layers");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(BuildError::on("read", &folder))?.flatten() {
            let Some(key) = entry.file_name().to_str().and_then(LayerKey::parse) else { continue };
            let found_ago = self.marks().get(&format!("layers/{key}")).map(|mark| mark.found.elapsed());
            // One that vanishes meanwhile is not there.
            found.extend(layer_info(key, &entry.path(), found_ago));
        }
        found.sort_by(|a, b| (b.created_unix, &b.key).cmp(&(a.created_unix, &a.key)));
        Ok(found)
    }

    /// Away with `path` (relative), unless it was marked since then. The lock is held until the rename is done.
    fn remove(&self, path: &str, unused_since: Instant) -> io::Result<bool> {
        let gone = self.unfinished();
        {
            let marks = self.marks();
            if marks.get(path).is_some_and(|mark| mark.found >= unused_since) {
                return Ok(false);
            }
            match fs::rename(self.root().join(path), &gone) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                renamed => renamed?,
            }
        }
        trees::remove(&gone)?;
        Ok(true)
    }

    /// Downloads as they can be removed: relative path, when last used, bytes. Tools keep files that name each other, so
    /// that a tool's folder goes as a whole; an archive of a registry is by itself.
    fn caches(&self) -> Vec<(String, SystemTime, u64)> {
        let mut found = Vec::new();
        for kind in names(&self.root().join("cache")) {
            for name in names(&self.root().join("cache").join(&kind)) {
                let path = format!("cache/{kind}/{name}");
                let mut total = Usage::default();
                total.add(&self.root().join(&path));
                found.extend(total.used.map(|used| (path, used, total.bytes)));
            }
        }
        found
    }

    /// Removes what names a layer that is gone, and facts about images older than `before`.
    fn sweep_records(&self, before: SystemTime) -> usize {
        let mut removed = 0;
        let mut remove = |path: PathBuf| removed += usize::from(fs::remove_file(path).is_ok());
        let is_gone = |key: &str| LayerKey::parse(key).is_none_or(|key| !self.exists(&key));
        for name in names(&self.root().join("forced")) {
            let path = self.root().join("forced").join(name);
            if fs::read_to_string(&path).is_ok_and(|key| is_gone(key.trim())) {
                remove(path);
            }
        }
        for name in names(&self.root().join("records")) {
            let path = self.root().join("records").join(name);
            let Some(record) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            else {
                continue;
            };
            let layers = record.get("layers").or_else(|| record.get("image")?.get("layers")).and_then(Value::as_array);
            let is_old = || modified(&path).is_some_and(|time| time < before);
            match layers {
                Some(layers) if layers.iter().any(|key| key.as_str().is_none_or(is_gone)) => remove(path),
                Some(_) => {}
                None if is_old() => remove(path),
                None => {}
            }
        }
        removed
    }
}

fn layer_info(key: LayerKey, folder: &Path, found_ago: Option<Duration>) -> Option<LayerInfo> {
    let meta: LayerMeta = serde_json::from_slice(&fs::read(folder.join("meta.json")).ok()?).ok()?;
    let found = found_ago.and_then(|ago| SystemTime::now().checked_sub(ago));
    let used = modified(&folder.join("used")).max(found);
    let used = used.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let used_unix = used.map_or(0, |elapsed| elapsed.as_secs()).max(meta.created_unix);
    Some(LayerInfo { key, title: meta.title, created_unix: meta.created_unix, used_unix, bytes: measured(folder) })
}

/// Measured once: a layer never changes.
fn measured(folder: &Path) -> u64 {
    let kept = folder.join("size");
    if let Some(bytes) = fs::read_to_string(&kept).ok().and_then(|text| text.trim().parse().ok()) {
        return bytes;
    }
    let mut usage = Usage::default();
    usage.add(&folder.join("diff"));
    // By rename, since a half-written number would be believed. A failure only means to measure again.
    let aside = folder.join("size.new");
    let _ = fs::write(&aside, usage.bytes.to_string()).and_then(|()| fs::rename(&aside, &kept));
    usage.bytes
}

/// What files take up, a hard-linked one once, and the last time that one was read or written.
#[derive(Default)]
struct Usage {
    bytes: u64,
    used: Option<SystemTime>,
    linked: HashSet<u64>,
}

impl Usage {
    fn add(&mut self, path: &Path) {
        let Ok(meta) = fs::symlink_metadata(path) else { return };
        if !meta.is_dir() && meta.nlink() > 1 && !self.linked.insert(meta.ino()) {
            return;
        }
        self.bytes += meta.blocks() * 512;
        // Reading a folder, as here, counts as access; only files say what was used. An empty folder is as old as it is.
        let accessed = if meta.is_dir() { None } else { meta.accessed().ok() };
        self.used = self.used.max(accessed).max(meta.modified().ok());
        if meta.is_dir() {
            names(path).iter().for_each(|name| self.add(&path.join(name)));
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// Notes on disk that a file was used now.
pub(crate) fn touch(path: &Path) {
    // What cannot be noted is collected a little early.
    let _ = File::options().create(true).append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// How often a layer's use is written down.
pub(crate) const NOTED_EVERY: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use image_plan::KeyHasher;

    fn key(name: &str) -> LayerKey {
        KeyHasher::new("test").field(name).finish()
    }

    fn store_with(layers: &[&str]) -> (tempfile::TempDir, LayerStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = LayerStore::open(folder.path()).unwrap();
        for name in layers {
            let workspace = store.workspace().unwrap();
            fs::create_dir(workspace.diff()).unwrap();
            fs::write(workspace.diff().join("file"), vec![1; 10_000]).unwrap();
            fs::hard_link(workspace.diff().join("file"), workspace.diff().join("again")).unwrap();
            store.commit(&workspace, &key(name), name).unwrap();
        }
        (folder, store)
    }

    #[test]
    fn layers_are_listed_with_what_they_take_up() {
        let (_folder, store) = store_with(&["a", "b"]);
        let mut titles: Vec<String> = store.list().unwrap().iter().map(|layer| layer.title.clone()).collect();
        titles.sort();
        assert_eq!(titles, ["a", "b"]);
        let layer = store.list().unwrap().remove(0);
        assert!((10_000..20_000).contains(&layer.bytes), "a hard link counts once: {}", layer.bytes);
        assert!(layer.used_unix >= layer.created_unix && layer.created_unix > 0);
        // Noted long ago, and found just now.
        let noted = store.root().join("layers").join(layer.key.as_str()).join("used");
        File::create(&noted).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(store.has(&layer.key));
        let again = store.list().unwrap().into_iter().find(|found| found.key == layer.key).unwrap();
        assert!(again.used_unix >= layer.used_unix);
    }

    #[test]
    fn a_layer_that_was_found_meanwhile_stays() {
        let (_folder, store) = store_with(&["a", "b"]);
        let path = |name: &str| format!("layers/{}", key(name));
        let since = Instant::now();
        assert!(store.has(&key("a")));
        assert!(!store.remove(&path("a"), since).unwrap());
        assert!(store.remove(&path("b"), since).unwrap());
        assert!(store.has(&key("a")) && !store.has(&key("b")));
        assert!(!store.remove(&path("b"), Instant::now()).unwrap(), "what is gone is no error");
        assert_eq!(store.marked_since(Instant::now()).len(), 0);
        assert!(names(&store.root().join("tmp")).is_empty());
    }

    #[test]
    fn a_layer_just_made_counts_as_found() {
        let since = Instant::now();
        let (_folder, store) = store_with(&["a"]);
        assert!(!store.remove(&format!("layers/{}", key("a")), since).unwrap());
    }

    #[test]
    fn notes_go_with_the_layer_that_they_name() {
        let (_folder, store) = store_with(&["a"]);
        store.replace(&key("cause"), &key("a")).unwrap();
        store.replace(&key("other"), &key("gone")).unwrap();
        let image = |name: &str| serde_json::json!({ "reference": "x", "image": { "layers": [key(name).as_str()] } });
        store.write_record("reference-1", &image("a")).unwrap();
        store.write_record("reference-2", &image("gone")).unwrap();
        store.write_record("metadata-1", &serde_json::json!({ "python": "3" })).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        assert_eq!(store.sweep_records(long_ago), 2);
        assert_eq!(store.current(key("cause")), key("a"));
        assert!(store.read_record::<Value>("reference-1").is_some());
        assert!(store.read_record::<Value>("reference-2").is_none());
        assert!(store.read_record::<Value>("metadata-1").is_some());
        assert_eq!(store.sweep_records(SystemTime::now() + Duration::from_secs(1)), 1);
    }

    #[test]
    fn downloads_go_when_nobody_used_them_and_by_whole_folders() {
        let (_folder, store) = store_with(&[]);
        let used = store.cache_dir("pip", "a").unwrap();
        fs::create_dir(used.join("old")).unwrap();
        fs::write(used.join("new"), "x").unwrap();
        fs::write(store.cache_dir("blobs", "").unwrap().join("digest"), vec![0; 5000]).unwrap();
        let mut caches = store.caches();
        caches.sort();
        assert_eq!(
            caches.iter().map(|(path, ..)| path.as_str()).collect::<Vec<_>>(),
            ["cache/blobs/digest", "cache/pip/a"]
        );
        assert!(caches[0].2 >= 5000);
        assert!(store.remove("cache/pip/a", Instant::now()).unwrap());
        let since = Instant::now();
        store.cache_dir("pip", "a").unwrap();
        assert!(!store.remove("cache/pip/a", since).unwrap(), "a build has just asked for it");
    }
}
