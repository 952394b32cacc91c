//! Which worker gets a container. A request reserves its CPU, memory and disk: nothing is promised twice, so that what a
//! function asks for means what it says under load too.
//!
//! CPU is the exception where the operator allows it: memory that is not there cannot be used, but CPU can be shared. A
//! request that may share CPU never waits for it, so that a function that calls another one is never the reason why
//! that one cannot start. Only the first container of a function may, and only up to [`SHARE_MILLI_CPU`] for each
//! container on the worker: more containers of a function are worth nothing without CPU of their own. Rejected: to clamp
//! large requests to the machine and do no more, since one that fills the machine then waits for its own caller.
//!
//! Requests are taken in order, each by the worker with the least room that fits: small requests then fill the gaps,
//! and a large one finds a whole machine more often. Rejected: spreading, which leaves every machine half full.
//!
//! A request that no worker could hold even when empty is told so at once, with the numbers; any other waits. One
//! that waits does not block those behind it: a queue for one GPU should not hold back CPU work. A large request can
//! therefore wait long behind many small ones; the cure, if it is ever needed, is a reservation per request.

use std::fmt;

use types::ids::TaskId;
use types::words::counted;

/// A worker's name within the cluster.
pub type WorkerId = String;

/// What a container asks for and a worker has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resources {
    pub milli_cpu: u64,
    pub memory_mib: u64,
    /// Of containers with a limit on it.
    pub disk_mib: u64,
    pub gpus: u32,
}

impl Resources {
    pub fn fits_in(&self, room: &Self) -> bool {
        self.milli_cpu <= room.milli_cpu
            && self.memory_mib <= room.memory_mib
            && self.disk_mib <= room.disk_mib
            && self.gpus <= room.gpus
    }

    pub fn plus(&self, other: &Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_add(other.milli_cpu),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_mib: self.disk_mib.saturating_add(other.disk_mib),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }

    pub fn times(&self, count: usize) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_mul(count as u64),
            memory_mib: self.memory_mib.saturating_mul(count as u64),
            disk_mib: self.disk_mib.saturating_mul(count as u64),
            gpus: self.gpus.saturating_mul(count as u32),
        }
    }

    /// What of this does not fit, in words, beside how much of the same there is.
    fn lacking(&self, room: &Self) -> (String, String) {
        let mut pairs = Vec::new();
        if self.memory_mib > room.memory_mib {
            pairs.push((memory(self.memory_mib), gibibytes(room.memory_mib)));
        }
        if self.disk_mib > room.disk_mib {
            pairs.push((format!("{} disk", gibibytes(self.disk_mib)), gibibytes(room.disk_mib)));
        }
        if self.milli_cpu > room.milli_cpu {
            pairs.push((cpu(self.milli_cpu), cpu(room.milli_cpu)));
        }
        if self.gpus > room.gpus {
            pairs.push((format!("{} GPU", self.gpus), format!("{} GPU", room.gpus)));
        }
        let (wanted, there): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        (wanted.join(" and "), there.join(" and "))
    }

    pub fn minus(&self, other: &Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_sub(other.milli_cpu),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            disk_mib: self.disk_mib.saturating_sub(other.disk_mib),
            gpus: self.gpus.saturating_sub(other.gpus),
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", cpu(self.milli_cpu), memory(self.memory_mib))?;
        if self.gpus > 0 {
            write!(f, " and {} GPU", self.gpus)?;
        }
        Ok(())
    }
}

/// What a container gets done with in the worst case. With eight to a core, a machine full of sharing containers is as
/// full as one with that many ordinary ones, whose `cpu=` is this unless it is chosen.
pub const SHARE_MILLI_CPU: u64 = 125;

fn cpu(milli_cpu: u64) -> String {
    format!("{} CPU", milli_cpu as f64 / 1000.0)
}

fn memory(mib: u64) -> String {
    format!("{} memory", gibibytes(mib))
}

fn gibibytes(mib: u64) -> String {
    if mib < 1024 {
        return format!("{mib} MiB");
    }
    // One decimal: nobody waits for the second.
    format!("{} GiB", (mib as f64 / 102.4).floor() / 10.0)
}

/// What decides whether a container fits: two of the same shape fit or do not fit alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    pub resources: Resources,
    /// It need not have its CPU to itself.
    pub shares_cpu: bool,
}

impl Shape {
    /// What must be free on a worker that may take `sharing` more containers that share CPU.
    fn needs(&self, sharing: usize) -> Resources {
        let milli_cpu = if self.shares_cpu && sharing > 0 { 0 } else { self.resources.milli_cpu };
        Resources { milli_cpu, ..self.resources }
    }

    fn could_fit_in(&self, worker: &WorkerView) -> bool {
        worker.max_tasks > 0 && self.needs(worker.places_to_share()).fits_in(&worker.capacity)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementRequest {
    pub task: TaskId,
    pub shape: Shape,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    pub id: WorkerId,
    pub capacity: Resources,
    /// Capacity less what is reserved.
    pub free: Resources,
    pub tasks: usize,
    pub max_tasks: usize,
}

impl WorkerView {
    /// How many containers may share its CPU when it is empty.
    fn places_to_share(&self) -> usize {
        usize::try_from(self.capacity.milli_cpu / SHARE_MILLI_CPU).unwrap_or(usize::MAX)
    }
}

/// What a worker has left in the middle of planning.
#[derive(Debug, Clone, Copy)]
struct Room {
    resources: Resources,
    tasks: usize,
    sharing: usize,
}

impl Room {
    fn of(worker: &WorkerView) -> Self {
        Self {
            resources: worker.free,
            tasks: worker.max_tasks.saturating_sub(worker.tasks),
            sharing: worker.places_to_share().saturating_sub(worker.tasks),
        }
    }

    fn holds(&self, shape: &Shape) -> bool {
        self.tasks > 0 && shape.needs(self.sharing).fits_in(&self.resources)
    }

    fn take(&mut self, shape: &Shape) {
        self.resources = self.resources.minus(&shape.resources);
        self.tasks -= 1;
        self.sharing = self.sharing.saturating_sub(1);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub task: TaskId,
    pub worker: WorkerId,
}

/// Why a container finds no worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    /// No worker could ever hold it, however long it waits.
    pub never: bool,
    /// A sentence for people.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaceable {
    pub task: TaskId,
    pub why: NoRoom,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacementPlan {
    pub placements: Vec<Placement>,
    pub unplaceable: Vec<Unplaceable>,
}

/// Gives each request a worker, or the reason why it has none.
pub fn plan_placement(requests: &[PlacementRequest], workers: &[WorkerView]) -> PlacementPlan {
    let mut rooms = Rooms::of(workers);
    let mut plan = PlacementPlan::default();
    for PlacementRequest { task, shape } in requests {
        let task = task.clone();
        match rooms.take(shape) {
            Ok(worker) => plan.placements.push(Placement { task, worker: worker.id.clone() }),
            Err(refused) => plan.unplaceable.push(Unplaceable { task, why: refused.explain() }),
        }
    }
    plan
}

/// What the workers have left in the middle of planning.
#[derive(Debug)]
pub(crate) struct Rooms<'a> {
    /// In the order of `workers`.
    rooms: Vec<Room>,
    workers: &'a [WorkerView],
    #[cfg(test)]
    asked: usize,
}

/// A shape that finds no room, which can say why: most of those who wait are not asked.
pub(crate) struct Refused<'r, 'a> {
    rooms: &'r Rooms<'a>,
    shape: Shape,
}

impl<'a> Rooms<'a> {
    pub(crate) fn of(workers: &'a [WorkerView]) -> Self {
        Self {
            rooms: workers.iter().map(Room::of).collect(),
            workers,
            #[cfg(test)]
            asked: 0,
        }
    }

    /// How often room was asked for.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    /// The worker with the least room that fits, which has less then.
    pub(crate) fn take(&mut self, shape: &Shape) -> Result<&'a WorkerView, Refused<'_, 'a>> {
        #[cfg(test)]
        {
            self.asked += 1;
        }
        let fits = self.rooms.iter_mut().zip(self.workers).filter(|(room, _)| room.holds(shape));
        let best = fits.min_by_key(|(Room { resources: room, .. }, worker)| {
            (!shape.resources.fits_in(room), room.gpus, room.memory_mib, room.milli_cpu, worker.id.as_str())
        });
        match best {
            Some((room, worker)) => {
                room.take(shape);
                Ok(worker)
            }
            None => Err(Refused { rooms: self, shape: *shape }),
        }
    }
}

impl Refused<'_, '_> {
    /// Beside the room that those before it left.
    pub(crate) fn explain(&self) -> NoRoom {
        let (shape, workers) = (&self.shape, self.rooms.workers);
        let wanted = &shape.resources;
        let possible = workers.iter().zip(&self.rooms.rooms).filter(|(worker, _)| shape.could_fit_in(worker));
        let emptiest = possible.max_by_key(|(worker, room)| {
            let room = &room.resources;
            (room.gpus.min(wanted.gpus), room.memory_mib.min(wanted.memory_mib), room.milli_cpu, worker.id.as_str())
        });
        let biggest = workers
            .iter()
            .max_by_key(|w| (w.capacity.gpus.min(wanted.gpus), w.capacity.memory_mib, w.capacity.milli_cpu));
        let (never, reason) = match (emptiest, biggest) {
            (_, None) => (false, format!("waiting for a worker with {wanted}; none is connected")),
            (Some((worker, room)), _) if Room::of(worker).holds(shape) && room.tasks > 0 => {
                let (wanted, _) = shape.needs(room.sharing).lacking(&room.resources);
                (false, format!("waiting for {wanted}; functions with fewer containers get theirs first"))
            }
            (Some((_, room)), _) if !shape.needs(room.sharing).fits_in(&room.resources) => {
                let (wanted, there) = shape.needs(room.sharing).lacking(&room.resources);
                (false, format!("waiting for {wanted}; worker has {there} free"))
            }
            (Some((worker, _)), _) => {
                let running = counted(worker.tasks, "container");
                (false, format!("waiting for a place; worker runs {running}, the most it may"))
            }
            (None, Some(worker)) => {
                let (wanted, there) = shape.needs(worker.places_to_share()).lacking(&worker.capacity);
                let reason = match workers.len() {
                    1 => format!("it asks for {wanted}; this machine has {there}"),
                    _ => format!("it asks for {wanted}; the biggest machine has {there}"),
                };
                (true, reason)
            }
        };
        NoRoom { never, reason }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resources(milli_cpu: u64, memory_mib: u64, gpus: u32) -> Resources {
        Resources { milli_cpu, memory_mib, gpus, disk_mib: 0 }
    }

    fn request(n: usize, resources: Resources) -> PlacementRequest {
        PlacementRequest {
            task: TaskId::parse(&format!("ta-{n:026}")).unwrap(),
            shape: Shape { resources, shares_cpu: false },
        }
    }

    fn sharing(n: usize, resources: Resources) -> PlacementRequest {
        PlacementRequest { shape: Shape { resources, shares_cpu: true }, ..request(n, resources) }
    }

    fn worker(id: &str, capacity: Resources) -> WorkerView {
        WorkerView { id: id.to_owned(), capacity, free: capacity, tasks: 0, max_tasks: 100 }
    }

    #[test]
    fn a_request_goes_to_the_fullest_worker_that_has_room() {
        let mut half = worker("half", resources(4_000, 8_192, 0));
        half.free = resources(2_000, 4_096, 0);
        let empty = worker("empty", resources(4_000, 8_192, 0));
        let requests = [request(1, resources(1_000, 1_024, 0)), request(2, resources(3_000, 1_024, 0))];
        let plan = plan_placement(&requests, &[empty, half]);
        let workers: Vec<&str> = plan.placements.iter().map(|p| p.worker.as_str()).collect();
        assert_eq!(workers, ["half", "empty"]);
    }

    #[test]
    fn cpu_work_stays_off_workers_with_gpus_while_others_have_room() {
        let workers = [worker("gpu", resources(4_000, 4_096, 1)), worker("plain", resources(8_000, 16_384, 0))];
        let plan = plan_placement(&[request(1, resources(1_000, 512, 0))], &workers);
        assert_eq!(plan.placements[0].worker, "plain");
    }

    #[test]
    fn a_request_larger_than_every_worker_is_told_so_with_the_biggest_worker() {
        let workers = [worker("small", resources(2_000, 2_048, 0)), worker("big", resources(4_000, 8_192, 0))];
        let plan = plan_placement(&[request(1, resources(1_000, 65_536, 0))], &workers);
        assert!(plan.unplaceable[0].why.never);
        assert_eq!(plan.unplaceable[0].why.reason, "it asks for 64 GiB memory; the biggest machine has 8 GiB");
        let disk = Resources { disk_mib: 2_560 << 10, ..Resources::default() };
        let only =
            WorkerView { capacity: Resources { disk_mib: 250 << 10, ..Resources::default() }, ..workers[0].clone() };
        let plan = plan_placement(&[request(1, disk)], &[only]);
        assert_eq!(plan.unplaceable[0].why.reason, "it asks for 2560 GiB disk; this machine has 250 GiB");
    }

    #[test]
    fn who_may_share_cpu_waits_for_memory_only_and_not_behind_its_caller() {
        let mut only = worker("only", resources(2_000, 8_192, 0));
        only.free = resources(1_875, 8_064, 0);
        only.tasks = 1;
        let requests = [sharing(1, resources(4_000, 512, 0)), sharing(2, resources(125, 512, 0))];
        assert_eq!(plan_placement(&requests, &[only.clone()]).placements.len(), 2);
        let plan = plan_placement(&[sharing(1, resources(4_000, 8_192, 0))], &[only.clone()]);
        assert_eq!(plan.unplaceable[0].why.reason, "waiting for 8 GiB memory; worker has 7.8 GiB free");
        let strict = plan_placement(&[request(1, resources(2_000, 512, 0))], &[only]);
        assert_eq!(strict.unplaceable[0].why.reason, "waiting for 2 CPU; worker has 1.875 CPU free");
    }

    #[test]
    fn cpu_is_shared_by_eight_containers_a_core_and_no_more() {
        let empty = worker("only", resources(2_000, 8_192, 0));
        let requests: Vec<_> = (0..20).map(|n| sharing(n, resources(4_000, 1, 0))).collect();
        let plan = plan_placement(&requests, &[empty]);
        assert_eq!((plan.placements.len(), plan.unplaceable.len()), (16, 4));
        assert!(plan.unplaceable.iter().all(|waiting| !waiting.why.never));
    }

    #[test]
    fn a_worker_with_cpu_to_spare_comes_before_one_whose_cpu_would_be_shared() {
        let mut full = worker("full", resources(2_000, 2_048, 0));
        full.free = resources(0, 1_024, 0);
        let plan =
            plan_placement(&[sharing(1, resources(500, 512, 0))], &[full, worker("idle", resources(2_000, 4_096, 0))]);
        assert_eq!(plan.placements[0].worker, "idle");
    }

    #[test]
    fn a_request_that_could_fit_waits_and_does_not_block_those_behind_it() {
        let mut only = worker("only", resources(4_000, 8_192, 0));
        only.free = resources(1_000, 8_192, 0);
        let requests = [request(1, resources(2_000, 512, 0)), request(2, resources(1_000, 512, 0))];
        let plan = plan_placement(&requests, &[only]);
        assert!(!plan.unplaceable[0].why.never);
        assert_eq!(plan.unplaceable[0].why.reason, "waiting for 2 CPU; worker has 1 CPU free");
        assert_eq!(plan.unplaceable[0].task, requests[0].task);
        assert_eq!(plan.placements[0].task, requests[1].task);
    }

    #[test]
    fn a_request_that_waits_is_told_what_is_missing() {
        let mut only = worker("only", resources(4_000, 16_384, 0));
        only.free = resources(4_000, 3_072, 0);
        let plan = plan_placement(&[request(1, resources(1_000, 8_192, 0))], &[only.clone()]);
        assert_eq!(plan.unplaceable[0].why.reason, "waiting for 8 GiB memory; worker has 3 GiB free");
        let two = [request(1, resources(500, 2_048, 0)), request(2, resources(500, 2_048, 0))];
        let reason = &plan_placement(&two, &[only.clone()]).unplaceable[0].why.reason;
        assert_eq!(reason, "waiting for 2 GiB memory; functions with fewer containers get theirs first");
        only.max_tasks = 0;
        only.tasks = 0;
        assert!(plan_placement(&two, &[only]).unplaceable[0].why.never);
    }

    #[test]
    fn without_workers_a_request_waits_for_one() {
        let plan = plan_placement(&[request(1, resources(1, 1, 0))], &[]);
        assert!(!plan.unplaceable[0].why.never);
        assert!(plan.unplaceable[0].why.reason.ends_with("none is connected"));
    }

    fn any_resources(cpu: u64, memory: u64) -> impl Strategy<Value = Resources> {
        (0..=cpu, 0..=memory, 0u32..3).prop_map(|(c, m, g)| resources(c, m, g))
    }

    prop_compose! {
        fn any_worker()(capacity in any_resources(8_000, 8_000), used in any_resources(8_000, 8_000), tasks in 0usize..4, max_tasks in 0usize..5) -> WorkerView {
            WorkerView { id: String::new(), capacity, free: capacity.minus(&used), tasks, max_tasks }
        }
    }

    fn cluster() -> impl Strategy<Value = (Vec<PlacementRequest>, Vec<WorkerView>)> {
        let requests = prop::collection::vec((any_resources(5_000, 5_000), any::<bool>()), 0..12);
        (requests, prop::collection::vec(any_worker(), 0..5)).prop_map(|(requests, mut workers)| {
            for (n, worker) in workers.iter_mut().enumerate() {
                worker.id = format!("w{n}");
            }
            let request =
                |(n, (r, shares_cpu))| PlacementRequest { shape: Shape { resources: r, shares_cpu }, ..request(n, r) };
            (requests.into_iter().enumerate().map(request).collect(), workers)
        })
    }

    /// The workers once the plan is carried out; panics where it promises room twice.
    fn carry_out(requests: &[PlacementRequest], workers: &[WorkerView], plan: &PlacementPlan) -> Vec<WorkerView> {
        let mut workers = workers.to_vec();
        for placement in &plan.placements {
            let request = requests.iter().find(|r| r.task == placement.task).unwrap();
            let worker = workers.iter_mut().find(|w| w.id == placement.worker).unwrap();
            let may_share =
                request.shape.shares_cpu && (worker.tasks as u64) < worker.capacity.milli_cpu / SHARE_MILLI_CPU;
            let milli_cpu = if may_share { 0 } else { request.shape.resources.milli_cpu };
            assert!(
                Resources { milli_cpu, ..request.shape.resources }.fits_in(&worker.free),
                "`{}` has no room",
                worker.id
            );
            worker.free = worker.free.minus(&request.shape.resources);
            worker.tasks += 1;
            assert!(worker.tasks <= worker.max_tasks);
        }
        workers
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_promised_twice_and_every_request_has_one_answer((requests, workers) in cluster()) {
            let plan = plan_placement(&requests, &workers);
            carry_out(&requests, &workers, &plan);
            let mut answered: Vec<_> = plan.placements.iter().map(|p| &p.task).collect();
            answered.extend(plan.unplaceable.iter().map(|u| &u.task));
            answered.sort();
            prop_assert_eq!(answered, requests.iter().map(|r| &r.task).collect::<Vec<_>>());
        }

        #[test]
        fn planning_the_rest_again_places_nothing((requests, workers) in cluster()) {
            let plan = plan_placement(&requests, &workers);
            let after = carry_out(&requests, &workers, &plan);
            let rest: Vec<_> = requests.into_iter().filter(|r| plan.unplaceable.iter().any(|u| u.task == r.task)).collect();
            prop_assert!(plan_placement(&rest, &after).placements.is_empty());
        }

        #[test]
        fn never_means_that_not_even_an_empty_cluster_could_hold_it((requests, workers) in cluster()) {
            let plan = plan_placement(&requests, &workers);
            let empty: Vec<_> = workers.iter().map(|w| WorkerView { free: w.capacity, tasks: 0, ..w.clone() }).collect();
            for unplaceable in plan.unplaceable {
                let request = requests.iter().find(|r| r.task == unplaceable.task).unwrap().clone();
                let could = !plan_placement(&[request], &empty).placements.is_empty();
                prop_assert!(workers.is_empty() || could != unplaceable.why.never);
            }
        }
    }
}
