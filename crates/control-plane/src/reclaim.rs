//! Room that does not come back by itself: containers of other functions leave for those that wait.
//!
//! One loop looks for all, when a function begins to wait, when a container becomes idle, when room has come back, and
//! from time to time while anyone waits, since what is idle may have been so for long enough. Functions that want the same
//! are looked at once, and after a look the loop rests for as long as keeps a thousand different ones within a percent or
//! two of a core.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use calls::Millis;
use scheduler::{Claim, Held, Holder, Resources, TaskPhase, is_idle_enough, plan_reclaim};
use types::ids::{FunctionId, TaskId};

use crate::capacity::Waits;
use crate::clock::steady_ms;
use crate::shared::Shared;

/// What others have may have become idle for long enough.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the functions with containers have, in the middle of a look.
struct Others {
    functions: Vec<FunctionId>,
    /// For each of them: what one container has reserved.
    reserved: Vec<Resources>,
    holders: Vec<Holder>,
}

impl Shared {
    pub async fn reclaim_loop(self: Arc<Self>) {
        loop {
            let wanted = self.capacity.room_is_wanted.notified();
            match self.capacity.anyone_waits() {
                true => drop(tokio::time::timeout(LOOK_EVERY, wanted).await),
                false => wanted.await,
            }
            let rest = self.reclaim(steady_ms());
            tokio::time::sleep(rest).await;
        }
    }

    /// Lets containers go for those that wait. Answers with how long to rest.
    fn reclaim(self: &Arc<Self>, now: Millis) -> Duration {
        let waiting = self.capacity.waiting();
        if waiting.is_empty() {
            return Duration::ZERO;
        }
        let mut others = self.others();
        let is_anything_idle = others.has_idle(now);
        let (mut looks, mut looked_for) = (0, HashSet::new());
        for Waits { function, claim, count } in &waiting {
            // One that has containers takes nothing but what is idle. For those without any, what others have is the same.
            let has_a_chance = if claim.held > 0 { is_anything_idle } else { looked_for.insert((claim.shape, *count)) };
            if !has_a_chance {
                continue;
            }
            looks += 1;
            for task in self.plan_reclaim(function, claim, *count, &mut others, now) {
                if let Some(task) = self.tasks.get(&task) {
                    task.owner.drain_task(self, &task.id);
                }
            }
        }
        rest_after(waiting.len(), others.count(), looks)
    }

    fn plan_reclaim(
        &self,
        function: &FunctionId,
        claim: &Claim,
        count: usize,
        others: &mut Others,
        now: Millis,
    ) -> Vec<TaskId> {
        let held = claim.held;
        for (holder, reserved) in others.holders.iter_mut().zip(&others.reserved) {
            holder.resources = self.capacity.counted(*reserved, held);
        }
        let wanted = self.capacity.counted(claim.shape.resources, held);
        let (there, taken) = (self.capacity.total(), self.capacity.taken(held));
        // None of its own goes for it.
        let own = others.functions.iter().position(|known| known == function);
        let keep = |others: &mut Others, least: usize| {
            own.map_or(0, |n| std::mem::replace(&mut others.holders[n].min_containers, least))
        };
        let least = keep(others, usize::MAX);
        let chosen = plan_reclaim(&wanted, count, held, (&there, &taken), &others.holders, now);
        keep(others, least);
        others.leave(&chosen);
        chosen
    }

    fn others(&self) -> Others {
        let mut by_function: BTreeMap<FunctionId, Vec<_>> = BTreeMap::new();
        for task in self.tasks.all() {
            by_function.entry(task.owner.id.clone()).or_default().push(task);
        }
        let mut others = Others { functions: Vec::new(), reserved: Vec::new(), holders: Vec::new() };
        for (function, tasks) in by_function {
            let (owner, reserved) = (tasks[0].owner.clone(), tasks[0].reserved);
            others.functions.push(function);
            others.reserved.push(reserved);
            others.holders.push(Holder {
                resources: reserved,
                min_containers: owner.scaling().min as usize,
                containers: tasks.iter().filter_map(|task| owner.held(&task.id)).collect(),
            });
        }
        others
    }
}

impl Others {
    fn containers(&self) -> impl Iterator<Item = &Held> {
        self.holders.iter().flat_map(|holder| &holder.containers)
    }

    fn count(&self) -> usize {
        self.holders.iter().map(|holder| holder.containers.len()).sum()
    }

    fn has_idle(&self, now: Millis) -> bool {
        self.containers().any(|held| held.phase != TaskPhase::Draining && is_idle_enough(held, now))
    }

    /// They make room for whoever comes next, too: as much as is wanted at once comes back one after the other.
    fn leave(&mut self, chosen: &[TaskId]) {
        for held in self.holders.iter_mut().flat_map(|holder| &mut holder.containers) {
            if chosen.contains(&held.task) {
                *held = Held { phase: TaskPhase::Draining, idle_since: None, ..held.clone() };
            }
        }
    }
}

/// At least fifty times what a look takes: about half a microsecond for each function that waits and each container, and
/// for each plan a tenth of a microsecond for each container.
fn rest_after(waiting: usize, containers: usize, plans: usize) -> Duration {
    let micros = (waiting + containers) * 40 + plans * (10 + containers) * 5;
    Duration::from_micros(5_000 + micros as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_followed_by_a_rest_that_grows_with_its_work() {
        assert_eq!(rest_after(1, 10, 1), Duration::from_micros(5_540));
        assert_eq!(rest_after(1_000, 16, 1), Duration::from_micros(45_770));
        assert_eq!(rest_after(1_000, 50, 1_000), Duration::from_micros(347_000));
    }
}
