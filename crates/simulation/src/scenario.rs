//! What kind of day a seed stands for.

use calls::{CallKind, Millis, Policy, RetryPolicy};
use scheduler::{AutoscalerSettings, Resources};

use crate::random::Random;

/// Until then things go wrong; afterwards the world is kind, so that everything can come to its end.
pub(crate) const FAULTS_END: Millis = 120_000;

#[derive(Debug, Clone)]
pub struct Scenario {
    /// Nothing goes wrong.
    pub(crate) calm: bool,
    pub(crate) policy: Policy,
    pub(crate) settings: AutoscalerSettings,
    /// Inputs of a batch take one slot together.
    pub(crate) batch: usize,
    pub(crate) callers: Vec<CallerPlan>,
    pub(crate) workers: usize,
    pub(crate) worker_capacity: Resources,
    pub(crate) container: Resources,
    pub(crate) startup_ms: (Millis, Millis),
    pub(crate) input_ms: (Millis, Millis),
    pub(crate) latency_ms: Millis,
    pub(crate) disk_ms: Millis,
    pub(crate) faults: Faults,
    pub(crate) client: ClientManners,
    pub(crate) crashes: Vec<Millis>,
    pub(crate) worker_losses: Vec<(Millis, usize)>,
}

/// Probabilities, per occasion.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lost_message: f64,
    pub(crate) doubled_message: f64,
    pub(crate) failing_input: f64,
    pub(crate) crashing_input: f64,
    pub(crate) hanging_input: f64,
    pub(crate) failing_start: f64,
    pub(crate) failing_import: f64,
}

/// How containers answer a cancellation: clients differ by version and by the user's code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientManners {
    /// No output for a cancelled input, as before 0.70.
    pub(crate) silent: bool,
    /// Cancelling one input interrupts all of the container's.
    pub(crate) interrupts_all: bool,
    /// User code that goes on all the same.
    pub(crate) stubborn: f64,
}

#[derive(Debug, Clone)]
pub(crate) struct CallerPlan {
    pub(crate) begins_at: Millis,
    pub(crate) kind: CallKind,
    pub(crate) durable: bool,
    pub(crate) inputs: usize,
    pub(crate) cancels_after: Option<Millis>,
    /// Outputs per page.
    pub(crate) page: usize,
}

impl Scenario {
    pub fn from_seed(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0xD0_81A4);
        let calm = random.chance(0.15);
        let concurrency = random.pick(&[1, 1, 1, 2, 5]);
        let workers = random.between(1, 3) as usize;
        let batch = if concurrency == 1 { random.pick(&[1, 1, 1, 4]) } else { 1 };
        Self {
            calm,
            policy: policy(random, concurrency as usize, batch),
            settings: settings(random, concurrency),
            batch,
            callers: (0..random.between(1, 6)).map(|_| caller_plan(random)).collect(),
            workers,
            worker_capacity: Resources {
                milli_cpu: random.pick(&[2_000, 8_000]),
                memory_mib: 16_384,
                ..Resources::default()
            },
            // Once in a while a container that fits nowhere.
            container: Resources {
                milli_cpu: if random.chance(0.02) { 64_000 } else { 500 },
                memory_mib: 256,
                ..Resources::default()
            },
            startup_ms: random.pick(&[(100, 300), (500, 2_000), (3_000, 9_000)]),
            input_ms: random.pick(&[(0, 3), (1, 200), (500, 5_000)]),
            latency_ms: random.pick(&[1, 5, 200]),
            disk_ms: random.pick(&[1, 20, 1_500]),
            faults: if calm { Faults::default() } else { faults(random) },
            client: ClientManners {
                silent: random.chance(0.2),
                interrupts_all: concurrency > 1 && random.chance(0.3),
                stubborn: random.pick(&[0.0, 0.1, 0.5]),
            },
            crashes: if calm { vec![] } else { times(random, 3) },
            worker_losses: if calm {
                vec![]
            } else {
                times(random, 3).into_iter().map(|at| (at, random.between(0, workers as u64 - 1) as usize)).collect()
            },
        }
    }
}

fn policy(random: &mut Random, concurrency: usize, batch: usize) -> Policy {
    let retry = RetryPolicy {
        retries: random.pick(&[0, 0, 1, 3]),
        initial_delay_ms: random.pick(&[0, 100, 1_000]),
        backoff_coefficient: random.pick(&[1.0, 2.0]),
        max_delay_ms: 10_000,
    };
    Policy {
        retry,
        timeout_ms: random.pick(&[6_000, 30_000]),
        max_inputs: random.pick(&[20, 1_000]),
        durable_after_ms: random.pick(&[None, Some(0), Some(1_000)]),
        slots_per_container: concurrency * batch,
        batch_max: batch,
        batch_linger_ms: if batch > 1 { random.pick(&[0, 50, 3_000]) } else { 0 },
        ..Policy::default()
    }
}

fn settings(random: &mut Random, concurrency: u32) -> AutoscalerSettings {
    let min_containers = random.pick(&[0, 0, 0, 1, 3]);
    AutoscalerSettings {
        min_containers,
        max_containers: random.pick(&[None, None, Some(1), Some(4)]).map(|max| max.max(min_containers)),
        buffer_containers: random.pick(&[0, 0, 2]),
        scaleup_window_ms: random.pick(&[0, 0, 2_000]),
        scaledown_window_ms: random.pick(&[0, 2_000, 60_000]),
        concurrency,
    }
}

fn caller_plan(random: &mut Random) -> CallerPlan {
    let kind = random.pick(&[CallKind::Unary, CallKind::Map]);
    CallerPlan {
        begins_at: random.between(0, 60_000),
        kind,
        durable: random.chance(0.5),
        inputs: if kind == CallKind::Unary { 1 } else { random.pick(&[0, 1, 7, 40]) },
        cancels_after: random.chance(0.25).then(|| random.between(0, 20_000)),
        page: random.pick(&[1, 10, 1_000]),
    }
}

fn faults(random: &mut Random) -> Faults {
    Faults {
        lost_message: random.pick(&[0.0, 0.02, 0.2]),
        doubled_message: random.pick(&[0.0, 0.1]),
        failing_input: random.pick(&[0.0, 0.1, 0.5]),
        crashing_input: random.pick(&[0.0, 0.05, 0.3]),
        hanging_input: random.pick(&[0.0, 0.05]),
        failing_start: random.pick(&[0.0, 0.1, 0.6]),
        failing_import: random.pick(&[0.0, 0.0, 0.0, 0.1]),
    }
}

fn times(random: &mut Random, at_most: u64) -> Vec<Millis> {
    (0..random.between(0, at_most)).map(|_| random.between(100, FAULTS_END - 20_000)).collect()
}
