//! What the machine has left for containers, and which functions wait for room.
//!
//! A request for more CPU than the machine has counts as one for all of it, unless the operator forbids that CPU is
//! promised twice. Then its first container starts beside whatever runs, as every function's does, and further ones when
//! the machine's whole CPU is free: so there is mostly one at a time.
//!
//! Who gets room is decided by `scheduler`: in the order of fairness, by placement. A function that waits is asked again
//! whenever room comes back, and holds its place in that order only as long as it still wants a container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use calls::Millis;
use parking_lot::Mutex;
use scheduler::{Claim, PlacementRequest, Resources, SHARE_MILLI_CPU, WorkerView, plan_placement, sort_by_fairness};
use types::ids::{FunctionId, TaskId};
use worker_protocol::Capacity;

use crate::owner::Owner;
use crate::shared::Shared;

pub struct CapacityPool {
    total: Resources,
    /// CPU may be promised twice.
    overcommits: bool,
    state: Mutex<State>,
    /// Read for every call, so not under the lock; one that comes a moment late is found by the next look.
    anyone_waits: AtomicBool,
    /// Counts what may have made room: as long as it stays, a refusal stands.
    changes: AtomicU64,
}

struct State {
    /// By tasks; with CPU that is shared it may be more than there is.
    reserved: Resources,
    tasks: usize,
    waiting: BTreeMap<FunctionId, Waiting>,
}

struct Waiting {
    owner: Arc<Owner>,
    resources: Resources,
    since: Millis,
}

impl CapacityPool {
    pub fn new(total: Capacity, overcommits: bool) -> Self {
        let Capacity { milli_cpu, memory_mib, disk_mib } = total;
        Self {
            total: Resources { milli_cpu: u64::from(milli_cpu), memory_mib, disk_mib, gpus: 0 },
            overcommits,
            state: Mutex::new(State { reserved: Resources::default(), tasks: 0, waiting: BTreeMap::new() }),
            anyone_waits: AtomicBool::new(false),
            changes: AtomicU64::new(0),
        }
    }

    /// # Errors
    /// A sentence for the user when no machine here is big enough.
    pub fn could_ever_fit(&self, request: Resources) -> Result<(), String> {
        let empty = State { reserved: Resources::default(), tasks: 0, waiting: BTreeMap::new() };
        let resources = self.what_there_is_of(request);
        let asked = self.placement_request(TaskId::random(), resources, 0);
        match plan_placement(&[asked], &[self.worker(&empty)]).unplaceable.pop() {
            Some(refused) => {
                let options = lacking_options(&resources, &self.total).join(" and ");
                Err(format!("{}; lower {options}, or use a bigger machine", refused.reason))
            }
            None => Ok(()),
        }
    }

    /// The machine's CPU, in thousandths of a core.
    pub fn milli_cpu(&self) -> u64 {
        self.total.milli_cpu
    }

    /// A request for more CPU than there is counts as one for all of it.
    fn what_there_is_of(&self, request: Resources) -> Resources {
        let milli_cpu = if self.overcommits { request.milli_cpu.min(self.total.milli_cpu) } else { request.milli_cpu };
        Resources { milli_cpu, ..request }
    }

    /// The first container of a function need not wait for CPU.
    fn placement_request(&self, task: TaskId, resources: Resources, held: usize) -> PlacementRequest {
        PlacementRequest { task, resources, shares_cpu: self.shares_cpu(held) }
    }

    /// Sets resources aside for a container of `owner`; answers with what they are.
    ///
    /// # Errors
    /// The reason why there is no room for it now. The function is then woken when that may have changed.
    pub fn reserve(
        &self,
        task: &TaskId,
        request: Resources,
        owner: &Arc<Owner>,
        now: Millis,
    ) -> Result<Resources, String> {
        let wanted = self.what_there_is_of(request);
        let mut state = self.state.lock();
        let since = state.waiting.get(&owner.id).map_or(now, |w| w.since);
        let others = state.waiting.iter().filter(|(id, _)| **id != owner.id);
        let mut claims: Vec<Claim> = others.map(|(_, waiting)| waiting.claim()).collect();
        claims.push(Claim { task: task.clone(), resources: wanted, held: owner.count_held(), waiting_since: since });
        sort_by_fairness(&mut claims);
        let requests: Vec<PlacementRequest> =
            claims.into_iter().map(|c| self.placement_request(c.task, c.resources, c.held)).collect();
        let plan = plan_placement(&requests, &[self.worker(&state)]);
        if let Some(refused) = plan.unplaceable.into_iter().find(|u| u.task == *task) {
            let waiting = Waiting { owner: owner.clone(), resources: wanted, since };
            state.waiting.insert(owner.id.clone(), waiting);
            self.anyone_waits.store(true, Ordering::Relaxed);
            return Err(refused.reason);
        }
        state.reserved = state.reserved.plus(&wanted);
        state.tasks += 1;
        state.waiting.remove(&owner.id);
        self.anyone_waits.store(!state.waiting.is_empty(), Ordering::Relaxed);
        Ok(wanted)
    }

    /// The function wants no container any more; whoever stood behind it is woken.
    pub fn stop_waiting(&self, function: &FunctionId, shared: &Arc<Shared>) {
        let waited = {
            let mut state = self.state.lock();
            let waited = state.waiting.remove(function).is_some();
            self.anyone_waits.store(!state.waiting.is_empty(), Ordering::Relaxed);
            waited
        };
        if waited {
            self.wake_waiting(shared);
        }
    }

    /// Gives resources back and wakes who waits.
    pub fn release(&self, reserved: Resources, shared: &Arc<Shared>) {
        {
            let mut state = self.state.lock();
            state.reserved = state.reserved.minus(&reserved);
            state.tasks -= 1;
        }
        self.wake_waiting(shared);
    }

    pub fn total(&self) -> Resources {
        self.total
    }

    /// What is taken for a function with `held` containers, in the terms of [`Self::counted`]; of CPU it may be more than
    /// there is.
    pub fn taken(&self, held: usize) -> Resources {
        let state = self.state.lock();
        if !self.shares_cpu(held) {
            return state.reserved;
        }
        Resources { milli_cpu: state.tasks as u64 * SHARE_MILLI_CPU, ..state.reserved }
    }

    /// What a container's resources count for when room is looked for, for a function with `held` containers: its first
    /// shares CPU with all others, so that each counts as a share.
    pub fn counted(&self, resources: Resources, held: usize) -> Resources {
        let resources = self.what_there_is_of(resources);
        let milli_cpu = if self.shares_cpu(held) { SHARE_MILLI_CPU } else { resources.milli_cpu };
        Resources { milli_cpu, ..resources }
    }

    fn shares_cpu(&self, held: usize) -> bool {
        self.overcommits && held == 0
    }

    /// A container has nothing to do any more: it may make place.
    pub fn on_idle(&self, shared: &Arc<Shared>) {
        if self.anyone_waits.load(Ordering::Relaxed) {
            self.wake_waiting(shared);
        }
    }

    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn wake_waiting(&self, shared: &Arc<Shared>) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let waiting: Vec<Arc<Owner>> = self.state.lock().waiting.values().map(|w| w.owner.clone()).collect();
        for owner in waiting {
            owner.wake(shared);
        }
    }

    /// The one worker there is. It sets no limit on the number of containers.
    fn worker(&self, state: &State) -> WorkerView {
        WorkerView {
            id: "local".to_owned(),
            capacity: self.total,
            free: self.total.minus(&state.reserved),
            tasks: state.tasks,
            max_tasks: usize::MAX,
        }
    }
}

impl Waiting {
    fn claim(&self) -> Claim {
        Claim {
            task: TaskId::random(),
            resources: self.resources,
            held: self.owner.count_held(),
            waiting_since: self.since,
        }
    }
}

/// Options of a function that ask for more than `there` is.
fn lacking_options(wanted: &Resources, there: &Resources) -> Vec<&'static str> {
    let options = [
        (wanted.memory_mib > there.memory_mib, "`memory=`"),
        (wanted.disk_mib > there.disk_mib, "`ephemeral_disk=`"),
        (wanted.milli_cpu > there.milli_cpu, "`cpu=`"),
    ];
    options.into_iter().filter(|(is_lacking, _)| *is_lacking).map(|(_, option)| option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Capacity = Capacity { milli_cpu: 2_000, memory_mib: 8 << 10, disk_mib: 200 << 10 };

    fn wanted(milli_cpu: u64, memory_mib: u64, disk_mib: u64) -> Resources {
        Resources { milli_cpu, memory_mib, disk_mib, gpus: 0 }
    }

    #[test]
    fn more_cpu_than_there_is_can_run_unless_the_operator_forbids_it() {
        assert_eq!(CapacityPool::new(MACHINE, true).could_ever_fit(wanted(4_000, 128, 0)), Ok(()));
        let refused = CapacityPool::new(MACHINE, false).could_ever_fit(wanted(4_000, 128, 0)).unwrap_err();
        assert_eq!(refused, "it asks for 4 CPU; this machine has 2 CPU; lower `cpu=`, or use a bigger machine");
    }

    #[test]
    fn more_memory_or_disk_than_there_is_can_never_run() {
        let refused = CapacityPool::new(MACHINE, true).could_ever_fit(wanted(125, 9 << 10, 2_560 << 10)).unwrap_err();
        assert_eq!(
            refused,
            "it asks for 9 GiB memory and 2560 GiB disk; this machine has 8 GiB and 200 GiB; lower `memory=` and \
             `ephemeral_disk=`, or use a bigger machine"
        );
    }

    #[test]
    fn a_first_container_is_counted_as_a_share_and_a_further_one_as_what_it_asks_for() {
        let pool = CapacityPool::new(MACHINE, true);
        pool.state.lock().reserved = wanted(3_000, 1_024, 0);
        pool.state.lock().tasks = 2;
        let large = wanted(4_000, 256, 0);
        assert_eq!((pool.counted(large, 0).milli_cpu, pool.taken(0).milli_cpu), (125, 250));
        assert_eq!((pool.counted(large, 1).milli_cpu, pool.taken(1).milli_cpu), (2_000, 3_000));
    }
}
