//! What the machine has left for containers, and which functions wait for room.
//!
//! A request for more CPU than the machine has counts as one for all of it, unless the operator forbids that CPU is
//! promised twice. Then its first container starts beside whatever runs, as every function's does, and further ones when
//! the machine's whole CPU is free: so there is mostly one at a time.
//!
//! Who gets room is decided by `scheduler`: in the order of fairness, by placement. A function that waits holds its place
//! in that order as long as it wants a container, and does nothing: when room comes back, that is planned once, and
//! those are woken who get it. For room that does not come back by itself see [`reclaim`](crate::reclaim).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use calls::Millis;
use parking_lot::Mutex;
use scheduler::{Claim, PlacementRequest, Resources, RoomQueue, SHARE_MILLI_CPU, Shape, WorkerView, plan_placement};
use tokio::sync::Notify;
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
    /// Others may have to make room.
    pub room_is_wanted: Notify,
}

#[derive(Default)]
struct State {
    /// By tasks; with CPU that is shared it may be more than there is.
    reserved: Resources,
    tasks: usize,
    queue: RoomQueue<FunctionId>,
    waiting: HashMap<FunctionId, Waiting>,
}

/// A function in the queue.
struct Waiting {
    owner: Arc<Owner>,
    /// How many containers it wants.
    count: usize,
    /// There was room for it when this was last planned: it is about to ask.
    woken: bool,
}

/// A function that waits, as [`reclaim`](crate::reclaim) sees it.
pub struct Waits {
    pub function: FunctionId,
    pub claim: Claim,
    /// How many containers it wants.
    pub count: usize,
}

impl CapacityPool {
    pub fn new(total: Capacity, overcommits: bool) -> Self {
        let Capacity { milli_cpu, memory_mib, disk_mib } = total;
        Self {
            total: Resources { milli_cpu: u64::from(milli_cpu), memory_mib, disk_mib, gpus: 0 },
            overcommits,
            state: Mutex::default(),
            anyone_waits: AtomicBool::new(false),
            room_is_wanted: Notify::new(),
        }
    }

    /// # Errors
    /// A sentence for the user when no machine here is big enough.
    pub fn could_ever_fit(&self, request: Resources) -> Result<(), String> {
        let shape = self.shape(request, 0);
        let asked = PlacementRequest { task: TaskId::random(), shape };
        match plan_placement(&[asked], &[self.worker(&State::default())]).unplaceable.pop() {
            Some(refused) => {
                let options = lacking_options(&shape.resources, &self.total).join(" and ");
                Err(format!("{}; lower {options}, or use a bigger machine", refused.why.reason))
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

    /// Of another container of a function with `held`: the first need not wait for CPU.
    fn shape(&self, request: Resources, held: usize) -> Shape {
        Shape { resources: self.what_there_is_of(request), shares_cpu: self.shares_cpu(held) }
    }

    /// Sets resources aside for a container of `owner`, which wants `count` of them; answers with what they are.
    ///
    /// `None` when there is no room for it now; the function is then woken when there is.
    pub fn reserve(&self, request: Resources, owner: &Arc<Owner>, count: usize, now: Millis) -> Option<Resources> {
        let held = owner.count_held();
        let claim = Claim { shape: self.shape(request, held), held };
        let mut state = self.state.lock();
        let has_room = state.queue.ask(&owner.id, claim, now, &[self.worker(&state)]).is_ok();
        if !has_room {
            state.queue.wait(&owner.id, claim, now);
            let waiting = Waiting { owner: owner.clone(), count, woken: false };
            state.waiting.insert(owner.id.clone(), waiting);
        } else {
            state.reserved = state.reserved.plus(&claim.shape.resources);
            state.tasks += 1;
            state.stop_waiting(&owner.id);
        }
        self.anyone_waits.store(!state.waiting.is_empty(), Ordering::Relaxed);
        drop(state);
        if !has_room {
            self.room_is_wanted.notify_one();
        }
        has_room.then_some(claim.shape.resources)
    }

    /// Whether the function waits, wants what it wanted, and has not been woken: there is no room for it, then.
    pub fn still_waits(&self, owner: &Owner, request: Resources, count: usize) -> bool {
        if !self.anyone_waits.load(Ordering::Relaxed) {
            return false;
        }
        let held = owner.count_held();
        let claim = Claim { shape: self.shape(request, held), held };
        let mut state = self.state.lock();
        let is_same = state.queue.claim(&owner.id) == Some(claim);
        let waiting = state.waiting.get_mut(&owner.id).filter(|waiting| is_same && !waiting.woken);
        waiting.map(|waiting| waiting.count = count).is_some()
    }

    /// Why the function waits, as things are by now.
    pub fn why_it_waits(&self, function: &FunctionId, now: Millis) -> Option<String> {
        let state = self.state.lock();
        let claim = state.queue.claim(function)?;
        state.queue.ask(function, claim, now, &[self.worker(&state)]).err()
    }

    /// The function wants no container any more; whoever stood behind it may get one.
    pub fn stop_waiting(&self, function: &FunctionId, shared: &Arc<Shared>) {
        if !self.anyone_waits.load(Ordering::Relaxed) {
            return;
        }
        let waited = {
            let mut state = self.state.lock();
            let waited = state.stop_waiting(function);
            self.anyone_waits.store(!state.waiting.is_empty(), Ordering::Relaxed);
            waited
        };
        if waited {
            self.wake_winners(shared);
        }
    }

    /// Gives resources back, and wakes who gets them.
    pub fn release(&self, reserved: Resources, shared: &Arc<Shared>) {
        {
            let mut state = self.state.lock();
            state.reserved = state.reserved.minus(&reserved);
            state.tasks -= 1;
        }
        if self.anyone_waits.load(Ordering::Relaxed) {
            self.wake_winners(shared);
        }
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
    pub fn on_idle(&self) {
        if self.anyone_waits.load(Ordering::Relaxed) {
            self.room_is_wanted.notify_one();
        }
    }

    /// Those that wait, in the order in which they get room.
    pub fn waiting(&self) -> Vec<Waits> {
        let state = self.state.lock();
        let of = |function: &FunctionId| {
            let (waiting, claim) = (state.waiting.get(function)?, state.queue.claim(function)?);
            Some(Waits { function: function.clone(), claim, count: waiting.count })
        };
        state.queue.in_order().iter().filter_map(of).collect()
    }

    pub fn anyone_waits(&self) -> bool {
        self.anyone_waits.load(Ordering::Relaxed)
    }

    fn wake_winners(&self, shared: &Arc<Shared>) {
        let woken: Vec<Arc<Owner>> = {
            let mut state = self.state.lock();
            let winners = state.queue.winners(&[self.worker(&state)]);
            let mut wake = |function: &FunctionId| {
                let waiting = state.waiting.get_mut(function).filter(|waiting| !waiting.woken)?;
                waiting.woken = true;
                Some(waiting.owner.clone())
            };
            winners.iter().filter_map(&mut wake).collect()
        };
        for owner in woken {
            owner.wake(shared);
        }
        // What is left of the others' room may have become enough for somebody.
        self.room_is_wanted.notify_one();
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

impl State {
    fn stop_waiting(&mut self, function: &FunctionId) -> bool {
        self.waiting.remove(function);
        self.queue.leave(function)
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
    use std::time::Duration;

    use client_protocol::wire;

    use super::*;
    use crate::clock::steady_ms;
    use crate::testing::{IMAGE, Site, eventually};

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

    /// Functions of one app, each with a call that waits for a container.
    async fn functions_with_work(site: &Site, count: usize) -> Vec<Arc<Owner>> {
        let app = site.app(wire::AppState::Ephemeral).await;
        let published = site.publish(&app, wire::AppState::Ephemeral, IMAGE).await.unwrap();
        let definition = site.shared().owners.get(&FunctionId::parse(&published).unwrap()).unwrap().definition();
        let function = |n: usize| {
            let (id, tag) = (FunctionId::random(), format!("work-{n}"));
            let owner = Arc::new(Owner::new(id.clone(), tag, app.clone(), definition.clone(), steady_ms()));
            site.shared().owners.insert(id, owner.clone());
            owner
        };
        let owners: Vec<Arc<Owner>> = (0..count).map(function).collect();
        for owner in &owners {
            site.call(owner.id.as_str(), true).await.unwrap();
        }
        owners
    }

    #[tokio::test]
    async fn of_a_thousand_functions_that_wait_only_those_are_woken_that_get_room() {
        const WAITING: usize = 1_000;
        let site = Site::start().await;
        let pool = &site.shared().capacity;
        // Somebody has the whole machine.
        pool.state.lock().reserved = pool.total();
        let owners = functions_with_work(&site, WAITING).await;
        let waits = |owner: &Owner| pool.state.lock().waiting.contains_key(&owner.id);
        eventually("that all wait", async || owners.iter().all(|owner| waits(owner))).await;
        let looks = || -> u64 { owners.iter().map(|owner| owner.looks.load(Ordering::Relaxed)).sum() };
        // Each says once in the log that it waits, and its call is written down, as it lasts.
        eventually("that all have told, and are quiet", async || {
            let looks_before = looks();
            tokio::time::sleep(Duration::from_millis(300)).await;
            owners.iter().all(|owner| owner.has_told_that_it_waits()) && looks() == looks_before
        })
        .await;
        let before = looks();
        for _ in 0..100 {
            pool.on_idle();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(looks() - before, 0, "nobody has room, and nobody is woken");

        let each = owners[0].definition().request();
        {
            let mut state = pool.state.lock();
            state.reserved = state.reserved.minus(&each.times(3));
            state.tasks += 1;
        }
        pool.release(Resources::default(), site.shared());
        eventually("that there are three containers", async || site.started() == 3).await;
        assert_eq!(owners.iter().filter(|owner| waits(owner)).count(), WAITING - 3);
        let woken = owners.iter().filter(|owner| !waits(owner)).count() as u64;
        // A look for the room, and those for what the container does.
        assert!(looks() - before <= woken * 5, "{}", looks() - before);
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
