//! What containers say, and how many of them there should be.

use std::collections::BTreeSet;

use calls::{Millis, Outcome, OutcomeStatus, TaskEnd};
use scheduler::{
    Asked, AutoscalerView, FailedStartVerdict, RecentCompletions, StartFault, TaskPhase, TaskView, plan_autoscale,
};
use types::ids::{InputId, TaskId};

use super::{Out, Server, WINDOW_MS};

impl Server {
    pub(crate) fn on_poll(&mut self, task: &TaskId, poll: u64, max: usize, now: Millis, out: &mut Vec<Out>) {
        let Some(asked) = self.tasks.on_poll(task, now) else {
            out.push(Out::Leave { task: task.clone(), poll });
            return;
        };
        if let Asked::First(took_ms) = asked {
            self.startup_estimate_ms = (self.startup_estimate_ms + took_ms) / 2;
        }
        self.polls.insert(poll, task.clone());
        self.apply(now, out, |calls, effects| calls.poll(task, poll, max, now, effects));
    }

    /// The request is over for the container: it broke, or waited long enough. True if it was still waiting.
    pub(crate) fn on_poll_over(&mut self, task: &TaskId, poll: u64) -> bool {
        self.calls.cancel_poll(task, poll);
        self.polls.remove(&poll).is_some()
    }

    pub(crate) fn on_undelivered(
        &mut self,
        task: &TaskId,
        attempts: &[(InputId, u32)],
        now: Millis,
        out: &mut Vec<Out>,
    ) {
        self.apply(now, out, |calls, effects| calls.on_undelivered(task, attempts, now, effects));
    }

    pub(crate) fn on_output(
        &mut self,
        task: &TaskId,
        input: &InputId,
        attempt: u32,
        outcome: Outcome,
        now: Millis,
        out: &mut Vec<Out>,
    ) -> bool {
        self.apply(now, out, |calls, effects| calls.on_output(task, input, Some(attempt), outcome, now, effects))
    }

    pub(crate) fn on_task_end(&mut self, task: &TaskId, end: &TaskEnd, now: Millis, out: &mut Vec<Out>) {
        self.tasks.end(task);
        self.apply(now, out, |calls, effects| calls.on_task_end(task, end, now, effects));
    }

    /// A container has failed before it asked for inputs.
    pub(crate) fn on_failed_start(&mut self, task: &TaskId, fault: StartFault, now: Millis, out: &mut Vec<Out>) {
        let Some(ended) = self.tasks.end(task) else { return };
        let gives_up = self.tasks.on_failed_start(&ended, fault, now) == FailedStartVerdict::GiveUp;
        let is_ready = |phase| matches!(phase, TaskPhase::Active { .. });
        assert!(!gives_up || !self.tasks.phases().any(|(_, phase)| is_ready(phase)), "a container is ready");
        self.apply(now, out, |calls, effects| {
            if gives_up {
                calls.give_up_waiting(&no_start(), now, effects);
            }
            calls.on_task_end(task, &TaskEnd::Left, now, effects);
        });
    }

    /// No worker can ever have such a container.
    pub(crate) fn on_unplaceable(&mut self, task: &TaskId, now: Millis, out: &mut Vec<Out>) {
        self.apply(now, out, |calls, effects| calls.fail_waiting(&no_start(), now, effects));
        self.on_failed_start(task, StartFault::Platform, now, out);
    }

    pub(crate) fn on_tick(&mut self, now: Millis, out: &mut Vec<Out>) {
        self.apply(now, out, |calls, effects| calls.tick(now, effects));
    }

    pub(super) fn plan(&mut self, now: Millis, out: &mut Vec<Out>) {
        let view = self.view(now);
        let plan = plan_autoscale(&view);
        for _ in 0..plan.start {
            self.started += 1;
            let name = format!("ta-{:04}{:022}", self.epoch, self.started);
            let task = TaskId::parse(&name).expect("letters and digits");
            assert!(self.tasks.begin(task.clone(), self.tasks.version(), now));
            out.push(Out::Start { task });
        }
        let mut effects = Vec::new();
        for (task, _) in &plan.stop {
            let before = self.tasks.drain(task);
            self.calls.drain(task, &mut effects);
            if matches!(before, Some(TaskPhase::Starting { .. })) {
                out.push(Out::Kill { task: task.clone() });
            }
        }
        for effect in effects {
            self.perform(effect, &mut Vec::new(), &mut BTreeSet::new(), out);
        }
        let due = [self.calls.next_due(), plan.reconsider_at].into_iter().flatten().min();
        out.extend(due.map(|at| Out::WakeAt(at.max(now + 1))));
    }

    fn view(&mut self, now: Millis) -> AutoscalerView {
        let completed = self.calls.completed();
        self.input_times.on_progress(completed, self.calls.completed_run_ms());
        self.throughput.push_back((now, completed));
        while self.throughput.len() > 2 && self.throughput[1].0 + WINDOW_MS < now {
            self.throughput.pop_front();
        }
        let (since, before) = self.throughput[0];
        let tasks = self.tasks.phases().map(|(id, phase)| TaskView {
            id: id.clone(),
            phase,
            idle_since: self.calls.idle_since(id),
            running: self.calls.running_on(id),
        });
        AutoscalerView {
            now,
            load: self.calls.load(),
            completed_recently: RecentCompletions { count: completed - before, window_ms: now - since },
            tasks: tasks.collect(),
            settings: self.scenario.settings,
            startup_estimate_ms: self.startup_estimate_ms,
            input_ms: self.input_times.estimate_ms(),
            cores: 2,
            app_active: true,
            failed_starts: self.tasks.failed_starts(),
        }
    }
}

fn no_start() -> Outcome {
    Outcome::of(OutcomeStatus::InitFailure, "the container could not start")
}
