//! The promises of the state machine, one by one.

use bytes::Bytes;
use types::ids::{FunctionCallId, InputId, TaskId};

use super::FunctionCalls;
use crate::*;

mod batches;
mod churn;
mod durability;
mod endings;

fn call_id(n: usize) -> FunctionCallId {
    FunctionCallId::parse(&format!("fc-{n}")).unwrap()
}

fn input_id(n: usize) -> InputId {
    InputId::parse(&format!("in-{n:06}")).unwrap()
}

fn task_id(n: usize) -> TaskId {
    TaskId::parse(&format!("ta-{n:026}")).unwrap()
}

fn spec(n: usize, kind: CallKind, durable: bool) -> CallSpec {
    CallSpec { id: call_id(n), kind, durable, parent_input: None, created_at: 0, invocation_type: 2 }
}

fn input(n: usize) -> NewInput {
    let payload = Payload::Inline(Bytes::from_static(b"argument"));
    NewInput { id: input_id(n), idx: n as i32, payload, data_format: 1, method_name: String::new() }
}

fn success() -> Outcome {
    Outcome::of(OutcomeStatus::Success, "")
}

fn failure() -> Outcome {
    Outcome::of(OutcomeStatus::Failure, "it failed")
}

const EVERYTHING: PageRequest = PageRequest { after: 0, range: None, limit: 1_000_000 };

/// A function with one map of `count` inputs, driven with less ceremony.
struct Bench {
    calls: FunctionCalls,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(policy: Policy, count: usize, durable: bool) -> Self {
        let mut calls = FunctionCalls::new(policy);
        calls.create_call(spec(0, CallKind::Map, durable), 0);
        let mut effects = Vec::new();
        let accepted = calls.add_inputs(&call_id(0), (0..count).map(input).collect(), durable, 0, &mut effects);
        assert_eq!(accepted, Accepted::Yes);
        Self { calls, effects }
    }

    fn with_retries(retries: u32, delay_ms: u64) -> Policy {
        let retry = RetryPolicy { retries, initial_delay_ms: delay_ms, ..RetryPolicy::default() };
        Policy { retry, ..Policy::default() }
    }

    fn add(&mut self, numbers: std::ops::Range<usize>, now: Millis) {
        self.effects.clear();
        self.calls.add_inputs(&call_id(0), numbers.map(input).collect(), false, now, &mut self.effects);
    }

    fn tick(&mut self, now: Millis) {
        self.effects.clear();
        self.calls.tick(now, &mut self.effects);
    }

    /// Who was handed how many inputs by the last event.
    fn delivered(&self) -> Vec<(TaskId, usize)> {
        let delivery = |e: &Effect| match e {
            Effect::Deliver { task, inputs, .. } => Some((task.clone(), inputs.len())),
            _ => None,
        };
        self.effects.iter().filter_map(delivery).collect()
    }

    /// The call that the last event wanted on disk.
    fn to_record(&self) -> Option<Restored> {
        self.effects.iter().find_map(|e| match e {
            Effect::RecordCall(call) => Some(call.as_ref().clone()),
            _ => None,
        })
    }

    /// Lets a container ask for inputs; answers with what it got.
    fn poll(&mut self, task: usize, max: usize, now: Millis) -> Vec<Assignment> {
        self.effects.clear();
        self.calls.poll(&task_id(task), now, max, now, &mut self.effects);
        let delivered = self.effects.iter().find_map(|e| match e {
            Effect::Deliver { inputs, .. } => Some(inputs.clone()),
            _ => None,
        });
        delivered.unwrap_or_default()
    }

    fn output(&mut self, task: usize, n: usize, attempt: Option<u32>, outcome: Outcome, now: Millis) -> bool {
        self.effects.clear();
        self.calls.on_output(&task_id(task), &input_id(n), attempt, outcome, now, &mut self.effects)
    }

    fn end(&mut self, task: usize, end: TaskEnd, now: Millis) {
        self.effects.clear();
        self.calls.on_task_end(&task_id(task), &end, now, &mut self.effects);
    }

    fn statuses(&self) -> Vec<OutcomeStatus> {
        let page = self.calls.outputs(&call_id(0), EVERYTHING).unwrap();
        page.outputs.into_iter().map(|o| o.outcome.status).collect()
    }
}

#[test]
fn the_time_that_completed_inputs_ran_is_added_up() {
    let mut day = Bench::new(Policy::default(), 2, false);
    assert_eq!(day.poll(1, 1, 1_000).len(), 1);
    assert_eq!(day.poll(2, 1, 1_500).len(), 1);
    assert!(day.output(1, 0, None, success(), 1_700));
    assert_eq!((day.calls.completed(), day.calls.completed_run_ms()), (1, 700));
    assert!(day.output(2, 1, None, failure(), 1_600));
    assert_eq!((day.calls.completed(), day.calls.completed_run_ms()), (2, 800));
}

#[test]
fn a_waiting_container_gets_an_input_as_it_arrives() {
    let mut calls = FunctionCalls::new(Policy::default());
    let mut effects = Vec::new();
    calls.poll(&task_id(1), 7, 1, 0, &mut effects);
    assert!(effects.is_empty());
    calls.create_call(spec(0, CallKind::Unary, false), 0);
    calls.add_inputs(&call_id(0), vec![input(0)], true, 5, &mut effects);
    assert!(matches!(&effects[..], [Effect::Deliver { poll: 7, inputs, .. }] if inputs[0].attempt == 0));
}

#[test]
fn a_failure_is_retried_after_its_backoff_and_then_final() {
    let mut bench = Bench::new(Bench::with_retries(1, 500), 1, false);
    bench.poll(1, 1, 0);
    assert!(bench.output(1, 0, Some(0), failure(), 100));
    assert_eq!(bench.calls.next_due(), Some(600));
    assert!(bench.poll(1, 1, 599).is_empty());
    bench.tick(600);
    assert!(matches!(&bench.effects[..], [Effect::Deliver { inputs, .. }] if inputs[0].attempt == 1));
    assert!(bench.output(1, 0, Some(1), failure(), 700));
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure]);
}

#[test]
fn a_retry_without_delay_goes_to_the_container_that_waits() {
    let mut bench = Bench::new(Bench::with_retries(1, 0), 1, false);
    bench.poll(1, 1, 0);
    bench.poll(2, 1, 1);
    bench.output(1, 0, Some(0), failure(), 5);
    assert!(matches!(&bench.effects[..], [Effect::Deliver { task, .. }] if *task == task_id(2)));
}

#[test]
fn what_an_older_attempt_or_another_container_sends_is_refused() {
    let mut bench = Bench::new(Bench::with_retries(3, 0), 1, false);
    bench.poll(1, 1, 0);
    bench.output(1, 0, Some(0), failure(), 1);
    bench.poll(1, 1, 2);
    assert!(!bench.output(1, 0, Some(0), success(), 3), "an older attempt");
    assert!(!bench.output(2, 0, Some(1), success(), 3), "another container");
    assert!(bench.output(1, 0, None, success(), 3), "a client that sends no attempt");
    assert!(!bench.output(1, 0, Some(1), success(), 4), "a repetition");
}

#[test]
fn an_undelivered_input_keeps_its_attempt_its_place_and_its_waiting_time() {
    let mut bench = Bench::new(Policy::default(), 3, false);
    let got = bench.poll(1, 2, 50);
    let attempts: Vec<_> = got.iter().map(|a| (a.input.clone(), a.attempt)).collect();
    bench.effects.clear();
    bench.calls.on_undelivered(&task_id(1), &attempts, 60, &mut bench.effects);
    assert_eq!(bench.calls.load().oldest_ready_at, Some(0));
    let again = bench.poll(2, 3, 70);
    assert_eq!(again.iter().map(|a| (a.idx, a.attempt)).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0)]);
}

#[test]
fn an_undelivered_input_that_was_cancelled_meanwhile_does_not_cost_the_container() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.poll(1, 1, 0);
    bench.calls.cancel_call(&call_id(0), 1, &mut bench.effects);
    bench.calls.on_undelivered(&task_id(1), &[(input_id(0), 0)], 2, &mut bench.effects);
    assert_eq!(bench.calls.next_due(), None);
    assert_eq!(bench.calls.idle_since(&task_id(1)), Some(1));
}

#[test]
fn a_lost_container_costs_no_retry_of_the_user_but_not_for_ever() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    for n in 0..MAX_SYSTEM_RETRIES as usize + 1 {
        assert_eq!(bench.poll(n, 1, 0).len(), 1, "attempt {n}");
        bench.end(n, TaskEnd::Lost("the machine is gone".to_owned()), 1);
    }
    assert_eq!(bench.statuses(), [OutcomeStatus::InternalFailure]);
    let page = bench.calls.outputs(&call_id(0), EVERYTHING).unwrap();
    let text = "the container was lost 9 times while it ran this input; last: the machine is gone";
    assert_eq!(page.outputs[0].outcome.exception, text);
}

#[test]
fn a_crash_counts_against_the_users_retries() {
    let mut bench = Bench::new(Bench::with_retries(1, 0), 1, false);
    for n in 0..2 {
        bench.poll(n, 1, 0);
        bench.end(n, TaskEnd::Crashed("exit code 139".to_owned()), 1);
    }
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure]);
}

#[test]
fn the_end_of_a_container_may_be_reported_twice() {
    let mut bench = Bench::new(Bench::with_retries(5, 0), 1, false);
    bench.poll(1, 1, 0);
    bench.end(1, TaskEnd::Crashed("once".to_owned()), 1);
    bench.end(1, TaskEnd::Crashed("twice".to_owned()), 2);
    assert_eq!(bench.poll(2, 1, 3)[0].attempt, 1);
}

#[test]
fn a_late_request_of_a_container_that_ended_gets_no_input() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.end(1, TaskEnd::Left, 0);
    assert!(bench.poll(1, 1, 1).is_empty());
    assert!(matches!(&bench.effects[..], [Effect::Drain { .. }]));
    assert_eq!(bench.calls.load().ready, 1);
}

#[test]
fn lost_inputs_run_again_before_those_that_never_ran_and_in_order() {
    let mut bench = Bench::new(Policy::default(), 4, false);
    bench.poll(1, 2, 0);
    bench.end(1, TaskEnd::Lost("gone".to_owned()), 1);
    let order: Vec<i32> = bench.poll(2, 4, 2).iter().map(|a| a.idx).collect();
    assert_eq!(order, [0, 1, 2, 3]);
}

#[test]
fn a_timeout_stops_the_container_once_and_tries_again() {
    let policy = Policy { timeout_ms: 1_000, ..Bench::with_retries(1, 0) };
    let mut bench = Bench::new(policy, 3, false);
    bench.poll(1, 3, 0);
    bench.tick(1_000);
    let stops = bench.effects.iter().filter(|e| matches!(e, Effect::StopTask { .. })).count();
    assert_eq!(stops, 1);
    assert!(bench.poll(1, 1, 1_001).is_empty(), "a container that is being stopped gets nothing");
    assert_eq!(bench.poll(2, 3, 1_002).len(), 0, "the first attempts may still write");
    bench.end(1, TaskEnd::Lost("it was stopped".to_owned()), 1_500);
    assert_eq!(bench.delivered(), [(task_id(2), 3)]);
    bench.tick(2_500);
    assert!(bench.statuses().is_empty());
    bench.end(2, TaskEnd::Lost("it was stopped".to_owned()), 2_600);
    assert_eq!(bench.statuses(), [OutcomeStatus::Timeout; 3]);
}

#[test]
fn ten_thousand_inputs_may_time_out_in_the_same_moment() {
    let policy = Policy { timeout_ms: 1_000, ..Bench::with_retries(1, 0) };
    let mut bench = Bench::new(policy, 10_000, false);
    bench.poll(1, 10_000, 0);
    bench.tick(1_000);
    let told = bench.effects.iter().filter(|e| matches!(e, Effect::Tell { .. })).count();
    assert_eq!((told, bench.calls.load().running), (1, 10_000));
    bench.end(1, TaskEnd::Lost("it was stopped".to_owned()), 1_001);
    assert_eq!(bench.calls.load().ready, 10_000);
}

#[test]
fn cancelling_ends_what_waits_and_gives_what_runs_a_grace() {
    let mut bench = Bench::new(Policy::default(), 3, false);
    bench.poll(1, 1, 0);
    bench.effects.clear();
    bench.calls.cancel_call(&call_id(0), 10, &mut bench.effects);
    assert_eq!(bench.statuses(), [OutcomeStatus::Terminated; 3]);
    let told = Effect::CancelInputs { task: task_id(1), inputs: vec![input_id(0)] };
    assert!(bench.effects.contains(&told));
    assert_eq!(bench.calls.idle_since(&task_id(1)), None, "it still works on the cancelled input");
    bench.tick(10_010);
    assert!(matches!(&bench.effects[..], [Effect::StopTask { .. }]));
}

#[test]
fn a_cancelled_input_that_ends_in_time_leaves_its_container_alone() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.poll(1, 1, 0);
    bench.calls.cancel_call(&call_id(0), 10, &mut bench.effects);
    assert!(!bench.output(1, 0, Some(0), success(), 20));
    bench.tick(20_000);
    assert!(bench.effects.is_empty());
    assert_eq!(bench.statuses(), [OutcomeStatus::Terminated]);
}

#[test]
fn a_container_with_one_slot_that_asks_again_has_ended_its_cancelled_input() {
    let policy = Policy { slots_per_container: 1, ..Policy::default() };
    let mut bench = Bench::new(policy, 1, false);
    bench.poll(1, 1, 0);
    bench.calls.cancel_call(&call_id(0), 10, &mut bench.effects);
    bench.poll(1, 1, 20);
    bench.tick(20_000);
    assert!(bench.effects.is_empty());
}

#[test]
fn inputs_added_to_a_cancelled_call_end_at_once() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.calls.cancel_call(&call_id(0), 1, &mut bench.effects);
    assert_eq!(bench.calls.add_inputs(&call_id(0), vec![input(1)], true, 2, &mut bench.effects), Accepted::Yes);
    assert_eq!(bench.statuses(), [OutcomeStatus::Terminated; 2]);
    assert!(bench.calls.is_finished(&call_id(0)));
}

#[test]
fn a_repeated_request_does_not_run_a_finished_input_again() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.poll(1, 1, 0);
    bench.output(1, 0, Some(0), success(), 1);
    bench.calls.create_call(spec(0, CallKind::Map, false), 0);
    assert_eq!(bench.calls.add_inputs(&call_id(0), vec![input(0)], true, 2, &mut bench.effects), Accepted::Yes);
    assert!(!bench.calls.has_unfinished_calls());
    assert_eq!(bench.statuses(), [OutcomeStatus::Success]);
}

#[test]
fn a_durable_output_is_seen_only_after_it_was_recorded() {
    let mut bench = Bench::new(Policy::default(), 1, true);
    bench.poll(1, 1, 0);
    bench.output(1, 0, Some(0), success(), 1);
    assert!(matches!(&bench.effects[..], [Effect::Record { .. }]));
    assert!(bench.statuses().is_empty());
    bench.calls.cancel_call(&call_id(0), 2, &mut bench.effects);
    bench.calls.on_recorded(&input_id(0), &mut bench.effects);
    bench.calls.on_recorded(&input_id(0), &mut bench.effects);
    assert_eq!(bench.statuses(), [OutcomeStatus::Success]);
}

#[test]
fn forgetting_a_call_records_nothing_and_leaves_nothing() {
    let mut bench = Bench::new(Policy::default(), 3, true);
    bench.poll(1, 2, 0);
    bench.output(1, 0, Some(0), success(), 1);
    bench.effects.clear();
    bench.calls.forget_call(&call_id(0), 2, &mut bench.effects);
    assert!(bench.effects.iter().all(|e| !matches!(e, Effect::Record { .. })));
    assert!(bench.effects.contains(&Effect::CancelInputs { task: task_id(1), inputs: vec![input_id(1)] }));
    bench.calls.on_recorded(&input_id(0), &mut bench.effects);
    assert!(!bench.calls.has_unfinished_calls());
    assert!(bench.calls.has_room(0, bench.calls.policy().max_input_bytes), "no bytes are left behind");
}

#[test]
fn a_repeated_request_does_not_bring_a_forgotten_call_back() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.calls.forget_call(&call_id(0), 1, &mut bench.effects);
    bench.calls.create_call(spec(0, CallKind::Map, false), 0);
    assert_eq!(bench.calls.add_inputs(&call_id(0), vec![input(0)], true, 2, &mut bench.effects), Accepted::NoSuchCall);
}

#[test]
fn what_can_never_start_fails_what_waits_and_spares_what_runs() {
    let mut bench = Bench::new(Bench::with_retries(1, 5_000), 3, false);
    bench.poll(1, 2, 0);
    bench.output(1, 0, Some(0), failure(), 1);
    bench.calls.fail_waiting(&Outcome::of(OutcomeStatus::InitFailure, "no such module"), 2, &mut bench.effects);
    assert_eq!(bench.statuses(), [OutcomeStatus::InitFailure; 2]);
    let load = bench.calls.load();
    assert_eq!((load.ready, load.delayed, load.running), (0, 0, 1));
}

#[test]
fn inputs_given_up_because_nothing_starts_are_tried_again_as_often_as_the_user_says() {
    let outcome = Outcome::of(OutcomeStatus::InitFailure, "no such module");
    let mut bench = Bench::new(Bench::with_retries(1, 5_000), 2, false);
    bench.poll(1, 1, 0);
    bench.calls.give_up_waiting(&outcome, 1, &mut bench.effects);
    let load = bench.calls.load();
    assert_eq!((load.ready, load.delayed, load.running), (0, 1, 1));
    // Who waits for the end of its delay waits for no container.
    bench.calls.give_up_waiting(&outcome, 2, &mut bench.effects);
    assert_eq!(bench.statuses(), []);
    bench.tick(5_001);
    bench.calls.give_up_waiting(&outcome, 5_002, &mut bench.effects);
    assert_eq!(bench.statuses(), [OutcomeStatus::InitFailure]);
}

#[test]
fn an_input_given_up_without_retries_fails_with_the_error_of_the_start() {
    let mut bench = Bench::new(Policy::default(), 2, false);
    bench.calls.give_up_waiting(&failure(), 1, &mut bench.effects);
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure; 2]);
}

#[test]
fn an_empty_function_has_room_for_a_million_inputs() {
    let calls = FunctionCalls::new(Policy::default());
    assert!(calls.has_room(1_000_000, 2 << 30));
    assert!(!calls.has_room(1_000_001, 0) && !calls.has_room(1, (2 << 30) + 1));
}

#[test]
fn a_full_queue_takes_nothing() {
    let policy = Policy { max_inputs: 3, ..Policy::default() };
    let mut bench = Bench::new(policy, 2, false);
    let more = vec![input(2), input(3)];
    assert_eq!(bench.calls.add_inputs(&call_id(0), more, false, 0, &mut bench.effects), Accepted::QueueFull);
    assert_eq!(bench.calls.load().ready, 2);
    let repeated = vec![input(0), input(1), input(2)];
    assert_eq!(bench.calls.add_inputs(&call_id(0), repeated, true, 0, &mut bench.effects), Accepted::Yes);
}

#[test]
fn durable_inputs_that_are_on_disk_are_taken_by_a_full_queue_too() {
    let policy = Policy { max_inputs: 1, ..Policy::default() };
    let mut bench = Bench::new(policy, 1, true);
    assert!(!bench.calls.has_room(1, 0));
    assert_eq!(bench.calls.add_inputs(&call_id(0), vec![input(1)], true, 0, &mut bench.effects), Accepted::Yes);
}

#[test]
fn a_container_for_single_use_gets_nothing_after_its_first_input() {
    let mut bench = Bench::new(Policy { single_use: true, ..Policy::default() }, 2, false);
    assert_eq!(bench.poll(1, 1, 0).len(), 1);
    bench.output(1, 0, Some(0), success(), 1);
    assert!(bench.poll(1, 1, 2).is_empty());
    assert!(matches!(&bench.effects[..], [Effect::Drain { .. }]));
    assert_eq!(bench.poll(2, 1, 3).len(), 1);
}

#[test]
fn the_container_that_was_busy_last_gets_the_next_input() {
    let mut bench = Bench::new(Policy::default(), 2, false);
    bench.poll(1, 1, 0);
    bench.poll(2, 1, 1);
    bench.output(2, 1, Some(0), success(), 2);
    bench.output(1, 0, Some(0), success(), 3);
    bench.poll(1, 1, 4);
    bench.poll(2, 1, 5);
    // The idle one asks again, as containers do now and then; it has not become busier by that.
    bench.calls.cancel_poll(&task_id(2), 5);
    bench.poll(2, 1, 6);
    bench.effects.clear();
    bench.calls.add_inputs(&call_id(0), vec![input(2)], true, 7, &mut bench.effects);
    assert!(matches!(&bench.effects[..], [Effect::Deliver { task, .. }] if *task == task_id(1)));
}

#[test]
fn a_draining_container_gets_nothing_more_and_may_finish_what_it_runs() {
    let mut bench = Bench::new(Policy::default(), 2, false);
    bench.poll(1, 1, 0);
    bench.calls.drain(&task_id(1), &mut bench.effects);
    assert!(bench.poll(1, 1, 2).is_empty());
    assert!(matches!(&bench.effects[..], [Effect::Drain { .. }]));
    assert!(bench.output(1, 0, Some(0), success(), 3));
    assert_eq!(bench.calls.load().ready, 1);
}

#[test]
fn a_restored_call_runs_what_is_pending_and_shows_what_is_finished() {
    let mut calls = FunctionCalls::new(Policy::default());
    let finished = FinishedOutput { input: input_id(0), idx: 0, task: None, outcome: success() };
    let restored = Restored {
        spec: spec(0, CallKind::Map, true),
        pending: vec![input(1)],
        finished: vec![finished],
        inputs_complete: true,
    };
    calls.restore(restored, 0);
    let page = calls.outputs(&call_id(0), EVERYTHING).unwrap();
    assert_eq!((page.outputs.len(), page.unfinished), (1, 1));
    assert_eq!(calls.input_count(&call_id(0)), Some(2));
    let mut effects = Vec::new();
    calls.poll(&task_id(1), 1, 1, 1, &mut effects);
    assert!(matches!(&effects[..], [Effect::Deliver { inputs, .. }] if inputs[0].idx == 1));
}

#[test]
fn outputs_are_paged_by_cursor_and_chosen_by_range() {
    let mut bench = Bench::new(Policy::default(), 5, false);
    bench.poll(1, 5, 0);
    for n in 0..5 {
        bench.output(1, n, Some(0), success(), 1);
    }
    let page = |after, range, limit| {
        let page = bench.calls.outputs(&call_id(0), PageRequest { after, range, limit }).unwrap();
        (page.outputs.iter().map(|o| o.idx).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(page(0, None, 2), (vec![0, 1], 2));
    assert_eq!(page(4, None, 2), (vec![4], 5));
    assert_eq!(page(9, None, 2), (vec![], 5));
    assert_eq!(page(0, Some((3, 3)), 2), (vec![3], 5));
}

#[test]
fn a_map_without_inputs_is_open_until_its_caller_says_that_none_come() {
    let mut bench = Bench::new(Policy::default(), 0, false);
    assert_eq!(bench.calls.outputs(&call_id(0), EVERYTHING).unwrap().unfinished, 1);
    bench.calls.finish_inputs(&call_id(0));
    assert_eq!(bench.calls.outputs(&call_id(0), EVERYTHING).unwrap().unfinished, 0);
}

#[test]
fn the_backlog_is_timed_from_the_moment_it_began() {
    let mut bench = Bench::new(Policy::default(), 3, false);
    bench.poll(1, 1, 10);
    bench.output(1, 0, Some(0), success(), 20);
    let load = bench.calls.load();
    assert_eq!((load.backlog_since, load.completed_in_backlog), (Some(0), 1));
    bench.poll(1, 2, 30);
    assert_eq!(bench.calls.load().backlog_since, None);
}

/// Not a measurement, only a guard against something quadratic: a hundred thousand inputs through one container, with
/// the facts read at each step as the shell does, take well under a second even unoptimised.
#[test]
fn a_hundred_thousand_queued_inputs_are_no_burden() {
    const COUNT: usize = 100_000;
    let mut bench = Bench::new(Policy::default(), COUNT, false);
    for n in 0..COUNT / 2 {
        assert_eq!(bench.poll(1, 1, 0).len(), 1);
        bench.output(1, n, Some(0), success(), 0);
        assert_eq!(bench.calls.load().ready, COUNT - n - 1);
    }
    bench.calls.cancel_call(&call_id(0), 0, &mut bench.effects);
    assert_eq!(bench.statuses().len(), COUNT);
}

#[test]
fn output_belongs_to_the_only_input_that_runs() {
    let mut bench = Bench::new(Policy::default(), 3, false);
    let printing = |bench: &Bench, now| {
        bench.calls.printing_on(&task_id(0), now, 500).map(|(call, input)| {
            assert_eq!(call, call_id(0));
            input
        })
    };
    assert_eq!(printing(&bench, 0), None);
    bench.poll(0, 1, 1);
    assert_eq!(printing(&bench, 1), Some(input_id(0)));
    bench.output(0, 0, None, success(), 2);
    assert_eq!(printing(&bench, 3), Some(input_id(0)), "its last words come after its result");
    // Two at once: nobody knows which of them printed, nor which printed last.
    bench.poll(0, 2, 4);
    assert_eq!(printing(&bench, 5), None);
    bench.output(0, 1, None, success(), 6);
    assert_eq!(printing(&bench, 7), Some(input_id(2)));
    bench.output(0, 2, None, success(), 8);
    assert_eq!(printing(&bench, 9), None);
}

#[test]
fn what_an_idle_container_prints_belongs_to_no_input() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.poll(0, 1, 1);
    bench.output(0, 0, None, success(), 2);
    bench.poll(0, 1, 3);
    assert!(bench.calls.printing_on(&task_id(0), 400, 500).is_some());
    assert_eq!(bench.calls.printing_on(&task_id(0), 600, 500), None);
}

#[test]
fn a_report_tells_where_each_input_of_a_call_is() {
    let mut bench = Bench::new(Policy::default(), 3, false);
    bench.poll(1, 1, 10);
    bench.output(1, 0, Some(0), failure(), 20);
    bench.poll(2, 1, 30);
    let report = bench.calls.report((0, 0), 10);
    let seen: Vec<_> = report.iter().map(|r| (r.input.clone(), r.stage, r.task.clone())).collect();
    let expected = [
        (input_id(0), ReportedStage::Finished(OutcomeStatus::Failure), Some(task_id(1))),
        (input_id(1), ReportedStage::Running, Some(task_id(2))),
        (input_id(2), ReportedStage::Pending, None),
    ];
    assert_eq!(seen, expected);
    assert_eq!(bench.calls.report((0, 0), 0), []);
    assert_eq!(bench.calls.report((1, 100), 10), []);
}
