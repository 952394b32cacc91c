//! The five invariants of the crate's header, over random histories. A second, much simpler account of the same
//! history is kept beside the state machine: who was handed what, and what was published.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use proptest::prelude::*;
use types::ids::{FunctionCallId, InputId, TaskId};

use super::attempts::STOP_LIMIT_MS;
use super::{FunctionCalls, Stage};
use crate::*;

const CALLS: usize = 8;
const TASKS: usize = 5;
const RETRIES: u32 = 2;

#[derive(Debug, Clone)]
enum Step {
    Create {
        call: usize,
        durable: bool,
    },
    /// Some of these were added before: a repeated request.
    Add {
        call: usize,
        first: usize,
        count: usize,
    },
    FinishInputs {
        call: usize,
    },
    Poll {
        task: usize,
        max: usize,
    },
    CancelPoll {
        task: usize,
    },
    /// A container reports on one of the attempts it was ever handed, current or not.
    Output {
        task: usize,
        which: usize,
        status: OutcomeStatus,
        says_attempt: bool,
    },
    Undelivered {
        task: usize,
        which: usize,
    },
    End {
        task: usize,
        end: TaskEnd,
    },
    Drain {
        task: usize,
    },
    /// The shell stops a container.
    Stop {
        task: usize,
    },
    Cancel {
        call: usize,
    },
    Forget {
        call: usize,
    },
    FailWaiting {
        for_ever: bool,
    },
    Recorded {
        which: usize,
    },
    /// The store took the oldest call that it was asked to, or could not.
    CallRecorded {
        taken: bool,
    },
    Collected {
        call: usize,
    },
    RecordOpen,
    Wait {
        ms: Millis,
    },
}

fn any_status() -> impl Strategy<Value = OutcomeStatus> {
    prop_oneof![
        4 => Just(OutcomeStatus::Success),
        4 => Just(OutcomeStatus::Failure),
        1 => Just(OutcomeStatus::Terminated),
        1 => Just(OutcomeStatus::InternalFailure),
    ]
}

fn any_end() -> impl Strategy<Value = TaskEnd> {
    prop_oneof![
        Just(TaskEnd::Crashed("crashed".to_owned())),
        Just(TaskEnd::Lost("lost".to_owned())),
        Just(TaskEnd::Left),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let (call, task) = (0..CALLS, 0..TASKS);
    prop_oneof![
        2 => (call.clone(), any::<bool>()).prop_map(|(call, durable)| Step::Create { call, durable }),
        6 => (call.clone(), 0usize..12, 1usize..5).prop_map(|(call, first, count)| Step::Add { call, first, count }),
        1 => call.clone().prop_map(|call| Step::FinishInputs { call }),
        10 => (task.clone(), 1usize..4).prop_map(|(task, max)| Step::Poll { task, max }),
        2 => task.clone().prop_map(|task| Step::CancelPoll { task }),
        10 => (task.clone(), 0usize..20, any_status(), any::<bool>())
            .prop_map(|(task, which, status, says_attempt)| Step::Output { task, which, status, says_attempt }),
        2 => (task.clone(), 0usize..20).prop_map(|(task, which)| Step::Undelivered { task, which }),
        2 => (task.clone(), any_end()).prop_map(|(task, end)| Step::End { task, end }),
        1 => task.clone().prop_map(|task| Step::Drain { task }),
        1 => task.prop_map(|task| Step::Stop { task }),
        1 => call.clone().prop_map(|call| Step::Cancel { call }),
        1 => call.prop_map(|call| Step::Forget { call }),
        1 => any::<bool>().prop_map(|for_ever| Step::FailWaiting { for_ever }),
        2 => any::<bool>().prop_map(|taken| Step::CallRecorded { taken }),
        1 => (0..CALLS).prop_map(|call| Step::Collected { call }),
        1 => Just(Step::RecordOpen),
        4 => (0usize..20).prop_map(|which| Step::Recorded { which }),
        4 => prop_oneof![0u64..50, 0u64..2_000, 0u64..20_000].prop_map(|ms| Step::Wait { ms }),
    ]
}

/// How long a batch lingers (not, short, longer than everything else), when calls become durable, how many slots a
/// container is known to have, whether it reports whatever happens, and whether it is used once.
fn any_policy() -> impl Strategy<Value = Policy> {
    let linger = prop_oneof![2 => Just(0u64), 2 => 1u64..200, 1 => Just(5_000u64)];
    let durable_after = prop_oneof![Just(None), Just(Some(0)), Just(Some(500u64))];
    let slots = prop_oneof![2 => Just(0usize), 1 => 3usize..6];
    (linger, durable_after, slots, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(batch_linger_ms, durable_after_ms, slots_per_container, reports_cancellations, single_use)| Policy {
            retry: RetryPolicy { retries: RETRIES, initial_delay_ms: 100, ..RetryPolicy::default() },
            timeout_ms: 3_000,
            max_inputs: 40,
            batch_linger_ms,
            durable_after_ms,
            slots_per_container,
            reports_cancellations,
            single_use,
            ..Policy::default()
        },
    )
}

fn call_id(n: usize) -> FunctionCallId {
    FunctionCallId::parse(&format!("fc-{n}")).unwrap()
}

fn input_id(call: usize, n: usize) -> InputId {
    InputId::parse(&format!("in-{call}x{n:03}")).unwrap()
}

fn new_input(call: usize, n: usize) -> NewInput {
    let payload = Payload::Inline(Bytes::from(vec![0; n]));
    let method_name = if n % 5 == 4 { "other" } else { "" }.to_owned();
    NewInput { id: input_id(call, n), idx: n as i32, payload, data_format: 1, method_name }
}

/// The simple account.
#[derive(Default)]
struct Account {
    /// Accepted inputs of calls that are not forgotten.
    accepted: BTreeMap<FunctionCallId, BTreeSet<InputId>>,
    published: HashMap<InputId, FinishedOutput>,
    /// Who holds the current attempt: set by a delivery, ended by its report, its loss or its time.
    holder: HashMap<InputId, (TaskId, u32)>,
    /// Everything a container was ever handed.
    handed: HashMap<usize, Vec<(InputId, u32)>>,
    records: Vec<(InputId, FinishedOutput)>,
    /// Containers that were told to stop and have not ended, with the time of that.
    stopped: HashMap<TaskId, Millis>,
    /// Calls on their way to the disk.
    calls_to_record: Vec<FunctionCallId>,
    highest_attempt: HashMap<InputId, u32>,
}

struct World {
    calls: FunctionCalls,
    account: Account,
    now: Millis,
    poll: u64,
    /// How many inputs each request takes.
    asked: HashMap<u64, usize>,
    /// Containers end for good; the next one takes the place under another name.
    generation: [usize; TASKS],
}

impl World {
    fn new(policy: Policy) -> Self {
        Self {
            calls: FunctionCalls::new(policy),
            account: Account::default(),
            now: 0,
            poll: 0,
            asked: HashMap::new(),
            generation: [0; TASKS],
        }
    }

    fn task(&self, n: usize) -> TaskId {
        TaskId::parse(&format!("ta-{n}X{}", self.generation[n])).unwrap()
    }

    fn step(&mut self, step: &Step) {
        let (mut effects, now) = (Vec::new(), self.now);
        let suspected = self.suspected(step);
        match step.clone() {
            Step::Create { call, durable } => {
                let kind = if durable { CallKind::Map } else { CallKind::Unary };
                let spec = CallSpec {
                    id: call_id(call),
                    kind,
                    durable,
                    parent_input: None,
                    created_at: now,
                    invocation_type: 1,
                };
                self.calls.create_call(spec, now);
                if self.calls.call_spec(&call_id(call)).is_some() {
                    self.account.accepted.entry(call_id(call)).or_default();
                }
            }
            Step::Add { call, first, count } => self.add(call, first, count, &mut effects),
            Step::FinishInputs { call } => self.calls.finish_inputs(&call_id(call)),
            Step::Poll { task, max } => {
                self.poll += 1;
                self.asked.insert(self.poll, max);
                self.calls.poll(&self.task(task), self.poll, max, now, &mut effects);
            }
            Step::CancelPoll { task } => self.calls.cancel_poll(&self.task(task), self.poll),
            Step::Output { task, which, status, says_attempt } => {
                self.report(task, which, status, says_attempt, &mut effects);
            }
            Step::Undelivered { task, which } => {
                if let Some((input, attempt)) = self.handed(task, which) {
                    let id = self.task(task);
                    if self.account.holder.get(&input) == Some(&(id.clone(), attempt)) {
                        self.account.holder.remove(&input);
                        self.calls.on_undelivered(&id, &[(input, attempt)], now, &mut effects);
                    }
                }
            }
            Step::End { task, end } => {
                let id = self.task(task);
                self.calls.on_task_end(&id, &end, now, &mut effects);
                self.account.holder.retain(|_, (holder, _)| *holder != id);
                self.generation[task] += 1;
                self.account.handed.remove(&task);
                self.account.stopped.remove(&id);
            }
            Step::Drain { task } => self.calls.drain(&self.task(task), &mut effects),
            Step::Stop { task } => {
                let id = self.task(task);
                self.calls.stop(&id, now, &mut effects);
                self.account.stopped.entry(id).or_insert(now);
            }
            Step::Cancel { call } => self.calls.cancel_call(&call_id(call), now, &mut effects),
            Step::Forget { call } => {
                self.calls.forget_call(&call_id(call), now, &mut effects);
                for input in self.account.accepted.remove(&call_id(call)).unwrap_or_default() {
                    self.account.published.remove(&input);
                    self.account.holder.remove(&input);
                    self.account.highest_attempt.remove(&input);
                }
            }
            Step::FailWaiting { for_ever } => {
                let outcome = Outcome::of(OutcomeStatus::InitFailure, "no start");
                match for_ever {
                    true => self.calls.fail_waiting(&outcome, now, &mut effects),
                    false => self.calls.give_up_waiting(&outcome, now, &mut effects),
                }
            }
            Step::Recorded { which } => {
                if which < self.account.records.len() {
                    let (input, _) = self.account.records.remove(which);
                    self.calls.on_recorded(&input, &mut effects);
                }
            }
            Step::CallRecorded { taken } => {
                if !self.account.calls_to_record.is_empty() {
                    let call = self.account.calls_to_record.remove(0);
                    match taken {
                        true => self.calls.on_call_recorded(&call, &mut effects),
                        false => self.calls.on_call_not_recorded(&call, now, &mut effects),
                    }
                }
            }
            Step::Collected { call } => self.calls.on_collected(&call_id(call)),
            Step::RecordOpen => self.calls.record_open_calls(&mut effects),
            Step::Wait { ms } => {
                self.now += ms;
                self.calls.tick(self.now, &mut effects);
            }
        }
        for input in suspected {
            let holder = self.account.holder.get(&input);
            if holder.is_some_and(|(task, _)| !self.calls.is_held_by(&input, task)) {
                self.account.holder.remove(&input);
            }
        }
        self.follow(effects);
        self.calls.check_structure(self.now);
        self.check_account();
    }

    /// Attempts that a container's silence may end in this step, of which only the state machine knows. On a container that
    /// is being stopped it ends none.
    fn suspected(&self, step: &Step) -> Vec<InputId> {
        let is_judged = |id: &InputId| match step {
            Step::Poll { .. } | Step::Output { .. } => true,
            Step::Wait { .. } => self.calls.waits_for_last_word(id),
            _ => false,
        };
        let held = self.account.holder.iter().filter(|(_, (task, _))| !self.account.stopped.contains_key(task));
        held.map(|(id, _)| id).filter(|id| is_judged(id)).cloned().collect()
    }

    fn add(&mut self, call: usize, first: usize, count: usize, effects: &mut Vec<Effect>) {
        let inputs = (first..first + count).map(|n| new_input(call, n)).collect();
        let known = self.account.accepted.contains_key(&call_id(call));
        let written = self.calls.on_disk(&call_id(call)).is_some_and(|on_disk| on_disk != OnDisk::No);
        match self.calls.add_inputs(&call_id(call), inputs, written, self.now, effects) {
            Accepted::Yes => {
                let accepted = self.account.accepted.get_mut(&call_id(call)).unwrap();
                accepted.extend((first..first + count).map(|n| input_id(call, n)));
            }
            Accepted::QueueFull => assert!(known && !written),
            Accepted::WriteFirst => panic!("they were written"),
            Accepted::NoSuchCall => assert!(!known),
        }
    }

    fn handed(&self, task: usize, which: usize) -> Option<(InputId, u32)> {
        let handed = self.account.handed.get(&task)?;
        handed.get(handed.len().checked_sub(1 + which)?).cloned()
    }

    fn report(&mut self, task: usize, which: usize, status: OutcomeStatus, says: bool, effects: &mut Vec<Effect>) {
        let Some((input, attempt)) = self.handed(task, which) else { return };
        let id = self.task(task);
        let outcome = Outcome::of(status, format!("{status:?} of attempt {attempt}"));
        let taken = self.calls.on_output(&id, &input, says.then_some(attempt), outcome, self.now, effects);
        let holder = self.account.holder.get(&input);
        let is_holder = holder.is_some_and(|(task, current)| *task == id && (!says || *current == attempt));
        assert!(!taken || is_holder, "`{input}` was finished by `{id}`, but {holder:?} has it");
        let may_still_write = status != OutcomeStatus::Success && self.account.stopped.contains_key(&id);
        if taken && !may_still_write {
            self.account.holder.remove(&input);
        }
    }

    /// Enters the effects into the account.
    fn follow(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Deliver { task, poll, inputs } => {
                    assert!((1..=self.asked[&poll]).contains(&inputs.len()), "a batch of {}", inputs.len());
                    assert!(inputs.iter().all(|i| i.method_name == inputs[0].method_name), "a batch of two methods");
                    for assignment in inputs {
                        self.hand_over(&task, &assignment);
                    }
                }
                Effect::RecordCall(restored) => self.goes_to_disk(*restored),
                Effect::StopTask { task, .. } => _ = self.account.stopped.entry(task).or_insert(self.now),
                Effect::Record { output, .. } => self.account.records.push((output.input.clone(), output)),
                _ => {}
            }
        }
    }

    /// What goes to the disk is all there is of the call: nothing that was accepted, nothing that was seen is missing.
    fn goes_to_disk(&mut self, call: Restored) {
        let id = call.spec.id.clone();
        for output in &call.finished {
            let first = self.account.published.entry(output.input.clone()).or_insert_with(|| output.clone());
            assert_eq!(first, output, "a published output is another one on disk");
        }
        let finished = call.finished.iter().map(|o| o.input.clone());
        let ids: BTreeSet<InputId> = call.pending.iter().map(|i| i.id.clone()).chain(finished).collect();
        assert_eq!(ids, self.account.accepted[&id], "inputs of `{id}` are missing on disk");
        self.account.calls_to_record.push(id);
    }

    fn hand_over(&mut self, task: &TaskId, assignment: &Assignment) {
        let Assignment { input, attempt, .. } = assignment;
        assert!(!self.account.published.contains_key(input), "`{input}` runs again after it was finished");
        let highest = self.account.highest_attempt.entry(input.clone()).or_insert(0);
        assert!(*attempt >= *highest, "attempt numbers of `{input}` go back");
        assert!(*attempt <= RETRIES + MAX_SYSTEM_RETRIES, "too many attempts of `{input}`");
        *highest = *attempt;
        if let Some((earlier, _)) = self.account.holder.get(input)
            && let Some(since) = self.account.stopped.get(earlier)
        {
            assert!(self.now >= since + STOP_LIMIT_MS, "`{input}` runs again while `{earlier}` may still write");
        }
        self.account.holder.insert(input.clone(), (task.clone(), *attempt));
        let n = (0..TASKS).find(|n| self.task(*n) == *task).expect("a delivery to a container that ended");
        self.account.handed.entry(n).or_default().push((input.clone(), *attempt));
    }

    /// Invariants 1 and 2, as a caller sees them.
    fn check_account(&mut self) {
        for (call, accepted) in &self.account.accepted {
            let inputs = self.calls.call_inputs(call);
            let ids: BTreeSet<InputId> = inputs.iter().map(|(id, ..)| id.clone()).collect();
            assert_eq!(ids.len(), inputs.len(), "an input of `{call}` is in two states");
            assert_eq!(&ids, accepted, "inputs of `{call}` are lost or invented");
            let everything = PageRequest { after: 0, range: None, limit: usize::MAX };
            for output in self.calls.outputs(call, everything).unwrap().outputs {
                let first = self.account.published.entry(output.input.clone()).or_insert_with(|| output.clone());
                assert_eq!(*first, output, "a published output changed");
            }
        }
    }
}

impl FunctionCalls {
    fn is_held_by(&self, id: &InputId, task: &TaskId) -> bool {
        self.inputs.get(id).and_then(|state| state.stage.held_by()).is_some_and(|(holder, _)| holder == task)
    }

    /// Invariant 1 from within: every index agrees with the stages.
    fn check_structure(&self, now: Millis) {
        let (mut ready, mut delayed, mut deadlines, mut bytes, mut running) =
            (0, BTreeSet::new(), BTreeSet::new(), 0, 0);
        for (id, state) in &self.inputs {
            bytes += state.input.payload.resident_bytes();
            assert_eq!(self.calls[&state.call].unfinished.get(&state.position), Some(id));
            match &state.stage {
                Stage::Ready(_) => ready += 1,
                Stage::Delayed(due, sequence) => _ = delayed.insert((*due, *sequence, id.clone())),
                stage @ (Stage::Running { .. } | Stage::Stopping { .. }) => {
                    let (task, due) = stage.held_by().unwrap();
                    running += 1;
                    assert!(self.tasks[task].running.contains(id));
                    deadlines.insert((due, task.clone(), id.clone()));
                }
                Stage::Recording(_) => {}
            }
        }
        for (id, task) in &self.tasks {
            running -= task.running.len();
            deadlines.extend(task.abandoned.iter().map(|(input, deadline)| (*deadline, id.clone(), input.clone())));
            let is_idle = self.idle.contains(&(task.rank, id.clone()));
            assert_eq!(is_idle, !task.polls.is_empty(), "`{id}` is in the wrong place");
            assert!(!task.draining || task.polls.is_empty());
            assert!(task.draining || !task.stopping);
            assert!(task.disturbed.keys().all(|input| task.running.contains(input)));
            assert!(task.suspects.keys().all(|input| task.running.contains(input)));
            assert!(task.silent <= task.suspects.len() && (task.silent > 0 || task.suspects.is_empty()));
            // A container's requests are answered in their order.
            if let Some((_, max)) = task.polls.front() {
                let due = self.ready.due_batch(*max, self.policy.batch_linger_ms, now);
                assert_eq!(due, None, "`{id}` waits beside a batch that is due");
            }
        }
        assert_eq!(running, 0);
        assert_eq!(self.ready.len(), ready);
        assert!(self.ready.ids().all(|id| matches!(self.inputs[id].stage, Stage::Ready(_))));
        assert_eq!(self.delayed, delayed);
        assert_eq!(self.deadlines, deadlines);
        assert_eq!(self.resident_bytes, bytes);
        assert_eq!(self.backlog.is_some(), !self.ready.is_empty());
        let unfinished: usize = self.calls.values().map(|c| c.unfinished.len()).sum();
        assert_eq!(self.inputs.len(), unfinished);
        for call in self.calls.values() {
            assert_eq!(call.inputs, call.unfinished.len() + call.published.len());
            assert_eq!(call.finished.len(), call.published.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_an_invariant(policy in any_policy(), steps in prop::collection::vec(any_step(), 1..150)) {
        let mut world = World::new(policy);
        for step in &steps {
            world.step(step);
        }
    }

    #[test]
    fn whatever_happened_every_input_can_still_be_finished(
        policy in any_policy(),
        steps in prop::collection::vec(any_step(), 1..80),
    ) {
        let mut world = World::new(policy);
        for step in &steps {
            world.step(step);
        }
        for _ in 0..2_000 {
            if !world.calls.has_unfinished_calls() {
                return Ok(());
            }
            let id = world.task(0);
            let running: Vec<_> = world.account.holder.iter().filter(|(_, (task, _))| *task == id).collect();
            match running.first() {
                Some((input, (_, attempt))) => {
                    let (input, attempt) = ((*input).clone(), *attempt);
                    let mut effects = Vec::new();
                    world.calls.on_output(&id, &input, Some(attempt), Outcome::of(OutcomeStatus::Success, ""), world.now, &mut effects);
                    world.account.holder.remove(&input);
                    world.follow(effects);
                }
                None => {
                    world.step(&Step::End { task: 0, end: TaskEnd::Left });
                    for task in 1..TASKS {
                        world.step(&Step::End { task, end: TaskEnd::Lost("swept".to_owned()) });
                    }
                    world.step(&Step::Poll { task: 0, max: 3 });
                }
            }
            world.step(&Step::CallRecorded { taken: true });
            world.step(&Step::Recorded { which: 0 });
            world.step(&Step::Wait { ms: 10 });
        }
        prop_assert!(!world.calls.has_unfinished_calls(), "inputs are stuck");
    }
}
