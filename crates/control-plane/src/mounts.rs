//! Mounts: sets of read-only files from the client, and the client package itself, which every function mounts.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use blob_store::{BlobStore, DiskBlobs, Sha256Digest};
use dashmap::DashMap;
use image_builder::{ImageBuilder, LayerKey, StandalonePython, TreeEntry};
use metadata_store::{MountFileRecord, MountRecord};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use types::ids::MountId;

/// Name under which clients look up the mount with their own package; the version follows.
pub const CLIENT_MOUNT_PREFIX: &str = "modal-client-mount-";

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
}

impl Mounts {
    pub fn insert(&self, record: MountRecord) -> Arc<Mount> {
        match &record.name {
            Some(name) => self.by_name.insert(name.clone(), record.id.clone()),
            None => self.by_content.insert(record.content_digest.clone(), record.id.clone()),
        };
        let mount = Arc::new(Mount { record, layer: Mutex::new(None) });
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
        self.by_id.get(id).map(|m| m.clone())
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
    fn the_order_of_files_does_not_change_a_mount() {
        let file = |path: &str| MountFileRecord { path: path.into(), sha256: "00".into(), mode: 0o644, size: 1 };
        let forward = content_digest(&[file("/a"), file("/b")]);
        assert_eq!(forward, content_digest(&[file("/b"), file("/a")]));
        assert_ne!(forward, content_digest(&[file("/a")]));
    }
}
