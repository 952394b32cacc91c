//! What containers do: ask for inputs, report outputs, leave, die.

use types::ids::{InputId, TaskId};

use super::attempts::{AttemptEnd, STOP_LIMIT_MS};
use super::silence::{cancelled_itself, left_its_container};
use super::{FunctionCalls, Stage, shrink};
use crate::Millis;
use crate::effect::{Effect, TaskEnd};
use crate::input::{Outcome, OutcomeStatus, Payload};

/// A cancelled input may clean up this long before its container is stopped under it.
pub(super) const CANCEL_GRACE_MS: Millis = 10_000;

/// What a cancellation interrupts along with its own cleans up as well, and reports within this. Later it answers for its own
/// end. Longer than the grace: nothing stops its container at the end of that.
pub(super) const DISTURBED_MS: Millis = 60_000;

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
        self.excuse_abandoned(task_id, max.max(1));
        self.notice_silence(task_id, max.max(1), now, effects);
        let task = self.tasks.entry(task_id.clone()).or_default();
        task.polls.push_back((poll, max.max(1)));
        if task.running.is_empty() && task.idle_since.is_none() {
            task.idle_since = Some(now);
        }
        self.idle.insert((task.rank, task_id.clone()));
        self.dispatch(now, effects);
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
    /// attempts keep their numbers: they never began. The word of it may be late, and another attempt on the same
    /// container be under way.
    pub fn on_undelivered(
        &mut self,
        task_id: &TaskId,
        attempts: &[(InputId, u32)],
        now: Millis,
        effects: &mut Vec<Effect>,
    ) {
        // Each goes to the front, so the last goes first.
        for (id, attempt) in attempts.iter().rev() {
            self.end_abandoned(task_id, id);
            let is_current = self.inputs.get(id).is_some_and(|state| state.attempt == *attempt);
            if is_current && self.is_running_on(id, task_id) {
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
            self.stop_if_retries_wait(task_id, now, effects);
            return false;
        }
        let current = self.inputs.get(input).map(|i| i.attempt);
        if !self.is_running_on(input, task_id) || attempt.is_some_and(|a| Some(a) != current) {
            return false;
        }
        self.clear_suspect(task_id, input);
        self.on_report(task_id, input, outcome, now, effects);
        self.judge_silence(task_id, now, effects);
        self.stop_if_retries_wait(task_id, now, effects);
        self.dispatch(now, effects);
        true
    }

    /// A container's word that it was interrupted means something only when it was told to stop or to cancel something:
    /// user code can raise the same exceptions. (Nobody cancelled this input, or it would not be running any more; but to
    /// cancel one of a batch, or of synchronous inputs side by side, a container interrupts them all.) On a container that
    /// is being stopped, whatever is to be tried again or to be told waits for its end, and so for its last commit.
    fn on_report(&mut self, task_id: &TaskId, id: &InputId, outcome: Outcome, now: Millis, effects: &mut Vec<Effect>) {
        let stopping = self.is_stopping(task_id);
        let disturbed = self.tasks.get(task_id).is_some_and(|t| t.is_disturbed(id, now));
        match outcome.status {
            OutcomeStatus::Success => self.settle(id, outcome, now, effects),
            OutcomeStatus::Terminated if stopping => self.hold(id, None, true, now),
            _ if stopping => self.hold(id, Some(outcome), true, now),
            OutcomeStatus::Terminated if disturbed => self.retry_disturbed(task_id, id, now, effects),
            OutcomeStatus::Terminated => self.on_report(task_id, id, cancelled_itself(outcome), now, effects),
            status if self.leaves_before_retry(task_id, id, status) => self.hold(id, Some(outcome), true, now),
            _ => self.settle(id, outcome, now, effects),
        }
    }

    /// A failed attempt is tried again elsewhere, for its container leaves, as one of single use does after its batch: then
    /// the next one waits for its last commit. Elsewhere only the last input to report waits: what else runs may take hours.
    fn leaves_before_retry(&self, task_id: &TaskId, id: &InputId, status: OutcomeStatus) -> bool {
        let (Some(task), Some(state)) = (self.tasks.get(task_id), self.inputs.get(id)) else { return false };
        let is_last = task.running.len() == 1 && task.abandoned.is_empty();
        let leaves = task.draining && (self.policy.single_use || is_last);
        leaves && self.policy.retry.repeats(status, state.user_failures)
    }

    /// A container that has reported on everything, and whose end is waited for, has nothing else to stay for.
    fn stop_if_retries_wait(&mut self, task_id: &TaskId, now: Millis, effects: &mut Vec<Effect>) {
        let held = self.tasks.get(task_id).filter(|t| t.draining).and_then(|t| t.running.first());
        let Some(id) = held.filter(|_| !self.is_busy(task_id)) else { return };
        let why = format!("it leaves, and input `{id}` is tried again after it");
        self.stop_for(task_id, why, now, effects);
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
        let interrupted = |id: &InputId| task.stopping || task.is_disturbed(id, now);
        let running: Vec<(InputId, bool)> = task.running.iter().map(|id| (id.clone(), interrupted(id))).collect();
        // Lost inputs go to the front, so the last goes first.
        for (input, interrupted) in running.iter().rev() {
            let end = match end {
                TaskEnd::Crashed(text) => {
                    AttemptEnd::Outcome(Box::new(Outcome::of(OutcomeStatus::Failure, text.clone())))
                }
                TaskEnd::Lost(why) => AttemptEnd::Lost(why.clone()),
                TaskEnd::Left if *interrupted => AttemptEnd::Lost("the container left before it answered".to_owned()),
                TaskEnd::Left => left_its_container(),
            };
            self.release(input, end, now, effects);
        }
        self.tasks.remove(task_id);
        shrink(&mut self.tasks);
        self.dispatch(now, effects);
    }

    /// Containers fail to start, and those that wait for one wait no longer. Where `retries=` allows, they wait again after
    /// its delay. Who is in such a delay now has no need of a container yet.
    pub fn give_up_waiting(&mut self, outcome: &Outcome, now: Millis, effects: &mut Vec<Effect>) {
        let waiting: Vec<InputId> = self.ready.ids().cloned().collect();
        for id in waiting {
            self.give_up(&id, outcome.clone(), now, effects);
        }
    }

    /// Starting is pointless for ever: every input that is not running ends with this outcome.
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

    /// The shell stops the container, for a reason of its own. What the container says from now on is heard with that in
    /// mind, and what it runs is settled when it has ended.
    pub fn stop(&mut self, task_id: &TaskId, now: Millis, effects: &mut Vec<Effect>) {
        self.drain(task_id, effects);
        self.begin_stop(task_id, now);
    }

    /// From now on the container's end is waited for, but not for ever. False if that has begun before.
    pub(super) fn begin_stop(&mut self, task_id: &TaskId, now: Millis) -> bool {
        let Some(task) = self.tasks.get_mut(task_id).filter(|t| !t.stopping) else { return false };
        task.stopping = true;
        let limit = now.saturating_add(STOP_LIMIT_MS);
        for id in task.running.clone() {
            self.change_due(&id, |_, _, stop_limit| *stop_limit = Some(limit));
        }
        true
    }

    /// It was told to stop, and has not ended.
    pub(super) fn is_stopping(&self, task_id: &TaskId) -> bool {
        self.tasks.get(task_id).is_some_and(|t| t.stopping)
    }

    /// A running input of a container that is not on its way to its end: only such a one is told to stop singly.
    pub(super) fn can_be_interrupted(&self, id: &InputId) -> bool {
        let Some(Stage::Running { task, .. }) = self.inputs.get(id).map(|state| &state.stage) else { return false };
        !self.is_stopping(task)
    }

    /// From now on the container has a grace for an input that nobody waits for. The word of it may reach what else runs
    /// there, or what it is handed next: the runner interrupts a process, not an input.
    pub(super) fn abandon(&mut self, task_id: &TaskId, input: &InputId, now: Millis) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        let deadline = now.saturating_add(CANCEL_GRACE_MS);
        task.abandoned.insert(input.clone(), deadline);
        let shows_by = now.saturating_add(DISTURBED_MS);
        task.disturbed = task.running.iter().map(|id| (id.clone(), shows_by)).collect();
        task.disturbed_until = deadline;
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
