//! What containers do: ask for inputs, report outputs, leave, die.

use types::ids::{InputId, TaskId};

use super::FunctionCalls;
use crate::Millis;
use crate::effect::{Effect, TaskEnd};
use crate::input::{Outcome, OutcomeStatus};

/// A cancelled input may clean up this long before its container is stopped under it.
pub(super) const CANCEL_GRACE_MS: Millis = 10_000;

impl FunctionCalls {
    /// A container asks for up to `max` inputs; `poll` names the request.
    pub fn poll(&mut self, task_id: &TaskId, poll: u64, max: usize, now: Millis, effects: &mut Vec<Effect>) {
        let gone = self.ended.contains(task_id);
        if gone || self.tasks.get(task_id).is_some_and(|t| t.draining) {
            effects.push(Effect::Drain { task: task_id.clone(), poll });
            return;
        }
        self.excuse_abandoned(task_id);
        let task = self.tasks.entry(task_id.clone()).or_default();
        task.polls.push_back((poll, max.max(1)));
        if task.running.is_empty() && task.idle_since.is_none() {
            task.idle_since = Some(now);
        }
        self.idle.insert((task.rank, task_id.clone()));
        self.dispatch(now, effects);
    }

    /// A container asks only while it has a free slot. If its slots cannot hold what it runs and what was cancelled
    /// on it, some of the cancelled has ended without a word, as it does with clients before 0.70.
    fn excuse_abandoned(&mut self, task_id: &TaskId) {
        let slots = self.policy.slots_per_container;
        let Some(task) = self.tasks.get_mut(task_id).filter(|_| slots > 0) else { return };
        let may_remain = slots.saturating_sub(1 + task.running.len());
        while task.abandoned.len() > may_remain {
            let oldest = task.abandoned.iter().min_by_key(|(_, deadline)| **deadline).map(|(id, _)| id.clone());
            let Some((id, deadline)) = oldest.and_then(|id| task.abandoned.remove_entry(&id)) else { return };
            self.deadlines.remove(&(deadline, task_id.clone(), id));
        }
    }

    /// The container's request was answered empty or its connection broke.
    pub fn cancel_poll(&mut self, task_id: &TaskId, poll: u64) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        task.polls.retain(|(p, _)| *p != poll);
        if task.polls.is_empty() {
            self.idle.remove(&(task.rank, task_id.clone()));
        }
    }

    /// A delivery did not reach the container (its connection broke between decision and reply): take it back. The
    /// attempt keeps its number: it never began.
    pub fn on_undelivered(&mut self, task_id: &TaskId, inputs: &[InputId], now: Millis, effects: &mut Vec<Effect>) {
        // Each goes to the front, so the last goes first.
        for id in inputs.iter().rev() {
            self.end_abandoned(task_id, id);
            if self.is_running_on(id, task_id) {
                self.take_back(id, now);
            }
        }
        self.dispatch(now, effects);
    }

    /// Matches ready inputs with waiting requests until either runs out.
    pub(super) fn dispatch(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        while !self.ready.is_empty() {
            let Some((rank, task_id)) = self.idle.last().cloned() else { break };
            let request = self.tasks.get_mut(&task_id).and_then(|t| {
                let request = t.polls.pop_front();
                t.idle_since = if request.is_some() { None } else { t.idle_since };
                request.map(|(poll, max)| (poll, max, t.polls.is_empty()))
            });
            let Some((poll, max, was_last)) = request else {
                self.idle.remove(&(rank, task_id));
                continue;
            };
            if was_last {
                self.idle.remove(&(rank, task_id.clone()));
            }
            let inputs = self.take_batch(&task_id, max, now);
            effects.push(Effect::Deliver { task: task_id, poll, inputs });
        }
        self.note_backlog(now);
    }

    /// Up to `max` inputs from the front, all for the method of the first: the client accepts no other batch.
    fn take_batch(&mut self, task_id: &TaskId, max: usize, now: Millis) -> Vec<crate::Assignment> {
        let mut batch: Vec<crate::Assignment> = Vec::new();
        while batch.len() < max {
            let Some(id) = self.ready.front().cloned() else { break };
            let method = self.inputs.get(&id).map(|i| i.input.method_name.as_str());
            if batch.first().is_some_and(|first| Some(first.method_name.as_str()) != method) {
                break;
            }
            let Some(assignment) = self.assign(&id, task_id, now) else { break };
            batch.push(assignment);
        }
        batch
    }

    /// A container reports how an attempt ended. `attempt` is `None` from clients that do not send it. Returns false
    /// for a report that is refused: of an older attempt, of another task, or of a finished input.
    pub fn on_output(
        &mut self,
        task_id: &TaskId,
        input: &InputId,
        attempt: Option<u32>,
        outcome: Outcome,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.end_abandoned(task_id, input) {
            return false;
        }
        let current = self.inputs.get(input).map(|i| i.attempt);
        if !self.is_running_on(input, task_id) || attempt.is_some_and(|a| Some(a) != current) {
            return false;
        }
        if outcome.status == OutcomeStatus::Terminated {
            // Nobody cancelled it, or it would not be running any more. A container that runs synchronous inputs
            // side by side can only interrupt all of them to cancel one.
            self.retry_lost(input, "the container was interrupted", now, effects);
        } else {
            self.settle(input, outcome, now, effects);
        }
        self.dispatch(now, effects);
        true
    }

    /// A container is gone. Its inputs are settled by the cause.
    pub fn on_task_end(&mut self, task_id: &TaskId, end: &TaskEnd, now: Millis, effects: &mut Vec<Effect>) {
        self.ended.remember(task_id);
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        // Nothing may be handed to it while its inputs are settled.
        task.polls.clear();
        task.draining = true;
        self.idle.remove(&(task.rank, task_id.clone()));
        for (input, deadline) in std::mem::take(&mut task.abandoned) {
            self.deadlines.remove(&(deadline, task_id.clone(), input));
        }
        let running: Vec<InputId> = task.running.iter().cloned().collect();
        // Lost inputs go to the front, so the last goes first.
        for input in running.iter().rev() {
            match end {
                TaskEnd::Crashed(text) => {
                    let outcome = Outcome::of(OutcomeStatus::Failure, text.clone());
                    self.settle(input, outcome, now, effects);
                }
                TaskEnd::Lost(why) => self.retry_lost(input, why, now, effects),
                TaskEnd::Left => self.retry_lost(input, "the container left before it answered", now, effects),
            }
        }
        self.tasks.remove(task_id);
        self.dispatch(now, effects);
    }

    /// Starting is pointless: every input that is not running ends with this outcome.
    pub fn fail_waiting(&mut self, outcome: &Outcome, now: Millis, effects: &mut Vec<Effect>) {
        let delayed = self.delayed.iter().map(|(_, _, id)| id);
        let waiting: Vec<InputId> = self.ready.ids().chain(delayed).cloned().collect();
        for id in waiting {
            self.finish(&id, outcome.clone(), now, effects);
        }
    }

    /// The container gets no more inputs; a waiting request is answered at once.
    pub fn drain(&mut self, task_id: &TaskId, effects: &mut Vec<Effect>) {
        if self.ended.contains(task_id) {
            return;
        }
        let task = self.tasks.entry(task_id.clone()).or_default();
        task.draining = true;
        for (poll, _) in task.polls.drain(..) {
            effects.push(Effect::Drain { task: task_id.clone(), poll });
        }
        self.idle.remove(&(task.rank, task_id.clone()));
    }

    /// From now on the container has a grace for an input that nobody waits for.
    pub(super) fn abandon(&mut self, task_id: &TaskId, input: &InputId, now: Millis) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        let deadline = now.saturating_add(CANCEL_GRACE_MS);
        task.abandoned.insert(input.clone(), deadline);
        self.deadlines.insert((deadline, task_id.clone(), input.clone()));
    }

    /// The container is done with an abandoned input. False if it was not abandoned.
    pub(super) fn end_abandoned(&mut self, task_id: &TaskId, input: &InputId) -> bool {
        let abandoned = self.tasks.get_mut(task_id).and_then(|t| t.abandoned.remove(input));
        let Some(deadline) = abandoned else { return false };
        self.deadlines.remove(&(deadline, task_id.clone(), input.clone()));
        true
    }
}
