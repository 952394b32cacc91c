//! Which container has which place on the bridge.

use crate::config::Subnet;

/// A Linux bridge has 1024 ports and no more.
const PORTS: u32 = 1000;

/// Hands out numbers below a limit, each to one holder, and a given back one as late as possible: the kernel takes a
/// moment to remove the link of a container that has ended, and its name must not be wanted before.
pub struct Slots {
    size: u32,
    next: u32,
    taken: Vec<bool>,
}

impl Slots {
    pub fn new(subnet: Subnet) -> Self {
        // The last slot with an address tells how many there are.
        let size = (0..PORTS).take_while(|slot| subnet.address(*slot).is_some()).count() as u32;
        Self { size, next: 0, taken: vec![false; size as usize] }
    }

    pub fn take(&mut self) -> Option<u32> {
        let slot =
            (0..self.size).map(|step| (self.next + step) % self.size).find(|slot| !self.taken[*slot as usize])?;
        self.taken[slot as usize] = true;
        self.next = (slot + 1) % self.size;
        Some(slot)
    }

    /// What `make` makes of a slot has it from then on. When nothing comes of it, the slot is free again.
    pub fn take_for<T, E>(&mut self, make: impl FnOnce(Option<u32>) -> Result<T, E>) -> Result<T, E> {
        let slot = self.take();
        let made = make(slot);
        if let (Err(_), Some(slot)) = (&made, slot) {
            self.give_back(slot);
        }
        made
    }

    pub fn give_back(&mut self, slot: u32) {
        self.taken[slot as usize] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn slots(prefix: u8) -> Slots {
        Slots::new(Subnet { base: Ipv4Addr::new(10, 64, 0, 0), prefix })
    }

    #[test]
    fn no_slot_has_two_holders_and_the_last_is_followed_by_none() {
        let mut slots = slots(29);
        // Eight addresses without network, bridge and broadcast.
        let all: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        slots.give_back(3);
        assert_eq!((slots.take(), slots.take()), (Some(3), None));
    }

    #[test]
    fn a_slot_given_back_is_the_last_to_come_again() {
        let mut slots = slots(29);
        let first = slots.take().unwrap();
        slots.give_back(first);
        let next: Vec<_> = (0..5).map(|_| slots.take().unwrap()).collect();
        assert_eq!(next, [1, 2, 3, 4, 0]);
    }

    #[test]
    fn a_bridge_has_no_more_slots_than_ports() {
        let mut slots = slots(16);
        assert_eq!(std::iter::from_fn(|| slots.take()).count(), PORTS as usize);
    }

    #[test]
    fn a_slot_of_a_container_that_could_not_be_made_is_free_again() {
        let mut slots = slots(29);
        for _ in 0..100 {
            assert_eq!(slots.take_for(|slot| Err::<(), _>(slot.is_some())), Err(true));
        }
        assert!(std::iter::from_fn(|| slots.take_for(|slot| slot.ok_or(())).ok()).eq([0, 1, 2, 3, 4]));
    }

    #[test]
    fn a_subnet_without_room_has_no_slot() {
        assert_eq!(slots(32).take(), None);
    }
}
