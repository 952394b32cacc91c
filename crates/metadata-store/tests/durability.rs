//! What was acknowledged is there after `kill -9`, and a batch is there whole or not at all.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{any_call, inputs, output, result_of, small_input};
use dorian_metadata_store::{MetadataStore, StoreError, Write};
use types::ids::FunctionCallId;

const INPUTS_PER_CALL: i32 = 5;
const FOLDER: &str = "DORIAN_TEST_WRITER_FOLDER";

/// Not a test by itself: the process that is killed. Eight callers at once write a call with its inputs in one batch,
/// then one output; each says on standard output what has been acknowledged.
#[test]
#[ignore = "run by acknowledged_writes_survive_kill_9 as a process of its own"]
fn writer_process() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = MetadataStore::open(&Path::new(&folder).join("dorian.db")).unwrap();
        let writers: Vec<_> = (0..8).map(|_| tokio::spawn(write_for_ever(store.clone()))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

async fn write_for_ever(store: MetadataStore) {
    loop {
        let call = any_call(1);
        let id = call.spec.id.clone();
        let arguments: Vec<_> = (0..INPUTS_PER_CALL).map(small_input).collect();
        store.write(vec![Write::Call(call), inputs(&id, &arguments)]).await.unwrap();
        println!("call {id}");
        store.write(vec![output(&id, result_of(&arguments[0]))]).await.unwrap();
        println!("output {id}");
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_kill_9() {
    for lines in [1, 40, 400, 1_500] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "writer_process", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut seen = Vec::new();
        for line in output.lines().map(Result::unwrap).filter(|line| line.contains("fc-")) {
            seen.push(line);
            if seen.len() == lines {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        check(folder.path(), &seen).await;
    }
}

async fn check(folder: &Path, acknowledged: &[String]) {
    let store = MetadataStore::open(&folder.join("dorian.db")).unwrap();
    let loaded = store.load().await.unwrap();
    for call in &loaded.calls {
        let total = call.pending.len() + call.finished.len();
        assert_eq!(total, INPUTS_PER_CALL as usize, "a batch is there whole or not at all");
    }
    let present: HashSet<_> = loaded.calls.iter().map(|call| call.record.spec.id.clone()).collect();
    let answered: HashSet<_> = loaded.calls.iter().filter(|call| !call.finished.is_empty()).collect_ids();
    for line in acknowledged {
        let (what, id) = line.rsplit_once(' ').unwrap();
        // The test harness may put its own words before the first line.
        let Some(id) = FunctionCallId::parse(id) else { continue };
        let known = if what.ends_with("output") { &answered } else { &present };
        assert!(known.contains(&id), "{line} was acknowledged and is gone");
    }
}

trait CollectIds {
    fn collect_ids(self) -> HashSet<FunctionCallId>;
}

impl<'a, I: Iterator<Item = &'a dorian_metadata_store::StoredCall>> CollectIds for I {
    fn collect_ids(self) -> HashSet<FunctionCallId> {
        self.map(|call| call.record.spec.id.clone()).collect()
    }
}

/// Waits for what `count` callers get when they ask at once, so that their batches share groups.
async fn write_at_once(store: &MetadataStore, batches: Vec<Vec<Write>>) -> Vec<Result<(), StoreError>> {
    let writers: Vec<_> = batches
        .into_iter()
        .map(|batch| {
            let store = store.clone();
            tokio::spawn(async move { store.write(batch).await })
        })
        .collect();
    let mut results = Vec::new();
    for writer in writers {
        results.push(writer.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_batch_fails_alone_and_whole_in_the_middle_of_a_group() {
    let folder = tempfile::tempdir().unwrap();
    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    let mut batches = Vec::new();
    let mut ids = Vec::new();
    for number in 0..300 {
        let call = any_call(1);
        ids.push(call.spec.id.clone());
        let mut batch = vec![Write::Call(call)];
        if number % 10 == 3 {
            // Inputs of a call that nobody has written.
            batch.push(inputs(&FunctionCallId::random(), &[small_input(0)]));
        }
        batches.push(batch);
    }
    let results = write_at_once(&store, batches).await;
    let present: HashSet<_> = store.load().await.unwrap().calls.iter().collect_ids();
    for (number, (result, id)) in results.iter().zip(&ids).enumerate() {
        let good = number % 10 != 3;
        assert_eq!(result.is_ok(), good);
        assert_eq!(present.contains(id), good, "batch {number}");
    }
}

#[tokio::test]
async fn a_write_whose_caller_went_away_is_stored_all_the_same_and_later_writes_keep_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    let call = any_call(1);
    let id = call.spec.id.clone();
    {
        let write = store.write(vec![Write::Call(call)]);
        // Polled once, then dropped.
        tokio::select! { biased; _ = write => {}, () = std::future::ready(()) => {} }
    }
    for idx in 0..2_000 {
        store.write_later(vec![inputs(&id, &[small_input(idx)])]);
    }
    store.close().await.unwrap();
    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    let stored = store.call(&id).await.unwrap().unwrap();
    let order: Vec<_> = stored.pending.iter().map(|input| input.idx).collect();
    assert_eq!(order, (0..2_000).collect::<Vec<_>>());
}
