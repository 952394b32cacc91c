//! A full disk is an answer, not an accident: nothing half-written, and it goes on once there is room.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use calls::Payload;
use common::{any_call, input, inputs};
use dorian_metadata_store::{MetadataStore, StoreError, Write};

/// A file system of a few megabytes, taken away again at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` without root.
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "small"])
            .arg(folder.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(folder))
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
async fn a_full_disk_refuses_whole_batches_and_the_store_goes_on_once_there_is_room() {
    let Some(disk) = SmallDisk::mount("4m") else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    // Something else that takes room, and can give it back.
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let path = disk.path().join("dorian.db");
    let store = MetadataStore::open(&path).unwrap();
    let mut stored = Vec::new();
    let refused = loop {
        assert!(stored.len() < 1_000, "the disk never filled up");
        let call = any_call(1);
        let id = call.spec.id.clone();
        let big: Vec<_> = (0..4).map(|idx| input(idx, Payload::Inline(Bytes::from(vec![idx as u8; 40_000])))).collect();
        match store.write(vec![Write::Call(call), inputs(&id, &big)]).await {
            Ok(()) => stored.push(id),
            Err(error) => break (id, error),
        }
    };
    let (refused_id, error) = refused;
    assert!(matches!(error, StoreError::NoSpace(_)), "{error:?}");
    assert!(!stored.is_empty());

    // Reads go on, what was acknowledged is there, and of the refused batch nothing is.
    let check = async |store: &MetadataStore| {
        let calls = store.load().await.unwrap().calls;
        assert_eq!(calls.len(), stored.len());
        assert!(calls.iter().all(|call| call.pending.len() == 4));
        assert_eq!(store.call(&refused_id).await.unwrap(), None);
    };
    check(&store).await;

    fs::remove_file(&ballast).unwrap();
    let call = any_call(1);
    store.write(vec![Write::Call(call.clone())]).await.unwrap();
    store.write(vec![Write::DeleteCall(call.spec.id)]).await.unwrap();
    store.close().await.unwrap();
    let store = MetadataStore::open(&path).unwrap();
    check(&store).await;
    store.close().await.unwrap();
}
