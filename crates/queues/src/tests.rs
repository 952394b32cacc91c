use std::ops::RangeInclusive;

use crate::{
    Effect, GetId, Got, Item, LookId, MAX_ITEM_BYTES, MAX_ITEMS, MAX_PARTITION_BYTES, MAX_PARTITIONS, Millis, NewGet,
    Position, Queue, Refusal, Stored, Taking,
};

const DAY: Millis = 24 * 3_600_000;

/// A queue whose disk is driven by hand.
struct Desk {
    queue: Queue<u32>,
    now: Millis,
    next: Position,
    next_get: u64,
    effects: Vec<Effect<u32>>,
}

impl Desk {
    fn new() -> Self {
        Self { queue: Queue::default(), now: 1_000, next: 1, next_get: 1, effects: Vec::new() }
    }

    fn put(&mut self, partition: &str, values: &[u32]) -> RangeInclusive<Position> {
        self.try_put(partition, values.iter().map(|value| (1, *value)).collect()).unwrap()
    }

    fn try_put(&mut self, partition: &str, values: Vec<(usize, u32)>) -> Result<RangeInclusive<Position>, Refusal> {
        let count = values.len() as u64;
        let put = self.queue.put(partition.as_bytes(), values, self.next, DAY, self.now, &mut self.effects);
        self.next += count;
        put
    }

    fn get(&mut self, partition: &str, wanted: usize, waits: bool) -> (GetId, Got) {
        let id = GetId(self.next_get);
        self.next_get += 1;
        let key = format!("key-{}", id.0).into();
        let new = NewGet { id, key, partition: partition.as_bytes().to_vec(), wanted, waits };
        (id, self.queue.get(new, self.now, &mut self.effects).unwrap())
    }

    fn leave(&mut self, id: GetId) {
        self.queue.leave(id, self.now, &mut self.effects);
    }

    /// The disk has everything; what is answered, with the values.
    fn store(&mut self) -> Vec<(GetId, Vec<u32>)> {
        self.queue.on_put_stored(b"", self.next - 1, &mut self.effects);
        let mut answers = Vec::new();
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Take { taking, .. } => self.queue.on_take_stored(taking, &mut self.effects),
                    Effect::Answer { get, items } => {
                        answers.push((get, items.into_iter().map(|item| item.value).collect()));
                        self.queue.on_delivered(get);
                    }
                    _ => {}
                }
            }
        }
        answers
    }
}

#[test]
fn items_come_out_in_the_order_of_their_puts() {
    let mut desk = Desk::new();
    desk.put("", &[1, 2, 3]);
    let (first, got) = desk.get("", 2, false);
    assert_eq!(got, Got::Items);
    let (second, _) = desk.get("", 9, false);
    assert_eq!(desk.store(), [(first, vec![1, 2]), (second, vec![3])]);
    assert_eq!(desk.get("", 1, false).1, Got::Nothing);
}

#[test]
fn a_get_that_waits_takes_in_the_same_breath_as_the_put() {
    let mut desk = Desk::new();
    let (early, got) = desk.get("a", 1, true);
    assert_eq!(got, Got::Waits);
    let (late, _) = desk.get("a", 1, true);
    desk.put("b", &[9]);
    assert!(desk.effects.is_empty(), "partitions are independent");
    desk.put("a", &[7]);
    assert!(
        matches!(&desk.effects[..], [Effect::Take { taking, .. }] if taking.get == early),
        "first come, first served"
    );
    assert_eq!(desk.store(), [(early, vec![7])]);
    assert!(desk.queue.stop_waiting(late) && !desk.queue.stop_waiting(late));
}

#[test]
fn what_a_vanished_caller_took_is_first_in_line_again() {
    let mut desk = Desk::new();
    desk.put("", &[1, 2, 3]);
    let (gone, _) = desk.get("", 2, false);
    desk.leave(gone);
    assert!(matches!(&desk.effects[1], Effect::Untake { key } if key.as_ref() == "key-1"));
    let (next, _) = desk.get("", 3, false);
    assert_eq!(desk.store(), [(next, vec![1, 2, 3])]);
}

#[test]
fn what_was_answered_but_never_sent_goes_to_whoever_waits() {
    let mut desk = Desk::new();
    desk.put("", &[1]);
    let (gone, _) = desk.get("", 1, false);
    desk.effects.clear();
    desk.queue.on_take_stored(Taking { get: gone, turn: 1 }, &mut desk.effects);
    let (waiting, got) = desk.get("", 1, true);
    assert_eq!(got, Got::Waits);
    desk.leave(gone);
    let Some(Effect::Answer { items, .. }) = desk.effects.pop() else { panic!("no answer") };
    desk.queue.on_undelivered(gone, items, desk.now, &mut desk.effects);
    assert_eq!(desk.store(), [(waiting, vec![1])]);
}

#[test]
fn a_caller_that_left_while_it_waited_gets_nothing() {
    let mut desk = Desk::new();
    let (gone, _) = desk.get("", 1, true);
    let (stays, _) = desk.get("", 1, true);
    desk.leave(gone);
    desk.put("", &[5]);
    assert_eq!(desk.store(), [(stays, vec![5])]);
}

#[test]
fn a_put_that_the_disk_refused_never_happened() {
    let mut desk = Desk::new();
    let (waiting, _) = desk.get("", 2, true);
    let positions = desk.put("", &[1, 2, 3]);
    desk.queue.on_put_failed(b"", &positions, &mut desk.effects);
    assert_eq!(desk.queue.total(), 0);
    desk.effects.clear();
    desk.queue.on_take_stored(Taking { get: waiting, turn: 1 }, &mut desk.effects);
    assert!(desk.effects.is_empty(), "it waits again");
    desk.put("", &[4]);
    assert_eq!(desk.store(), [(waiting, vec![4])]);
}

#[test]
fn a_put_that_the_disk_refused_leaves_the_others_the_time_they_had() {
    let mut desk = Desk::new();
    desk.put("", &[1]);
    let lasting = desk.queue.next_expiry();
    let short = desk.queue.put(b"", vec![(1, 2)], desk.next, 10, desk.now, &mut desk.effects).unwrap();
    assert_eq!(desk.queue.next_expiry(), Some(desk.now + 10));
    desk.queue.on_put_failed(b"", &short, &mut desk.effects);
    assert_eq!(desk.queue.next_expiry(), lasting);
    assert_eq!(desk.queue.len(b"", desk.now + 11), 1);
}

#[test]
fn who_does_not_wait_any_more_gets_nothing_of_a_put_that_the_disk_refused() {
    let mut desk = Desk::new();
    let (patient, _) = desk.get("", 1, true);
    let positions = desk.put("", &[1, 2]);
    let (hasty, got) = desk.get("", 1, false);
    assert_eq!(got, Got::Items);
    assert!(!desk.queue.stop_waiting(patient), "it has taken something by now");
    desk.effects.clear();
    desk.queue.on_put_failed(b"", &positions, &mut desk.effects);
    for get in [patient, hasty] {
        assert!(desk.effects.contains(&Effect::Answer { get, items: Vec::new() }), "{get:?}: {:?}", desk.effects);
    }
    assert!(desk.queue.open_gets().is_empty());
}

#[test]
fn a_take_that_the_disk_refused_leaves_the_items() {
    let mut desk = Desk::new();
    desk.put("", &[1]);
    let (get, _) = desk.get("", 1, false);
    desk.effects.clear();
    desk.queue.on_take_failed(Taking { get, turn: 1 }, desk.now, &mut desk.effects);
    assert!(matches!(desk.effects[0], Effect::Fail { get: failed } if failed == get));
    assert_eq!(desk.queue.len(b"", desk.now), 1);
}

#[test]
fn a_partition_takes_what_is_documented_and_not_one_more() {
    let mut desk = Desk::new();
    desk.put("", &vec![0; MAX_ITEMS]);
    assert!(matches!(desk.try_put("", vec![(1, 0)]), Err(Refusal::PartitionFull { items: MAX_ITEMS, .. })));
    desk.put("other", &[1]);
    assert!(desk.try_put("large", vec![(MAX_ITEM_BYTES, 0); 64]).is_ok());
    assert!(matches!(
        desk.try_put("large", vec![(1, 0)]),
        Err(Refusal::PartitionFull { bytes: MAX_PARTITION_BYTES, .. })
    ));
    assert_eq!(
        desk.try_put("x", vec![(MAX_ITEM_BYTES + 1, 0)]),
        Err(Refusal::ItemTooLarge { bytes: MAX_ITEM_BYTES + 1 })
    );
    assert!(matches!(desk.try_put("x", vec![(0, 0); MAX_ITEMS + 1]), Err(Refusal::PutTooLarge { .. })));
    assert!(matches!(desk.try_put("x", vec![(MAX_ITEM_BYTES, 0); 65]), Err(Refusal::PutTooLarge { .. })));
    let (get, _) = desk.get("", 1, false);
    desk.put("", &[1]);
    assert_eq!(desk.store()[0], (get, vec![0]));
}

#[test]
fn a_queue_has_as_many_partitions_as_documented() {
    let mut desk = Desk::new();
    for partition in 0..MAX_PARTITIONS {
        desk.put(&partition.to_string(), &[1]);
    }
    assert_eq!(desk.try_put("one more", vec![(1, 1)]), Err(Refusal::QueueFull));
    desk.get("7", 1, false);
    assert!(desk.try_put("one more", vec![(1, 1)]).is_ok());
    assert_eq!(desk.try_put("and another", vec![(1, 1)]), Err(Refusal::QueueFull));
    // Those whose time is over do not count.
    desk.now += DAY;
    assert!(desk.try_put("and another", vec![(1, 1)]).is_ok());
    assert_eq!(desk.queue.partitions(), 1);
}

#[test]
fn a_partition_goes_a_time_after_its_last_put() {
    let mut desk = Desk::new();
    desk.put("", &[1]);
    desk.now += DAY / 2;
    desk.put("", &[2]);
    desk.now += DAY - 1;
    assert_eq!(desk.queue.len(b"", desk.now), 2);
    assert_eq!(desk.queue.next_expiry(), Some(desk.now + 1));
    desk.now += 1;
    desk.queue.expire(desk.now, &mut desk.effects);
    assert_eq!(desk.effects, [Effect::Forget { partition: Vec::new(), through: 2 }]);
    assert_eq!((desk.queue.total(), desk.queue.partitions(), desk.queue.next_expiry()), (0, 0, None));
}

#[test]
fn an_expired_partition_is_empty_before_anybody_tidied_up() {
    let mut desk = Desk::new();
    desk.put("", &[1]);
    desk.now += DAY;
    assert_eq!(desk.queue.len(b"", desk.now), 0);
    assert!(desk.queue.look(b"", 0, (10, 10), desk.now).is_empty());
    assert_eq!(desk.get("", 1, false).1, Got::Nothing);
    desk.put("", &[2]);
    assert_eq!(desk.queue.len(b"", desk.now), 1);
}

#[test]
fn what_was_taken_before_a_clear_does_not_come_back_after_it() {
    let mut desk = Desk::new();
    desk.put("", &[1, 2]);
    desk.put("kept", &[3]);
    let (get, _) = desk.get("", 1, false);
    desk.queue.on_cleared(Some(b""), 3);
    desk.leave(get);
    assert_eq!(desk.queue.len(b"", desk.now), 0);
    assert_eq!(desk.queue.total(), 1);
    desk.queue.on_cleared(None, 3);
    assert!(desk.queue.is_empty());
}

#[test]
fn a_clear_spares_what_was_put_after_it() {
    let mut desk = Desk::new();
    desk.put("", &[1]);
    let through = desk.next - 1;
    desk.put("", &[2]);
    desk.queue.on_cleared(Some(b""), through);
    let (get, _) = desk.get("", 9, false);
    assert_eq!(desk.store(), [(get, vec![2])]);
}

#[test]
fn a_look_sees_what_is_on_disk_and_is_woken_by_more() {
    let mut desk = Desk::new();
    desk.put("", &[1]);
    assert!(desk.queue.look(b"", 0, (10, 100), desk.now).is_empty(), "a crash may still undo it");
    desk.queue.wait_to_look(LookId(1), b"");
    desk.queue.wait_to_look(LookId(2), b"");
    desk.queue.stop_looking(LookId(2), b"");
    desk.queue.on_put_stored(b"", 1, &mut desk.effects);
    assert_eq!(desk.effects, [Effect::Wake(LookId(1))]);
    desk.put("", &[2, 3]);
    desk.store();
    let seen = |after, bounds| -> Vec<u32> {
        desk.queue.look(b"", after, bounds, desk.now).iter().map(|item| item.value).collect()
    };
    assert_eq!(seen(0, (10, 100)), [1, 2, 3]);
    assert_eq!(seen(1, (1, 100)), [2]);
    assert_eq!(seen(0, (10, 0)), [1], "one item always fits");
    assert_eq!(desk.queue.len(b"", desk.now), 3, "looking takes nothing away");
}

#[test]
fn a_restored_queue_goes_on_where_it_was() {
    let stored = |position, expires_at| Stored {
        partition: b"p".to_vec(),
        expires_at,
        item: Item { position, bytes: 1, value: position as u32 },
    };
    let queue = Queue::restored([stored(5, 900), stored(6, 2_000)]);
    assert_eq!((queue.len(b"p", 1_000), queue.next_expiry()), (2, Some(2_000)));
    assert_eq!(queue.look(b"p", 0, (9, 9), 1_000).len(), 2);
}
