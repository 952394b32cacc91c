//! How fast it is on this machine: printed, not asserted, because disks differ.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::time::Instant;

use common::{any_call, inputs, output, result_of, small_input};
use dorian_metadata_store::{MetadataStore, Write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prints_what_many_callers_and_one_get() {
    let folder = tempfile::tempdir().unwrap();
    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    for (callers, rounds) in [(1, 100), (64, 40), (512, 20)] {
        let start = Instant::now();
        let writers: Vec<_> = (0..callers).map(|_| tokio::spawn(spawn_and_answer(store.clone(), rounds))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let (calls, took) = (callers * rounds, start.elapsed());
        let per_second = f64::from(calls) / took.as_secs_f64();
        println!("{callers} callers: {per_second:.0} calls/s, each of 1 input and 1 output, two acknowledged writes");
    }
    let call = any_call(1);
    let id = call.spec.id.clone();
    store.write(vec![Write::Call(call)]).await.unwrap();
    let start = Instant::now();
    for block in 0..50 {
        let block: Vec<_> = (block * 1_000..(block + 1) * 1_000).map(small_input).collect();
        store.write(vec![inputs(&id, &block)]).await.unwrap();
    }
    println!("a map of 50,000 inputs by 1,000: {:.0} inputs/s", 50_000.0 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    assert_eq!(store.load().await.unwrap().calls.iter().map(|call| call.pending.len()).max(), Some(50_000));
    println!("load: {:?}", start.elapsed());
}

/// A restart with a long queue: run it with `--ignored --nocapture`.
#[tokio::test]
#[ignore = "writes 200,000 calls"]
async fn prints_how_long_a_queue_of_two_hundred_thousand_spawned_inputs_takes_to_load() {
    let folder = tempfile::tempdir().unwrap();
    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    for _ in 0..200 {
        let spawn = |_| {
            let call = any_call(1);
            let inputs = inputs(&call.spec.id, &[small_input(0)]);
            [Write::Call(call), inputs]
        };
        store.write((0..1_000).flat_map(spawn).collect()).await.unwrap();
    }
    let start = Instant::now();
    assert_eq!(store.load().await.unwrap().calls.len(), 200_000);
    println!("load of 200,000 spawned calls: {:?}", start.elapsed());
}

async fn spawn_and_answer(store: MetadataStore, rounds: u32) {
    for _ in 0..rounds {
        let call = any_call(1);
        let id = call.spec.id.clone();
        let input = small_input(0);
        store.write(vec![Write::Call(call), inputs(&id, std::slice::from_ref(&input))]).await.unwrap();
        store.write(vec![output(&id, result_of(&input))]).await.unwrap();
    }
}
