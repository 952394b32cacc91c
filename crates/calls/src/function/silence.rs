//! What follows from what a container does not say.
//!
//! A container asks for inputs only while it has room for them. If by what is known here it has none, some of what it runs
//! has ended without a word: what was cancelled on it, as with clients before 0.70, or an attempt whose code cancelled
//! itself, which these clients pass over in silence.
//!
//! Clients from 0.73 on report on each before they ask again. When they ask without room, they never got the last delivery.
//!
//! With several inputs side by side it does not show which of them it was. Then all that ran at that time are suspects, and
//! each report clears one; as many as have ended remain. Until then nothing is decided: failing the wrong one would refuse
//! a result that is on its way. For the same reason what is found silent may still speak for a moment: its delivery may
//! have been lost with a connection, and the word of that be later than the next request.

use types::ids::{InputId, TaskId};

use super::attempts::AttemptEnd;
use super::{FunctionCalls, InputState, Stage};
use crate::Millis;
use crate::effect::Effect;
use crate::input::{Outcome, OutcomeStatus};

/// A lost connection is noticed within this.
const LAST_WORD_MS: Millis = 4_000;

impl FunctionCalls {
    /// A container asks only while it has room for `max` more. If it has no room for that beside what it runs and what
    /// was cancelled on it, some of the cancelled has ended without a word.
    pub(super) fn excuse_abandoned(&mut self, task_id: &TaskId, max: usize) {
        let slots = self.policy.slots_per_container;
        let Some(task) = self.tasks.get_mut(task_id).filter(|_| slots > 0) else { return };
        let may_remain = slots.saturating_sub(max);
        while !task.abandoned.is_empty() && task.abandoned.len() + task.running.len() > may_remain {
            let oldest = task.abandoned.iter().min_by_key(|(_, deadline)| **deadline).map(|(id, _)| id.clone());
            let Some((id, deadline)) = oldest.and_then(|id| task.abandoned.remove_entry(&id)) else { return };
            self.deadlines.remove(&(deadline, task_id.clone(), id));
        }
    }

    /// The same for what still counts as running.
    pub(super) fn notice_silence(&mut self, task_id: &TaskId, max: usize, now: Millis, effects: &mut Vec<Effect>) {
        let slots = self.policy.slots_per_container;
        let Some(task) = self.tasks.get_mut(task_id).filter(|_| slots > 0) else { return };
        let ended = task.running.len().saturating_sub(slots.saturating_sub(max));
        if ended > task.silent {
            task.silent = ended;
            let before = std::mem::take(&mut task.suspects);
            let excused = |id: &InputId| task.is_disturbed(id, now) || before.get(id).is_some_and(|excused| *excused);
            let suspects = task.running.iter().map(|id| (id.clone(), excused(id))).collect();
            task.suspects = suspects;
        }
        self.judge_silence(task_id, now, effects);
    }

    /// An input has reported: it is not among those that say nothing.
    pub(super) fn clear_suspect(&mut self, task_id: &TaskId, id: &InputId) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        task.suspects.remove(id);
        // One that was taken for silent and speaks all the same.
        task.silent = task.silent.min(task.suspects.len());
    }

    /// Acts on the suspects once each of them must be guilty. One that a cancellation may have interrupted is no fault
    /// of its own.
    pub(super) fn judge_silence(&mut self, task_id: &TaskId, now: Millis, effects: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(task_id).filter(|t| t.silent > 0 && t.suspects.len() == t.silent) else {
            return;
        };
        let suspects: Vec<(InputId, bool)> =
            task.suspects.iter().map(|(id, disturbed)| (id.clone(), *disturbed)).collect();
        // What is lost goes to the front, so the last goes first.
        for (id, disturbed) in suspects.iter().rev() {
            if *disturbed {
                self.retry_disturbed(task_id, id, now, effects);
            } else {
                self.expect_last_word(id, now);
            }
        }
    }

    /// The cancellation has reached the container: what is handed to it from now on can interrupt only itself.
    pub(super) fn retry_disturbed(&mut self, task_id: &TaskId, id: &InputId, now: Millis, effects: &mut Vec<Effect>) {
        if let Some(task) = self.tasks.get_mut(task_id) {
            task.disturbed_until = now;
        }
        match self.is_stopping(task_id) {
            true => self.hold(id, None, true, now),
            false => self.retry_lost(id, "the container was interrupted", now, effects),
        }
    }

    fn expect_last_word(&mut self, id: &InputId, now: Millis) {
        self.change_due(id, |deadline, last_word, _| {
            last_word.get_or_insert(now.saturating_add(LAST_WORD_MS).min(deadline));
        });
    }

    /// No last word has come. A container that reports whatever happens never got the input; with another, the input ended by
    /// its own doing.
    pub(super) fn end_silent(&mut self, task_id: &TaskId, id: &InputId, now: Millis, effects: &mut Vec<Effect>) {
        let outcome = (!self.policy.reports_cancellations).then(said_nothing);
        match outcome {
            outcome if self.is_stopping(task_id) => self.hold(id, outcome, true, now),
            Some(outcome) => self.settle(id, outcome, now, effects),
            None => self.retry_lost(id, "it asked for more and had never got the input", now, effects),
        }
    }

    pub(super) fn waits_for_last_word(&self, id: &InputId) -> bool {
        matches!(self.inputs.get(id), Some(InputState { stage: Stage::Running { last_word: Some(_), .. }, .. }))
    }
}

/// The container went on without a word on this input.
fn said_nothing() -> Outcome {
    let text = "the function ended without a result, and its container went on to the next input: its own code raised \
                `asyncio.CancelledError`, which this version of the client does not report";
    Outcome::of(OutcomeStatus::Failure, text)
}

/// The container says that it was interrupted, and nobody had interrupted it.
pub(super) fn cancelled_itself(reported: Outcome) -> Outcome {
    let text =
        "the function ended with `asyncio.CancelledError`, raised by its own code: nobody had cancelled the call";
    Outcome { status: OutcomeStatus::Failure, exception: text.to_owned(), ..reported }
}

/// The container ended by itself, in good order, without a word on this input.
pub(super) fn left_its_container() -> AttemptEnd {
    let text = "the function ended its container before it had returned: its own code raised `KeyboardInterrupt` or made \
                the process exit";
    AttemptEnd::Outcome(Box::new(Outcome::of(OutcomeStatus::Failure, text)))
}
