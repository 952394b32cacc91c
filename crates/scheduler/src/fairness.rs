//! Who makes room on a machine that is full. Who gets it is decided in [`crate::room`].
//!
//! Room comes back by itself only from containers without work. When every container is busy and stays so, a function
//! without any would wait for ever; so one with several gives one up: it takes no further input, finishes what it runs
//! and leaves. Nothing that runs is interrupted. Rejected: shares by weight, which nobody has asked for; and the same
//! number of containers for each, which would keep closing and starting containers under an even load.

use types::ids::TaskId;

use crate::placement::Resources;
use crate::{Millis, TaskPhase};

/// How many of its containers a function has, for its claims to more. One that leaves makes room for another. But those of
/// single use leave as soon as they work, and count until their work is done: else each would start as the first.
pub fn count_held(containers: impl IntoIterator<Item = (TaskPhase, bool)>, single_use: bool) -> usize {
    let is_held = |phase, works| phase != TaskPhase::Draining || (single_use && works);
    containers.into_iter().filter(|(phase, works)| is_held(*phase, *works)).count()
}

/// A function with containers, as seen by another that needs room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub resources: Resources,
    pub min_containers: usize,
    pub containers: Vec<Held>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub task: TaskId,
    pub phase: TaskPhase,
    /// Since when it has had nothing to do; `None` while it works.
    pub idle_since: Option<Millis>,
}

/// A container between two calls is not given to a function that has others already.
const IDLE_ENOUGH_MS: Millis = 2_000;

/// Idle for so long that even a function with containers of its own may have its place.
pub fn is_idle_enough(container: &Held, now: Millis) -> bool {
    container.idle_since.is_some_and(|since| since <= now.saturating_sub(IDLE_ENOUGH_MS))
}

/// Containers of other functions that should leave so that `count` more of `wanted` find room, where `taken` is taken of
/// `there`: with CPU promised twice it may be more. `held` is how many containers the needy function has itself; with some, it
/// takes only what was idle for a while. Nothing is given up that makes no room for a whole container.
pub fn plan_reclaim(
    wanted: &Resources,
    count: usize,
    held: usize,
    (there, taken): (&Resources, &Resources),
    holders: &[Holder],
    now: Millis,
) -> Vec<TaskId> {
    let idle_before = if held > 0 { now.saturating_sub(IDLE_ENOUGH_MS) } else { now };
    let mut taken = *taken;
    let mut left: Vec<usize> = Vec::new();
    for holder in holders {
        let leaving = holder.containers.iter().filter(|c| c.phase == TaskPhase::Draining).count();
        taken = taken.minus(&holder.resources.times(leaving));
        left.push(holder.containers.len() - leaving);
    }
    let has_room = |taken: &Resources, count: usize| taken.plus(&wanted.times(count)).fits_in(there);
    let mut chosen = Vec::new();
    let mut idle: Vec<(Millis, usize, &TaskId)> = Vec::new();
    for (n, holder) in holders.iter().enumerate() {
        let idle_there = holder.containers.iter().filter(|c| c.phase != TaskPhase::Draining);
        idle.extend(idle_there.filter_map(|c| Some((c.idle_since.filter(|since| *since <= idle_before)?, n, &c.task))));
    }
    idle.sort();
    // For so many there is room with the first `useful` of the chosen.
    let (mut possible, mut useful) = (0, 0);
    let mut note = |taken: &Resources, chosen: usize| {
        while possible < count && has_room(taken, possible + 1) {
            (possible, useful) = (possible + 1, chosen);
        }
        (possible, useful)
    };
    note(&taken, 0);
    for (_, n, task) in idle {
        if note(&taken, chosen.len()).0 >= count {
            break;
        }
        if left[n] > holders[n].min_containers {
            left[n] -= 1;
            taken = taken.minus(&holders[n].resources);
            chosen.push(task.clone());
        }
    }
    let (possible, useful) = note(&taken, chosen.len());
    if possible > 0 || held > 0 || count == 0 {
        chosen.truncate(useful);
        return chosen;
    }
    // Without any container of its own it may have one that works elsewhere, of whoever has most.
    let mut busy = Vec::new();
    while !has_room(&taken, 1) {
        let most = (0..holders.len())
            .filter(|n| left[*n] > holders[*n].min_containers.max(1))
            .filter_map(|n| Some((left[n], n, last_to_give(&holders[n], &chosen, &busy)?)))
            .max_by_key(|(left, n, _)| (*left, usize::MAX - n));
        let Some((_, n, task)) = most else { return Vec::new() };
        left[n] -= 1;
        taken = taken.minus(&holders[n].resources);
        busy.push(task.clone());
    }
    chosen.extend(busy);
    chosen
}

/// The newest container that is there: it has the least that is warm in it.
fn last_to_give<'a>(holder: &'a Holder, chosen: &[TaskId], busy: &[TaskId]) -> Option<&'a TaskId> {
    let there = holder.containers.iter().filter(|c| matches!(c.phase, TaskPhase::Active { .. }));
    there.map(|c| &c.task).filter(|t| !chosen.contains(t) && !busy.contains(t)).max()
}

/// Room mostly comes within this, from containers that are idle: no reason to speak.
const PATIENCE_WITHOUT_CONTAINERS_MS: Millis = 1_000;
/// A function that has containers goes on, only slower: that is told once it lasts.
const PATIENCE_WITH_CONTAINERS_MS: Millis = 10_000;

/// Whether people were told that a function waits for room: once for each wait, and only when it lasts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoomWait {
    since: Option<Millis>,
    told: bool,
}

impl RoomWait {
    /// Notes whether the function waits now. True when that is to be told.
    pub fn look(&mut self, waits: bool, has_containers: bool, now: Millis) -> bool {
        if !waits {
            *self = Self::default();
            return false;
        }
        self.since.get_or_insert(now);
        let due = self.tell_at(has_containers).is_some_and(|at| at <= now);
        self.told |= due;
        due
    }

    /// When a wait that goes on should be looked at again.
    pub fn tell_at(&self, has_containers: bool) -> Option<Millis> {
        let patience = if has_containers { PATIENCE_WITH_CONTAINERS_MS } else { PATIENCE_WITHOUT_CONTAINERS_MS };
        self.since.filter(|_| !self.told).map(|since| since.saturating_add(patience))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> TaskId {
        TaskId::parse(&format!("ta-{n:026}")).unwrap()
    }

    fn memory(memory_mib: u64) -> Resources {
        Resources { memory_mib, ..Resources::default() }
    }

    fn idle(n: usize, since: Millis) -> Held {
        Held { task: id(n), phase: TaskPhase::Active { since: 0 }, idle_since: Some(since) }
    }

    fn busy(n: usize) -> Held {
        Held { task: id(n), phase: TaskPhase::Active { since: 0 }, idle_since: None }
    }

    fn holder(min_containers: usize, containers: Vec<Held>) -> Holder {
        Holder { resources: memory(100), min_containers, containers }
    }

    /// On a machine that has `free_mib` beside what the holders have.
    fn reclaim(
        wanted_mib: u64,
        count: usize,
        held: usize,
        free_mib: u64,
        holders: &[Holder],
        now: Millis,
    ) -> Vec<TaskId> {
        let all = holders.iter().map(|holder| holder.resources.times(holder.containers.len()));
        let taken = all.fold(Resources::default(), |sum, resources| sum.plus(&resources));
        plan_reclaim(&memory(wanted_mib), count, held, (&taken.plus(&memory(free_mib)), &taken), holders, now)
    }

    #[test]
    fn a_container_of_single_use_counts_while_it_works_though_it_leaves() {
        let active = TaskPhase::Active { since: 0 };
        let containers = [(active, true), (TaskPhase::Draining, true), (TaskPhase::Draining, false)];
        assert_eq!((count_held(containers, true), count_held(containers, false)), (2, 1));
    }

    #[test]
    fn idle_containers_make_room_longest_idle_first_and_only_as_many_as_needed() {
        let holders = [holder(0, vec![idle(1, 50), busy(2)]), holder(0, vec![idle(3, 20), idle(4, 70)])];
        assert_eq!(reclaim(100, 1, 0, 0, &holders, 5_000), [id(3)]);
        assert_eq!(reclaim(100, 2, 0, 0, &holders, 5_000), [id(3), id(1)]);
        assert_eq!(reclaim(100, 2, 0, 100, &holders, 5_000), [id(3)]);
    }

    #[test]
    fn a_container_between_two_calls_is_left_alone_by_who_has_others() {
        let holders = [holder(0, vec![idle(1, 4_000)])];
        assert_eq!(reclaim(100, 1, 3, 0, &holders, 5_000), []);
        assert_eq!(reclaim(100, 1, 0, 0, &holders, 5_000), [id(1)]);
        assert_eq!(reclaim(100, 1, 3, 0, &holders, 6_000), [id(1)]);
    }

    #[test]
    fn what_is_kept_by_its_minimum_stays() {
        let holders = [holder(2, vec![idle(1, 50), idle(2, 60), idle(3, 70)])];
        assert_eq!(reclaim(100, 3, 1, 0, &holders, 5_000), [id(1)]);
    }

    #[test]
    fn a_function_without_containers_gets_a_busy_one_of_who_has_most() {
        let holders = [holder(0, vec![busy(1), busy(2)]), holder(0, vec![busy(3), busy(4), busy(5)])];
        assert_eq!(reclaim(100, 4, 0, 0, &holders, 5_000), [id(5)]);
        assert_eq!(reclaim(100, 4, 1, 0, &holders, 5_000), []);
    }

    #[test]
    fn nobody_gives_up_the_last_container_nor_one_for_nothing() {
        let last = [holder(0, vec![busy(1)]), holder(0, vec![busy(2)])];
        assert_eq!(reclaim(100, 1, 0, 0, &last, 5_000), []);
        let too_small = [holder(0, vec![busy(1), busy(2), busy(3)])];
        assert_eq!(reclaim(400, 1, 0, 0, &too_small, 5_000), []);
    }

    #[test]
    fn where_cpu_is_promised_twice_no_idle_container_goes_for_what_is_taken_all_the_same() {
        let cpu = |milli_cpu| Resources { milli_cpu, ..Resources::default() };
        let sharing = |containers| [Holder { resources: cpu(2_000), min_containers: 0, containers }];
        let plan =
            |taken, holders: &[Holder]| plan_reclaim(&cpu(2_000), 1, 1, (&cpu(2_000), &cpu(taken)), holders, 5_000);
        // The needy function's own container takes what there is.
        assert_eq!(plan(4_000, &sharing(vec![idle(1, 50)])), []);
        assert_eq!(plan(6_000, &sharing(vec![idle(1, 50), idle(2, 60)])), []);
        assert_eq!(plan(2_000, &sharing(vec![idle(1, 50)])), [id(1)]);
    }

    #[test]
    fn idle_containers_that_make_no_room_for_a_whole_one_stay() {
        let holders = [holder(0, vec![idle(1, 10), idle(2, 20), idle(3, 30)])];
        assert_eq!(reclaim(200, 2, 1, 0, &holders, 5_000), [id(1), id(2)]);
        assert_eq!(reclaim(400, 1, 1, 0, &holders, 5_000), []);
        assert_eq!(reclaim(400, 1, 0, 0, &holders, 5_000), []);
    }

    #[test]
    fn what_leaves_already_is_enough() {
        let leaving = Held { task: id(1), phase: TaskPhase::Draining, idle_since: None };
        let holders = [holder(0, vec![leaving, idle(2, 5), busy(3)])];
        assert_eq!(reclaim(100, 1, 0, 0, &holders, 5_000), []);
    }

    #[test]
    fn a_wait_for_room_is_told_once_and_only_when_it_lasts() {
        let mut wait = RoomWait::default();
        assert!(!wait.look(true, false, 5_000));
        assert_eq!((wait.tell_at(false), wait.tell_at(true)), (Some(6_000), Some(15_000)));
        assert!(!wait.look(true, true, 6_000));
        assert!(wait.look(true, false, 6_100));
        assert!(!wait.look(true, false, 9_000));
        assert_eq!(wait.tell_at(false), None);
        assert!(!wait.look(false, true, 9_500));
        assert!(!wait.look(true, false, 10_000));
        assert!(wait.look(true, false, 11_000));
    }

    fn any_holder(first: usize) -> impl Strategy<Value = Holder> {
        let one = (0usize..4, 0u64..100);
        (prop::collection::vec(one, 0..6), 0usize..3, 1u64..300).prop_map(move |(containers, min_containers, mib)| {
            let held = containers.into_iter().enumerate().map(|(n, (kind, since))| match kind {
                0 => Held { task: id(first + n), phase: TaskPhase::Draining, idle_since: None },
                1 => idle(first + n, since),
                2 => Held { task: id(first + n), phase: TaskPhase::Starting { since }, idle_since: None },
                _ => busy(first + n),
            });
            Holder { resources: memory(mib), min_containers, containers: held.collect() }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn reclaiming_keeps_every_minimum_and_is_done_once(
            holders in (any_holder(0), any_holder(10), any_holder(20)),
            count in 0usize..4, held in 0usize..2, wanted in 1u64..400, free in 0u64..200,
        ) {
            let mut holders = [holders.0, holders.1, holders.2];
            let chosen = reclaim(wanted, count, held, free, &holders, 60);
            for holder in &mut holders {
                let before = holder.containers.iter().filter(|c| c.phase != TaskPhase::Draining).count();
                for container in holder.containers.iter_mut().filter(|c| chosen.contains(&c.task)) {
                    prop_assert!(container.phase != TaskPhase::Draining);
                    container.phase = TaskPhase::Draining;
                    container.idle_since = None;
                }
                let after = holder.containers.iter().filter(|c| c.phase != TaskPhase::Draining).count();
                prop_assert!(after == before || after >= holder.min_containers);
            }
            let again = reclaim(wanted, count, held, free, &holders, 60);
            prop_assert!(again.is_empty(), "{:?} after {:?}", again, chosen);
        }
    }
}
