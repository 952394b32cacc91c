//! The life of one input: from stage to stage, attempt by attempt, until its output is published.

use types::ids::{InputId, TaskId};

use super::containers::DISTURBED_MS;
use super::{FunctionCalls, InputState, Stage, shrink};
use crate::Millis;
use crate::effect::Effect;
use crate::input::{Assignment, FinishedOutput, OnDisk, Outcome, OutcomeStatus};
use crate::policy::{MAX_SYSTEM_RETRIES, Policy};

/// A container that was told to stop is killed after a grace, and its last commit takes as long as its writes are large.
/// One that has not ended by then never will, and callers wait for it no longer.
pub(super) const STOP_LIMIT_MS: Millis = 600_000;

/// What becomes of an attempt.
pub(super) enum AttemptEnd {
    /// The user's code answers for it.
    Outcome(Box<Outcome>),
    /// The platform does; why.
    Lost(String),
}

impl FunctionCalls {
    /// Hands a ready input to a container.
    pub(super) fn assign(&mut self, id: &InputId, task_id: &TaskId, now: Millis) -> Option<Assignment> {
        // Of a call that was forgotten, long ago, and made again: this attempt's report is wanted.
        self.end_abandoned(task_id, id);
        let state = self.inputs.get_mut(id)?;
        let Stage::Ready(key) = state.stage else { return None };
        self.ready.remove(&state.input.method_name, key);
        let deadline = now.saturating_add(self.policy.timeout_ms);
        state.stage = Stage::Running { task: task_id.clone(), deadline, last_word: None, stop_limit: None };
        self.deadlines.insert((deadline, task_id.clone(), id.clone()));
        self.running_count += 1;
        let task = self.tasks.entry(task_id.clone()).or_default();
        task.running.insert(id.clone());
        if now < task.disturbed_until {
            task.disturbed.insert(id.clone(), now.saturating_add(DISTURBED_MS));
        }
        task.last_alone = (task.running.len() == 1).then(|| (state.call.clone(), id.clone()));
        Some(Assignment {
            input: id.clone(),
            call: state.call.clone(),
            idx: state.input.idx,
            payload: state.input.payload.clone(),
            data_format: state.input.data_format,
            method_name: state.input.method_name.clone(),
            invocation_type: self.calls.get(&state.call).map_or(0, |c| c.spec.invocation_type),
            attempt: state.attempt,
        })
    }

    pub(super) fn is_running_on(&self, id: &InputId, task_id: &TaskId) -> bool {
        matches!(self.inputs.get(id), Some(InputState { stage: Stage::Running { task, .. }, .. }) if task == task_id)
    }

    /// Takes an input out of the structure that its stage belongs to; the caller gives it its next stage. Answers
    /// with the container that ran it.
    fn detach(&mut self, id: &InputId, now: Millis) -> Option<TaskId> {
        let state = self.inputs.get(id)?;
        match &state.stage {
            Stage::Recording(_) => None,
            Stage::Ready(key) => {
                self.ready.remove(&state.input.method_name, *key);
                self.note_backlog(now);
                None
            }
            Stage::Delayed(due, sequence) => {
                self.delayed.remove(&(*due, *sequence, id.clone()));
                None
            }
            stage @ (Stage::Running { .. } | Stage::Stopping { .. }) => {
                let (task, due) = stage.held_by()?;
                let task = task.clone();
                self.deadlines.remove(&(due, task.clone(), id.clone()));
                self.running_count -= 1;
                self.release_slot(&task, id, now);
                Some(task)
            }
        }
    }

    fn release_slot(&mut self, task_id: &TaskId, id: &InputId, now: Millis) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        task.running.remove(id);
        task.disturbed.remove(id);
        task.drop_suspect(id);
        if task.running.is_empty() {
            task.idle_since = Some(now);
        }
        self.sequence += 1;
        let is_idle = self.idle.remove(&(task.rank, task_id.clone()));
        task.rank = self.sequence;
        if is_idle {
            self.idle.insert((task.rank, task_id.clone()));
        }
    }

    pub(super) fn make_ready_last(&mut self, id: &InputId, now: Millis) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        state.ready_since = now;
        state.stage = Stage::Ready(self.ready.push_back(&state.input.method_name, id.clone(), now));
        self.note_backlog(now);
    }

    fn make_ready_first(&mut self, id: &InputId, since: Millis, now: Millis) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        state.ready_since = since;
        state.stage = Stage::Ready(self.ready.push_front(&state.input.method_name, id.clone(), since));
        self.note_backlog(now);
    }

    /// A delivery did not happen: the same attempt waits again, as long as it already did.
    pub(super) fn take_back(&mut self, id: &InputId, now: Millis) {
        self.detach(id, now);
        let since = self.inputs.get(id).map_or(now, |state| state.ready_since);
        self.make_ready_first(id, since, now);
    }

    /// A backoff is over.
    pub(super) fn end_delay(&mut self, id: &InputId, now: Millis) {
        self.detach(id, now);
        self.make_ready_last(id, now);
    }

    /// An attempt that the user's code answers for has ended: final, or another attempt.
    pub(super) fn settle(&mut self, id: &InputId, outcome: Outcome, now: Millis, effects: &mut Vec<Effect>) {
        let Some(state) = self.inputs.get(id) else { return };
        if self.policy.retry.repeats(outcome.status, state.user_failures) {
            self.retry_later(id, now);
        } else {
            self.finish(id, outcome, now, effects);
        }
    }

    /// No container came for an input that is ready. That counts as a failed attempt, whoever failed.
    pub(super) fn give_up(&mut self, id: &InputId, outcome: Outcome, now: Millis, effects: &mut Vec<Effect>) {
        let Some(state) = self.inputs.get(id) else { return };
        if state.user_failures < self.policy.retry.retries {
            self.retry_later(id, now);
        } else {
            self.finish(id, outcome, now, effects);
        }
    }

    /// Another attempt, after the delay that the user chose.
    fn retry_later(&mut self, id: &InputId, now: Millis) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        state.user_failures += 1;
        state.attempt += 1;
        let delay_ms = self.policy.retry.delay_ms(state.user_failures);
        self.detach(id, now);
        if delay_ms == 0 {
            self.make_ready_last(id, now);
            return;
        }
        self.sequence += 1;
        let (due, sequence) = (now.saturating_add(delay_ms), self.sequence);
        if let Some(state) = self.inputs.get_mut(id) {
            state.stage = Stage::Delayed(due, sequence);
        }
        self.delayed.insert((due, sequence, id.clone()));
    }

    /// The platform lost an attempt: again, unless that has happened too often.
    pub(super) fn retry_lost(&mut self, id: &InputId, why: &str, now: Millis, effects: &mut Vec<Effect>) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        if state.system_retries >= MAX_SYSTEM_RETRIES {
            let times = state.system_retries + 1;
            let text = format!("the container was lost {times} times while it ran this input; last: {why}");
            self.finish(id, Outcome::of(OutcomeStatus::InternalFailure, text), now, effects);
            return;
        }
        state.system_retries += 1;
        state.attempt += 1;
        self.detach(id, now);
        self.make_ready_first(id, now, now);
    }

    /// The attempt is over, and its container on its way to its end: until then nobody may start where this one wrote, nor
    /// be told of its outcome.
    pub(super) fn hold(&mut self, id: &InputId, outcome: Option<Outcome>, reported: bool, now: Millis) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        let Stage::Running { deadline, stop_limit, .. } = state.stage else { return };
        let Some((task, due)) = state.stage.held_by() else { return };
        let task = task.clone();
        let limit = stop_limit.unwrap_or(now.saturating_add(STOP_LIMIT_MS));
        let ran_ms = ran_ms(deadline, &self.policy, now);
        state.stage = Stage::Stopping { task: task.clone(), limit, ran_ms, reported, outcome: outcome.map(Box::new) };
        self.deadlines.remove(&(due, task.clone(), id.clone()));
        self.deadlines.insert((limit, task, id.clone()));
    }

    /// The container of an attempt is gone: what was held back is settled, and what was in the middle by `otherwise`.
    pub(super) fn release(&mut self, id: &InputId, otherwise: AttemptEnd, now: Millis, effects: &mut Vec<Effect>) {
        let held = match self.inputs.get_mut(id).map(|state| &mut state.stage) {
            Some(Stage::Stopping { outcome, .. }) => outcome.take(),
            _ => None,
        };
        match (held, otherwise) {
            (Some(outcome), _) | (None, AttemptEnd::Outcome(outcome)) => self.settle(id, *outcome, now, effects),
            (None, AttemptEnd::Lost(why)) => self.retry_lost(id, &why, now, effects),
        }
    }

    /// Makes an outcome final. The output of a call that the store has is recorded before anybody sees it. Answers with the container
    /// that ran it.
    pub(super) fn finish(
        &mut self,
        id: &InputId,
        outcome: Outcome,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) -> Option<TaskId> {
        if matches!(self.inputs.get(id)?.stage, Stage::Recording(_)) {
            return None;
        }
        let ran_ms = match &self.inputs.get(id)?.stage {
            Stage::Running { deadline, .. } => ran_ms(*deadline, &self.policy, now),
            Stage::Stopping { ran_ms, .. } => *ran_ms,
            _ => 0,
        };
        let task = self.detach(id, now);
        if task.is_some() && outcome.status != OutcomeStatus::Terminated {
            self.completed += 1;
            self.completed_run_ms += ran_ms;
        }
        let state = self.inputs.get_mut(id)?;
        let output = FinishedOutput { input: id.clone(), idx: state.input.idx, task: task.clone(), outcome };
        let call = state.call.clone();
        if self.calls.get(&call).is_some_and(|c| c.on_disk != OnDisk::No) {
            state.stage = Stage::Recording(Box::new(output.clone()));
            effects.push(Effect::Record { call, output });
        } else {
            self.publish(id, output, effects);
        }
        task
    }

    /// The store has the output: publish it.
    pub fn on_recorded(&mut self, id: &InputId, effects: &mut Vec<Effect>) {
        let Some(InputState { stage: Stage::Recording(output), .. }) = self.inputs.get(id) else { return };
        let output = output.as_ref().clone();
        self.publish(id, output, effects);
    }

    pub(super) fn publish(&mut self, id: &InputId, output: FinishedOutput, effects: &mut Vec<Effect>) {
        let Some(state) = self.inputs.remove(id) else { return };
        shrink(&mut self.inputs);
        self.resident_bytes -= state.input.payload.resident_bytes();
        let Some(call) = self.calls.get_mut(&state.call) else { return };
        call.unfinished.remove(&state.position);
        call.finished.insert(id.clone());
        call.published.push(output);
        if call.unfinished.is_empty() {
            self.note_change(&state.call);
        }
        effects.push(Effect::OutputReady { call: state.call });
    }

    /// Ends an input without an output, for nobody can ask for it. Answers with the container that ran it.
    pub(super) fn discard(&mut self, id: &InputId, now: Millis) -> Option<TaskId> {
        let task = self.detach(id, now);
        if let Some(state) = self.inputs.remove(id) {
            shrink(&mut self.inputs);
            self.resident_bytes -= state.input.payload.resident_bytes();
        }
        task
    }
}

/// How long an attempt with this deadline has been running.
fn ran_ms(deadline: Millis, policy: &Policy, now: Millis) -> Millis {
    now.saturating_add(policy.timeout_ms).saturating_sub(deadline)
}
