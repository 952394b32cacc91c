//! Bytes to store, and ways to send them.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(dead_code, reason = "each test file uses some of these")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use dorian_blob_store::{BlobStore, ByteStream, DiskBlobs, DiskConfig};
use futures::{StreamExt, stream};
use types::ids::BlobId;

pub const MIB: usize = 1 << 20;

pub fn open(root: &Path) -> DiskBlobs {
    DiskBlobs::open(root, DiskConfig { max_blob_bytes: 64 << 20, part_bytes: 2 << 20 }).unwrap()
}

pub fn temporary() -> (tempfile::TempDir, DiskBlobs) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    (folder, store)
}

/// Bytes that differ everywhere, so that a part in the wrong place shows.
pub fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = 2 * seed + 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// The bytes in pieces of an odd size, as a network brings them.
pub fn stream_of(bytes: &Bytes) -> ByteStream {
    let bytes = bytes.clone();
    let pieces = (0..bytes.len()).step_by(70_001).map(move |at| Ok(bytes.slice(at..(at + 70_001).min(bytes.len()))));
    Box::pin(stream::iter(pieces.collect::<Vec<_>>()))
}

/// The bytes, and then the connection breaks.
pub fn broken_stream_of(bytes: &Bytes) -> ByteStream {
    let broken = stream::iter([Err(io::Error::other("connection reset"))]);
    Box::pin(stream_of(bytes).chain(broken))
}

pub async fn read_all(store: &dyn BlobStore, blob: &BlobId) -> Bytes {
    let (length, mut content) = store.open(blob).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(bytes.len() as u64, length);
    bytes.into()
}

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// A file system of a few megabytes, taken away again at the end.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` without root.
    pub fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "small"])
            .arg(folder.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
