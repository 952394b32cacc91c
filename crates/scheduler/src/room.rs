//! Functions that wait for room, in the order in which they get it: those with fewer containers first, then those that have
//! waited longer. So a function without any container gets one before another gets its tenth, whoever noticed the released
//! room first.
//!
//! Thousands may wait for a machine that is full, and room comes and goes with every container. So nobody looks for
//! itself: what has changed is planned once, and only who gets room is woken. And since room only becomes less while it is
//! handed out, a shape of which one claim finds none is not asked about again: a plan costs as much as there are different
//! shapes, not as many as wait.

use std::collections::{BTreeMap, BTreeSet};

use crate::Millis;
use crate::placement::{Rooms, Shape, WorkerView};

/// Functions, named by `K`, that each wait for one more container.
#[derive(Debug, Clone)]
pub struct RoomQueue<K> {
    by_shape: BTreeMap<Shape, BTreeSet<Place<K>>>,
    by_function: BTreeMap<K, (Shape, Place<K>)>,
}

/// The order is that of fairness.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place<K> {
    /// Containers that the function has already.
    held: usize,
    since: Millis,
    function: K,
}

/// A function that wants a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub shape: Shape,
    pub held: usize,
}

impl<K> Default for RoomQueue<K> {
    fn default() -> Self {
        Self { by_shape: BTreeMap::new(), by_function: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> RoomQueue<K> {
    /// Takes its place, which an earlier wait keeps, as far as it has as many containers as then.
    pub fn wait(&mut self, function: &K, claim: Claim, now: Millis) {
        let since = self.by_function.get(function).map_or(now, |(_, place)| place.since);
        self.leave(function);
        let place = Place { held: claim.held, since, function: function.clone() };
        self.by_shape.entry(claim.shape).or_default().insert(place.clone());
        self.by_function.insert(function.clone(), (claim.shape, place));
    }

    /// True if it has waited.
    pub fn leave(&mut self, function: &K) -> bool {
        let Some((shape, place)) = self.by_function.remove(function) else { return false };
        if let Some(places) = self.by_shape.get_mut(&shape) {
            places.remove(&place);
            if places.is_empty() {
                self.by_shape.remove(&shape);
            }
        }
        true
    }

    pub fn is_empty(&self) -> bool {
        self.by_function.is_empty()
    }

    pub fn claim(&self, function: &K) -> Option<Claim> {
        self.by_function.get(function).map(|(shape, place)| Claim { shape: *shape, held: place.held })
    }

    /// All of them in their order.
    pub fn in_order(&self) -> Vec<K> {
        let mut places: Vec<&Place<K>> = self.by_function.values().map(|(_, place)| place).collect();
        places.sort_unstable();
        places.into_iter().map(|place| place.function.clone()).collect()
    }

    /// Those for whose claims there is room now.
    pub fn winners(&self, workers: &[WorkerView]) -> Vec<K> {
        let mut winners = Vec::new();
        self.hand_out(&mut Rooms::of(workers), None, |place| winners.push(place.function.clone()));
        winners
    }

    /// Whether a function that wants a container gets it now, when those before it get theirs first.
    ///
    /// # Errors
    /// The reason why not, as a sentence for people.
    pub fn ask(&self, function: &K, claim: Claim, now: Millis, workers: &[WorkerView]) -> Result<(), String> {
        let since = self.by_function.get(function).map_or(now, |(_, place)| place.since);
        let place = Place { held: claim.held, since, function: function.clone() };
        let mut rooms = Rooms::of(workers);
        self.hand_out(&mut rooms, Some(&place), |_| {});
        rooms.take(&claim.shape).map(|_| ()).map_err(|refused| refused.explain().reason)
    }

    /// Gives room to the claims in their order, as far as those that come before `end`; of the function of `end`, none.
    fn hand_out(&self, rooms: &mut Rooms<'_>, end: Option<&Place<K>>, mut on_winner: impl FnMut(&Place<K>)) {
        let is_before = |place: &&Place<K>| end.is_none_or(|end| *place < end);
        let is_other = |place: &&Place<K>| end.is_none_or(|end| place.function != end.function);
        let mut shapes: Vec<_> =
            self.by_shape.iter().map(|(shape, places)| (shape, places.iter().peekable())).collect();
        // The first of each shape that still has a chance.
        let mut firsts: BTreeSet<(&Place<K>, usize)> = BTreeSet::new();
        for (number, (_, places)) in shapes.iter_mut().enumerate() {
            firsts.extend(places.find(is_other).filter(is_before).map(|place| (place, number)));
        }
        while let Some((place, number)) = firsts.pop_first() {
            let (shape, places) = &mut shapes[number];
            if rooms.take(shape).is_ok() {
                on_winner(place);
                firsts.extend(places.find(is_other).filter(is_before).map(|place| (place, number)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::placement::Resources;

    fn shape(memory_mib: u64) -> Shape {
        Shape { resources: Resources { memory_mib, ..Resources::default() }, shares_cpu: false }
    }

    fn claim(memory_mib: u64, held: usize) -> Claim {
        Claim { shape: shape(memory_mib), held }
    }

    fn worker(memory_mib: u64) -> WorkerView {
        let capacity = Resources { memory_mib, ..Resources::default() };
        WorkerView { id: "only".to_owned(), capacity, free: capacity, tasks: 0, max_tasks: 100 }
    }

    #[test]
    fn who_has_fewer_containers_comes_first_then_who_waits_longer() {
        let mut queue = RoomQueue::default();
        for (function, held, since) in [(1, 5, 10), (2, 0, 90), (3, 0, 80), (4, 1, 1)] {
            queue.wait(&function, claim(100, held), since);
        }
        assert_eq!(queue.in_order(), [3, 2, 4, 1]);
        assert_eq!(queue.winners(&[worker(250)]), [3, 2]);
        queue.wait(&2, claim(100, 0), 95);
        assert_eq!(queue.in_order(), [3, 2, 4, 1], "who waits on keeps its place");
        assert!(queue.leave(&3) && !queue.leave(&3));
        assert_eq!(queue.winners(&[worker(250)]), [2, 4]);
    }

    #[test]
    fn a_newcomer_gets_what_those_before_it_leave() {
        let mut queue = RoomQueue::default();
        queue.wait(&1, claim(100, 0), 10);
        queue.wait(&2, claim(100, 3), 5);
        let ask = |function, held, free| queue.ask(&function, claim(100, held), 20, &[worker(free)]);
        assert_eq!(ask(9, 1, 200), Ok(()));
        let refused = ask(9, 1, 100).unwrap_err();
        assert_eq!(refused, "waiting for 100 MiB memory; functions with fewer containers get theirs first");
        assert_eq!((ask(1, 0, 100), ask(2, 3, 200)), (Ok(()), Ok(())));
        assert!(ask(2, 3, 100).is_err());
    }

    #[test]
    fn a_large_claim_that_waits_does_not_hold_up_a_small_one() {
        let mut queue = RoomQueue::default();
        queue.wait(&1, claim(1_000, 0), 1);
        queue.wait(&2, claim(100, 0), 2);
        assert_eq!(queue.winners(&[worker(500)]), [2]);
    }

    #[test]
    fn a_plan_of_a_full_machine_asks_once_for_each_shape() {
        let mut queue = RoomQueue::default();
        for function in 0..1_000 {
            queue.wait(&function, claim(100 + function % 3, 0), function);
        }
        let mut rooms = Rooms::of(&[]);
        queue.hand_out(&mut rooms, None, |_| {});
        assert_eq!(rooms.asked(), 3);
    }

    proptest! {
        #[test]
        fn shapes_that_find_no_room_are_left_out_and_nobody_else(
            claims in prop::collection::vec((1_u64..6, 0_usize..3, 0_u64..5, any::<bool>()), 0..20),
            machines in prop::collection::vec(0_u64..12, 0..4),
        ) {
            let mut queue = RoomQueue::default();
            let workers: Vec<WorkerView> =
                machines.iter().enumerate().map(|(n, mib)| WorkerView { id: n.to_string(), ..worker(*mib) }).collect();
            for (function, (mib, held, since, shares_cpu)) in claims.iter().enumerate() {
                let shape = Shape { shares_cpu: *shares_cpu, ..shape(*mib) };
                queue.wait(&function, Claim { shape, held: *held }, *since);
            }
            let mut rooms = Rooms::of(&workers);
            let one_by_one: Vec<usize> = queue
                .in_order()
                .into_iter()
                .filter(|function| rooms.take(&queue.claim(function).unwrap().shape).is_ok())
                .collect();
            prop_assert_eq!(queue.winners(&workers), one_by_one.clone());
            for function in 0..claims.len() {
                let claim = queue.claim(&function).unwrap();
                let asked = queue.ask(&function, claim, 100, &workers).is_ok();
                prop_assert_eq!(asked, one_by_one.contains(&function));
            }
        }
    }
}
