//! One function, its inputs and its containers, on a clock moved by hand.

use std::collections::BTreeMap;

use calls::Millis;

use super::policies::{Decision, Policy, Sight};
use super::traces::{LENGTH_MS, Trace};
use crate::random::Random;

pub(super) const CORES: usize = 4;
/// A start's CPU time (interpreter and imports), and what it waits for besides.
const START_CPU_MS: (Millis, Millis) = (350, 450);
const START_WAIT_MS: (Millis, Millis) = (80, 160);

pub(super) type Containers = BTreeMap<usize, Container>;

#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) begun_at: Millis,
    pub(super) ready_at: Millis,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Starting,
    Busy { since: Millis },
    Idle { since: Millis },
}

/// What a day under a rule came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) container_ms: u64,
    pub(super) containers: usize,
    pub(super) most_containers: usize,
    /// How long each input waited.
    pub(super) waits: Vec<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Done(usize),
    Ready(usize),
    Arrives(usize),
    Look,
}

pub(super) fn live(trace: Trace, policy: Policy, seed: u64) -> Outcome {
    let arrivals = trace.arrivals(seed);
    let mut random = Random::new(seed);
    let mut rule = policy.rule();
    let mut outcome = Outcome::default();
    let mut events: BTreeMap<(Millis, Event), ()> =
        arrivals.iter().enumerate().map(|(n, arrival)| ((arrival.at, Event::Arrives(n)), ())).collect();
    let mut containers = Containers::new();
    let mut core_free_at = [0; CORES];
    let (mut waiting, mut waiting_inputs): (Vec<Millis>, Vec<usize>) = Default::default();
    let (mut completed, mut completed_run_ms) = (0, 0);
    while let Some(((now, event), ())) = events.pop_first() {
        // What runs at the end of the trace is counted until the containers are gone: idling is part of the price.
        match event {
            Event::Arrives(n) => {
                waiting.push(now);
                waiting_inputs.push(n);
            }
            Event::Ready(id) => {
                if let Some(container) = containers.get_mut(&id) {
                    container.phase = Phase::Idle { since: now };
                    container.ready_at = now;
                }
            }
            Event::Done(id) => {
                completed += 1;
                if let Some(container) = containers.get_mut(&id) {
                    if let Phase::Busy { since } = container.phase {
                        completed_run_ms += now - since;
                    }
                    container.phase = Phase::Idle { since: now };
                }
            }
            Event::Look => {}
        }
        // The container that was used last takes the next input, as in `calls`.
        while !waiting.is_empty() {
            let idle = containers.iter_mut().filter_map(|(id, c)| match c.phase {
                Phase::Idle { since } => Some((since, *id, c)),
                _ => None,
            });
            let Some((_, id, container)) = idle.max_by_key(|(since, id, _)| (*since, *id)) else { break };
            let (came_at, input) = (waiting.remove(0), waiting_inputs.remove(0));
            let takes_ms = arrivals[input].takes_ms;
            outcome.waits.push(now - came_at);
            container.phase = Phase::Busy { since: now };
            events.insert((now + takes_ms, Event::Done(id)), ());
        }
        let sight = Sight { now, waiting: &waiting, containers: &containers, completed, completed_run_ms };
        let Decision { start, stop, look_at } = rule.decide(&sight);
        for id in stop {
            let stopped = containers.remove(&id).expect("a container that is there");
            assert!(!matches!(stopped.phase, Phase::Busy { .. }), "a container that works was stopped");
            outcome.container_ms += now - stopped.begun_at;
        }
        for _ in 0..start {
            let begins = now + random.between(START_WAIT_MS.0, START_WAIT_MS.1);
            let core = core_free_at.iter_mut().min().expect("some cores");
            *core = begins.max(*core) + random.between(START_CPU_MS.0, START_CPU_MS.1);
            let id = outcome.containers;
            outcome.containers += 1;
            containers.insert(id, Container { begun_at: now, ready_at: *core, phase: Phase::Starting });
            events.insert((*core, Event::Ready(id)), ());
        }
        outcome.most_containers = outcome.most_containers.max(containers.len());
        if let Some(at) = look_at {
            assert!(at > now || !events.is_empty(), "a rule that looks at the same time again");
            events.insert((at.max(now + 1), Event::Look), ());
        }
        assert!(now < 10 * LENGTH_MS, "the day does not end");
    }
    assert!(waiting.is_empty() && containers.is_empty(), "inputs or containers are left over");
    assert_eq!(outcome.waits.len(), arrivals.len());
    outcome
}
