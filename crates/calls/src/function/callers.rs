//! What callers do: make calls, add inputs, fetch outputs, cancel.

use std::collections::{BTreeMap, HashSet};

use types::ids::{FunctionCallId, InputId, TaskId};

use super::{Call, FunctionCalls, InputState, Left, PAST_KEPT, Stage, shrink};
use crate::effect::{Accepted, Effect, OutputPage, PageRequest};
use crate::input::{CallSpec, NewInput, OnDisk, Outcome, OutcomeStatus, Restored};
use crate::ready::ReadyKey;
use crate::report::{InputReport, ReportedStage};
use crate::{CallKind, Millis};

impl FunctionCalls {
    /// Makes a call with its first inputs. Of one whose inputs are not taken nothing is left: it was never here, and may be
    /// made when there is room. `NoSuchCall` when it was here and has left, so that the request was a repetition.
    pub fn begin_call(
        &mut self,
        spec: CallSpec,
        inputs: Vec<NewInput>,
        written: bool,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) -> Accepted {
        let id = spec.id.clone();
        let is_new = !self.calls.contains_key(&id);
        self.create_call(spec, now);
        let accepted = self.add_inputs(&id, inputs, written, now, effects);
        if is_new && accepted != Accepted::Yes {
            self.withdraw(&id);
            self.calls.remove(&id);
        }
        accepted
    }

    /// A new call without inputs. A call that is already here stays as it is, and one that was forgotten a moment ago
    /// is not made again: the request was a repetition.
    pub fn create_call(&mut self, spec: CallSpec, now: Millis) {
        if !self.forgotten.contains(&spec.id) && !self.calls.contains_key(&spec.id) {
            self.insert_call(spec, now);
        }
    }

    fn insert_call(&mut self, spec: CallSpec, now: Millis) {
        let on_disk = if spec.durable { OnDisk::Yes } else { OnDisk::No };
        if let (OnDisk::No, Some(after_ms)) = (on_disk, self.policy.durable_after_ms) {
            self.young.push_back((now.saturating_add(after_ms), spec.id.clone()));
        }
        let inputs_complete = spec.kind == CallKind::Unary;
        let call = Call {
            spec,
            inputs: 0,
            published: Vec::new(),
            finished: HashSet::new(),
            unfinished: BTreeMap::new(),
            inputs_complete,
            cancelled: false,
            on_disk,
            collected: false,
            asking: 0,
            heard_at: 0,
            idle_since: None,
            unread_items: false,
            changed: false,
            leaves_at: None,
        };
        self.calls.insert(call.spec.id.clone(), call);
    }

    /// Whether `count` more inputs with `bytes` of arguments fit. Asked before they are written to disk.
    pub fn has_room(&self, count: usize, bytes: usize) -> bool {
        self.inputs.len() + count <= self.policy.max_inputs
            && self.resident_bytes + bytes <= self.policy.max_input_bytes
    }

    /// Takes inputs of an existing call; all of them or none. Inputs that the call already has, finished or not, are
    /// passed over, so a request may be repeated. Inputs of a cancelled call end at once.
    ///
    /// Inputs of a call that the store has must be there first, which `written` says. They would come back with the next
    /// start, so they are taken even if the queue has filled up since [`Self::has_room`] was asked.
    pub fn add_inputs(
        &mut self,
        call: &FunctionCallId,
        inputs: Vec<NewInput>,
        written: bool,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) -> Accepted {
        let Some(known) = self.calls.get(call) else { return Accepted::NoSuchCall };
        let fresh: Vec<NewInput> = inputs
            .into_iter()
            .filter(|i| !self.inputs.contains_key(&i.id) && !known.finished.contains(&i.id))
            .collect();
        let (on_disk, cancelled) = (known.on_disk, known.cancelled);
        self.hear(call, now);
        if on_disk != OnDisk::No && !written && !fresh.is_empty() {
            return Accepted::WriteFirst;
        }
        let bytes = fresh.iter().map(|i| i.payload.resident_bytes()).sum();
        if !written && !fresh.is_empty() && !self.has_room(fresh.len(), bytes) {
            return Accepted::QueueFull;
        }
        if fresh.is_empty() {
            // One without inputs may leave as it is.
            self.note_change(call);
        }
        for input in fresh {
            let id = input.id.clone();
            self.add_input(call, input, now);
            if cancelled {
                self.finish(&id, cancelled_outcome(), now, effects);
            }
        }
        self.dispatch(now, effects);
        Accepted::Yes
    }

    fn add_input(&mut self, call_id: &FunctionCallId, input: NewInput, now: Millis) {
        let Some(call) = self.calls.get_mut(call_id) else { return };
        // Within one request, too, an input may be named twice.
        if self.inputs.contains_key(&input.id) || call.finished.contains(&input.id) {
            return;
        }
        let id = input.id.clone();
        let position = call.inputs;
        call.inputs += 1;
        call.idle_since = None;
        call.unfinished.insert(position, id.clone());
        self.resident_bytes += input.payload.resident_bytes();
        let state = InputState {
            input,
            call: call_id.clone(),
            position,
            // Replaced at once by its place in the queue.
            stage: Stage::Ready(ReadyKey::MAX),
            attempt: 0,
            user_failures: 0,
            system_retries: 0,
            ready_since: now,
        };
        self.inputs.insert(id.clone(), state);
        self.make_ready_last(&id, now);
    }

    /// The caller will send no more inputs to this call.
    pub fn finish_inputs(&mut self, call: &FunctionCallId) {
        if let Some(call) = self.calls.get_mut(call) {
            call.inputs_complete = true;
        }
        self.note_change(call);
    }

    /// Brings back what the store had of a durable call: after a restart, or because its caller comes back to a call that has
    /// left memory. Inputs that were running when the server died run again;
    /// their containers died with it. What they had used of their attempts is forgotten: a server that crashes again
    /// and again is no fault of theirs. A call that was cancelled is to be cancelled again by the shell.
    pub fn restore(&mut self, restored: Restored, now: Millis) {
        let id = restored.spec.id.clone();
        if self.calls.contains_key(&id) {
            return;
        }
        self.insert_call(restored.spec, now);
        if let Some(call) = self.calls.get_mut(&id) {
            call.inputs = restored.finished.len();
            call.inputs_complete |= restored.inputs_complete;
            call.finished = restored.finished.iter().map(|o| o.input.clone()).collect();
            call.published = restored.finished;
            call.on_disk = OnDisk::Yes;
        }
        for input in restored.pending {
            self.add_input(&id, input, now);
        }
        // Its caller has as long to come back as if it had been heard now.
        self.hear(&id, now);
        self.note_change(&id);
    }

    /// As [`Self::restore`], for what was read from the store just now: unless the call ran and left memory since it was
    /// read. (One with more inputs to come stays for minutes, so it has not.)
    pub fn restore_unless_left(&mut self, restored: Restored, now: Millis) {
        if restored.pending.is_empty() || !self.forgotten.contains(&restored.spec.id) {
            self.restore(restored, now);
        }
    }

    /// Outputs after a cursor. `None` when the call is unknown.
    pub fn outputs(&self, call: &FunctionCallId, request: PageRequest) -> Option<OutputPage> {
        let call = self.calls.get(call)?;
        let mut outputs = Vec::new();
        let mut next = request.after.min(call.published.len());
        for output in &call.published[next..] {
            if outputs.len() >= request.limit {
                break;
            }
            next += 1;
            if request.range.is_none_or(|(from, to)| (from..=to).contains(&output.idx)) {
                outputs.push(output.clone());
            }
        }
        let open = usize::from(!call.inputs_complete && call.inputs == 0);
        Some(OutputPage { outputs, next, unfinished: call.unfinished.len() + open })
    }

    pub fn call_spec(&self, call: &FunctionCallId) -> Option<&CallSpec> {
        self.calls.get(call).map(|c| &c.spec)
    }

    pub fn input_count(&self, call: &FunctionCallId) -> Option<usize> {
        self.calls.get(call).map(|c| c.inputs)
    }

    /// Inputs of a call with their status (`None` while unfinished) and task, for the call graph.
    pub fn call_inputs(&self, call: &FunctionCallId) -> Vec<(InputId, Option<OutcomeStatus>, Option<TaskId>)> {
        let Some(call) = self.calls.get(call) else { return Vec::new() };
        let done = call.published.iter().map(|o| (o.input.clone(), Some(o.outcome.status), o.task.clone()));
        let open = call.unfinished.values().map(|id| {
            let task = match self.inputs.get(id).map(|i| &i.stage) {
                Some(stage) => stage.held_by().map(|(task, _)| task.clone()),
                None => None,
            };
            (id.clone(), None, task)
        });
        done.chain(open).collect()
    }

    /// The inputs of a call for a person: finished ones first, in the order in which they ended.
    pub fn report_call(&self, id: &FunctionCallId) -> Vec<InputReport> {
        let Some(call) = self.calls.get(id) else { return Vec::new() };
        let report = |input: &InputId, stage, task| InputReport {
            input: input.clone(),
            call: id.clone(),
            enqueued_at: call.spec.created_at,
            stage,
            task,
            started_at: 0.0,
            ended_at: 0.0,
        };
        let done = call.published.iter().map(|output| InputReport {
            started_at: output.outcome.started_at,
            ended_at: output.outcome.created_at,
            ..report(&output.input, ReportedStage::Finished(output.outcome.status), output.task.clone())
        });
        let open = call.unfinished.values().map(|input| match self.inputs.get(input).map(|i| &i.stage) {
            Some(Stage::Running { task, .. } | Stage::Stopping { task, .. }) => {
                report(input, ReportedStage::Running, Some(task.clone()))
            }
            Some(Stage::Recording(output)) => InputReport {
                started_at: output.outcome.started_at,
                ended_at: output.outcome.created_at,
                ..report(input, ReportedStage::Finished(output.outcome.status), output.task.clone())
            },
            _ => report(input, ReportedStage::Pending, None),
        });
        done.chain(open).collect()
    }

    /// What can be looked at of a call that is about to leave: of very many inputs the last.
    fn last_reports(&self, id: &FunctionCallId) -> Vec<InputReport> {
        let mut reports = self.report_call(id);
        reports.drain(..reports.len().saturating_sub(PAST_KEPT));
        reports
    }

    /// The inputs of calls made in a time (both ends included), newest call first, until there are `limit`; the last
    /// call is given whole.
    pub fn report(&self, (since, until): (Millis, Millis), limit: usize) -> Vec<InputReport> {
        let made = self.calls.iter().map(|(id, call)| (call.spec.created_at, id));
        let mut calls: Vec<(Millis, &FunctionCallId)> = made.filter(|(at, _)| (since..=until).contains(at)).collect();
        calls.sort_unstable_by(|a, b| b.cmp(a));
        let mut reports = Vec::new();
        for (_, call) in calls {
            if reports.len() >= limit {
                break;
            }
            reports.extend(self.report_call(call));
        }
        reports
    }

    pub fn call_ids(&self) -> impl Iterator<Item = &FunctionCallId> {
        self.calls.keys()
    }

    pub fn is_finished(&self, call: &FunctionCallId) -> bool {
        self.calls.get(call).is_none_or(|c| c.unfinished.is_empty() && c.inputs_complete)
    }

    /// How many calls lack results that they will have.
    pub fn open_calls(&self) -> usize {
        self.calls.values().filter(|call| !call.unfinished.is_empty()).count()
    }

    pub fn has_unfinished_calls(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// Forgets a call and everything of it. Nobody can ask for its outputs any more, so unfinished inputs end without
    /// one, and nothing is recorded; a container that runs one is told to stop as by [`Self::cancel_call`].
    pub fn forget_call(&mut self, id: &FunctionCallId, now: Millis, effects: &mut Vec<Effect>) -> Option<Left> {
        let delete_record = self.leaves_a_record(id);
        let reports = self.last_reports(id);
        self.withdraw(id);
        let call = self.calls.remove(id)?;
        shrink(&mut self.calls);
        self.forgotten.remember(id);
        let mut interrupted = BTreeMap::new();
        for input in call.unfinished.into_values() {
            let goes_on = self.can_be_interrupted(&input);
            if let Some(task) = self.discard(&input, now).filter(|_| goes_on) {
                self.abandon(&task, &input, now);
                interrupted.entry(task).or_insert_with(Vec::new).push(input);
            }
        }
        say_cancelled(interrupted, effects);
        effects.push(Effect::OutputReady { call: id.clone() });
        let CallSpec { id: call, created_at, parent_input, .. } = call.spec;
        Some(Left { call, created_at, parent_input, delete_record, reports })
    }

    /// Cancels a call: what waits ends now, what runs is told to stop and ends now for the caller. A container that
    /// goes on all the same is stopped after a grace.
    pub fn cancel_call(&mut self, id: &FunctionCallId, now: Millis, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.cancelled = true;
        call.inputs_complete = true;
        let unfinished: Vec<InputId> = call.unfinished.values().cloned().collect();
        let mut interrupted = BTreeMap::new();
        for input in unfinished {
            let goes_on = self.can_be_interrupted(&input);
            if let Some(task) = self.finish(&input, cancelled_outcome(), now, effects).filter(|_| goes_on) {
                self.abandon(&task, &input, now);
                interrupted.entry(task).or_insert_with(Vec::new).push(input);
            }
        }
        say_cancelled(interrupted, effects);
    }
}

fn cancelled_outcome() -> Outcome {
    Outcome::of(OutcomeStatus::Terminated, "the function call was cancelled")
}

fn say_cancelled(interrupted: BTreeMap<TaskId, Vec<InputId>>, effects: &mut Vec<Effect>) {
    effects.extend(interrupted.into_iter().map(|(task, inputs)| Effect::CancelInputs { task, inputs }));
}
