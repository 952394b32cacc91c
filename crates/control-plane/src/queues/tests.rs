//! The shell with a real disk: who waits, who goes away, who comes again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contents_store::ContentsStore;
use queues::{DEFAULT_TTL_MS, MAX_ITEM_BYTES, MAX_ITEMS, Refusal};

use super::{GetRequest, OpenQueue, PutRequest, QueueError, Queues};

const ID: &str = "qu-1";
const LONG: Duration = Duration::from_secs(20);

fn open(folder: &Path) -> Queues {
    Queues::new(ContentsStore::open(&folder.join("contents.sqlite"), 1).unwrap())
}

async fn put(queue: &Arc<OpenQueue>, values: &[&str]) -> Result<(), QueueError> {
    let values = values.iter().map(|value| Bytes::copy_from_slice(value.as_bytes())).collect();
    put_as(queue, values, None, false).await
}

async fn put_as(
    queue: &Arc<OpenQueue>,
    values: Vec<Bytes>,
    key: Option<&str>,
    is_repeated: bool,
) -> Result<(), QueueError> {
    let key = key.map(str::to_owned);
    queue.put(PutRequest { key, is_repeated, partition: Bytes::new(), values, ttl_ms: DEFAULT_TTL_MS }).await
}

fn request(key: &str, wanted: usize, patience: Duration) -> GetRequest {
    GetRequest { key: key.to_owned(), is_repeated: false, partition: Bytes::new(), wanted, patience }
}

async fn get(queue: &Arc<OpenQueue>, key: &str, wanted: usize, patience: Duration) -> Result<Vec<Bytes>, QueueError> {
    queue.get(request(key, wanted, patience)).await
}

#[tokio::test]
async fn what_was_put_is_there_in_the_next_server_and_what_was_got_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).open(ID).await.unwrap();
    put(&queue, &["one", "two", "three"]).await.unwrap();
    assert_eq!(get(&queue, "a", 1, Duration::ZERO).await.unwrap(), ["one"]);
    let queue = open(folder.path()).open(ID).await.unwrap();
    assert_eq!(queue.len(Some(b"")), 2);
    assert_eq!(get(&queue, "b", 9, Duration::ZERO).await.unwrap(), ["two", "three"]);
    assert!(get(&queue, "c", 9, Duration::from_millis(5)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_caller_that_goes_away_at_any_moment_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).open(ID).await.unwrap();
    put(&queue, &["one"]).await.unwrap();
    for attempt in 0..200_u32 {
        let patience = Duration::from_micros(u64::from(attempt) * 10);
        let key = format!("get-{attempt}");
        let asked = queue.get(request(&key, 1, LONG));
        // Dropped before, while or after its taking is written.
        if let Ok(got) = tokio::time::timeout(patience, asked).await {
            assert_eq!(got.unwrap(), ["one"]);
            put(&queue, &["one"]).await.unwrap();
        }
    }
    assert_eq!(get(&queue, "last", 9, LONG).await.unwrap(), ["one"]);
}

#[tokio::test]
async fn many_callers_share_what_is_put_without_loss_or_doubles() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).open(ID).await.unwrap();
    let takers: Vec<_> = (0..8)
        .map(|taker| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut all = Vec::new();
                for round in 0.. {
                    let got = get(&queue, &format!("{taker}-{round}"), 3, Duration::from_millis(300)).await.unwrap();
                    if got.is_empty() {
                        break;
                    }
                    all.extend(got);
                }
                all
            })
        })
        .collect();
    for number in 0..200 {
        put(&queue, &[&format!("{number:03}"), &format!("{number:03}+")]).await.unwrap();
    }
    let mut all = Vec::new();
    for taker in takers {
        all.extend(taker.await.unwrap());
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 400);
}

#[tokio::test]
async fn a_repeated_request_happens_once() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).open(ID).await.unwrap();
    let values = vec![Bytes::from_static(b"one")];
    put_as(&queue, values.clone(), Some("put"), false).await.unwrap();
    put_as(&queue, values.clone(), Some("put"), true).await.unwrap();
    assert_eq!(queue.len(None), 1);
    assert_eq!(get(&queue, "get", 1, LONG).await.unwrap(), ["one"]);
    let again = GetRequest { is_repeated: true, ..request("get", 1, Duration::ZERO) };
    assert_eq!(queue.get(again).await.unwrap(), ["one"]);
    put_as(&queue, values, Some("never seen"), true).await.unwrap();
    assert_eq!(queue.len(None), 1);
}

#[tokio::test]
async fn large_values_come_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).open(ID).await.unwrap();
    let large = Bytes::from(vec![7; MAX_ITEM_BYTES]);
    put_as(&queue, vec![large.clone(), Bytes::from_static(b"small"), large.clone()], None, false).await.unwrap();
    let seen = queue.look(&Bytes::new(), 0, Duration::ZERO).await.unwrap();
    assert!(seen.room.is_some(), "it shares the room of large answers");
    assert!(seen.values.iter().map(|(_, value)| value.len()).eq([MAX_ITEM_BYTES, 5, MAX_ITEM_BYTES]));
    let got = queue.get(request("get", 9, LONG)).await.unwrap();
    assert_eq!(got, [large.clone(), Bytes::from_static(b"small"), large]);
    let again = GetRequest { is_repeated: true, ..request("get", 9, Duration::ZERO) };
    assert_eq!(queue.get(again).await.unwrap(), got);
}

#[tokio::test]
async fn a_look_waits_for_news() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).open(ID).await.unwrap();
    assert!(queue.look(&Bytes::new(), 0, Duration::from_millis(5)).await.unwrap().values.is_empty());
    let watched = queue.clone();
    let look = tokio::spawn(async move { watched.look(&Bytes::new(), 0, LONG).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    put(&queue, &["news"]).await.unwrap();
    let seen = look.await.unwrap().unwrap();
    assert!(seen.values[0].1 == "news" && seen.room.is_none());
    assert!(queue.state.lock().looks.is_empty());
}

#[tokio::test]
async fn whoever_waits_for_a_deleted_queue_learns_it() {
    let folder = tempfile::tempdir().unwrap();
    let queues = open(folder.path());
    let queue = queues.open(ID).await.unwrap();
    let waited = queue.clone();
    let waits = tokio::spawn(async move { get(&waited, "get", 1, LONG).await });
    let looked = queue.clone();
    let looks = tokio::spawn(async move { looked.look(&Bytes::new(), 0, LONG).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    queues.close(ID);
    assert!(matches!(waits.await.unwrap(), Err(QueueError::Gone)));
    assert!(matches!(looks.await.unwrap(), Err(QueueError::Gone) | Ok(_)));
    assert!(matches!(put(&queue, &["late"]).await, Err(QueueError::Gone)));
}

#[tokio::test]
async fn a_full_partition_refuses_and_a_cleared_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).open(ID).await.unwrap();
    put(&queue, &["x"; MAX_ITEMS]).await.unwrap();
    assert!(matches!(put(&queue, &["y"]).await, Err(QueueError::Refused(Refusal::PartitionFull { .. }))));
    queue.clear(Some(Bytes::new())).await.unwrap();
    put(&queue, &["y"]).await.unwrap();
    let queue = open(folder.path()).open(ID).await.unwrap();
    assert_eq!(queue.len(None), 1);
}
