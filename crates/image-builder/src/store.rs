//! Layers on disk: made aside, renamed into place, never changed afterwards.
//!
//! ```text
//! layers/<key>/diff        the files, in overlayfs's own format
//! layers/<key>/meta.json   what it is and why it exists
//! layers/<key>/synced      the bytes have reached the disk
//! layers/<key>/used        when a build or a container last found it, as the file's time
//! layers/<key>/size        what it takes up, once somebody asked
//! forced/<key>             the key to use instead, after a forced rebuild
//! records/<name>.json      small facts that are dear to find out again (base images, package lists)
//! tmp/                     unfinished work; emptied at start
//! cache/                   package downloads shared by builds
//! ```
//!
//! A killed server leaves only `tmp/`: the rename is the commit. A lost machine (power) could leave a renamed layer whose
//! file contents never reached the disk. Waiting for the disk before every rename would cost seconds per build, so
//! the sync happens behind the build's back and leaves the mark `synced`; a layer without the mark from an earlier boot
//! is thrown away at start and built again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use image_plan::LayerKey;
use parking_lot::{Mutex, MutexGuard};
use rand::Rng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::BuildError;

#[derive(Debug, Clone)]
pub(crate) struct LayerStore {
    root: PathBuf,
    boot_id: String,
    /// When something here was last found by somebody who wants to use it, by its relative path; see `collect.rs`.
    marks: Arc<Mutex<HashMap<String, Mark>>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub found: Instant,
    /// When that was last written to the disk.
    noted: Instant,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerMeta {
    /// The instruction, or what else made it.
    pub title: String,
    pub boot_id: String,
    pub created_unix: u64,
}

impl LayerStore {
    /// Opens the folder and removes what a killed server left unfinished. Blocks.
    pub fn open(root: &Path) -> Result<Self, BuildError> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        fs::create_dir_all(root).map_err(BuildError::on("create", root))?;
        // Layers hold set-user programs of other people's images, owned by root: on this machine only root may reach them.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(BuildError::on("protect", root))?;
        let store = Self { root: root.to_owned(), boot_id, marks: Arc::default() };
        let unfinished = root.join("tmp");
        if unfinished.exists() {
            trees::remove(&unfinished).map_err(BuildError::on("remove", &unfinished))?;
        }
        for folder in ["layers", "forced", "records", "cache/blobs", "tmp"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(BuildError::on("create", &folder))?;
        }
        store.drop_unsynced();
        Ok(store)
    }

    pub fn layer_path(&self, key: &LayerKey) -> PathBuf {
        self.root.join("layers").join(key.as_str()).join("diff")
    }

    /// Whether the layer is there, for somebody who then uses it.
    pub fn has(&self, key: &LayerKey) -> bool {
        // The mark comes before the look: see `collect.rs`.
        let note = self.mark(format!("layers/{key}"));
        let found = self.exists(key);
        if found && note {
            crate::collect::touch(&self.root.join("layers").join(key.as_str()).join("used"));
        }
        found
    }

    /// Whether the layer is there, for somebody who only wants to know.
    pub fn exists(&self, key: &LayerKey) -> bool {
        self.layer_path(key).exists()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A name for something that is on its way out, or not there yet.
    pub fn unfinished(&self) -> PathBuf {
        let name: u64 = rand::rng().random();
        self.root.join("tmp").join(format!("{name:016x}.new"))
    }

    pub fn marks(&self) -> MutexGuard<'_, HashMap<String, Mark>> {
        self.marks.lock()
    }

    pub fn marked_since(&self, time: Instant) -> Vec<String> {
        let marks = self.marks.lock();
        marks.iter().filter(|(_, mark)| mark.found >= time).map(|(path, _)| path.clone()).collect()
    }

    /// Notes that `path` is wanted; true when it is time to note that on disk, too.
    fn mark(&self, path: String) -> bool {
        let now = Instant::now();
        let mut marks = self.marks.lock();
        let known = marks.get(&path).map(|mark| mark.noted);
        let note = known.is_none_or(|noted| now.duration_since(noted) > crate::collect::NOTED_EVERY);
        let noted = known.filter(|_| !note).unwrap_or(now);
        marks.insert(path, Mark { found: now, noted });
        note
    }

    /// A folder for downloads, made when missing.
    pub fn cache_dir(&self, kind: &str, name: &str) -> Result<PathBuf, BuildError> {
        self.mark(format!("cache/{kind}/{name}"));
        let folder = self.root.join("cache").join(kind).join(name);
        fs::create_dir_all(&folder).map_err(BuildError::on("create", &folder))?;
        Ok(folder)
    }

    /// The key that stands for `key` since it was last forced, or `key` itself.
    pub fn current(&self, key: LayerKey) -> LayerKey {
        let redirect = fs::read_to_string(self.root.join("forced").join(key.as_str()));
        redirect.ok().and_then(|text| LayerKey::parse(text.trim())).unwrap_or(key)
    }

    /// From now on `key` means `replacement`. The old layer stays for the containers that run on it.
    pub fn replace(&self, key: &LayerKey, replacement: &LayerKey) -> Result<(), BuildError> {
        self.write_atomically(&self.root.join("forced").join(key.as_str()), replacement.as_str().as_bytes())
    }

    pub fn workspace(&self) -> Result<Workspace, BuildError> {
        let name: u64 = rand::rng().random();
        let path = self.root.join("tmp").join(format!("{name:016x}"));
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(BuildError::on("create", &path))?;
        Ok(Workspace(Arc::new(Folder { path, is_committed: AtomicBool::new(false) })))
    }

    /// Makes `workspace/diff` the layer `key`. When somebody else was first, theirs is kept: both are right.
    pub fn commit(&self, workspace: &Workspace, key: &LayerKey, title: &str) -> Result<(), BuildError> {
        let made = workspace.path().join("commit");
        let rename = |from: PathBuf, to: &Path| fs::rename(&from, to).map_err(BuildError::on("move", &from));
        fs::create_dir(&made).map_err(BuildError::on("create", &made))?;
        rename(workspace.diff(), &made.join("diff"))?;
        workspace.0.is_committed.store(true, Ordering::Relaxed);
        let created_unix =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let meta = LayerMeta { title: title.to_owned(), boot_id: self.boot_id.clone(), created_unix };
        let path = made.join("meta.json");
        let text =
            serde_json::to_vec_pretty(&meta).map_err(io::Error::other).map_err(BuildError::on("write", &path))?;
        fs::write(&path, text).map_err(BuildError::on("write", &path))?;
        let place = self.root.join("layers").join(key.as_str());
        self.mark(format!("layers/{key}"));
        if let Err(error) = fs::rename(&made, &place) {
            if self.exists(key) {
                return Ok(());
            }
            return Err(BuildError::on("move a layer to", &place)(error));
        }
        self.sync_later(place);
        Ok(())
    }

    pub fn read_record<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.root.join("records").join(format!("{name}.json"));
        let record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        crate::collect::touch(&path);
        Some(record)
    }

    pub fn write_record<T: Serialize>(&self, name: &str, value: &T) -> Result<(), BuildError> {
        let path = self.root.join("records").join(format!("{name}.json"));
        let text = serde_json::to_vec(value).map_err(io::Error::other).map_err(BuildError::on("write", &path))?;
        self.write_atomically(&path, &text)
    }

    fn write_atomically(&self, path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
        let aside = self.unfinished();
        let write = || {
            fs::write(&aside, bytes)?;
            File::open(&aside)?.sync_all()?;
            fs::rename(&aside, path)
        };
        write().map_err(BuildError::on("write", path))
    }

    fn sync_later(&self, layer: PathBuf) {
        let sync = move || {
            let done = File::open(&layer)
                .and_then(|folder| rustix::fs::syncfs(&folder).map_err(io::Error::from))
                .and_then(|()| File::create(layer.join("synced")).map(drop));
            if let Err(error) = done {
                tracing::warn!(layer = %layer.display(), %error, "a layer could not be synced; it is rebuilt after a reboot");
            }
        };
        // A failure to start the thread costs at most a rebuild after a power loss.
        let _ = std::thread::Builder::new().name("layer-sync".to_owned()).spawn(sync);
    }

    fn drop_unsynced(&self) {
        let Ok(entries) = fs::read_dir(self.root.join("layers")) else { return };
        for layer in entries.flatten().map(|entry| entry.path()) {
            if layer.join("synced").exists() {
                continue;
            }
            let meta: Option<LayerMeta> =
                fs::read(layer.join("meta.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if meta.is_some_and(|meta| meta.boot_id == self.boot_id) {
                self.sync_later(layer);
                continue;
            }
            tracing::warn!(layer = %layer.display(), "removing a layer that may not have reached the disk before a reboot");
            if let Err(error) = trees::remove(&layer) {
                tracing::warn!(layer = %layer.display(), %error, "cannot remove it");
            }
        }
    }
}

/// A folder for unfinished work, removed when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Workspace(Arc<Folder>);

struct Folder {
    path: PathBuf,
    /// Its files have become a layer.
    is_committed: AtomicBool,
}

impl Workspace {
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Before the caller goes on; blocks for as long as that takes.
    pub fn remove_now(self) {
        // Dropping it tries again.
        let _ = trees::remove(self.path());
    }

    /// Where the future layer's files are.
    pub fn diff(&self) -> PathBuf {
        self.path().join("diff")
    }
}

impl Drop for Folder {
    /// What a committed layer leaves is next to nothing, and goes at once. A build that failed or was stopped may leave
    /// gigabytes, and a container that is being killed may still write: that goes behind the build's back.
    fn drop(&mut self) {
        if self.is_committed.load(Ordering::Relaxed) && trees::remove(&self.path).is_ok() {
            return;
        }
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            let mut outcome = trees::remove(&path);
            for _ in 0..50 {
                if outcome.is_ok() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
                outcome = trees::remove(&path);
            }
            let error = outcome.err().map(|error| error.to_string());
            tracing::warn!(path = %path.display(), error, "a build's temporary folder stays until the next start");
        };
        let _ = std::thread::Builder::new().name("build-cleanup".to_owned()).spawn(remove);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_user_programs_of_images_are_out_of_other_users_reach() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("images");
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        LayerStore::open(&root).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
