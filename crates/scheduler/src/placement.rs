//! Which worker gets a container. A request reserves its CPU and memory: nothing is promised twice, so that a
//! function's `cpu=` and `memory=` mean what they say under load too.
//!
//! Requests are taken in order, each by the worker with the least room that fits: small requests then fill the gaps,
//! and a large one finds a whole machine more often. Rejected: spreading, which leaves every machine half full.
//!
//! A request that no worker could hold even when empty is told so at once, with the numbers; any other waits. One
//! that waits does not block those behind it: a queue for one GPU should not hold back CPU work. A large request can
//! therefore wait long behind many small ones; the cure, if it is ever needed, is a reservation per request.

use std::collections::HashMap;
use std::fmt;

use types::ids::TaskId;
use types::words::counted;

/// A worker's name within the cluster.
pub type WorkerId = String;

/// What a container asks for and a worker has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: u64,
    pub memory_mib: u64,
    pub gpus: u32,
}

impl Resources {
    pub fn fits_in(&self, room: &Self) -> bool {
        self.milli_cpu <= room.milli_cpu && self.memory_mib <= room.memory_mib && self.gpus <= room.gpus
    }

    pub fn plus(&self, other: &Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_add(other.milli_cpu),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }

    pub fn times(&self, count: usize) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_mul(count as u64),
            memory_mib: self.memory_mib.saturating_mul(count as u64),
            gpus: self.gpus.saturating_mul(count as u32),
        }
    }

    /// What of this does not fit, in words, beside how much of the same there is.
    fn lacking(&self, room: &Self) -> (String, String) {
        let mut pairs = Vec::new();
        if self.memory_mib > room.memory_mib {
            pairs.push((memory(self.memory_mib), gibibytes(room.memory_mib)));
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementRequest {
    pub task: TaskId,
    pub resources: Resources,
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub task: TaskId,
    pub worker: WorkerId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaceable {
    pub task: TaskId,
    /// No worker could ever hold it, however long it waits.
    pub never: bool,
    /// A sentence for people.
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacementPlan {
    pub placements: Vec<Placement>,
    pub unplaceable: Vec<Unplaceable>,
}

/// Gives each request a worker, or the reason why it has none.
pub fn plan_placement(requests: &[PlacementRequest], workers: &[WorkerView]) -> PlacementPlan {
    let mut free: HashMap<&str, (Resources, usize)> =
        workers.iter().map(|w| (w.id.as_str(), (w.free, w.max_tasks.saturating_sub(w.tasks)))).collect();
    let mut plan = PlacementPlan::default();
    for request in requests {
        let best = workers
            .iter()
            .filter_map(|w| free.get(w.id.as_str()).map(|(room, slots)| (*room, *slots, w)))
            .filter(|(room, slots, _)| *slots > 0 && request.resources.fits_in(room))
            .min_by_key(|(room, _, w)| (room.gpus, room.memory_mib, room.milli_cpu, w.id.as_str()));
        let Some((_, _, worker)) = best else {
            plan.unplaceable.push(unplaceable(request, workers, &free));
            continue;
        };
        if let Some((room, slots)) = free.get_mut(worker.id.as_str()) {
            *room = room.minus(&request.resources);
            *slots -= 1;
        }
        plan.placements.push(Placement { task: request.task.clone(), worker: worker.id.clone() });
    }
    plan
}

/// Why a request has no worker, beside the room that the requests before it left.
fn unplaceable(
    request: &PlacementRequest,
    workers: &[WorkerView],
    room: &HashMap<&str, (Resources, usize)>,
) -> Unplaceable {
    let wanted = &request.resources;
    let possible = workers.iter().filter(|w| w.max_tasks > 0 && wanted.fits_in(&w.capacity));
    let emptiest =
        possible.filter_map(|w| room.get(w.id.as_str()).map(|(room, _)| (w, room))).max_by_key(|(w, room)| {
            (room.gpus.min(wanted.gpus), room.memory_mib.min(wanted.memory_mib), room.milli_cpu, w.id.as_str())
        });
    let biggest =
        workers.iter().max_by_key(|w| (w.capacity.gpus.min(wanted.gpus), w.capacity.memory_mib, w.capacity.milli_cpu));
    let (never, reason) = match (emptiest, biggest) {
        (_, None) => (false, format!("waiting for a worker with {wanted}; none is connected")),
        (Some((worker, room)), _) if wanted.fits_in(&worker.free) && !wanted.fits_in(room) => {
            let (wanted, _) = wanted.lacking(room);
            (false, format!("waiting for {wanted}; functions with fewer containers get theirs first"))
        }
        (Some((_, room)), _) if !wanted.fits_in(room) => {
            let (wanted, there) = wanted.lacking(room);
            (false, format!("waiting for {wanted}; worker has {there} free"))
        }
        (Some((worker, _)), _) => {
            let running = counted(worker.tasks, "container");
            (false, format!("waiting for a place; worker runs {running}, the most it may"))
        }
        (None, Some(worker)) => {
            let (wanted, there) = wanted.lacking(&worker.capacity);
            (true, format!("it asks for {wanted}, more than any worker has; the biggest worker has {there}"))
        }
    };
    Unplaceable { task: request.task.clone(), never, reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resources(milli_cpu: u64, memory_mib: u64, gpus: u32) -> Resources {
        Resources { milli_cpu, memory_mib, gpus }
    }

    fn request(n: usize, resources: Resources) -> PlacementRequest {
        PlacementRequest { task: TaskId::parse(&format!("ta-{n:026}")).unwrap(), resources }
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
        assert!(plan.unplaceable[0].never);
        assert_eq!(
            plan.unplaceable[0].reason,
            "it asks for 64 GiB memory, more than any worker has; the biggest worker has 8 GiB"
        );
    }

    #[test]
    fn a_request_that_could_fit_waits_and_does_not_block_those_behind_it() {
        let mut only = worker("only", resources(4_000, 8_192, 0));
        only.free = resources(1_000, 8_192, 0);
        let requests = [request(1, resources(2_000, 512, 0)), request(2, resources(1_000, 512, 0))];
        let plan = plan_placement(&requests, &[only]);
        assert!(!plan.unplaceable[0].never);
        assert_eq!(plan.unplaceable[0].reason, "waiting for 2 CPU; worker has 1 CPU free");
        assert_eq!(plan.unplaceable[0].task, requests[0].task);
        assert_eq!(plan.placements[0].task, requests[1].task);
    }

    #[test]
    fn a_request_that_waits_is_told_what_is_missing() {
        let mut only = worker("only", resources(4_000, 16_384, 0));
        only.free = resources(4_000, 3_072, 0);
        let plan = plan_placement(&[request(1, resources(1_000, 8_192, 0))], &[only.clone()]);
        assert_eq!(plan.unplaceable[0].reason, "waiting for 8 GiB memory; worker has 3 GiB free");
        let two = [request(1, resources(500, 2_048, 0)), request(2, resources(500, 2_048, 0))];
        let reason = &plan_placement(&two, &[only.clone()]).unplaceable[0].reason;
        assert_eq!(reason, "waiting for 2 GiB memory; functions with fewer containers get theirs first");
        only.max_tasks = 0;
        only.tasks = 0;
        assert!(plan_placement(&two, &[only]).unplaceable[0].never);
    }

    #[test]
    fn without_workers_a_request_waits_for_one() {
        let plan = plan_placement(&[request(1, resources(1, 1, 0))], &[]);
        assert!(!plan.unplaceable[0].never);
        assert!(plan.unplaceable[0].reason.ends_with("none is connected"));
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
        let requests = prop::collection::vec(any_resources(5_000, 5_000), 0..12);
        (requests, prop::collection::vec(any_worker(), 0..5)).prop_map(|(requests, mut workers)| {
            for (n, worker) in workers.iter_mut().enumerate() {
                worker.id = format!("w{n}");
            }
            (requests.into_iter().enumerate().map(|(n, r)| request(n, r)).collect(), workers)
        })
    }

    /// The workers once the plan is carried out; panics where it promises room twice.
    fn carry_out(requests: &[PlacementRequest], workers: &[WorkerView], plan: &PlacementPlan) -> Vec<WorkerView> {
        let mut workers = workers.to_vec();
        for placement in &plan.placements {
            let request = requests.iter().find(|r| r.task == placement.task).unwrap();
            let worker = workers.iter_mut().find(|w| w.id == placement.worker).unwrap();
            assert!(request.resources.fits_in(&worker.free), "`{}` has no room", worker.id);
            worker.free = worker.free.minus(&request.resources);
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
                prop_assert!(workers.is_empty() || could != unplaceable.never);
            }
        }
    }
}
