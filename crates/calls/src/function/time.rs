//! What only the clock brings about: the end of a backoff, of a timeout, of a grace, of a batch's waiting.

use types::ids::{InputId, TaskId};

use super::FunctionCalls;
use super::containers::CANCEL_GRACE_MS;
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
        // The container leaves, so nothing must be handed to it while its input is settled.
        self.drain(task_id, effects);
        let why = if self.end_abandoned(task_id, input) {
            format!("input `{input}` went on {} s after it was cancelled", CANCEL_GRACE_MS / 1000)
        } else {
            let seconds = self.policy.timeout_ms as f64 / 1000.0;
            let text = format!("the input ran longer than its timeout of {seconds} s; its container was stopped");
            self.settle(input, Outcome::of(OutcomeStatus::Timeout, text), now, effects);
            format!("input `{input}` exceeded its timeout of {seconds} s")
        };
        // One container, one word: several of its inputs may be late at once.
        let Some(task) = self.tasks.get_mut(task_id).filter(|t| !t.stopping) else { return };
        task.stopping = true;
        effects.push(Effect::StopTask { task: task_id.clone(), why });
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
