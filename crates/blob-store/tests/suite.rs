//! What every blob store promises. A second store is tested by calling [`keeps_its_promises`] with it.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::{MIB, broken_stream_of, pattern, read_all, stream_of};
use dorian_blob_store::{BlobError, BlobStore, Md5Digest, Sha256Digest, multipart_etag};
use types::ids::BlobId;

#[tokio::test]
async fn the_disk_store_keeps_its_promises() {
    let (_folder, store) = common::temporary();
    keeps_its_promises(&store).await;
}

async fn keeps_its_promises(store: &dyn BlobStore) {
    parts_in_any_order_make_one_blob(store).await;
    one_request_makes_a_blob(store).await;
    an_empty_blob_is_a_blob(store).await;
    an_incomplete_blob_cannot_be_read_or_completed(store).await;
    a_repeated_part_replaces_the_first(store).await;
    a_broken_off_part_is_not_there(store).await;
    wrong_lengths_and_numbers_are_refused(store).await;
    a_complete_blob_never_changes(store).await;
    an_announced_digest_is_checked(store).await;
    content_is_known_by_its_digest(store).await;
    a_content_is_old_when_nobody_has_asked_for_it(store).await;
    too_large_is_refused_at_once(store).await;
    what_is_deleted_is_gone(store).await;
    abandoned_uploads_are_swept_and_blobs_are_not(store).await;
}

async fn parts_in_any_order_make_one_blob(store: &dyn BlobStore) {
    let bytes = pattern(5 * MIB + 77, 1);
    let upload = store.create(bytes.len() as u64, Some(Sha256Digest::of(&bytes))).await.unwrap();
    let mut md5s = vec![Md5Digest::of(b""); upload.parts.count() as usize];
    assert!(md5s.len() > 2);
    for part in (1..=upload.parts.count()).rev() {
        let range = upload.parts.range(part).unwrap();
        let slice = bytes.slice(range.start as usize..range.end as usize);
        let md5 = store.put_part(&upload.blob, part, stream_of(&slice)).await.unwrap();
        assert_eq!(md5, Md5Digest::of(&slice));
        md5s[part as usize - 1] = md5;
    }
    let etag = store.complete(&upload.blob).await.unwrap();
    assert_eq!(etag, multipart_etag(&md5s));
    assert_eq!(store.complete(&upload.blob).await.unwrap(), etag, "completing again says the same");
    assert_eq!(store.length(&upload.blob).await.unwrap(), bytes.len() as u64);
    assert_eq!(read_all(store, &upload.blob).await, bytes);
    assert_eq!(store.read(&upload.blob, bytes.len() as u64).await.unwrap(), bytes);
    assert!(matches!(store.read(&upload.blob, 10).await, Err(BlobError::TooLarge { .. })));
}

async fn one_request_makes_a_blob(store: &dyn BlobStore) {
    let bytes = pattern(5 * MIB + 77, 2);
    let upload = store.create(bytes.len() as u64, None).await.unwrap();
    assert_eq!(store.put_whole(&upload.blob, stream_of(&bytes)).await.unwrap(), Md5Digest::of(&bytes));
    assert_eq!(read_all(store, &upload.blob).await, bytes);
    let blob = store.put(bytes.clone()).await.unwrap();
    assert_eq!(read_all(store, &blob).await, bytes);
}

async fn an_empty_blob_is_a_blob(store: &dyn BlobStore) {
    let upload = store.create(0, None).await.unwrap();
    store.put_part(&upload.blob, 1, stream_of(&Bytes::new())).await.unwrap();
    store.complete(&upload.blob).await.unwrap();
    assert_eq!(read_all(store, &upload.blob).await, Bytes::new());
}

async fn an_incomplete_blob_cannot_be_read_or_completed(store: &dyn BlobStore) {
    let bytes = pattern(3 * MIB, 3);
    let upload = store.create(bytes.len() as u64, None).await.unwrap();
    store.put_part(&upload.blob, 1, stream_of(&bytes.slice(..2 * MIB))).await.unwrap();
    assert!(matches!(store.open(&upload.blob).await, Err(BlobError::NotFound(_))));
    let refused = store.complete(&upload.blob).await;
    assert!(matches!(refused, Err(BlobError::PartsMissing { first: 2, others: 0, .. })), "{refused:?}");
    store.put_part(&upload.blob, 2, stream_of(&bytes.slice(2 * MIB..))).await.unwrap();
    store.complete(&upload.blob).await.unwrap();
    assert!(matches!(store.complete(&BlobId::random()).await, Err(BlobError::NotFound(_))));
}

async fn a_repeated_part_replaces_the_first(store: &dyn BlobStore) {
    let (wrong, right) = (pattern(MIB, 4), pattern(MIB, 5));
    let upload = store.create(MIB as u64, None).await.unwrap();
    store.put_part(&upload.blob, 1, stream_of(&wrong)).await.unwrap();
    store.put_part(&upload.blob, 1, stream_of(&right)).await.unwrap();
    assert_eq!(store.complete(&upload.blob).await.unwrap(), multipart_etag(&[Md5Digest::of(&right)]));
    assert_eq!(read_all(store, &upload.blob).await, right);
}

async fn a_broken_off_part_is_not_there(store: &dyn BlobStore) {
    let bytes = pattern(2 * MIB, 6);
    let upload = store.create(bytes.len() as u64, None).await.unwrap();
    store.put_part(&upload.blob, 1, stream_of(&bytes)).await.unwrap();
    // Also when the part was there before: half of it has been written over.
    let broken = store.put_part(&upload.blob, 1, broken_stream_of(&bytes.slice(..MIB + 1))).await;
    assert!(matches!(broken, Err(BlobError::BrokenOff(_))));
    assert!(matches!(store.complete(&upload.blob).await, Err(BlobError::PartsMissing { .. })));
}

async fn wrong_lengths_and_numbers_are_refused(store: &dyn BlobStore) {
    let bytes = pattern(3 * MIB, 7);
    let upload = store.create(bytes.len() as u64, None).await.unwrap();
    for wrong in [bytes.slice(..2 * MIB - 1), bytes.slice(..2 * MIB + 1)] {
        let refused = store.put_part(&upload.blob, 1, stream_of(&wrong)).await;
        assert!(matches!(refused, Err(BlobError::WrongLength { wanted: 2_097_152, .. })), "{refused:?}");
    }
    for part in [0, 3, u32::MAX] {
        let refused = store.put_part(&upload.blob, part, stream_of(&bytes)).await;
        assert!(matches!(refused, Err(BlobError::NoSuchPart { parts: 2, .. })));
    }
    assert!(matches!(
        store.put_whole(&upload.blob, stream_of(&bytes.slice(1..))).await,
        Err(BlobError::WrongLength { .. })
    ));
}

async fn a_complete_blob_never_changes(store: &dyn BlobStore) {
    let (bytes, other) = (pattern(MIB, 8), pattern(MIB, 9));
    let upload = store.create(MIB as u64, None).await.unwrap();
    store.put_whole(&upload.blob, stream_of(&bytes)).await.unwrap();
    assert!(matches!(store.put_whole(&upload.blob, stream_of(&other)).await, Err(BlobError::Complete(_))));
    assert!(matches!(store.put_part(&upload.blob, 1, stream_of(&other)).await, Err(BlobError::Complete(_))));
    // A client that did not get the answer sends the same again, and hears the same.
    assert_eq!(store.put_whole(&upload.blob, stream_of(&bytes)).await.unwrap(), Md5Digest::of(&bytes));
    assert_eq!(store.put_part(&upload.blob, 1, stream_of(&bytes)).await.unwrap(), Md5Digest::of(&bytes));
    assert_eq!(read_all(store, &upload.blob).await, bytes);
}

async fn an_announced_digest_is_checked(store: &dyn BlobStore) {
    let bytes = pattern(MIB, 10);
    let upload = store.create(MIB as u64, Some(Sha256Digest::of(b"something else"))).await.unwrap();
    store.put_part(&upload.blob, 1, stream_of(&bytes)).await.unwrap();
    assert!(matches!(store.complete(&upload.blob).await, Err(BlobError::WrongDigest { .. })));
    assert!(matches!(store.open(&upload.blob).await, Err(BlobError::NotFound(_))));
}

async fn content_is_known_by_its_digest(store: &dyn BlobStore) {
    let (inline, uploaded) = (pattern(1_000, 11), pattern(3 * MIB, 12));
    let digest = Sha256Digest::of(&inline);
    assert!(!store.has_content(&digest).await.unwrap());
    assert!(matches!(store.content_path(&digest).await, Err(BlobError::NoContent(_))));
    assert!(matches!(store.put_content(&digest, uploaded.clone()).await, Err(BlobError::WrongDigest { .. })));
    assert!(!store.has_content(&digest).await.unwrap());
    for _ in 0..2 {
        store.put_content(&digest, inline.clone()).await.unwrap();
        assert_eq!(std::fs::read(store.content_path(&digest).await.unwrap()).unwrap(), inline);
    }
    let blob = store.put(uploaded.clone()).await.unwrap();
    assert!(matches!(
        store.put_content_from_blob(&Sha256Digest::of(b""), &blob).await,
        Err(BlobError::WrongDigest { .. })
    ));
    let digest = Sha256Digest::of(&uploaded);
    assert!(matches!(store.put_content_from_blob(&digest, &BlobId::random()).await, Err(BlobError::NotFound(_))));
    for _ in 0..2 {
        store.put_content_from_blob(&digest, &blob).await.unwrap();
    }
    store.delete(&blob).await.unwrap();
    assert_eq!(std::fs::read(store.content_path(&digest).await.unwrap()).unwrap(), uploaded, "outlives the blob");
}

async fn a_content_is_old_when_nobody_has_asked_for_it(store: &dyn BlobStore) {
    let bytes = pattern(500, 21);
    let digest = Sha256Digest::of(&bytes);
    store.put_content(&digest, bytes).await.unwrap();
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    let file = std::fs::File::open(store.content_path(&digest).await.unwrap()).unwrap();
    file.set_modified(now - 48 * hour).unwrap();
    assert!(store.contents_before(now - hour).await.unwrap().contains(&digest));
    assert!(store.has_content(&digest).await.unwrap());
    assert!(!store.contents_before(now - hour).await.unwrap().contains(&digest), "somebody was told that it is there");
    for _ in 0..2 {
        store.delete_content(&digest).await.unwrap();
    }
    assert!(!store.has_content(&digest).await.unwrap());
}

async fn too_large_is_refused_at_once(store: &dyn BlobStore) {
    let refused = store.create(u64::MAX, None).await.unwrap_err();
    assert!(matches!(refused, BlobError::TooLarge { .. }));
    assert_eq!(
        refused.to_string(),
        format!("{} bytes are more than the 67108864 that one blob may hold on this server", u64::MAX)
    );
}

async fn what_is_deleted_is_gone(store: &dyn BlobStore) {
    let complete = store.put(pattern(10, 13)).await.unwrap();
    let open = store.create(10, None).await.unwrap().blob;
    for blob in [complete, open] {
        for _ in 0..2 {
            store.delete(&blob).await.unwrap();
        }
        assert!(matches!(store.open(&blob).await, Err(BlobError::NotFound(_))));
        assert!(matches!(store.put_part(&blob, 1, stream_of(&pattern(10, 14))).await, Err(BlobError::NotFound(_))));
    }
}

async fn abandoned_uploads_are_swept_and_blobs_are_not(store: &dyn BlobStore) {
    let complete = store.put(pattern(10, 15)).await.unwrap();
    let open = store.create(10, None).await.unwrap().blob;
    let yesterday = SystemTime::now() - Duration::from_secs(86_400);
    assert_eq!(store.sweep_uploads(yesterday).await.unwrap(), 0);
    assert!(!store.blobs_before(yesterday).await.unwrap().contains(&complete));
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    assert!(store.sweep_uploads(tomorrow).await.unwrap() > 0);
    assert!(matches!(store.put_part(&open, 1, stream_of(&pattern(10, 16))).await, Err(BlobError::NotFound(_))));
    assert_eq!(read_all(store, &complete).await, pattern(10, 15));
    let blobs = store.blobs_before(tomorrow).await.unwrap();
    assert!(blobs.contains(&complete) && !blobs.contains(&open));
}
