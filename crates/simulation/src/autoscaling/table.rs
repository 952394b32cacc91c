//! The table of `docs/autoscaling.md`.

use std::fmt::Write;

use super::policies::Policy;
use super::traces::Trace;
use super::world::{CORES, live};

/// Any other gives other numbers and the same picture; the tests try some.
const SEED: u64 = 1;

/// What a trace cost under a rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    pub trace: Trace,
    pub policy: Policy,
    pub container_seconds: u64,
    pub containers: usize,
    pub most_containers: usize,
    pub p50_ms: u64,
    pub p99_ms: u64,
    pub longest_ms: u64,
}

impl Row {
    /// No worse on both axes, and better on one.
    pub fn beats(&self, other: &Self) -> bool {
        let (mine, its) = ((self.container_seconds, self.p99_ms), (other.container_seconds, other.p99_ms));
        mine.0 <= its.0 && mine.1 <= its.1 && mine != its
    }
}

/// Lives through a trace under a rule.
pub fn measure(trace: Trace, policy: Policy, seed: u64) -> Row {
    let outcome = live(trace, policy, seed);
    let mut waits = outcome.waits;
    waits.sort_unstable();
    let percentile = |part: usize| waits.get((waits.len() * part / 100).min(waits.len() - 1)).copied().unwrap_or(0);
    Row {
        trace,
        policy,
        container_seconds: outcome.container_ms.div_ceil(1000),
        containers: outcome.containers,
        most_containers: outcome.most_containers,
        p50_ms: percentile(50),
        p99_ms: percentile(99),
        longest_ms: percentile(100),
    }
}

/// All traces under all rules, in Markdown.
pub fn autoscaling_table() -> String {
    let mut text = format!(
        "| trace (15 minutes, {CORES} cores) | rule | container-seconds | p50 wait | p99 wait | containers started | at most |\n\
         |---|---|---:|---:|---:|---:|---:|\n"
    );
    for trace in Trace::ALL {
        for policy in Policy::ALL {
            let row = measure(trace, policy, SEED);
            let name = if policy == Policy::Ours { trace.name() } else { "" };
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} ms | {} ms | {} | {} |",
                policy.name(),
                row.container_seconds,
                row.p50_ms,
                row.p99_ms,
                row.containers,
                row.most_containers
            );
        }
    }
    text.push('\n');
    for trace in Trace::ALL {
        let _ = writeln!(text, "- {}: {}", trace.name(), trace.describe());
    }
    text
}
