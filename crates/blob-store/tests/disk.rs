//! What is particular to a disk: restarts, a full file system, and requests that meet.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::fs;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use common::{MIB, SmallDisk, files_below, pattern, read_all, stream_of};
use dorian_blob_store::{BlobError, BlobStore, Md5Digest, Sha256Digest, load_or_create_key, multipart_etag};
use futures::{StreamExt, stream};
use tokio::sync::Notify;

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let (folder, store) = common::temporary();
    let bytes = pattern(5 * MIB, 1);
    let upload = store.create(bytes.len() as u64, Some(Sha256Digest::of(&bytes))).await.unwrap();
    store.put_part(&upload.blob, 2, stream_of(&bytes.slice(2 * MIB..4 * MIB))).await.unwrap();
    drop(store);
    fs::write(folder.path().join("tmp/half-made"), b"x").unwrap();

    let store = common::open(folder.path());
    assert!(!folder.path().join("tmp/half-made").exists());
    store.put_part(&upload.blob, 1, stream_of(&bytes.slice(..2 * MIB))).await.unwrap();
    store.put_part(&upload.blob, 3, stream_of(&bytes.slice(4 * MIB..))).await.unwrap();
    store.complete(&upload.blob).await.unwrap();
    assert_eq!(read_all(&store, &upload.blob).await, bytes);
    assert_eq!(files_below(folder.path()), [store.path(&upload.blob)], "nothing else is left");
}

#[tokio::test]
async fn a_crash_between_completion_and_tidying_leaves_a_complete_blob() {
    let (folder, store) = common::temporary();
    let bytes = pattern(MIB, 2);
    let upload = store.create(MIB as u64, None).await.unwrap();
    store.put_part(&upload.blob, 1, stream_of(&bytes)).await.unwrap();
    let saved: Vec<_> = files_below(&folder.path().join("uploads"))
        .into_iter()
        .filter(|path| !path.ends_with("data"))
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    assert_eq!(saved.len(), 2);
    let etag = store.complete(&upload.blob).await.unwrap();
    drop(store);
    fs::create_dir(folder.path().join("uploads").join(upload.blob.as_str())).unwrap();
    for (content, path) in saved {
        fs::write(path, content).unwrap();
    }

    let store = common::open(folder.path());
    assert_eq!(store.complete(&upload.blob).await.unwrap(), etag);
    assert!(matches!(store.put_part(&upload.blob, 1, stream_of(&pattern(MIB, 9))).await, Err(BlobError::Complete(_))));
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    assert_eq!(store.sweep_uploads(tomorrow).await.unwrap(), 1);
    assert_eq!(read_all(&store, &upload.blob).await, bytes, "the sweep takes the rest, not the blob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_attempt_at_a_part_wins_and_a_late_one_cannot_touch_a_complete_blob() {
    let (_folder, store) = common::temporary();
    let (old, new) = (pattern(2 * MIB, 3), pattern(2 * MIB, 4));
    let upload = store.create(2 * MIB as u64, None).await.unwrap();
    // The old attempt sends half, and the rest only after the new one is done and the blob is complete.
    let (half_sent, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (store, blob, old) = (store.clone(), upload.blob.clone(), old.clone());
        let (half_sent, go_on) = (half_sent.clone(), go_on.clone());
        tokio::spawn(async move {
            let first = stream::iter([Ok(old.slice(..MIB))]);
            let rest = stream::once(async move {
                half_sent.notify_one();
                go_on.notified().await;
                Ok::<Bytes, io::Error>(old.slice(MIB..))
            });
            store.put_part(&blob, 1, Box::pin(first.chain(rest))).await
        })
    };
    half_sent.notified().await;
    store.put_part(&upload.blob, 1, stream_of(&new)).await.unwrap();
    let etag = store.complete(&upload.blob).await.unwrap();
    go_on.notify_one();
    let late = slow.await.unwrap();
    assert!(matches!(late, Err(BlobError::Complete(_))), "{late:?}");
    assert_eq!(etag, multipart_etag(&[Md5Digest::of(&new)]));
    assert_eq!(read_all(&store, &upload.blob).await, new);
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing_behind() {
    let Some(disk) = SmallDisk::mount("8m") else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let store = common::open(disk.path());
    // Known at once.
    assert!(matches!(store.create(9 * MIB as u64, None).await, Err(BlobError::NoSpace(_))));
    // Found out on the way: the room goes after the upload was created.
    let upload = store.create(5 * MIB as u64, None).await.unwrap();
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 5 * MIB]).unwrap();
    let bytes = pattern(5 * MIB, 5);
    store.put_part(&upload.blob, 1, stream_of(&bytes.slice(..2 * MIB))).await.unwrap();
    for _ in 0..2 {
        let refused = store.put_part(&upload.blob, 2, stream_of(&bytes.slice(2 * MIB..4 * MIB))).await;
        assert!(matches!(refused, Err(BlobError::NoSpace(_))), "{refused:?}");
    }
    assert!(matches!(store.complete(&upload.blob).await, Err(BlobError::NoSpace(_))));
    let content = pattern(4 * MIB, 6);
    assert!(matches!(
        store.put_content(&Sha256Digest::of(&content), content.clone()).await,
        Err(BlobError::NoSpace(_))
    ));
    assert!(matches!(store.put(content.clone()).await, Err(BlobError::NoSpace(_))));
    assert_eq!(files_below(disk.path()), std::slice::from_ref(&ballast));

    fs::remove_file(&ballast).unwrap();
    let blob = store.put(content.clone()).await.unwrap();
    assert_eq!(read_all(&store, &blob).await, content);
}

#[test]
fn the_key_survives_a_restart_and_only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob-url-key");
    let key = load_or_create_key(&path).unwrap();
    assert!(load_or_create_key(&path).unwrap() == key);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(files_below(folder.path()), std::slice::from_ref(&path));
    fs::write(&path, b"short").unwrap();
    assert!(load_or_create_key(&path).is_err());
}
