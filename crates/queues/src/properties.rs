//! Any order of puts, gets, crashes of callers and refusals of the disk: no item is lost, and none is delivered twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use proptest::prelude::*;

use crate::{Effect, GetId, Got, Item, NewGet, Position, Queue, Taking};

#[derive(Debug, Clone)]
enum Act {
    Put {
        partition: u8,
        count: u8,
    },
    Get {
        partition: u8,
        wanted: u8,
        waits: bool,
    },
    /// The disk takes the next write, or refuses it.
    Write {
        fails: bool,
    },
    /// The shell gives the oldest answer to its caller, who is there or not.
    Hand {
        delivered: bool,
    },
    Leave {
        get: u64,
    },
    GiveUp {
        get: u64,
    },
    Clear {
        partition: u8,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let partition = 0..2_u8;
    let act = prop_oneof![
        3 => (partition.clone(), 1..4_u8).prop_map(|(partition, count)| Act::Put { partition, count }),
        4 => (partition.clone(), 1..4_u8, any::<bool>())
            .prop_map(|(partition, wanted, waits)| Act::Get { partition, wanted, waits }),
        6 => prop::bool::weighted(0.1).prop_map(|fails| Act::Write { fails }),
        4 => prop::bool::weighted(0.8).prop_map(|delivered| Act::Hand { delivered }),
        1 => (1..40_u64).prop_map(|get| Act::Leave { get }),
        1 => (1..40_u64).prop_map(|get| Act::GiveUp { get }),
        1 => partition.prop_map(|partition| Act::Clear { partition }),
    ];
    prop::collection::vec(act, 1..120)
}

enum Pending {
    Put { partition: u8, positions: RangeInclusive<Position> },
    Take(Taking),
    Clear { partition: u8, through: Position },
}

/// The shell and the disk of one queue.
#[derive(Default)]
struct World {
    queue: Queue<u64>,
    disk: VecDeque<Pending>,
    answers: VecDeque<(GetId, Vec<Item<u64>>)>,
    next: Position,
    next_get: u64,
    put: BTreeMap<Position, u8>,
    refused: BTreeSet<Position>,
    cleared: BTreeSet<Position>,
    delivered: BTreeSet<Position>,
    /// Gets that are owed an answer and do not wait for an item.
    impatient: BTreeSet<GetId>,
}

impl World {
    fn act(&mut self, act: &Act) {
        let mut effects = Vec::new();
        match *act {
            Act::Put { partition, count } => {
                let first = self.next + 1;
                let values = (0..u64::from(count)).map(|offset| (1, first + offset)).collect();
                self.next += u64::from(count);
                let Ok(positions) = self.queue.put(&[partition], values, first, 1_000, 1, &mut effects) else { return };
                self.put.extend(positions.clone().map(|position| (position, partition)));
                self.disk.push_back(Pending::Put { partition, positions });
            }
            Act::Get { partition, wanted, waits } => {
                self.next_get += 1;
                let id = GetId(self.next_get);
                let key = id.0.to_string().into();
                let new = NewGet { id, key, partition: vec![partition], wanted: wanted.into(), waits };
                let got = self.queue.get(new, 1, &mut effects).unwrap();
                if got == Got::Items && !waits {
                    self.impatient.insert(id);
                }
            }
            Act::Write { fails } => self.write(fails, &mut effects),
            Act::Hand { delivered } => {
                let Some((get, items)) = self.answers.pop_front() else { return };
                if delivered {
                    for item in &items {
                        assert!(self.delivered.insert(item.position), "{} is delivered twice", item.position);
                    }
                    self.queue.on_delivered(get);
                } else {
                    self.queue.on_undelivered(get, items, 1, &mut effects);
                }
            }
            Act::Leave { get } => {
                self.queue.leave(GetId(get), 1, &mut effects);
                self.impatient.remove(&GetId(get));
            }
            Act::GiveUp { get } => {
                let is_owed = self.queue.open_gets().contains(&GetId(get)) && !self.queue.stop_waiting(GetId(get));
                if is_owed && !self.answers.iter().any(|(answered, _)| answered.0 == get) {
                    self.impatient.insert(GetId(get));
                }
            }
            Act::Clear { partition } => self.disk.push_back(Pending::Clear { partition, through: self.next }),
        }
        self.perform(effects);
        self.check();
    }

    fn write(&mut self, fails: bool, effects: &mut Vec<Effect<u64>>) {
        match self.disk.pop_front() {
            Some(Pending::Put { partition, positions }) if fails => {
                self.refused.extend(positions.clone());
                self.queue.on_put_failed(&[partition], &positions, effects);
            }
            Some(Pending::Put { partition, positions }) => {
                self.queue.on_put_stored(&[partition], *positions.end(), effects);
            }
            Some(Pending::Take(taking)) if fails => self.queue.on_take_failed(taking, 1, effects),
            Some(Pending::Take(taking)) => self.queue.on_take_stored(taking, effects),
            Some(Pending::Clear { partition, through }) if !fails => {
                self.queue.on_cleared(Some(&[partition]), through);
                let gone = self.put.iter().filter(|(position, of)| **of == partition && **position <= through);
                self.cleared.extend(gone.map(|(position, _)| *position));
            }
            _ => {}
        }
    }

    fn perform(&mut self, effects: Vec<Effect<u64>>) {
        for effect in effects {
            match effect {
                Effect::Take { taking, .. } => self.disk.push_back(Pending::Take(taking)),
                Effect::Answer { get, items } => {
                    let is_impatient = self.impatient.remove(&get);
                    assert!(!items.is_empty() || is_impatient, "{get:?} waits, and got nothing");
                    assert!(items.iter().all(|item| !self.refused.contains(&item.position)));
                    assert!(items.is_sorted_by_key(|item| item.position));
                    self.answers.push_back((get, items));
                }
                Effect::Fail { get } => drop(self.impatient.remove(&get)),
                _ => {}
            }
        }
    }

    fn check(&self) {
        let present: usize = (0..2).map(|partition| self.queue.len(&[partition], 1)).sum();
        assert_eq!(present, self.queue.total());
    }

    /// Everything still under way comes to its end, and what is left is got.
    fn finish(&mut self) {
        for _ in 0..2 {
            while !self.disk.is_empty() || !self.answers.is_empty() {
                self.act(&Act::Write { fails: false });
                self.act(&Act::Hand { delivered: true });
            }
            for partition in 0..2 {
                self.act(&Act::Get { partition, wanted: u8::MAX, waits: false });
            }
        }
    }
}

proptest! {
    #[test]
    fn every_item_is_delivered_once_or_cleared_or_was_never_accepted(acts in acts()) {
        let mut world = World::default();
        acts.iter().for_each(|act| world.act(act));
        world.finish();
        for position in world.put.keys() {
            let accounted = world.delivered.contains(position)
                || world.cleared.contains(position)
                || world.refused.contains(position);
            prop_assert!(accounted, "item {position} is lost");
        }
        prop_assert!(world.impatient.is_empty(), "{:?} are kept waiting", world.impatient);
        prop_assert_eq!(world.queue.total(), 0);
        prop_assert_eq!(world.queue.partitions(), 0);
    }
}
