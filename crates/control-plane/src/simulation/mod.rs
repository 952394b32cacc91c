//! Seeded days in the life of the real shell: handlers, owners, polls, recorder, tasks and restore, between simulated
//! callers, containers, a network that loses things, a disk that is slow, full, or dies with the server, and a wall clock that
//! somebody sets. Time is the runtime's own, paused: it goes on when nothing is left to do. Each life of the server is a runtime; what
//! outlives it is in [`World`].
//!
//! `SEED=123 cargo test -p dorian-control-plane simulation` shows one day; `DAYS=1000000 cargo test --release …` many. A
//! seed decides the faults and the order of things; ids are random, so two runs of one seed may differ where a map's
//! order matters.
//!
//! Beside the model in `crates/simulation`, which is quicker and knows the state machine alone, this finds what the shell
//! does wrong. What it cannot show: races between threads.

mod callers;
mod ledger;
mod machine;
mod network;
mod scenario;
mod world;

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

/// Days that a run of the tests lives through; `make test` takes ten thousand.
const DAYS: u64 = 300;

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// A runtime keeps a panic to its task. Of a day, whose tasks all run on its thread, none is forgotten.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.set(true);
            report(panic);
        }));
    });
}

#[test]
fn whatever_fails_nothing_accepted_is_lost_or_delivered_twice_or_stays() {
    note_panics();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SEED") {
        World::new(seed, true).live_through();
        return;
    }
    let (seeds, next) = (number("DAYS").unwrap_or(DAYS), AtomicU64::new(number("FIRST").unwrap_or(0)));
    let end = next.load(Ordering::Relaxed) + seeds;
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let day = std::panic::catch_unwind(|| World::new(seed, false).live_through());
                    if let Err(panic) = day {
                        eprintln!("the day of SEED={seed} went wrong");
                        next.store(end, Ordering::Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}
