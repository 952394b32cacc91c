//! The autoscaler beside two simpler rules, under every trace and some seeds.

use dorian_simulation::autoscaling::{Policy, Row, Trace, autoscaling_table, measure};

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

fn rows(trace: Trace, seed: u64) -> [Row; 3] {
    Policy::ALL.map(|policy| measure(trace, policy, seed))
}

#[test]
fn no_simpler_rule_is_better_on_both_axes() {
    for seed in SEEDS {
        let mut unbeaten = 0;
        for trace in Trace::ALL {
            let [ours, simple, target] = rows(trace, seed);
            unbeaten += usize::from(!simple.beats(&ours) && !target.beats(&ours));
        }
        assert_eq!(unbeaten, Trace::ALL.len(), "with seed {seed}");
    }
}

#[test]
fn ours_is_cheaper_than_one_per_input_and_quicker_than_a_concurrency_target() {
    for seed in SEEDS {
        for trace in Trace::ALL {
            let [ours, simple, target] = rows(trace, seed);
            // A burst of long inputs is worth a container each: there they do the same.
            assert!(ours.container_seconds * 100 <= simple.container_seconds * 102, "{ours:?} and {simple:?}");
            assert!(ours.p99_ms < target.p99_ms, "{ours:?} and {target:?}");
            assert!(ours.p50_ms <= target.p50_ms, "{ours:?} and {target:?}");
        }
    }
}

#[test]
fn queue_times_are_bounded_under_every_trace() {
    for seed in SEEDS {
        for trace in Trace::ALL {
            let ours = measure(trace, Policy::Ours, seed);
            let bound_ms = if trace == Trace::Burst { 5_000 } else { 1_500 };
            assert!(ours.longest_ms <= bound_ms, "{ours:?}");
        }
    }
}

#[test]
fn containers_are_not_started_and_stopped_in_turn() {
    for seed in SEEDS {
        for trace in [Trace::Steady, Trace::Ramp] {
            let ours = measure(trace, Policy::Ours, seed);
            assert!(ours.containers <= 2 * ours.most_containers, "{ours:?}");
        }
    }
}

#[test]
fn a_seed_means_the_same_trace_every_time() {
    assert_eq!(rows(Trace::Burst, 7), rows(Trace::Burst, 7));
    assert_ne!(rows(Trace::Burst, 7), rows(Trace::Burst, 8));
}

#[test]
fn the_documented_table_is_what_the_command_prints() {
    let document = include_str!("../../../docs/autoscaling.md");
    let table = autoscaling_table();
    assert!(document.contains(table.trim()), "docs/autoscaling.md is old; `make autoscaling-table` writes\n{table}");
}
