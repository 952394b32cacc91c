//! What the machine has left for containers, and which functions wait for room.
//!
//! Who gets room is decided by `scheduler`: in the order of fairness, by placement. A function that waits is asked again
//! whenever room comes back, and holds its place in that order only as long as it still wants a container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use calls::Millis;
use parking_lot::Mutex;
use scheduler::{Claim, PlacementRequest, Resources, WorkerView, plan_placement, sort_by_fairness};
use types::ids::{FunctionId, TaskId};
use worker_protocol::Capacity;

use crate::owner::Owner;
use crate::shared::Shared;

/// Thousandths of a core and MiB of memory.
pub type Request = (u32, u64);

pub struct CapacityPool {
    total: Resources,
    state: Mutex<State>,
    /// Read for every call, so not under the lock; one that comes a moment late is found by the next look.
    anyone_waits: AtomicBool,
    /// Counts what may have made room: as long as it stays, a refusal stands.
    changes: AtomicU64,
}

struct State {
    free: Resources,
    tasks: usize,
    waiting: BTreeMap<FunctionId, Waiting>,
}

struct Waiting {
    owner: Arc<Owner>,
    resources: Resources,
    since: Millis,
}

impl CapacityPool {
    pub fn new(total: Capacity) -> Self {
        let total = Resources { milli_cpu: u64::from(total.milli_cpu), memory_mib: total.memory_mib, gpus: 0 };
        Self {
            total,
            state: Mutex::new(State { free: total, tasks: 0, waiting: BTreeMap::new() }),
            anyone_waits: AtomicBool::new(false),
            changes: AtomicU64::new(0),
        }
    }

    /// # Errors
    /// A sentence for the user when no machine here is big enough.
    pub fn could_ever_fit(&self, request: Request) -> Result<(), String> {
        let empty = State { free: self.total, tasks: 0, waiting: BTreeMap::new() };
        let request = PlacementRequest { task: TaskId::random(), resources: resources(request) };
        match plan_placement(&[request], &[self.worker(&empty)]).unplaceable.pop() {
            Some(refused) => Err(format!("{}; lower `cpu=` or `memory=`, or add a bigger machine", refused.reason)),
            None => Ok(()),
        }
    }

    /// Sets resources aside for a container of `owner`.
    ///
    /// # Errors
    /// The reason why there is no room for it now. The function is then woken when that may have changed.
    pub fn reserve(&self, task: &TaskId, request: Request, owner: &Arc<Owner>, now: Millis) -> Result<(), String> {
        let wanted = resources(request);
        let mut state = self.state.lock();
        let since = state.waiting.get(&owner.id).map_or(now, |w| w.since);
        let others = state.waiting.iter().filter(|(id, _)| **id != owner.id);
        let mut claims: Vec<Claim> = others.map(|(_, waiting)| waiting.claim()).collect();
        claims.push(Claim { task: task.clone(), resources: wanted, held: owner.count_tasks().0, waiting_since: since });
        sort_by_fairness(&mut claims);
        let requests: Vec<PlacementRequest> =
            claims.into_iter().map(|c| PlacementRequest { task: c.task, resources: c.resources }).collect();
        let plan = plan_placement(&requests, &[self.worker(&state)]);
        if let Some(refused) = plan.unplaceable.into_iter().find(|u| u.task == *task) {
            let waiting = Waiting { owner: owner.clone(), resources: wanted, since };
            state.waiting.insert(owner.id.clone(), waiting);
            self.anyone_waits.store(true, Ordering::Relaxed);
            return Err(refused.reason);
        }
        state.free = state.free.minus(&wanted);
        state.tasks += 1;
        state.waiting.remove(&owner.id);
        self.anyone_waits.store(!state.waiting.is_empty(), Ordering::Relaxed);
        Ok(())
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
    pub fn release(&self, request: Request, shared: &Arc<Shared>) {
        {
            let mut state = self.state.lock();
            state.free = state.free.plus(&resources(request));
            state.tasks -= 1;
        }
        self.wake_waiting(shared);
    }

    pub fn free(&self) -> Resources {
        self.state.lock().free
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
            free: state.free,
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
            held: self.owner.count_tasks().0,
            waiting_since: self.since,
        }
    }
}

pub fn resources((milli_cpu, memory_mib): Request) -> Resources {
    Resources { milli_cpu: u64::from(milli_cpu), memory_mib, gpus: 0 }
}
