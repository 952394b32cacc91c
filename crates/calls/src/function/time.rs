//! What only the clock brings about: the end of a backoff, of a timeout, of a grace, of a batch's waiting.

use types::ids::{InputId, TaskId};

use super::attempts::AttemptEnd;
use super::containers::CANCEL_GRACE_MS;
use super::{FunctionCalls, InputState, Stage};
use crate::Millis;
use crate::effect::Effect;
use crate::input::{Outcome, OutcomeStatus};

impl FunctionCalls {
    /// What time has made due: retries, deadlines, incomplete batches, calls that have lasted long.
    pub fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        while let Some((deadline, task, input)) = self.deadlines.first().cloned().filter(|(due, ..)| *due <= now) {
            self.deadlines.remove(&(deadline, task.clone(), input.clone()));
            self.on_deadline(&task, &input, now, effects);
        }
        while let Some((_, _, id)) = self.delayed.first().cloned().filter(|(due, ..)| *due <= now) {
            self.end_delay(&id, now);
        }
        while let Some((_, id)) = self.young.pop_front_if(|(due, _)| *due <= now) {
            self.record_call(&id, effects);
        }
        self.dispatch(now, effects);
    }

    fn on_deadline(&mut self, task_id: &TaskId, input: &InputId, now: Millis, effects: &mut Vec<Effect>) {
        if self.waits_for_last_word(input) && self.is_running_on(input, task_id) {
            return self.end_silent(task_id, input, now, effects);
        }
        // The container leaves, so nothing must be handed to it while its input is settled.
        self.drain(task_id, effects);
        if self.end_abandoned(task_id, input) {
            let why = format!("input `{input}` went on {} s after it was cancelled", CANCEL_GRACE_MS / 1000);
            self.stop_for(task_id, why, now, effects);
        } else if self.is_running_on(input, task_id) && !self.is_left_behind(input) {
            self.on_timeout(task_id, input, now, effects);
        } else {
            let why = AttemptEnd::Lost("the container did not end when it was stopped".to_owned());
            self.release(input, why, now, effects);
        }
    }

    /// The attempt is over; what becomes of the input waits for the container's end.
    fn on_timeout(&mut self, task_id: &TaskId, input: &InputId, now: Millis, effects: &mut Vec<Effect>) {
        let seconds = self.policy.timeout_ms as f64 / 1000.0;
        // One container, one word: several of its inputs may be late at once.
        if !self.is_stopping(task_id)
            && let Some(state) = self.inputs.get(input)
        {
            let text = format!("input `{input}` ran into timeout={seconds} s{}", self.what_follows(state));
            effects.push(Effect::Tell { task: task_id.clone(), call: state.call.clone(), input: input.clone(), text });
        }
        let text = format!("the input ran longer than its timeout of {seconds} s; its container was stopped");
        self.hold(input, Some(Outcome::of(OutcomeStatus::Timeout, text)), false, now);
        self.stop_for(task_id, format!("input `{input}` exceeded its timeout of {seconds} s"), now, effects);
    }

    fn what_follows(&self, state: &InputState) -> String {
        match self.policy.retry.retries {
            0 => String::new(),
            retries if state.user_failures >= retries => ", no retries left".to_owned(),
            retries => format!(", retrying ({} of {retries})", state.user_failures + 1),
        }
    }

    pub(super) fn stop_for(&mut self, task_id: &TaskId, why: String, now: Millis, effects: &mut Vec<Effect>) {
        if self.begin_stop(task_id, now) {
            effects.push(Effect::StopTask { task: task_id.clone(), why });
        }
    }

    /// Changes when time does something about a running input, given its deadline: at its last word, at the limit of its
    /// container's stop.
    pub(super) fn change_due(
        &mut self,
        id: &InputId,
        change: impl FnOnce(Millis, &mut Option<Millis>, &mut Option<Millis>),
    ) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        let before = state.stage.held_by().map(|(_, due)| due);
        let Stage::Running { deadline, last_word, stop_limit, .. } = &mut state.stage else { return };
        change(*deadline, last_word, stop_limit);
        if let (Some(before), Some((task, due))) = (before, state.stage.held_by()) {
            self.deadlines.remove(&(before, task.clone(), id.clone()));
            self.deadlines.insert((due, task.clone(), id.clone()));
        }
    }

    /// Its container has not ended in time, and its own deadline is not over.
    fn is_left_behind(&self, id: &InputId) -> bool {
        let Some(Stage::Running { deadline, stop_limit, .. }) = self.inputs.get(id).map(|state| &state.stage) else {
            return false;
        };
        stop_limit.is_some_and(|limit| limit <= *deadline)
    }

    /// When [`Self::tick`] has something to do next.
    pub fn next_due(&self) -> Option<Millis> {
        let retry = self.delayed.first().map(|(due, ..)| *due);
        let deadline = self.deadlines.first().map(|(due, ..)| *due);
        let grown_up = self.young.front().map(|(due, _)| *due);
        [retry, deadline, grown_up, self.batch_due()].into_iter().flatten().min()
    }

    /// When an incomplete batch has waited long enough, if a container waits for one.
    fn batch_due(&self) -> Option<Millis> {
        let linger_ms = self.policy.batch_linger_ms;
        let waits = linger_ms > 0 && !self.ready.is_empty() && !self.idle.is_empty();
        waits.then(|| self.ready.next_batch_due(linger_ms)).flatten()
    }
}
