//! What is kept, what comes back after the server died, and what does not happen twice.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::Path;

use bytes::Bytes;
use dorian_contents_store::{ContentsError, ContentsStore, Found, ItemRow, Job, Room};
use tokio::sync::oneshot;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const QUEUE: &str = "qu-1";
const DICT: &str = "di-1";

fn open(folder: &Path) -> ContentsStore {
    ContentsStore::open(&folder.join("contents.sqlite"), 1).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn entries(pairs: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
    pairs.iter().map(|(key, value)| (bytes(key), bytes(value))).collect()
}

async fn told<T: Send + 'static>(
    store: &ContentsStore,
    job: impl FnOnce(Box<dyn FnOnce(Result<T, ContentsError>) + Send>) -> Job,
) -> Result<T, ContentsError> {
    let (answer, answered) = oneshot::channel();
    store.send(vec![job(Box::new(move |result| drop(answer.send(result))))]);
    answered.await.unwrap()
}

async fn put(store: &ContentsStore, partition: &str, values: &[&str], key: Option<&str>) -> u64 {
    let first = store.positions(values.len() as u64);
    let items = (first..).zip(values).map(|(position, value)| ItemRow { position, value: bytes(value) }).collect();
    let request = (key.map(str::to_owned), 1_000);
    told(store, |done| Job::add_items(Room::none(), (QUEUE, partition.as_bytes()), items, DAY, request, done))
        .await
        .unwrap();
    first
}

async fn take(store: &ContentsStore, key: &str, positions: Vec<u64>) {
    told(store, |done| Job::take(store, QUEUE, key, positions, 1_000, done)).await.unwrap();
}

async fn get(store: &ContentsStore, key: &str, now_ms: u64) -> Option<Bytes> {
    whole(store.dict_get(DICT, bytes(key), 1 << 30, now_ms).await.unwrap())
}

async fn pop(store: &ContentsStore, key: &str, request: Option<&str>, now_ms: u64) -> Option<Bytes> {
    whole(store.dict_pop(DICT, bytes(key), 1 << 30, request.map(str::to_owned), now_ms).await.unwrap())
}

fn whole(found: Option<Found>) -> Option<Bytes> {
    found.map(|found| match found {
        Found::Value(value) => value,
        Found::Larger { bytes } => panic!("{bytes} bytes are more than were asked for"),
    })
}

async fn positions(store: &ContentsStore) -> Vec<u64> {
    store.load_queue(QUEUE).await.unwrap().into_iter().map(|item| item.position).collect()
}

#[tokio::test]
async fn items_come_back_in_order_without_what_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = put(&store, "a", &["one", "two", "three"], None).await;
    take(&store, "get-1", vec![first]).await;
    // Nobody closes it: the next one finds what a killed server leaves.
    let store = open(folder.path());
    let loaded = store.load_queue(QUEUE).await.unwrap();
    assert_eq!(positions(&store).await, [first + 1, first + 2]);
    assert!(!store.has_expired_items(QUEUE, DAY - 1).await.unwrap());
    assert!(store.has_expired_items(QUEUE, DAY).await.unwrap());
    assert_eq!((loaded[1].partition.as_slice(), loaded[1].bytes, loaded[1].expires_at_ms), (&b"a"[..], 5, DAY));
    assert_eq!(store.taken_by("get-1".to_owned()).await.unwrap(), Some(vec![first]));
    assert_eq!(store.item_values(vec![first, 99]).await.unwrap(), [Some(bytes("one")), None]);
    assert!(put(&store, "a", &["four"], None).await > first + 2);
}

#[tokio::test]
async fn what_was_given_back_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = put(&store, "", &["one"], None).await;
    take(&store, "get-1", vec![first]).await;
    store.send(vec![Job::untake(&store, "get-1")]);
    assert_eq!(store.taken_by("get-1".to_owned()).await.unwrap(), None);
    assert_eq!(positions(&store).await, [first]);
}

#[tokio::test]
async fn what_was_given_back_while_the_disk_refused_is_not_swept_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = put(&store, "", &["one"], None).await;
    take(&store, "get-1", vec![first]).await;
    let disk = rusqlite::Connection::open(folder.path().join("contents.sqlite")).unwrap();
    disk.execute_batch("CREATE TRIGGER full BEFORE DELETE ON replies BEGIN SELECT RAISE(ABORT, 'full'); END").unwrap();
    store.send(vec![Job::untake(&store, "get-1")]);
    // Refused when it knows by now what the disk has not been told; in any case nothing goes.
    let _ = store.sweep(2_000).await;
    assert_eq!(store.item_values(vec![first]).await.unwrap(), [Some(bytes("one"))]);
    disk.execute_batch("DROP TRIGGER full").unwrap();
    store.sweep(2_000).await.unwrap();
    assert_eq!(positions(&store).await, [first]);
    assert_eq!(store.item_values(vec![first]).await.unwrap(), [Some(bytes("one"))]);
}

#[tokio::test]
async fn a_repeated_update_does_not_bring_back_what_was_popped() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let entries = || vec![(bytes("k"), bytes("job"))];
    let update = async |key: &str| store.dict_update(DICT, entries(), false, Some(key.to_owned()), 1).await.unwrap();
    update("put-1").await;
    assert_eq!(pop(&store, "k", Some("pop-1"), 1).await, Some(bytes("job")));
    assert!(update("put-1").await.created);
    assert_eq!(pop(&store, "k", Some("pop-2"), 1).await, None);
    update("put-2").await;
    assert_eq!(store.dict_len(DICT, 9, 1).await.unwrap(), 1);
}

#[tokio::test]
async fn what_was_taken_is_swept_away_once_nobody_can_ask_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = put(&store, "", &["one", "two"], Some("put-1")).await;
    take(&store, "get-1", vec![first]).await;
    assert_eq!(store.sweep(1_000).await.unwrap(), 0, "not before its time");
    assert_eq!(store.sweep(1_001).await.unwrap(), 2);
    assert_eq!(store.item_values(vec![first, first + 1]).await.unwrap(), [None, Some(bytes("two"))]);
    assert!(!store.has_happened("put-1".to_owned()).await.unwrap());
}

#[tokio::test]
async fn a_put_that_happened_is_known_to_the_next_server() {
    let folder = tempfile::tempdir().unwrap();
    put(&open(folder.path()), "", &["one"], Some("put-1")).await;
    let store = open(folder.path());
    assert!(store.has_happened("put-1".to_owned()).await.unwrap());
    assert!(!store.has_happened("put-2".to_owned()).await.unwrap());
}

#[tokio::test]
async fn one_partition_is_cleared_without_the_others_and_without_what_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = put(&store, "a", &["one"], None).await;
    let other = put(&store, "b", &["two"], None).await;
    let later = put(&store, "a", &["three"], None).await;
    told(&store, |done| Job::forget_items(QUEUE, Some(b"a"), other, done)).await.unwrap();
    assert_eq!(positions(&store).await, [other, later]);
    told(&store, |done| Job::forget_items(QUEUE, None, later, done)).await.unwrap();
    assert!(positions(&store).await.is_empty());
    assert!(first < other);
}

#[tokio::test]
async fn a_bad_job_harms_no_other_in_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = put(&store, "", &["one"], None).await;
    let row = |position, value| vec![ItemRow { position, value: bytes(value) }];
    let (good, bad) = (oneshot::channel(), oneshot::channel());
    store.send(vec![
        Job::add_items(Room::none(), (QUEUE, b""), row(first, "again"), DAY, (None, 1), |r| drop(bad.0.send(r))),
        Job::add_items(Room::none(), (QUEUE, b""), row(first + 9, "new"), DAY, (None, 1), |r| drop(good.0.send(r))),
    ]);
    assert!(matches!(bad.1.await.unwrap(), Err(ContentsError::Database { .. })), "the position is taken");
    good.1.await.unwrap().unwrap();
    assert_eq!(positions(&store).await, [first, first + 9]);
}

#[tokio::test]
async fn entries_are_set_read_counted_listed_and_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let pairs = entries(&[("b", "2"), ("a", "1"), ("", "empty key")]);
    assert!(store.dict_update(DICT, pairs, false, None, 1).await.unwrap().created);
    store.dict_update(DICT, entries(&[("a", "changed")]), false, None, 1).await.unwrap();
    store.dict_update("di-2", entries(&[("a", "other")]), false, None, 1).await.unwrap();
    let store = open(folder.path());
    assert_eq!(get(&store, "a", 1).await, Some(bytes("changed")));
    assert_eq!(get(&store, "c", 1).await, None);
    assert!(store.dict_contains(DICT, bytes(""), 1).await.unwrap());
    assert_eq!(store.dict_len(DICT, 100, 1).await.unwrap(), 3);
    assert_eq!(store.dict_len(DICT, 2, 1).await.unwrap(), 2);
    let page = store.dict_page(DICT, None, (2, 1_000), true, 1).await.unwrap();
    assert_eq!(page, entries(&[("", "empty key"), ("a", "changed")]));
    let rest = store.dict_page(DICT, Some(bytes("a")), (2, 1_000), false, 1).await.unwrap();
    assert_eq!(rest, entries(&[("b", "")]));
    assert_eq!(store.owners().await.unwrap(), [DICT, "di-2"]);
    store.dict_clear(DICT).await.unwrap();
    assert_eq!(store.owners().await.unwrap(), ["di-2"]);
}

#[tokio::test]
async fn a_clear_takes_more_entries_than_one_transaction_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let many = (0..2_500).map(|number| (bytes(&number.to_string()), bytes("value"))).collect();
    store.dict_update(DICT, many, false, None, 1).await.unwrap();
    store.dict_clear(DICT).await.unwrap();
    assert_eq!(store.dict_len(DICT, 9_999, 1).await.unwrap(), 0);
}

#[tokio::test]
async fn an_entry_is_made_once_and_the_same_request_hears_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let update = |value, request: &str| {
        store.dict_update(DICT, entries(&[("lock", value)]), true, Some(request.to_owned()), 1_000)
    };
    assert!(update("mine", "request-1").await.unwrap().created);
    assert!(!update("yours", "request-2").await.unwrap().created);
    let store = open(folder.path());
    let again =
        |request: &str| store.dict_update(DICT, entries(&[("lock", "x")]), true, Some(request.to_owned()), 1_000);
    assert!(again("request-1").await.unwrap().created, "its answer was lost, not its lock");
    assert!(!again("request-2").await.unwrap().created);
    assert_eq!(get(&store, "lock", 1_000).await, Some(bytes("mine")));
}

#[tokio::test]
async fn a_value_is_popped_once_and_given_again_to_the_same_request() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.dict_update(DICT, entries(&[("a", "1")]), false, None, 1_000).await.unwrap();
    let pop_a =
        |store: ContentsStore, request: &'static str| async move { pop(&store, "a", Some(request), 1_000).await };
    assert_eq!(pop_a(store.clone(), "request-1").await, Some(bytes("1")));
    assert_eq!(pop_a(store.clone(), "request-2").await, None);
    let next = open(folder.path());
    assert_eq!(pop_a(next.clone(), "request-1").await, Some(bytes("1")));
    next.dict_update(DICT, entries(&[("a", "2")]), false, None, 1_000).await.unwrap();
    assert_eq!(next.sweep(1_001).await.unwrap(), 1);
    assert_eq!(get(&next, "a", 1_000).await, Some(bytes("2")));
    assert_eq!(pop(&next, "a", None, 1_000).await, Some(bytes("2")));
}

#[tokio::test]
async fn a_value_that_is_larger_than_asked_for_stays_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.dict_update(DICT, entries(&[("a", "12345")]), false, None, 1).await.unwrap();
    let larger = Some(Found::Larger { bytes: 5 });
    let pop_up_to = |at_most| store.dict_pop(DICT, bytes("a"), at_most, Some("pop".to_owned()), 1);
    assert_eq!(store.dict_get(DICT, bytes("a"), 4, 1).await.unwrap(), larger);
    assert_eq!(pop_up_to(4).await.unwrap(), larger);
    assert_eq!(get(&store, "a", 1).await, Some(bytes("12345")));
    assert_eq!(pop_up_to(5).await.unwrap(), Some(Found::Value(bytes("12345"))));
    assert_eq!(get(&store, "a", 1).await, None);
    // So it is when the same request asks again.
    assert_eq!(pop_up_to(4).await.unwrap(), larger);
    assert_eq!(pop_up_to(5).await.unwrap(), Some(Found::Value(bytes("12345"))));
}

#[tokio::test]
async fn an_entry_goes_a_week_after_its_last_use() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.dict_update(DICT, entries(&[("read", "1"), ("idle", "2")]), false, None, 0).await.unwrap();
    assert!(store.dict_contains(DICT, bytes("read"), 6 * DAY).await.unwrap());
    let later = 7 * DAY + 2 * HOUR;
    assert_eq!(get(&store, "idle", later).await, None);
    assert_eq!(pop(&store, "idle", None, 7 * DAY).await, Some(bytes("2")), "not a day early");
    store.dict_update(DICT, entries(&[("old", "3")]), false, None, 0).await.unwrap();
    assert!(store.dict_update(DICT, entries(&[("old", "4")]), true, None, later).await.unwrap().created);
    store.dict_update(DICT, entries(&[("dead", "5")]), false, None, 0).await.unwrap();
    store.expire_entries(later).await.unwrap();
    assert_eq!(store.dict_len(DICT, 10, 0).await.unwrap(), 2);
    assert_eq!(get(&store, "read", later).await, Some(bytes("1")));
}

#[tokio::test]
async fn nothing_is_left_of_what_was_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let many = vec!["value"; 1_200];
    put(&store, "", &many, None).await;
    store.dict_update(DICT, entries(&[("a", "1")]), false, None, 1).await.unwrap();
    store.delete_contents(QUEUE).await.unwrap();
    assert_eq!(store.owners().await.unwrap(), [DICT]);
    store.delete_contents(DICT).await.unwrap();
    assert!(store.owners().await.unwrap().is_empty());
}

#[tokio::test]
async fn room_goes_back_to_the_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for number in 0..40 {
        let value = Bytes::from(vec![7; 1 << 20]);
        store.dict_update(DICT, vec![(bytes(&number.to_string()), value)], false, None, 1).await.unwrap();
    }
    store.dict_clear(DICT).await.unwrap();
    store.give_back_room().await.unwrap();
    store.close().await;
    let size = folder.path().join("contents.sqlite").metadata().unwrap().len();
    assert!(size < 20 << 20, "{size}");
}

#[tokio::test]
async fn a_closed_store_is_one_file_and_refuses_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put(&store, "", &["one"], None).await;
    store.close().await;
    let wal = folder.path().join("contents.sqlite-wal");
    assert!(!wal.exists() || wal.metadata().unwrap().len() == 0);
    let refused = store.dict_update(DICT, entries(&[("a", "1")]), false, None, 1).await;
    assert!(matches!(refused, Err(ContentsError::Closed)));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("contents.sqlite");
    std::fs::write(&path, "somebody's notes, longer than the head of a database would be".repeat(20)).unwrap();
    assert!(matches!(ContentsStore::open(&path, 1), Err(ContentsError::NotOurs(_))));
}
