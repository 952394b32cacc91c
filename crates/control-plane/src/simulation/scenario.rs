//! What kind of day a seed stands for.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Debug, Clone)]
pub struct Scenario {
    pub deployed: bool,
    pub retries: u32,
    pub timeout_secs: u32,
    pub slots: u32,
    pub single_use: bool,
    pub max_containers: u32,
    pub idle_secs: u32,
    pub calls: Vec<CallPlan>,
    /// Each call is of a generator with so many items.
    pub items: Option<u64>,
    pub redeploys_ms: Vec<u64>,
    /// The app is stopped in the middle of everything.
    pub stop_ms: Option<u64>,
    /// What a container's last writes take after its program has ended, at most.
    pub last_commit_ms: u64,
    pub faults: Faults,
    /// When the wall clock is set, and by how much.
    pub clock_jumps: Vec<(u64, i64)>,
    /// Milliseconds after a life's beginning at which it is killed.
    pub kills: Vec<u64>,
}

#[derive(Debug, Clone)]
pub struct CallPlan {
    pub begins_ms: u64,
    pub is_map: bool,
    pub spawned: bool,
    /// Its caller does not come for the outputs.
    pub vanishes: bool,
    pub inputs: i32,
}

/// Probabilities, per occasion.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub lost_request: f64,
    pub lost_reply: f64,
    pub broken_wait: f64,
    pub full_disk: f64,
    pub killed_write: f64,
    pub failing_input: f64,
    pub crashing_input: f64,
    pub hanging_input: f64,
    /// The worker cannot make the container.
    pub failing_start: f64,
    /// The user's code fails before it takes an input.
    pub failing_import: f64,
    pub slow_disk_ms: u64,
}

impl Scenario {
    pub fn of(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        let calm = random.random_bool(0.1);
        let single_use = random.random_bool(0.15);
        let deployed = random.random_bool(0.5);
        let redeploys = if deployed { pick(random, &[0, 0, 1, 3]) } else { 0 };
        let redeploys_ms = times_of_day(random, redeploys);
        let jumps = if calm { 0 } else { pick(random, &[0, 0, 1, 2]) };
        let clock_jumps = times_of_day(random, jumps).into_iter().map(|at| (at, clock_jump(random))).collect();
        let items = random.random_bool(0.2).then(|| pick(random, &[0, 1, 5, 40]));
        Self {
            deployed,
            items,
            redeploys_ms,
            stop_ms: random.random_bool(0.2).then(|| random.random_range(0..50_000)),
            last_commit_ms: pick(random, &[0, 0, 2_000]),
            clock_jumps,
            // Clients refuse them for generators.
            retries: if items.is_some() { 0 } else { pick(random, &[0, 0, 1, 3]) },
            timeout_secs: pick(random, &[3, 30]),
            slots: if single_use { 1 } else { pick(random, &[1, 1, 3]) },
            single_use,
            max_containers: pick(random, &[0, 1, 3]),
            idle_secs: pick(random, &[2, 60]),
            calls: (0..random.random_range(1..5)).map(|_| call_plan(random, items.is_some())).collect(),
            faults: if calm { Faults::default() } else { faults(random) },
            kills: if calm {
                vec![]
            } else {
                (0..pick(random, &[0, 0, 1, 2])).map(|_| random.random_range(50..20_000)).collect()
            },
        }
    }
}

/// In their order, while things fail.
fn times_of_day(random: &mut StdRng, count: usize) -> Vec<u64> {
    let mut times: Vec<u64> = (0..count).map(|_| random.random_range(0..40_000)).collect();
    times.sort_unstable();
    times
}

/// As a clock is set right, a laptop wakes up, or a battery ends.
fn clock_jump(random: &mut StdRng) -> i64 {
    let by = pick(random, &[500, 20_000, 120_000, 10 * 3_600_000, 400 * 24 * 3_600_000]);
    if random.random_bool(0.5) { by } else { -by }
}

fn call_plan(random: &mut StdRng, is_generator: bool) -> CallPlan {
    let is_map = !is_generator && random.random_bool(0.5);
    CallPlan {
        begins_ms: random.random_range(0..30_000),
        is_map,
        spawned: random.random_bool(0.4),
        vanishes: random.random_bool(0.1),
        inputs: if is_map { pick(random, &[1, 5, 20]) } else { 1 },
    }
}

fn faults(random: &mut StdRng) -> Faults {
    Faults {
        lost_request: pick(random, &[0.0, 0.1]),
        lost_reply: pick(random, &[0.0, 0.1]),
        broken_wait: pick(random, &[0.0, 0.1]),
        full_disk: pick(random, &[0.0, 0.0, 0.2]),
        killed_write: pick(random, &[0.0, 0.0, 0.02]),
        failing_input: pick(random, &[0.0, 0.1, 0.5]),
        crashing_input: pick(random, &[0.0, 0.05]),
        hanging_input: pick(random, &[0.0, 0.05]),
        failing_start: pick(random, &[0.0, 0.0, 0.2]),
        failing_import: pick(random, &[0.0, 0.0, 0.2]),
        slow_disk_ms: pick(random, &[1, 20, 1_500]),
    }
}

pub fn pick<T: Copy>(random: &mut StdRng, choices: &[T]) -> T {
    choices[random.random_range(0..choices.len())]
}

pub fn millis(random: &mut StdRng, most: u64) -> Duration {
    Duration::from_millis(random.random_range(0..=most))
}
