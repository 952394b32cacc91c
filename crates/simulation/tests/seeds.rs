//! A thousand days and more, each with its own misfortunes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dorian_simulation::{Summary, run};

/// Days lived through in CI. `SEEDS=100000` makes it more.
const DAYS: u64 = 1_500;

#[test]
fn no_day_breaks_an_invariant() {
    if let Some(seed) = number("SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let mut total = Summary::default();
    for seed in 0..number("SEEDS").unwrap_or(DAYS) {
        let Ok(day) = catch_unwind(AssertUnwindSafe(|| run(seed, false))) else {
            panic!(
                "seed {seed} breaks an invariant (above); see it with `SEED={seed} cargo test -p dorian-simulation`"
            );
        };
        total.events += day.events;
        total.attempts += day.attempts;
        total.retries += day.retries;
        total.outputs += day.outputs;
        total.containers += day.containers;
        total.crashes += day.crashes;
        total.gone += day.gone;
    }
    println!("{total:?}");
    // The days must be eventful, or they show nothing.
    assert!(total.retries > 1_000 && total.crashes > 0 && total.gone > 0, "{total:?}");
}

#[test]
fn a_seed_means_the_same_day_every_time() {
    for seed in 0..20 {
        let (one, two) = (run(seed, false), run(seed, false));
        assert_eq!(format!("{one:?}"), format!("{two:?}"), "seed {seed}");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}
