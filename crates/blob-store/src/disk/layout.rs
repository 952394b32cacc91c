//! Which name is where. See the picture above.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rand::Rng;
use types::ids::BlobId;

use super::files;
use crate::digest::{Md5Digest, Sha256Digest};
use crate::error::BlobError;

pub(super) struct Layout {
    uploads: PathBuf,
    blobs: PathBuf,
    contents: PathBuf,
    temporary: PathBuf,
}

impl Layout {
    pub fn create(root: &Path) -> Result<Self, BlobError> {
        let layout = Self {
            uploads: root.join("uploads"),
            blobs: root.join("blobs"),
            contents: root.join("contents"),
            temporary: root.join("tmp"),
        };
        // What was in the making when the last server ended is of no use to anybody.
        files::remove_folder(&layout.temporary)?;
        for folder in [&layout.uploads, &layout.blobs, &layout.contents, &layout.temporary] {
            fs::create_dir_all(folder).map_err(|source| BlobError::io("create the folder", folder, source))?;
        }
        Ok(layout)
    }

    pub fn upload(&self, blob: &BlobId) -> PathBuf {
        self.uploads.join(blob.as_str())
    }

    pub fn upload_data(&self, blob: &BlobId) -> PathBuf {
        self.upload(blob).join("data")
    }

    pub fn upload_meta(&self, blob: &BlobId) -> PathBuf {
        self.upload(blob).join("meta.json")
    }

    pub fn upload_part(&self, blob: &BlobId, part: u32, md5: &Md5Digest) -> PathBuf {
        self.upload(blob).join(format!("part-{part}-{md5}"))
    }

    /// Sharded by the first two characters, so that no folder grows without bound.
    pub fn blob(&self, blob: &BlobId) -> PathBuf {
        let body = blob.as_str().strip_prefix(BlobId::PREFIX).unwrap_or_default();
        self.blobs.join(body.get(..2).unwrap_or("__")).join(blob.as_str())
    }

    pub fn content(&self, sha256: &Sha256Digest) -> PathBuf {
        let name = sha256.to_string();
        self.contents.join(&name[..2]).join(name)
    }

    /// A name that nothing has yet.
    pub fn temporary(&self) -> PathBuf {
        self.temporary.join(format!("{:032x}", rand::rng().random::<u128>()))
    }

    /// The parts that are there.
    pub fn parts_present(&self, blob: &BlobId) -> Result<Vec<(u32, Md5Digest)>, BlobError> {
        let folder = self.upload(blob);
        let names = files::names(&folder).map_err(|source| BlobError::io("list the folder", &folder, source))?;
        let mut parts: Vec<_> = names.iter().filter_map(|name| parse_part(name)).collect();
        parts.sort_unstable();
        Ok(parts)
    }

    pub fn uploads_present(&self) -> Result<Vec<BlobId>, BlobError> {
        let names = files::names(&self.uploads);
        let names = names.map_err(|source| BlobError::io("list the folder", &self.uploads, source))?;
        Ok(names.iter().filter_map(|name| BlobId::parse(name)).collect())
    }

    pub fn blobs_before(&self, before: SystemTime) -> Result<Vec<BlobId>, BlobError> {
        names_before(&self.blobs, before, BlobId::parse)
    }

    pub fn contents_before(&self, before: SystemTime) -> Result<Vec<Sha256Digest>, BlobError> {
        names_before(&self.contents, before, Sha256Digest::from_hex)
    }
}

/// Names in the shards of a folder that were last changed before a time.
fn names_before<T>(folder: &Path, before: SystemTime, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, BlobError> {
    let failed = |source: io::Error| BlobError::io("list the folder", folder, source);
    let mut old = Vec::new();
    for shard in files::names(folder).map_err(failed)? {
        for entry in fs::read_dir(folder.join(shard)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().and_then(&parse);
            // One that has just been deleted has no times, and is not listed.
            let changed = entry.metadata().and_then(|meta| meta.modified());
            if let (Some(name), Ok(changed)) = (name, changed)
                && changed < before
            {
                old.push(name);
            }
        }
    }
    Ok(old)
}

/// `part-<n>-<md5>`
fn parse_part(name: &str) -> Option<(u32, Md5Digest)> {
    let (number, md5) = name.strip_prefix("part-")?.split_once('-')?;
    Some((number.parse().ok()?, Md5Digest::from_hex(md5)?))
}
