//! A week in which calls end in every way there is, and what is left of them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{SILENT_CALLER_MS, STOPPED_KEPT_MS};

const SECOND: Millis = 1_000;
const HOUR: Millis = 3_600 * SECOND;
const DAY: Millis = 24 * HOUR;

/// What becomes of a call and its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Collected, as nearly all are.
    Collected,
    /// The caller was killed at once, and the call is done within a second.
    Abandoned,
    /// A map whose caller was killed before it said that there are no more inputs.
    OpenMap,
    /// The same, before it sent any.
    EmptyMap,
    Spawned,
    SpawnedAndAsked,
    Cancelled,
    /// A generator whose caller has its result and not all of its items.
    Unread,
    /// The caller gives it up while it runs.
    GivenUp,
}

const KINDS: [Kind; 9] = [
    Kind::Collected,
    Kind::Abandoned,
    Kind::OpenMap,
    Kind::EmptyMap,
    Kind::Spawned,
    Kind::SpawnedAndAsked,
    Kind::Cancelled,
    Kind::Unread,
    Kind::GivenUp,
];

struct Week {
    calls: FunctionCalls,
    now: Millis,
    made: usize,
    polls: u64,
    /// Calls that the store has.
    stored: BTreeSet<FunctionCallId>,
    /// Delivered inputs, by the time at which they are done.
    running: BTreeMap<(Millis, InputId), TaskId>,
    disk_is_full: bool,
    left: usize,
}

impl Week {
    fn new() -> Self {
        let policy = Policy { durable_after_ms: Some(SECOND), ..Policy::DEFAULT };
        let mut week = Self {
            calls: FunctionCalls::new(policy),
            now: DAY,
            made: 0,
            polls: 0,
            stored: BTreeSet::new(),
            running: BTreeMap::new(),
            disk_is_full: false,
            left: 0,
        };
        (0..3).for_each(|task| week.poll(&task_id(task)));
        week
    }

    fn poll(&mut self, task: &TaskId) {
        self.polls += 1;
        let (poll, now) = (self.polls, self.now);
        self.apply(|calls, effects| calls.poll(task, poll, 1, now, effects));
    }

    fn apply<R>(&mut self, event: impl FnOnce(&mut FunctionCalls, &mut Vec<Effect>) -> R) -> R {
        let mut effects = Vec::new();
        let result = event(&mut self.calls, &mut effects);
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                self.perform(effect, &mut effects);
            }
            self.let_go(&mut effects);
        }
        self.let_go(&mut effects);
        result
    }

    fn let_go(&mut self, effects: &mut Vec<Effect>) {
        for left in self.calls.leave(self.now, effects) {
            self.left += 1;
            assert!(left.reports.len() <= PAST_KEPT);
            if left.delete_record {
                self.stored.remove(&left.call);
            }
        }
    }

    fn perform(&mut self, effect: Effect, more: &mut Vec<Effect>) {
        match effect {
            Effect::Deliver { task, inputs, .. } => {
                let took = if self.made.is_multiple_of(7) { 3 * SECOND } else { 100 };
                self.running.extend(inputs.into_iter().map(|i| ((self.now + took, i.input), task.clone())));
            }
            Effect::RecordCall(call) if self.disk_is_full => {
                self.calls.on_call_not_recorded(&call.spec.id, self.now, more);
            }
            Effect::RecordCall(call) => {
                self.stored.insert(call.spec.id.clone());
                self.calls.on_call_recorded(&call.spec.id, more);
            }
            Effect::Record { output, .. } => self.calls.on_recorded(&output.input, more),
            _ => {}
        }
    }

    fn pass_until(&mut self, until: Millis) {
        loop {
            let ends = self.running.first_key_value().map(|((at, _), _)| *at);
            let due = [ends, self.calls.next_due(), self.calls.next_leaving()].into_iter().flatten().min();
            let Some(due) = due.filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            let now = self.now;
            while let Some(((_, input), task)) = self.running.first_key_value().filter(|((at, _), _)| *at <= now) {
                let (input, task) = (input.clone(), task.clone());
                self.running.pop_first();
                self.apply(|calls, effects| calls.on_output(&task, &input, None, success(), now, effects));
                self.poll(&task);
            }
            self.apply(|calls, effects| calls.tick(now, effects));
        }
        self.now = until;
    }

    fn call(&mut self, kind: Kind, inputs: usize) {
        self.made += 1;
        let (id, now) = (call_id(self.made), self.now);
        let is_map = matches!(kind, Kind::OpenMap | Kind::EmptyMap) || inputs > 1;
        let durable = matches!(kind, Kind::Spawned | Kind::SpawnedAndAsked);
        let inputs = if kind == Kind::EmptyMap { 0 } else { inputs };
        let spec = CallSpec {
            created_at: now,
            ..spec(self.made, if is_map { CallKind::Map } else { CallKind::Unary }, durable)
        };
        if durable {
            self.stored.insert(id.clone());
        }
        let first = self.made * 100_000;
        self.apply(|calls, effects| {
            calls.create_call(spec, now);
            calls.add_inputs(&id, (first..first + inputs).map(input).collect(), durable, now, effects)
        });
        match kind {
            Kind::Abandoned | Kind::OpenMap | Kind::EmptyMap | Kind::Spawned => return,
            Kind::GivenUp => {
                self.calls.begin_asking(&id);
                return self.apply(|calls, _| calls.end_asking(&id, true, now));
            }
            Kind::Cancelled => return self.apply(|calls, effects| calls.cancel_call(&id, now, effects)),
            Kind::Unread => self.apply(|calls, _| calls.set_unread_items(&id, true)),
            Kind::Collected | Kind::SpawnedAndAsked => {}
        }
        self.apply(|calls, _| calls.finish_inputs(&id));
        assert!(self.calls.begin_asking(&id));
        for _ in 0..1_000 {
            if self.calls.is_finished(&id) {
                break;
            }
            self.pass_until(self.now + SECOND);
        }
        assert!(
            self.calls.outputs(&id, EVERYTHING).is_some_and(|page| page.unfinished == 0),
            "it left while it was asked for"
        );
        let now = self.now;
        self.apply(|calls, _| calls.end_asking(&id, true, now));
    }
}

impl FunctionCalls {
    /// Everything that is held, and the room that is kept for more.
    fn held(&self) -> (BTreeMap<&'static str, usize>, usize) {
        let held = BTreeMap::from([
            ("calls", self.calls.len()),
            ("inputs", self.inputs.len()),
            ("ready", self.ready.len()),
            ("delayed", self.delayed.len()),
            ("deadlines", self.deadlines.len()),
            ("tasks", self.tasks.len()),
            ("idle", self.idle.len()),
            ("young", self.young.len()),
            ("changed", self.changed.len()),
            ("leaving", self.leaving.len()),
            ("leaving bytes", self.leaving_bytes),
            ("resident bytes", self.resident_bytes),
            ("running", self.running_count),
        ]);
        (held, self.calls.capacity() + self.inputs.capacity() + self.tasks.capacity() + self.changed.capacity())
    }
}

#[test]
fn after_a_week_of_calls_that_end_in_every_way_memory_is_what_it_was() {
    let mut week = Week::new();
    let before = week.calls.held().0;
    let (mut random, end) = (1_u64, week.now + 7 * DAY);
    while week.now < end {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let roll = (random >> 33) as usize;
        // For an hour each day the disk takes nothing.
        week.disk_is_full = week.now % DAY < HOUR;
        week.call(KINDS[roll % KINDS.len()], 1 + roll % 3);
        week.pass_until(week.now + (roll as u64 % 120) * SECOND);
        assert!(week.calls.held().0["calls"] < 1_000, "{:?}", week.calls.held());
    }
    week.disk_is_full = false;
    week.pass_until(week.now + 2 * HOUR);
    assert!(week.made > 5_000);
    assert_eq!((week.left, week.calls.held().0), (week.made, before));
    assert!(week.calls.held().1 < 4_096, "{}", week.calls.held().1);
}

#[test]
fn the_tables_are_small_again_after_a_burst() {
    let mut week = Week::new();
    let now = week.now;
    for n in 1..=20_000 {
        let spec = CallSpec { created_at: now, ..spec(n, CallKind::Unary, false) };
        week.apply(|calls, effects| {
            calls.create_call(spec, now);
            calls.add_inputs(&call_id(n), vec![input(n)], false, now, effects)
        });
    }
    assert!(week.calls.held().1 > 40_000);
    for n in 1..=20_000 {
        week.apply(|calls, effects| calls.cancel_call(&call_id(n), now, effects));
    }
    week.pass_until(now + HOUR);
    let (held, room) = week.calls.held();
    assert_eq!(held["calls"], 0);
    assert!(room < 8_192, "{room}");
}

#[test]
fn of_very_many_calls_that_wait_to_leave_the_first_go_at_once() {
    let mut week = Week::new();
    let now = week.now;
    for n in 1..=6_000 {
        let spec = CallSpec { created_at: now, ..spec(n, CallKind::Unary, false) };
        week.apply(|calls, effects| {
            calls.create_call(spec, now);
            calls.add_inputs(&call_id(n), Vec::new(), false, now, effects)
        });
        week.calls.begin_asking(&call_id(n));
        week.apply(|calls, _| calls.end_asking(&call_id(n), true, now));
    }
    assert_eq!(week.calls.held().0["calls"], 4_096);
}

#[test]
fn the_map_of_a_killed_caller_leaves_memory_and_comes_back_with_it() {
    let mut week = Week::new();
    week.call(Kind::OpenMap, 2);
    let id = call_id(week.made);
    week.pass_until(week.now + SILENT_CALLER_MS / 2);
    assert!(week.calls.call_spec(&id).is_some());
    let finished = week.calls.outputs(&id, EVERYTHING).unwrap().outputs;
    week.pass_until(week.now + SILENT_CALLER_MS);
    assert!(week.calls.call_spec(&id).is_none() && week.stored.contains(&id));
    let spec = CallSpec { created_at: week.now, ..spec(week.made, CallKind::Map, false) };
    let now = week.now;
    week.apply(|calls, _| {
        calls.restore(Restored { spec, pending: Vec::new(), finished, inputs_complete: false }, now);
    });
    let added = week.apply(|calls, effects| calls.add_inputs(&id, vec![input(9)], true, now, effects));
    assert_eq!(added, Accepted::Yes);
    week.pass_until(week.now + 10 * SECOND);
    assert_eq!(week.calls.outputs(&id, EVERYTHING).unwrap().outputs.len(), 3);
}

#[test]
fn calls_of_a_stopped_app_leave_whoever_still_asks() {
    let mut week = Week::new();
    KINDS.iter().for_each(|kind| week.call(*kind, 1));
    let ids: Vec<FunctionCallId> = week.calls.call_ids().cloned().collect();
    ids.iter().for_each(|id| assert!(week.calls.begin_asking(id)));
    let now = week.now;
    week.apply(|calls, effects| {
        calls.close(now);
        ids.iter().for_each(|id| calls.cancel_call(id, now, effects));
    });
    week.pass_until(week.now + STOPPED_KEPT_MS + 30 * SECOND);
    assert!(week.calls.is_empty());
}
