//! A full disk is an answer, not an accident: nothing half-written, and it goes on once there is room.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use dorian_contents_store::{ContentsError, ContentsStore};

/// A file system of a few megabytes, taken away again at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` without root.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "small"]).arg(folder.path()).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: the store's writer thread may still be closing its files.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_whole_updates_and_the_store_goes_on_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    // Something else that takes room, and can give it back.
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let store = ContentsStore::open(&disk.path().join("contents.sqlite"), 1).unwrap();
    let value = Bytes::from(vec![7; 40_000]);
    let pair = |number: usize| {
        let key = |half| Bytes::from(format!("{number}-{half}"));
        vec![(key("a"), value.clone()), (key("b"), value.clone())]
    };
    let mut stored = 0;
    let refused = loop {
        assert!(stored < 1_000, "the disk never filled up");
        match store.dict_update("di-1", pair(stored), false, None, 1).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ContentsError::NoSpace(_)), "{refused}");
    assert_eq!(store.dict_len("di-1", 9_999, 1).await.unwrap(), 2 * stored, "no half of an update is there");
    fs::remove_file(&ballast).unwrap();
    store.dict_update("di-1", pair(stored), false, None, 1).await.unwrap();
    assert_eq!(store.dict_len("di-1", 9_999, 1).await.unwrap(), 2 * (stored + 1));
}
