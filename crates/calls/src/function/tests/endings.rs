//! Ends that nobody announced: what user code does to itself, what a cancellation does to others, and what waits for the
//! end of a container.

use super::*;

fn interrupted() -> Outcome {
    Outcome::of(OutcomeStatus::Terminated, "")
}

fn with_slots(slots: usize) -> Policy {
    Policy { slots_per_container: slots, ..Policy::default() }
}

fn stopped() -> TaskEnd {
    TaskEnd::Lost("it was stopped".to_owned())
}

/// A second call, of one input, whose cancellation is told to the container that runs it.
fn add_another(bench: &mut Bench, n: usize) {
    bench.calls.create_call(spec(1, CallKind::Map, false), 0);
    bench.calls.add_inputs(&call_id(1), vec![input(n)], true, 0, &mut bench.effects);
}

impl Bench {
    fn stop(&mut self, task: usize, now: Millis) {
        self.effects.clear();
        self.calls.stop(&task_id(task), now, &mut self.effects);
    }

    fn cancel(&mut self, call: usize, now: Millis) {
        self.effects.clear();
        self.calls.cancel_call(&call_id(call), now, &mut self.effects);
    }

    fn told(&self) -> Vec<&str> {
        let mut lines = Vec::new();
        for effect in &self.effects {
            if let Effect::Tell { text, .. } = effect {
                lines.push(text.as_str());
            }
        }
        lines
    }
}

#[test]
fn an_attempt_that_cancels_itself_has_failed_and_runs_once() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.poll(1, 1, 0);
    assert!(bench.output(1, 0, Some(0), interrupted(), 1));
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure]);
    assert!(bench.poll(1, 1, 2).is_empty());
}

#[test]
fn an_attempt_that_cancels_itself_uses_up_the_users_retries() {
    let mut bench = Bench::new(Bench::with_retries(2, 0), 1, false);
    for attempt in 0..3 {
        assert_eq!(bench.poll(1, 1, 0)[0].attempt, attempt);
        bench.output(1, 0, Some(attempt), interrupted(), 1);
    }
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure]);
}

#[test]
fn an_input_that_is_interrupted_for_another_ones_sake_runs_again() {
    let mut bench = Bench::new(with_slots(2), 1, false);
    add_another(&mut bench, 1);
    assert_eq!(bench.poll(1, 2, 0).len(), 2);
    bench.cancel(1, 10);
    bench.output(1, 1, Some(0), interrupted(), 20);
    assert!(bench.output(1, 0, Some(0), interrupted(), 20));
    assert_eq!(bench.poll(1, 1, 30)[0].attempt, 1);
    // The next time it is its own doing.
    bench.output(1, 0, Some(1), interrupted(), 40);
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure]);
}

#[test]
fn an_input_that_goes_on_long_after_a_cancellation_answers_for_its_own_end() {
    let hours = Policy { timeout_ms: 86_400_000, ..with_slots(2) };
    let cancelled_beside = || {
        let mut bench = Bench::new(hours, 1, false);
        add_another(&mut bench, 1);
        bench.poll(1, 2, 0);
        bench.cancel(1, 10);
        bench.output(1, 1, Some(0), interrupted(), 20);
        bench
    };
    let mut reported = cancelled_beside();
    reported.output(1, 0, Some(0), interrupted(), 3_600_000);
    assert_eq!(reported.statuses(), [OutcomeStatus::Failure]);

    let mut left = cancelled_beside();
    left.end(1, TaskEnd::Left, 3_600_000);
    assert_eq!(left.statuses(), [OutcomeStatus::Failure]);

    let mut silent = cancelled_beside();
    silent.poll(1, 2, 3_600_000);
    silent.tick(3_604_000);
    assert_eq!(silent.statuses(), [OutcomeStatus::Failure]);
}

#[test]
fn what_a_cancellation_silenced_is_excused_however_late_that_shows() {
    let mut bench = Bench::new(Policy { timeout_ms: 86_400_000, ..with_slots(3) }, 2, false);
    add_another(&mut bench, 2);
    bench.poll(1, 3, 0);
    bench.cancel(1, 10);
    bench.poll(1, 2, 20);
    bench.output(1, 1, Some(0), success(), 3_600_000);
    assert_eq!(bench.delivered(), [(task_id(1), 1)]);
}

#[test]
fn what_is_handed_over_while_a_cancellation_is_on_its_way_is_excused_as_well() {
    let mut bench = Bench::new(with_slots(1), 1, false);
    add_another(&mut bench, 1);
    bench.poll(1, 1, 0);
    bench.cancel(0, 10);
    assert_eq!(bench.poll(1, 1, 20).len(), 1);
    bench.output(1, 1, Some(0), interrupted(), 30);
    assert_eq!(bench.poll(1, 1, 40)[0].attempt, 1);
}

#[test]
fn a_container_that_leaves_before_it_answered_has_failed_its_input() {
    let mut bench = Bench::new(Policy::default(), 1, false);
    bench.poll(1, 1, 0);
    bench.end(1, TaskEnd::Left, 4);
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure]);
}

#[test]
fn a_container_that_leaves_since_it_could_only_cancel_everything_loses_its_inputs() {
    let mut bench = Bench::new(with_slots(2), 1, false);
    add_another(&mut bench, 1);
    bench.poll(1, 2, 0);
    bench.cancel(1, 10);
    bench.end(1, TaskEnd::Left, 20);
    assert_eq!(bench.poll(2, 1, 30)[0].attempt, 1);
}

#[test]
fn a_container_that_asks_again_without_an_answer_has_failed_its_input() {
    let mut bench = Bench::new(with_slots(1), 1, false);
    bench.poll(1, 1, 0);
    assert!(bench.poll(1, 1, 10).is_empty());
    bench.tick(bench.calls.next_due().unwrap());
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure]);
    assert!(bench.effects.iter().all(|e| !matches!(e, Effect::StopTask { .. })), "the container is well");
}

#[test]
fn a_container_that_asks_again_though_it_would_have_answered_never_got_its_input() {
    let mut bench = Bench::new(Policy { reports_cancellations: true, ..with_slots(1) }, 1, false);
    bench.poll(1, 1, 0);
    assert!(bench.poll(1, 1, 10).is_empty(), "the word of a lost delivery may be on its way");
    bench.tick(bench.calls.next_due().unwrap());
    assert!(matches!(&bench.effects[..], [Effect::Deliver { inputs, .. }] if inputs[0].attempt == 1));
    assert!(bench.statuses().is_empty());

    bench.poll(1, 1, 5_000);
    bench.stop(1, 5_010);
    bench.tick(10_000);
    assert!(bench.poll(2, 1, 10_001).is_empty());
    bench.end(1, stopped(), 10_002);
    assert_eq!(bench.delivered(), [(task_id(2), 1)]);
}

#[test]
fn a_silent_attempt_on_a_container_that_is_being_stopped_waits_for_its_end() {
    let mut bench = Bench::new(Policy { slots_per_container: 1, ..Bench::with_retries(1, 0) }, 1, false);
    bench.poll(1, 1, 0);
    bench.poll(1, 1, 10);
    bench.stop(1, 20);
    bench.tick(4_010);
    assert!(bench.poll(2, 1, 4_020).is_empty(), "the first attempt may still write");
    assert!(!bench.calls.is_busy(&task_id(1)), "its code is over");
    bench.end(1, stopped(), 5_000);
    assert_eq!(bench.delivered(), [(task_id(2), 1)]);
    assert!(bench.statuses().is_empty());
}

#[test]
fn what_a_cancellation_silenced_on_a_container_that_is_being_stopped_waits_for_its_end() {
    let mut bench = Bench::new(with_slots(3), 2, false);
    add_another(&mut bench, 2);
    bench.poll(1, 3, 0);
    bench.cancel(1, 10);
    // One of three has ended without a word, and the cancelled one is it or is excused.
    bench.poll(1, 2, 20);
    bench.stop(1, 20);
    assert!(bench.output(1, 1, Some(0), success(), 30));
    assert!(bench.poll(2, 1, 40).is_empty(), "the first attempt may still write");
    bench.end(1, stopped(), 50);
    assert_eq!(bench.delivered(), [(task_id(2), 1)]);
}

#[test]
fn a_delivery_that_proves_lost_is_no_silence() {
    let mut bench = Bench::new(with_slots(1), 1, false);
    bench.poll(1, 1, 0);
    bench.poll(1, 1, 10);
    bench.calls.on_undelivered(&task_id(1), &[(input_id(0), 0)], 20, &mut bench.effects);
    assert!(matches!(&bench.effects[..], [Effect::Deliver { inputs, .. }] if inputs[0].attempt == 0));
    bench.tick(10_000);
    assert!(bench.statuses().is_empty());
}

#[test]
fn of_several_inputs_side_by_side_the_one_that_never_reports_was_the_silent_one() {
    let mut bench = Bench::new(with_slots(3), 4, false);
    for now in 0..3 {
        bench.poll(1, 1, now);
    }
    // One of the three has ended; the fourth takes its slot.
    assert_eq!(bench.poll(1, 1, 10).len(), 1);
    bench.tick(10_000);
    bench.output(1, 0, Some(0), success(), 10_001);
    bench.tick(20_000);
    assert!(bench.output(1, 3, Some(0), success(), 20_001), "it was not among them");
    assert!(bench.output(1, 2, Some(0), success(), 20_002));
    bench.tick(bench.calls.next_due().unwrap());
    let failed: Vec<i32> = {
        let page = bench.calls.outputs(&call_id(0), EVERYTHING).unwrap();
        page.outputs.iter().filter(|o| o.outcome.status == OutcomeStatus::Failure).map(|o| o.idx).collect()
    };
    assert_eq!(failed, [1]);
}

#[test]
fn a_container_is_not_judged_by_a_policy_that_came_after_it() {
    let mut bench = Bench::new(with_slots(4), 3, false);
    for now in 0..3 {
        bench.poll(1, 1, now);
    }
    bench.calls.set_policy(with_slots(1), &[task_id(1), task_id(2)], &mut bench.effects);
    bench.poll(1, 1, 10);
    bench.poll(2, 1, 10);
    assert!(matches!(&bench.effects[..], [Effect::Drain { .. }]), "it had not asked before");
    bench.tick(10_000);
    assert!(bench.statuses().is_empty());
    assert!(bench.output(1, 0, Some(0), success(), 10_001));
}

#[test]
fn a_timeout_is_told_with_what_follows_from_it() {
    let policy = Policy { timeout_ms: 10_000, ..Bench::with_retries(1, 0) };
    let mut bench = Bench::new(policy, 1, false);
    bench.poll(1, 1, 0);
    bench.tick(10_000);
    assert_eq!(bench.told(), ["input `in-000000` ran into timeout=10 s, retrying (1 of 1)"]);
    bench.end(1, stopped(), 10_100);
    bench.poll(2, 1, 10_200);
    bench.tick(20_200);
    assert_eq!(bench.told(), ["input `in-000000` ran into timeout=10 s, no retries left"]);
}

#[test]
fn a_timed_out_attempt_cannot_answer_any_more_and_is_settled_with_its_container() {
    let mut bench = Bench::new(Policy { timeout_ms: 1_000, ..Policy::default() }, 1, false);
    bench.poll(1, 1, 0);
    bench.tick(1_000);
    assert!(!bench.output(1, 0, Some(0), success(), 1_100));
    assert!(bench.statuses().is_empty());
    bench.end(1, TaskEnd::Crashed("exit code 1".to_owned()), 1_200);
    assert_eq!(bench.statuses(), [OutcomeStatus::Timeout]);
    assert_eq!(bench.calls.completed_run_ms(), 1_000);
}

#[test]
fn a_container_that_never_ends_holds_its_inputs_for_ten_minutes_at_most() {
    let mut bench = Bench::new(Policy { timeout_ms: 1_000, ..Policy::default() }, 1, false);
    bench.poll(1, 1, 0);
    bench.tick(1_000);
    bench.tick(601_000);
    assert_eq!(bench.statuses(), [OutcomeStatus::Timeout]);
    assert_eq!(bench.calls.next_due(), None);
}

#[test]
fn a_stopped_container_that_never_ends_holds_what_it_runs_for_ten_minutes_at_most() {
    let hour = Policy { timeout_ms: 3_600_000, ..Bench::with_retries(1, 0) };
    let mut bench = Bench::new(hour, 2, false);
    bench.poll(1, 1, 0);
    bench.poll(1, 1, 0);
    bench.stop(1, 0);
    assert!(bench.output(1, 0, Some(0), failure(), 1_000));
    bench.tick(599_999);
    assert!(bench.poll(2, 2, 599_999).is_empty());
    bench.tick(601_000);
    assert_eq!(bench.delivered(), [(task_id(2), 2)]);
    assert!(!bench.output(1, 1, Some(0), success(), 601_001), "an older attempt");
    bench.end(1, stopped(), 601_002);
    assert!(bench.statuses().is_empty());
}

#[test]
fn what_runs_beside_a_timeout_waits_ten_minutes_at_most_as_well() {
    let mut bench = Bench::new(Policy { timeout_ms: 900_000, ..Policy::default() }, 2, false);
    bench.poll(1, 1, 0);
    bench.poll(1, 1, 800_000);
    bench.tick(900_000);
    bench.tick(1_500_000);
    assert_eq!(bench.poll(2, 1, 1_500_001)[0].attempt, 1);
    assert_eq!(bench.statuses(), [OutcomeStatus::Timeout]);
}

#[test]
fn what_a_container_says_while_it_is_stopped_waits_for_its_end() {
    let mut bench = Bench::new(Bench::with_retries(1, 0), 3, false);
    bench.poll(1, 3, 0);
    bench.stop(1, 0);
    assert!(bench.output(1, 0, Some(0), success(), 1), "a result is a result");
    assert!(bench.output(1, 1, Some(0), failure(), 1));
    assert!(bench.output(1, 2, Some(0), interrupted(), 1));
    assert!(!bench.output(1, 2, Some(0), success(), 2));
    assert!(bench.poll(2, 3, 3).is_empty());
    bench.end(1, stopped(), 4);
    assert_eq!(bench.delivered(), [(task_id(2), 2)]);
    assert_eq!(bench.statuses(), [OutcomeStatus::Success]);
}

#[test]
fn a_container_is_busy_while_it_works_on_an_input_cancelled_or_not() {
    let mut bench = Bench::new(Policy::default(), 2, false);
    assert!(!bench.calls.is_busy(&task_id(1)));
    bench.poll(1, 1, 0);
    assert!(bench.calls.is_busy(&task_id(1)));
    bench.output(1, 0, Some(0), success(), 1);
    assert!(!bench.calls.is_busy(&task_id(1)));
    bench.poll(1, 1, 2);
    bench.cancel(0, 3);
    assert!(bench.calls.is_busy(&task_id(1)), "it has not ended yet");
    bench.output(1, 1, Some(0), interrupted(), 4);
    assert!(!bench.calls.is_busy(&task_id(1)));
}

#[test]
fn a_retry_waits_for_the_end_of_a_container_of_single_use() {
    let mut bench = Bench::new(Policy { single_use: true, ..Bench::with_retries(1, 0) }, 1, false);
    bench.poll(1, 1, 0);
    assert!(bench.output(1, 0, Some(0), failure(), 1));
    assert!(matches!(&bench.effects[..], [Effect::StopTask { .. }]));
    assert!(!bench.calls.is_busy(&task_id(1)), "it leaves by itself");
    assert!(bench.poll(2, 1, 2).is_empty());
    bench.end(1, TaskEnd::Left, 3);
    assert_eq!(bench.delivered(), [(task_id(2), 1)]);
    bench.output(2, 0, Some(1), failure(), 4);
    assert_eq!(bench.statuses(), [OutcomeStatus::Failure], "nothing follows, so nothing waits");
}

#[test]
fn every_retry_of_a_batch_waits_for_the_end_of_a_container_of_single_use() {
    let policy = Policy { single_use: true, batch_max: 3, slots_per_container: 3, ..Bench::with_retries(1, 0) };
    let mut bench = Bench::new(policy, 3, false);
    bench.poll(1, 3, 0);
    bench.output(1, 0, Some(0), failure(), 1);
    bench.output(1, 1, Some(0), failure(), 1);
    assert!(bench.effects.is_empty(), "it still works on the third");
    bench.output(1, 2, Some(0), success(), 1);
    assert!(bench.effects.iter().any(|e| matches!(e, Effect::StopTask { .. })));
    assert!(bench.poll(2, 3, 2).is_empty());
    bench.end(1, TaskEnd::Left, 3);
    assert_eq!(bench.delivered(), [(task_id(2), 2)]);
    assert_eq!(bench.statuses(), [OutcomeStatus::Success]);
}

#[test]
fn a_retry_waits_for_a_container_of_single_use_that_ends_what_was_cancelled_on_it() {
    let policy = Policy { single_use: true, batch_max: 2, slots_per_container: 2, ..Bench::with_retries(1, 0) };
    let mut bench = Bench::new(policy, 1, false);
    add_another(&mut bench, 1);
    bench.poll(1, 2, 0);
    bench.cancel(1, 1);
    bench.output(1, 0, Some(0), failure(), 2);
    assert!(bench.poll(2, 2, 3).is_empty());
    bench.output(1, 1, Some(0), interrupted(), 4);
    assert!(matches!(&bench.effects[..], [Effect::StopTask { .. }]));
    bench.end(1, TaskEnd::Left, 5);
    assert_eq!(bench.delivered(), [(task_id(2), 1)]);
}

#[test]
fn what_is_cancelled_on_a_container_that_is_being_stopped_is_over_at_once_and_not_told_to_it() {
    let mut bench = Bench::new(Policy { timeout_ms: 1_000, ..Policy::default() }, 1, false);
    add_another(&mut bench, 1);
    bench.poll(1, 1, 0);
    bench.poll(1, 1, 500);
    bench.tick(1_000);
    bench.cancel(0, 1_001);
    bench.cancel(1, 1_002);
    assert!(bench.effects.iter().all(|e| !matches!(e, Effect::CancelInputs { .. })));
    assert_eq!(bench.statuses(), [OutcomeStatus::Terminated]);
    bench.end(1, stopped(), 1_100);
    assert!(!bench.calls.has_unfinished_calls());
}
