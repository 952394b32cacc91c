//! Workers: containers are placed on them, and they are lost and come back.

use calls::TaskEnd;
use scheduler::{PlacementRequest, Resources, Shape, WorkerView, plan_placement};
use types::ids::TaskId;

use super::{Event, WORKER_SILENCE_MS, World};
use crate::container::Container;

impl World {
    /// Gives workers to containers that have none yet.
    pub(super) fn place(&mut self) {
        let resources = self.scenario.container;
        let request =
            |task: &TaskId| PlacementRequest { task: task.clone(), shape: Shape { resources, shares_cpu: false } };
        let requests: Vec<PlacementRequest> = self.unplaced.iter().map(request).collect();
        let workers: Vec<WorkerView> =
            (0..self.scenario.workers).filter(|n| self.worker_is_up[*n]).map(|n| self.worker_view(n)).collect();
        let plan = plan_placement(&requests, &workers);
        self.unplaced.clear();
        for placement in plan.placements {
            let worker = placement.worker.parse().expect("workers are numbered here");
            self.start(placement.task, worker);
        }
        for unplaceable in plan.unplaceable {
            // While every worker is away, the biggest one is not known.
            if unplaceable.why.never && self.worker_is_up.iter().all(|up| *up) {
                let task = unplaceable.task;
                self.with_server(|s, now, out| s.on_unplaceable(&task, now, out));
            } else {
                self.unplaced.push(unplaceable.task);
            }
        }
    }

    pub(super) fn worker_view(&self, n: usize) -> WorkerView {
        let capacity = self.scenario.worker_capacity;
        let tasks = self.containers.values().filter(|c| c.worker == n && !c.zombie).count();
        let free = Resources {
            milli_cpu: capacity.milli_cpu - tasks as u64 * self.scenario.container.milli_cpu,
            memory_mib: capacity.memory_mib - tasks as u64 * self.scenario.container.memory_mib,
            ..Resources::default()
        };
        WorkerView { id: n.to_string(), capacity, free, tasks, max_tasks: 100 }
    }

    pub(super) fn start(&mut self, task: TaskId, worker: usize) {
        self.containers_started += 1;
        self.containers.insert(task.clone(), Container::new(worker, self.now));
        let (low, high) = self.scenario.startup_ms;
        let startup = self.random.between(low, high);
        if self.fault(self.scenario.faults.failing_start) {
            self.after(startup, Event::StartFails(task));
        } else if self.fault(self.scenario.faults.failing_import) {
            self.after(startup, Event::ImportFails(task));
        } else {
            self.after(startup, Event::ContainerIsUp(task));
        }
    }

    /// The worker falls silent. Its containers are dead, or (a mere partition) go on and talk.
    pub(super) fn worker_is_lost(&mut self, worker: usize) {
        if !std::mem::replace(&mut self.worker_is_up[worker], false) {
            return;
        }
        let alive = self.random.chance(0.5);
        let tasks: Vec<TaskId> =
            self.containers.iter().filter(|(_, c)| c.worker == worker && !c.zombie).map(|(id, _)| id.clone()).collect();
        for task in tasks {
            match self.containers.get_mut(&task).filter(|c| alive && c.up) {
                Some(container) => container.zombie = true,
                None => _ = self.containers.remove(&task),
            }
            let end = TaskEnd::Lost("the worker is silent".to_owned());
            self.after(WORKER_SILENCE_MS, Event::TaskEnded { epoch: self.epoch, task, end });
        }
        let away_ms = self.random.between(WORKER_SILENCE_MS, 40_000);
        self.after(away_ms, Event::WorkerIsBack(worker));
    }
}
