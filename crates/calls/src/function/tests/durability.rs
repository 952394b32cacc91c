//! Calls that are written down because they last.

use super::*;

const LASTING: Policy = Policy { durable_after_ms: Some(1_000), ..Policy::DEFAULT };

#[test]
fn a_call_that_lasts_is_recorded_once_with_what_is_left_and_what_came_out() {
    let mut bench = Bench::new(LASTING, 3, false);
    bench.poll(1, 1, 0);
    bench.output(1, 0, Some(0), success(), 10);
    bench.tick(999);
    assert_eq!(bench.to_record(), None);
    assert_eq!(bench.calls.next_due(), Some(1_000));
    bench.tick(1_000);
    let call = bench.to_record().unwrap();
    assert_eq!((call.pending.len(), call.finished.len(), call.inputs_complete), (2, 1, false));
    bench.tick(60_000);
    assert_eq!(bench.to_record(), None);
}

#[test]
fn a_call_that_its_caller_has_collected_never_touches_the_disk() {
    let mut bench = Bench::new(LASTING, 1, false);
    bench.poll(1, 1, 0);
    bench.output(1, 0, Some(0), success(), 10);
    bench.calls.on_collected(&call_id(0));
    bench.tick(5_000);
    assert_eq!(bench.to_record(), None);
    assert!(!bench.calls.leaves_a_record(&call_id(0)));
}

#[test]
fn outputs_after_the_call_was_recorded_are_recorded_too_and_inputs_are_written_first() {
    let mut bench = Bench::new(LASTING, 1, false);
    bench.poll(1, 1, 0);
    bench.tick(1_000);
    assert_eq!(bench.calls.on_disk(&call_id(0)), Some(OnDisk::Begun));
    let more = || vec![input(1)];
    let effects = &mut bench.effects;
    assert_eq!(bench.calls.add_inputs(&call_id(0), more(), false, 1_001, effects), Accepted::WriteFirst);
    assert_eq!(bench.calls.add_inputs(&call_id(0), more(), true, 1_002, effects), Accepted::Yes);
    bench.output(1, 0, Some(0), success(), 1_003);
    assert!(bench.calls.outputs(&call_id(0), EVERYTHING).unwrap().outputs.is_empty());
    bench.calls.on_call_recorded(&call_id(0), &mut bench.effects);
    bench.calls.on_recorded(&input_id(0), &mut bench.effects);
    assert_eq!(bench.calls.outputs(&call_id(0), EVERYTHING).unwrap().outputs.len(), 1);
    bench.calls.on_collected(&call_id(0));
    assert!(bench.calls.leaves_a_record(&call_id(0)));
}

#[test]
fn a_call_that_cannot_be_recorded_goes_on_in_memory_and_is_tried_again() {
    let mut bench = Bench::new(LASTING, 2, false);
    bench.poll(1, 1, 0);
    bench.tick(1_000);
    bench.output(1, 0, Some(0), success(), 1_001);
    bench.calls.on_call_not_recorded(&call_id(0), 1_002, &mut bench.effects);
    assert_eq!(bench.calls.outputs(&call_id(0), EVERYTHING).unwrap().outputs.len(), 1);
    bench.tick(1_003);
    assert_eq!(bench.to_record(), None);
    bench.tick(60_000);
    let call = bench.to_record().unwrap();
    assert_eq!((call.pending.len(), call.finished.len()), (1, 1));
}

#[test]
fn a_server_that_ends_has_every_open_call_recorded() {
    let mut bench = Bench::new(LASTING, 1, false);
    bench.calls.create_call(spec(1, CallKind::Unary, true), 0);
    bench.effects.clear();
    bench.calls.record_open_calls(&mut bench.effects);
    assert_eq!(bench.effects.len(), 1);
    assert_eq!(bench.to_record().unwrap().spec.id, call_id(0));
}

/// A repeated request must not run it again, and is told so; one that the store has comes back by the store's word.
#[test]
fn a_call_that_has_left_is_not_made_again() {
    let mut bench = Bench::new(LASTING, 1, true);
    bench.calls.finish_inputs(&call_id(0));
    assert_eq!(bench.poll(1, 1, 0).len(), 1);
    bench.output(1, 0, Some(0), success(), 1);
    bench.calls.on_recorded(&input_id(0), &mut bench.effects);
    let finished = bench.calls.outputs(&call_id(0), EVERYTHING).unwrap().outputs;
    assert_eq!(bench.calls.leave(1, &mut bench.effects), []);
    let left = bench.calls.leave(60_000, &mut bench.effects);
    assert!(matches!(&left[..], [left] if left.call == call_id(0) && !left.delete_record));
    bench.calls.create_call(spec(0, CallKind::Map, true), 0);
    let added = bench.calls.add_inputs(&call_id(0), vec![input(0)], true, 60_000, &mut bench.effects);
    assert_eq!(added, Accepted::NoSuchCall);
    let stored = |pending| Restored {
        spec: spec(0, CallKind::Map, true),
        pending,
        finished: finished.clone(),
        inputs_complete: false,
    };
    // Read from the store before it ran.
    bench.calls.restore_unless_left(stored(vec![input(0)]), 60_000);
    assert!(bench.calls.is_empty());
    bench.calls.restore_unless_left(stored(Vec::new()), 60_000);
    assert_eq!(bench.calls.outputs(&call_id(0), EVERYTHING).unwrap().outputs, finished);
}

#[test]
fn a_call_that_found_the_queue_full_is_made_when_it_comes_again() {
    let policy = Policy { max_inputs: 1, ..Policy::default() };
    let mut bench = Bench::new(policy, 1, false);
    let begin = |bench: &mut Bench| {
        bench.calls.begin_call(spec(1, CallKind::Unary, false), vec![input(1)], false, 0, &mut bench.effects)
    };
    assert_eq!(begin(&mut bench), Accepted::QueueFull);
    assert!(bench.calls.call_spec(&call_id(1)).is_none());
    bench.calls.cancel_call(&call_id(0), 0, &mut bench.effects);
    assert_eq!(begin(&mut bench), Accepted::Yes);
    // It is here already.
    assert_eq!(begin(&mut bench), Accepted::Yes);
    assert_eq!(bench.calls.input_count(&call_id(1)), Some(1));
}
