//! Batches: their size, their wait, and inputs that leave them.

use super::*;

fn batched(max: usize, linger_ms: Millis) -> Policy {
    Policy { batch_max: max, batch_linger_ms: linger_ms, slots_per_container: max, ..Bench::with_retries(1, 0) }
}

#[test]
fn a_batch_holds_inputs_of_one_method() {
    let mut bench = Bench::new(Policy::default(), 0, false);
    let methods = ["a", "a", "b", "a"];
    let inputs = (0..4).map(|n| NewInput { method_name: methods[n].to_owned(), ..input(n) }).collect();
    bench.calls.add_inputs(&call_id(0), inputs, true, 0, &mut bench.effects);
    let sizes: Vec<usize> = (0..3).map(|task| bench.poll(task, 4, 1).len()).collect();
    assert_eq!(sizes, [3, 1, 0]);
}

#[test]
fn a_full_batch_goes_at_once_and_an_incomplete_one_when_its_first_input_has_lingered() {
    let mut bench = Bench::new(batched(3, 100), 0, false);
    assert!(bench.poll(1, 3, 0).is_empty());
    bench.add(0..3, 10);
    assert_eq!(bench.delivered(), [(task_id(1), 3)]);
    assert!(bench.poll(2, 3, 20).is_empty());
    bench.add(3..4, 50);
    bench.add(4..5, 120);
    assert_eq!(bench.delivered(), []);
    assert_eq!(bench.calls.next_due(), Some(150));
    bench.tick(149);
    assert_eq!(bench.delivered(), []);
    bench.tick(150);
    assert_eq!(bench.delivered(), [(task_id(2), 2)]);
}

#[test]
fn inputs_that_lingered_while_no_container_was_free_go_with_the_first_request() {
    let mut bench = Bench::new(batched(3, 100), 2, false);
    assert_ne!(bench.calls.next_due(), Some(100), "nobody waits for the batch");
    assert_eq!(bench.poll(1, 3, 100).len(), 2);
}

#[test]
fn an_input_of_a_batch_is_tried_again_in_another_batch() {
    let mut bench = Bench::new(batched(2, 100), 2, false);
    assert_eq!(bench.poll(1, 2, 0).len(), 2);
    bench.output(1, 0, Some(0), success(), 10);
    bench.output(1, 1, Some(0), failure(), 10);
    bench.add(2..3, 20);
    let again: Vec<_> = bench.poll(1, 2, 30).iter().map(|a| (a.idx, a.attempt)).collect();
    assert_eq!(again, [(1, 1), (2, 0)]);
}

#[test]
fn an_incomplete_batch_takes_the_room_of_a_whole_one() {
    let mut bench = Bench::new(batched(4, 0), 1, false);
    assert_eq!(bench.poll(1, 4, 0).len(), 1);
    assert_eq!((bench.calls.running_on(&task_id(1)), bench.calls.load().running), (4, 1));
}

#[test]
fn a_batch_that_a_cancellation_silenced_is_run_again_without_the_cancelled_input() {
    let mut bench = Bench::new(batched(2, 0), 1, false);
    bench.calls.create_call(spec(1, CallKind::Map, false), 0);
    bench.calls.add_inputs(&call_id(1), vec![input(1)], true, 0, &mut bench.effects);
    assert_eq!(bench.poll(1, 2, 0).len(), 2);
    bench.calls.cancel_call(&call_id(1), 10, &mut bench.effects);
    // It asks again and has said nothing of either.
    let again: Vec<_> = bench.poll(1, 2, 30).iter().map(|a| (a.idx, a.attempt)).collect();
    assert_eq!(again, [(0, 1)]);
}

#[test]
fn a_batch_stays_within_what_one_message_may_hold() {
    let mut bench = Bench::new(batched(4, 0), 0, false);
    let payload = Payload::Inline(Bytes::from(vec![0; 30 << 20]));
    let inputs = (0..4).map(|n| NewInput { payload: payload.clone(), ..input(n) }).collect();
    bench.calls.add_inputs(&call_id(0), inputs, true, 0, &mut bench.effects);
    assert_eq!((bench.poll(1, 4, 0).len(), bench.poll(2, 4, 0).len()), (2, 2));
}
