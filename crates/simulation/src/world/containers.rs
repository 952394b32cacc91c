//! What containers do, and what becomes of them.

use calls::{Assignment, Outcome, OutcomeStatus, TaskEnd};
use types::ids::{InputId, TaskId};

use super::{Event, PATIENCE_MS, World};
use crate::container::InputEnd;
use crate::ledger::said;

impl World {
    pub(super) fn container_is_up(&mut self, task: &TaskId) {
        if let Some(container) = self.containers.get_mut(task) {
            container.up = true;
            self.container_acts(task);
        }
    }

    /// Asks for an input if there is a free slot; leaves if it was told to and has nothing left.
    pub(super) fn container_acts(&mut self, task: &TaskId) {
        let slots = self.scenario.settings.concurrency as usize;
        let Some(container) = self.containers.get_mut(task) else { return };
        if container.is_done() {
            self.container_ends(task, TaskEnd::Left);
        } else if container.wants_to_poll(slots) {
            self.polls += 1;
            let poll = self.polls;
            container.poll = Some(poll);
            let arrives = !self.fault(self.scenario.faults.lost_message);
            if arrives {
                let latency = self.random.between(0, self.scenario.latency_ms);
                self.after(latency, Event::Poll { task: task.clone(), poll });
            }
            if !arrives || self.fault(self.scenario.faults.lost_message) {
                let delay = self.random.between(0, PATIENCE_MS);
                self.after(delay, Event::PollBreaks { task: task.clone(), poll });
            }
        }
    }

    pub(super) fn poll_breaks(&mut self, task: TaskId, poll: u64) {
        let notices = self.random.between(0, PATIENCE_MS);
        self.after(notices, Event::PollOver { task: task.clone(), poll, broken: true });
        if let Some(container) = self.containers.get_mut(&task).filter(|c| c.poll == Some(poll)) {
            container.poll = None;
            self.container_acts(&task);
        }
    }

    pub(super) fn container_is_handed(&mut self, epoch: usize, task: &TaskId, poll: u64, inputs: Vec<Assignment>) {
        let slots = self.scenario.settings.concurrency as usize;
        let Some(container) = self.containers.get_mut(task).filter(|c| c.poll == Some(poll)) else {
            // The connection was gone already.
            let attempts = inputs.into_iter().map(|i| (i.input, i.attempt)).collect();
            self.after(0, Event::NotHanded { epoch, task: task.clone(), attempts });
            return;
        };
        container.poll = None;
        let fresh = container.take_in(inputs, slots, self.scenario.batch);
        for assignment in fresh {
            self.ledger.on_handed(epoch, &assignment, &self.scenario.policy);
            self.check_that_nothing_runs_twice(task, &assignment);
            self.begin_input(task, assignment);
        }
        self.container_acts(task);
    }

    /// No attempt begins while an earlier one still runs, except where nobody can know: on a worker that was believed lost.
    fn check_that_nothing_runs_twice(&self, task: &TaskId, Assignment { input, attempt, .. }: &Assignment) {
        if self.containers.get(task).is_none_or(|c| c.zombie) {
            return;
        }
        for (other, container) in self.containers.iter().filter(|(other, c)| *other != task && !c.zombie) {
            let runs = container.running.get(input);
            assert!(runs.is_none(), "attempt {attempt} of `{input}` begins while `{other}` runs attempt {runs:?}");
        }
    }

    pub(super) fn begin_input(&mut self, task: &TaskId, assignment: Assignment) {
        let faults = self.scenario.faults;
        if self.fault(faults.hanging_input) {
            return;
        }
        let end = if self.fault(faults.crashing_input) {
            InputEnd::Crash
        } else if self.fault(faults.failing_input) {
            if self.random.chance(0.3) { InputEnd::OwnCancellation } else { InputEnd::Failure }
        } else {
            InputEnd::Success
        };
        let (low, high) = self.scenario.input_ms;
        let duration = self.random.between(low, high);
        let Assignment { input, attempt, .. } = assignment;
        self.after(duration, Event::InputEnds { task: task.clone(), input, attempt, end });
    }

    pub(super) fn input_ends(&mut self, task: &TaskId, input: &InputId, attempt: u32, end: InputEnd) {
        let Some(container) = self.containers.get_mut(task) else { return };
        if container.running.get(input) != Some(&attempt) {
            return;
        }
        let status = match end {
            InputEnd::Crash => return self.container_ends(task, TaskEnd::Crashed("exit code 139".to_owned())),
            InputEnd::OwnCancellation if self.scenario.client.silent => {
                container.running.remove(input);
                return self.container_acts(task);
            }
            InputEnd::OwnCancellation => OutcomeStatus::Terminated,
            InputEnd::Failure => OutcomeStatus::Failure,
            InputEnd::Success => OutcomeStatus::Success,
        };
        self.input_is_done(task, input, status);
    }

    /// An input leaves its slot when its report was acknowledged.
    pub(super) fn input_is_done(&mut self, task: &TaskId, input: &InputId, status: OutcomeStatus) {
        let Some(container) = self.containers.get_mut(task) else { return };
        let Some(attempt) = container.running.remove(input) else { return };
        let text = said(task, input, attempt);
        self.ledger.on_said(&text);
        container.unsent.insert((input.clone(), attempt), Outcome::of(status, text));
        self.container_reports(task, input, attempt);
    }

    pub(super) fn container_reports(&mut self, task: &TaskId, input: &InputId, attempt: u32) {
        let Some(container) = self.containers.get(task) else { return };
        let Some(outcome) = container.unsent.get(&(input.clone(), attempt)).cloned() else { return };
        self.send(Event::Output { task: task.clone(), input: input.clone(), attempt, outcome });
        self.after(PATIENCE_MS, Event::Reports { task: task.clone(), input: input.clone(), attempt });
    }

    pub(super) fn output_arrives(&mut self, task: &TaskId, input: &InputId, attempt: u32, outcome: Outcome) {
        if self.server.is_none() {
            return;
        }
        let (mut taken, status) = (false, outcome.status);
        self.with_server(|s, now, out| taken = s.on_output(task, input, attempt, outcome, now, out));
        if taken {
            self.ledger.on_taken(self.epoch, input, attempt, status, &self.scenario.policy);
        }
        self.send(Event::Acknowledged { task: task.clone(), input: input.clone(), attempt });
    }

    pub(super) fn container_is_interrupted(&mut self, task: &TaskId, inputs: &[InputId]) {
        let manners = self.scenario.client;
        let Some(container) = self.containers.get(task) else { return };
        let running: Vec<InputId> = container.running.keys().cloned().collect();
        if !running.iter().any(|id| inputs.contains(id)) {
            return;
        }
        for input in running {
            let meant = inputs.contains(&input);
            if (!meant && !manners.interrupts_all) || self.random.chance(manners.stubborn) {
                continue;
            }
            if meant && manners.silent {
                self.containers.get_mut(task).and_then(|c| c.running.remove(&input));
            } else {
                self.input_is_done(task, &input, OutcomeStatus::Terminated);
            }
        }
        self.container_acts(task);
    }

    /// The container's processes are gone; the server hears of it a little later.
    pub(super) fn container_ends(&mut self, task: &TaskId, end: TaskEnd) {
        if let Some(n) = self.unplaced.iter().position(|unplaced| unplaced == task) {
            self.unplaced.remove(n);
            self.after(0, Event::TaskEnded { epoch: self.epoch, task: task.clone(), end });
            return;
        }
        let Some(container) = self.containers.remove(task) else { return };
        if self.trace {
            eprintln!("         `{task}` ends after {} ms: {end:?}", self.now - container.started_at);
        }
        let delay = self.random.between(1, 300);
        self.after(delay, Event::TaskEnded { epoch: self.epoch, task: task.clone(), end });
    }
}
