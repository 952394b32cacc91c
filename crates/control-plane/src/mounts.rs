//! Mounts: sets of read-only files from the client, and the client package itself, which every function mounts.
//!
//! Each change of a program's code makes another one. One goes when nobody has asked for it for a day and no definition names
//! it any more; those with a name stay.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blob_store::{BlobStore, DiskBlobs, Sha256Digest};
use calls::Millis;
use dashmap::DashMap;
use image_builder::{ImageBuilder, LayerKey, StandalonePython, TreeEntry};
use metadata_store::{MountFileRecord, MountRecord, StoreError, Write};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use types::ids::MountId;

use crate::clock::steady_ms;
use crate::shared::Shared;

/// Name under which clients look up the mount with their own package; the version follows.
pub const CLIENT_MOUNT_PREFIX: &str = "modal-client-mount-";
/// Between making a mount and defining a function that names it a client uploads files. A draft of a deployment lives as long.
const UNUSED_KEPT_MS: Millis = 24 * 3_600_000;

#[derive(Default)]
pub struct Mounts {
    by_id: DashMap<MountId, Arc<Mount>>,
    by_content: DashMap<String, MountId>,
    by_name: DashMap<String, MountId>,
    /// Held while a mount is looked for and made: equal requests come in parallel, one per function, and must end
    /// with one mount.
    pub creating: tokio::sync::Mutex<()>,
}

pub struct Mount {
    pub record: MountRecord,
    /// Key of the layer with its files, once it was made.
    layer: Mutex<Option<LayerKey>>,
    /// When somebody last got hold of it, or it was seen that a definition names it.
    used_at: AtomicU64,
}

impl Mounts {
    pub fn insert(&self, record: MountRecord) -> Arc<Mount> {
        match &record.name {
            Some(name) => self.by_name.insert(name.clone(), record.id.clone()),
            None => self.by_content.insert(record.content_digest.clone(), record.id.clone()),
        };
        let mount = Arc::new(Mount { record, layer: Mutex::new(None), used_at: AtomicU64::new(steady_ms()) });
        self.by_id.insert(mount.record.id.clone(), mount.clone());
        mount
    }

    /// Digests, in hex, of all files that some mount names.
    pub fn contents(&self) -> HashSet<String> {
        let of_mount =
            |mount: &Arc<Mount>| mount.record.files.iter().map(|file| file.sha256.clone()).collect::<Vec<_>>();
        self.by_id.iter().flat_map(|mount| of_mount(&mount)).collect()
    }

    pub fn get(&self, id: &MountId) -> Option<Arc<Mount>> {
        let mount = self.by_id.get(id)?;
        // While the map holds the entry: see `forget_unless_used`.
        mount.used_at.store(steady_ms(), Ordering::Relaxed);
        Some(mount.clone())
    }

    /// Those without a name that nobody got hold of since then.
    fn unused_since(&self, since: Millis) -> Vec<MountId> {
        let unused = |mount: &Mount| mount.record.name.is_none() && mount.used_at.load(Ordering::Relaxed) < since;
        self.by_id.iter().filter(|mount| unused(mount)).map(|mount| mount.record.id.clone()).collect()
    }

    /// Forgets the mount unless somebody got hold of it since then; true if it is forgotten.
    fn forget_unless_used(&self, id: &MountId, since: Millis) -> bool {
        let unused = |_: &MountId, mount: &Arc<Mount>| mount.used_at.load(Ordering::Relaxed) < since;
        let Some((_, mount)) = self.by_id.remove_if(id, unused) else { return false };
        self.by_content.remove_if(&mount.record.content_digest, |_, named| named == id);
        true
    }

    pub fn by_content(&self, digest: &str) -> Option<Arc<Mount>> {
        let id = self.by_content.get(digest)?.clone();
        self.get(&id)
    }

    pub fn by_name(&self, name: &str) -> Option<Arc<Mount>> {
        let id = self.by_name.get(name)?.clone();
        self.get(&id)
    }
}

impl Shared {
    /// Lets mounts go that nothing needs. Their files go with what else no mount and no volume names.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn forget_mounts(&self) -> Result<(), StoreError> {
        let since = steady_ms().saturating_sub(UNUSED_KEPT_MS);
        let unused = self.mounts.unused_since(since);
        if unused.is_empty() {
            return Ok(());
        }
        // What is in memory is in the store too. All definitions are read for this, so each mount is looked for once a day.
        let named = self.store.mounts_in_use().await?;
        for id in unused {
            if named.contains(&id) {
                self.mounts.get(&id);
            } else if self.mounts.forget_unless_used(&id, since) {
                self.store.write_later(vec![Write::DeleteMount(id)]);
            }
        }
        Ok(())
    }
}

impl Mount {
    /// The client version whose package this mount is, if it is one.
    pub fn client_version(&self) -> Option<&str> {
        self.record.name.as_deref()?.strip_prefix(CLIENT_MOUNT_PREFIX)
    }

    /// The Python that this mount is, if it is one.
    pub fn standalone_python(&self) -> Option<StandalonePython> {
        StandalonePython::parse(self.record.name.as_deref()?)
    }

    /// Key of the layer that holds the files, made when it is not there.
    pub async fn layer(&self, builder: &ImageBuilder, blobs: &DiskBlobs) -> Result<String, String> {
        let known = self.layer.lock().clone();
        if let Some(key) = known.filter(|key| builder.find_layer(key)) {
            return Ok(key.to_string());
        }
        let mut files = Vec::with_capacity(self.record.files.len());
        for file in &self.record.files {
            files.push(tree_entry(file, blobs).await?);
        }
        let made = builder.tree_layer(&files).await;
        let key = made.map_err(|e| format!("could not lay out mount `{}`: {e}", self.record.id))?;
        *self.layer.lock() = Some(key.clone());
        Ok(key.to_string())
    }
}

async fn tree_entry(file: &MountFileRecord, blobs: &DiskBlobs) -> Result<TreeEntry, String> {
    Ok(TreeEntry {
        path: file.path.clone(),
        mode: file.mode,
        digest: file.sha256.clone(),
        source: content_path(blobs, &file.sha256).await?,
    })
}

/// Where a file's content lies on this machine.
pub async fn content_path(blobs: &DiskBlobs, sha256: &str) -> Result<PathBuf, String> {
    let digest = Sha256Digest::from_hex(sha256).ok_or_else(|| format!("`{sha256}` is not a SHA-256"))?;
    blobs.content_path(&digest).await.map_err(|e| e.to_string())
}

/// Equal for equal sets of files, in whatever order they come.
pub fn content_digest(files: &[MountFileRecord]) -> String {
    let mut lines: Vec<String> = files.iter().map(|f| format!("{:o} {} {}\n", f.mode, f.sha256, f.path)).collect();
    lines.sort_unstable();
    let mut hasher = Sha256::new();
    for line in lines {
        hasher.update(line);
    }
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_goes_when_nobody_got_hold_of_it_and_one_with_a_name_stays() {
        let mounts = Mounts::default();
        let record = |name: Option<&str>, digest: &str| MountRecord {
            id: MountId::random(),
            name: name.map(str::to_owned),
            content_digest: digest.to_owned(),
            files: Vec::new(),
            created_at_ms: 0,
        };
        let [old, used] = ["old", "used"].map(|digest| mounts.insert(record(None, digest)).record.id.clone());
        mounts.insert(record(Some("client"), "named"));
        let since = steady_ms() + 10;
        assert_eq!(mounts.unused_since(since).len(), 2);
        mounts.by_id.get(&used).unwrap().used_at.store(since, Ordering::Relaxed);
        assert_eq!(mounts.unused_since(since).as_slice(), std::slice::from_ref(&old));
        assert!(mounts.forget_unless_used(&old, since) && !mounts.forget_unless_used(&used, since));
        assert!(mounts.by_content("old").is_none() && mounts.by_content("used").is_some());
        assert!(mounts.by_name("client").is_some());
    }

    #[test]
    fn the_order_of_files_does_not_change_a_mount() {
        let file = |path: &str| MountFileRecord { path: path.into(), sha256: "00".into(), mode: 0o644, size: 1 };
        let forward = content_digest(&[file("/a"), file("/b")]);
        assert_eq!(forward, content_digest(&[file("/b"), file("/a")]));
        assert_ne!(forward, content_digest(&[file("/a")]));
    }
}
