//! What containers do: ask for inputs, report outputs, leave, die.

use types::ids::{InputId, TaskId};

use super::FunctionCalls;
use crate::Millis;
use crate::effect::{Effect, TaskEnd};
use crate::input::{Outcome, OutcomeStatus, Payload};

/// A cancelled input may clean up this long before its container is stopped under it.
pub(super) const CANCEL_GRACE_MS: Millis = 10_000;

/// Arguments in one answer to a container. Clients take messages of 100 MiB; what is beyond comes in the next batch.
const MAX_BATCH_BYTES: usize = 64 << 20;

impl FunctionCalls {
    /// A container asks for up to `max` inputs; `poll` names the request.
    pub fn poll(&mut self, task_id: &TaskId, poll: u64, max: usize, now: Millis, effects: &mut Vec<Effect>) {
        let gone = self.ended.contains(task_id);
        if gone || self.tasks.get(task_id).is_some_and(|t| t.draining) {
            effects.push(Effect::Drain { task: task_id.clone(), poll });
            return;
        }
        self.excuse_abandoned(task_id, max.max(1), now, effects);
        let task = self.tasks.entry(task_id.clone()).or_default();
        task.polls.push_back((poll, max.max(1)));
        if task.running.is_empty() && task.idle_since.is_none() {
            task.idle_since = Some(now);
        }
        self.idle.insert((task.rank, task_id.clone()));
        self.dispatch(now, effects);
    }

    /// A container asks only while it has room for `max` more. If it has no room for that beside what it runs and what
    /// was cancelled on it, some of the cancelled has ended without a word, as it does with clients before 0.70. A
    /// batch ends as a whole: what else was in it goes to another attempt.
    fn excuse_abandoned(&mut self, task_id: &TaskId, max: usize, now: Millis, effects: &mut Vec<Effect>) {
        let slots = self.policy.slots_per_container;
        let Some(task) = self.tasks.get_mut(task_id).filter(|_| slots > 0) else { return };
        let may_remain = slots.saturating_sub(max);
        let mut excused = false;
        while !task.abandoned.is_empty() && task.abandoned.len() + task.running.len() > may_remain {
            let oldest = task.abandoned.iter().min_by_key(|(_, deadline)| **deadline).map(|(id, _)| id.clone());
            let Some((id, deadline)) = oldest.and_then(|id| task.abandoned.remove_entry(&id)) else { return };
            self.deadlines.remove(&(deadline, task_id.clone(), id));
            excused = true;
        }
        if max == 1 || !excused || task.running.len() <= may_remain {
            return;
        }
        let companions: Vec<InputId> = task.running.iter().cloned().collect();
        for input in companions.iter().rev() {
            self.retry_lost(input, "its batch was interrupted", now, effects);
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

    /// Matches ready inputs with waiting requests until either runs out, or only incomplete batches are left that may
    /// wait for more.
    pub(super) fn dispatch(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        while let Some((task_id, method)) = self.next_match(now) {
            let Some(task) = self.tasks.get_mut(&task_id) else { break };
            let Some((poll, max)) = task.polls.pop_front() else { break };
            task.idle_since = None;
            if task.polls.is_empty() {
                self.idle.remove(&(task.rank, task_id.clone()));
            }
            let inputs = self.take_batch(&task_id, &method, max, now);
            if self.policy.single_use {
                self.drain(&task_id, effects);
            }
            effects.push(Effect::Deliver { task: task_id, poll, inputs });
        }
        self.note_backlog(now);
    }

    /// The container to be handed something now, and the method of it. Requests take different numbers of inputs only
    /// while the function is being replaced; where one gets nothing, one that takes as many or more gets nothing too.
    fn next_match(&self, now: Millis) -> Option<(TaskId, String)> {
        let mut refused = usize::MAX;
        for (_, task_id) in self.idle.iter().rev() {
            if self.ready.is_empty() {
                return None;
            }
            let max = self.tasks.get(task_id).and_then(|t| t.polls.front()).map_or(usize::MAX, |(_, max)| *max);
            if max >= refused {
                continue;
            }
            match self.ready.due_batch(max, self.policy.batch_linger_ms, now) {
                Some(method) => return Some((task_id.clone(), method.to_owned())),
                None => refused = max,
            }
        }
        None
    }

    /// Up to `max` inputs of one method, from the front: the client accepts no other batch.
    fn take_batch(&mut self, task_id: &TaskId, method: &str, max: usize, now: Millis) -> Vec<crate::Assignment> {
        let mut batch: Vec<crate::Assignment> = Vec::new();
        let mut bytes = 0;
        while batch.len() < max {
            let Some(id) = self.ready.front_of(method).cloned() else { break };
            bytes += self.payload(&id).map_or(0, Payload::resident_bytes);
            if !batch.is_empty() && bytes > MAX_BATCH_BYTES {
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
