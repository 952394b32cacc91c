//! The clock, the network and everybody on it. One queue of events, in order of time.

use std::collections::BTreeMap;

use calls::{Assignment, Millis, Outcome, OutcomeStatus, TaskEnd};
use scheduler::{PlacementRequest, Resources, WorkerView, plan_placement};
use types::ids::{InputId, TaskId};

use crate::caller::{CANCEL, COLLECT, Caller, FEED, Fate};
use crate::container::{Container, InputEnd};
use crate::disk::Disk;
use crate::ledger::{Ledger, said};
use crate::random::Random;
use crate::scenario::{FAULTS_END, Scenario};
use crate::server::{Address, Out, Reply, Request, Server};

/// A day that is not over by then never will be.
const END_OF_TIME: Millis = 4 * 3_600_000;
/// An unanswered request is repeated.
const PATIENCE_MS: Millis = 3_000;
const LONG_POLL_MS: Millis = 20_000;
/// A worker that is silent is believed lost.
const WORKER_SILENCE_MS: Millis = 10_000;

#[derive(Debug, Clone)]
enum Event {
    CallerBegins(usize),
    CallerCancels(usize),
    /// A lane looks whether it has a request to send.
    CallerActs {
        caller: usize,
        lane: usize,
    },
    /// Sends a request again if it is still unanswered.
    CallerRepeats(Address),
    Request(Address, Request),
    CollectEnds(usize, Address),
    Reply(Address, Reply),

    ContainerIsUp(TaskId),
    StartFails(TaskId),
    ImportFails(TaskId),
    Poll {
        task: TaskId,
        poll: u64,
    },
    /// The container gives its request up.
    PollBreaks {
        task: TaskId,
        poll: u64,
    },
    /// The server notices that, or has let it wait long enough.
    PollOver {
        task: TaskId,
        poll: u64,
        broken: bool,
    },
    Handed {
        epoch: usize,
        task: TaskId,
        poll: u64,
        inputs: Vec<Assignment>,
    },
    NotHanded {
        epoch: usize,
        task: TaskId,
        inputs: Vec<InputId>,
    },
    ToldToLeave {
        task: TaskId,
        poll: u64,
    },
    Interrupted {
        task: TaskId,
        inputs: Vec<InputId>,
    },
    InputEnds {
        task: TaskId,
        input: InputId,
        attempt: u32,
        end: InputEnd,
    },
    Reports {
        task: TaskId,
        input: InputId,
        attempt: u32,
    },
    Output {
        task: TaskId,
        input: InputId,
        attempt: u32,
        outcome: Outcome,
    },
    Acknowledged {
        task: TaskId,
        input: InputId,
        attempt: u32,
    },
    Killed(TaskId),
    TaskEnded {
        epoch: usize,
        task: TaskId,
        end: TaskEnd,
    },

    Written(usize),
    Tick(usize),
    ServerDies,
    ServerBegins,
    WorkerIsLost(usize),
    WorkerIsBack(usize),
}

/// What a day came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    pub events: usize,
    pub attempts: usize,
    pub retries: usize,
    pub outputs: usize,
    pub containers: usize,
    pub crashes: usize,
    pub gone: usize,
}

/// Lives through the day of a seed; panics where an invariant is broken. With `trace`, tells what happens.
pub fn run(seed: u64, trace: bool) -> Summary {
    let mut world = World::new(seed, trace);
    world.live();
    world.check_the_end();
    Summary {
        events: world.events,
        attempts: world.ledger.attempts(),
        retries: world.ledger.retries(),
        outputs: world.ledger.outputs(),
        containers: world.containers_started,
        crashes: world.epoch,
        gone: world.callers.iter().filter(|c| c.fate == Fate::LearntThatItIsGone).count(),
    }
}

struct World {
    now: Millis,
    queue: BTreeMap<(Millis, u64), Event>,
    sequence: u64,
    random: Random,
    scenario: Scenario,
    server: Option<Server>,
    epoch: usize,
    disk: Disk,
    callers: Vec<Caller>,
    containers: BTreeMap<TaskId, Container>,
    /// Decided, but no worker has room.
    unplaced: Vec<TaskId>,
    worker_is_up: Vec<bool>,
    polls: u64,
    wake_at: Option<Millis>,
    ledger: Ledger,
    trace: bool,
    events: usize,
    containers_started: usize,
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let scenario = Scenario::from_seed(seed);
        if trace {
            eprintln!("{scenario:#?}");
        }
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            random: Random::new(seed),
            server: None,
            epoch: 0,
            disk: Disk::default(),
            callers: scenario.callers.iter().cloned().enumerate().map(|(n, plan)| Caller::new(n, plan)).collect(),
            containers: BTreeMap::new(),
            unplaced: Vec::new(),
            worker_is_up: vec![true; scenario.workers],
            polls: 0,
            wake_at: None,
            ledger: Ledger::default(),
            trace,
            events: 0,
            containers_started: 0,
            scenario,
        };
        world.after(0, Event::ServerBegins);
        for (n, plan) in world.scenario.callers.clone().into_iter().enumerate() {
            world.at(plan.begins_at, Event::CallerBegins(n));
            if let Some(delay) = plan.cancels_after {
                world.at(plan.begins_at + delay, Event::CallerCancels(n));
            }
        }
        for at in world.scenario.crashes.clone() {
            world.at(at, Event::ServerDies);
        }
        for (at, worker) in world.scenario.worker_losses.clone() {
            world.at(at, Event::WorkerIsLost(worker));
        }
        world
    }

    // ----------------------------------------------------------------------------------------- time and network

    fn at(&mut self, at: Millis, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    fn after(&mut self, delay_ms: Millis, event: Event) {
        self.at(self.now + delay_ms, event);
    }

    /// Whether a fault of this probability happens now.
    fn fault(&mut self, probability: f64) -> bool {
        self.random.chance(probability) && self.now < FAULTS_END
    }

    /// Sends a message: late, perhaps never, perhaps twice. False if it was lost.
    fn send(&mut self, event: Event) -> bool {
        if self.fault(self.scenario.faults.lost_message) {
            return false;
        }
        if self.fault(self.scenario.faults.doubled_message) {
            let late = self.random.between(1, 2_000);
            self.after(late, event.clone());
        }
        let latency = self.random.between(0, self.scenario.latency_ms);
        self.after(latency, event);
        true
    }

    fn live(&mut self) {
        let mut quiet_at = None;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            assert!(at < END_OF_TIME, "the day does not end: {}", self.what_is_stuck());
            self.now = at;
            self.events += 1;
            if self.trace {
                eprintln!("{at:>8} {event:?}");
            }
            self.happen(event);
            self.check_number_of_containers();
            if at > FAULTS_END && self.callers.iter().all(|c| c.fate != Fate::Waiting) {
                let settled = *quiet_at.get_or_insert(at + 2 * 60_000 + self.scenario.settings.scaledown_window_ms);
                if at > settled {
                    return;
                }
            }
        }
        let over = self.callers.iter().all(|c| c.fate != Fate::Waiting);
        assert!(over, "the world stands still: {}", self.what_is_stuck());
    }

    fn what_is_stuck(&self) -> String {
        let waiting: Vec<_> =
            self.callers.iter().filter(|c| c.fate == Fate::Waiting).map(|c| c.call().to_string()).collect();
        let load = self.server.as_ref().map(|s| s.calls.load());
        format!("waiting calls {waiting:?}, load {load:?}, {} containers", self.containers.len())
    }

    // ------------------------------------------------------------------------------------------------- checking

    fn check_number_of_containers(&self) {
        let Some(max) = self.scenario.settings.max_containers else { return };
        let count = self.containers.values().filter(|c| !c.zombie).count() + self.unplaced.len();
        assert!(count <= max as usize, "{count} containers, and `max_containers` is {max}");
    }

    fn check_the_end(&self) {
        self.ledger.check_promises();
        let server = self.server.as_ref().expect("a server after the last fault");
        let load = server.calls.load();
        assert!(!server.calls.has_unfinished_calls(), "inputs are left over: {load:?}");
        assert_eq!((load.ready, load.delayed, load.running), (0, 0, 0));
        assert_eq!(self.disk.pending(), 0);
        let fits = self.scenario.container.milli_cpu <= self.scenario.worker_capacity.milli_cpu;
        if fits {
            let kept = self.scenario.settings.min_containers as usize;
            assert_eq!(self.containers.len(), kept, "containers in a quiet world");
            assert_eq!(server.tasks.len(), kept, "containers that the server knows of");
        }
        if self.scenario.calm {
            let gone = self.callers.iter().any(|c| c.fate == Fate::LearntThatItIsGone);
            assert!(!gone, "a call is gone though nothing went wrong");
        }
    }

    // --------------------------------------------------------------------------------------------------- events

    fn happen(&mut self, event: Event) {
        match event {
            Event::CallerBegins(caller) => self.caller_acts(caller, FEED),
            Event::CallerCancels(caller) => {
                self.callers[caller].cancelling = true;
                self.caller_acts(caller, CANCEL);
            }
            Event::CallerActs { caller, lane } => self.caller_acts(caller, lane),
            Event::CallerRepeats(address) => {
                if self.callers[address.caller].steps[address.lane] == address.step {
                    self.caller_acts(address.caller, address.lane);
                }
            }
            Event::Request(address, request) => {
                self.with_server(|s, now, out| s.on_request(request, address, now, out))
            }
            Event::CollectEnds(epoch, address) => {
                if self.epoch == epoch {
                    self.with_server(|s, _, out| s.on_collect_timeout(address, out));
                }
            }
            Event::Reply(address, reply) => self.caller_hears(address, reply),
            Event::ContainerIsUp(task) => self.container_is_up(&task),
            Event::StartFails(task) => {
                if self.containers.remove(&task).is_some() {
                    self.with_server(|s, now, out| s.on_start_failure(&task, false, now, out));
                    self.place();
                }
            }
            Event::ImportFails(task) => {
                if self.containers.get(&task).is_some_and(|c| !c.zombie) {
                    self.with_server(|s, now, out| s.on_init_failure(now, out));
                    self.container_ends(&task, TaskEnd::Left);
                }
            }
            Event::Poll { task, poll } => {
                let max = self.scenario.batch;
                self.with_server(|s, now, out| s.on_poll(&task, poll, max, now, out));
                self.after(LONG_POLL_MS, Event::PollOver { task, poll, broken: false });
            }
            Event::PollBreaks { task, poll } => self.poll_breaks(task, poll),
            Event::PollOver { task, poll, broken } => {
                let mut waited = false;
                self.with_server(|s, _, _| waited = s.on_poll_over(&task, poll));
                if waited && !broken {
                    let epoch = self.epoch;
                    self.hand(epoch, task, poll, Vec::new());
                }
            }
            Event::Handed { epoch, task, poll, inputs } => self.container_is_handed(epoch, &task, poll, inputs),
            Event::NotHanded { epoch, task, inputs } => {
                if self.epoch == epoch {
                    self.with_server(|s, now, out| s.on_undelivered(&task, &inputs, now, out));
                }
            }
            Event::ToldToLeave { task, poll } => {
                if let Some(container) = self.containers.get_mut(&task).filter(|c| c.poll == Some(poll)) {
                    container.poll = None;
                    container.leaving = true;
                    self.container_acts(&task);
                }
            }
            Event::Interrupted { task, inputs } => self.container_is_interrupted(&task, &inputs),
            Event::InputEnds { task, input, attempt, end } => self.input_ends(&task, &input, attempt, end),
            Event::Reports { task, input, attempt } => self.container_reports(&task, &input, attempt),
            Event::Output { task, input, attempt, outcome } => self.output_arrives(&task, &input, attempt, outcome),
            Event::Acknowledged { task, input, attempt } => {
                if let Some(container) = self.containers.get_mut(&task) {
                    container.unsent.remove(&(input, attempt));
                    self.container_acts(&task);
                }
            }
            Event::Killed(task) => self.container_ends(&task, TaskEnd::Lost("it was stopped".to_owned())),
            Event::TaskEnded { epoch, task, end } => {
                if self.epoch == epoch {
                    self.with_server(|s, now, out| s.on_task_end(&task, &end, now, out));
                    self.place();
                }
            }
            Event::Written(epoch) => {
                if self.epoch == epoch && self.disk.complete_one().is_some() {
                    self.with_server(|s, now, out| s.on_written(now, out));
                    self.write_next();
                }
            }
            Event::Tick(epoch) => {
                if self.epoch == epoch && self.wake_at.is_some_and(|at| at <= self.now) {
                    self.wake_at = None;
                    self.with_server(|s, now, out| s.on_tick(now, out));
                }
            }
            Event::ServerDies => self.server_dies(),
            Event::ServerBegins => self.server_begins(),
            Event::WorkerIsLost(worker) => self.worker_is_lost(worker),
            Event::WorkerIsBack(worker) => {
                self.worker_is_up[worker] = true;
                self.containers.retain(|_, c| !(c.zombie && c.worker == worker));
                self.place();
            }
        }
    }

    // --------------------------------------------------------------------------------------------------- server

    /// Lets the server do something, if there is one, and carries out what it asks for.
    fn with_server(&mut self, act: impl FnOnce(&mut Server, Millis, &mut Vec<Out>)) {
        let mut out = Vec::new();
        if let Some(server) = &mut self.server {
            act(server, self.now, &mut out);
        }
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: Vec<Out>) {
        for act in out {
            match act {
                Out::Reply(address, reply) => _ = self.send(Event::Reply(address, reply)),
                Out::Hand { task, poll, inputs } => self.hand(self.epoch, task, poll, inputs),
                Out::Leave { task, poll } => {
                    if !self.send(Event::ToldToLeave { task: task.clone(), poll }) {
                        self.after(PATIENCE_MS, Event::PollBreaks { task, poll });
                    }
                }
                Out::Interrupt { task, inputs } => _ = self.send(Event::Interrupted { task, inputs }),
                Out::Kill { task } => self.after(50, Event::Killed(task)),
                Out::Write(write) => {
                    self.disk.ask(write);
                    if self.disk.pending() == 1 {
                        self.write_next();
                    }
                }
                Out::Start { task } => {
                    self.unplaced.push(task);
                    self.place();
                }
                Out::WakeAt(at) => {
                    if self.wake_at.is_none_or(|earlier| at < earlier) {
                        self.wake_at = Some(at);
                        self.at(at, Event::Tick(self.epoch));
                    }
                }
            }
        }
    }

    fn write_next(&mut self) {
        if self.disk.pending() > 0 {
            let delay = self.random.between(0, self.scenario.disk_ms);
            self.after(delay, Event::Written(self.epoch));
        }
    }

    /// Answers a container's request. If that is lost both sides notice, in their own time.
    fn hand(&mut self, epoch: usize, task: TaskId, poll: u64, inputs: Vec<Assignment>) {
        if self.fault(self.scenario.faults.lost_message) {
            let ids = inputs.into_iter().map(|i| i.input).collect();
            let (theirs, ours) = (self.random.between(1, PATIENCE_MS), self.random.between(1, PATIENCE_MS));
            self.after(theirs, Event::PollBreaks { task: task.clone(), poll });
            self.after(ours, Event::NotHanded { epoch, task, inputs: ids });
        } else {
            let latency = self.random.between(0, self.scenario.latency_ms);
            self.after(latency, Event::Handed { epoch, task, poll, inputs });
        }
    }

    /// Containers die with the server, as they do when its cgroup is cleared.
    fn server_dies(&mut self) {
        if self.server.take().is_none() {
            return;
        }
        self.epoch += 1;
        let reached = self.random.between(0, self.disk.pending() as u64) as usize;
        self.disk.crash(reached);
        self.containers.clear();
        self.unplaced.clear();
        self.wake_at = None;
        // What was on its way went down with its connection.
        self.queue.retain(|_, e| !matches!(e, Event::Request(..) | Event::Poll { .. } | Event::Output { .. }));
        let down_ms = self.random.between(10, 5_000);
        self.after(down_ms, Event::ServerBegins);
    }

    fn server_begins(&mut self) {
        let mut out = Vec::new();
        self.server = Some(Server::begin(self.epoch, &self.scenario, &self.disk, self.now, &mut out));
        self.carry_out(out);
    }

    // -------------------------------------------------------------------------------------------------- workers

    /// Gives workers to containers that have none yet.
    fn place(&mut self) {
        let resources = self.scenario.container;
        let requests: Vec<PlacementRequest> =
            self.unplaced.iter().map(|task| PlacementRequest { task: task.clone(), resources }).collect();
        let workers: Vec<WorkerView> =
            (0..self.scenario.workers).filter(|n| self.worker_is_up[*n]).map(|n| self.worker_view(n)).collect();
        let plan = plan_placement(&requests, &workers);
        self.unplaced.clear();
        for placement in plan.placements {
            let worker = placement.worker.parse().expect("workers are numbered here");
            self.start(placement.task, worker);
        }
        for unplaceable in plan.unplaceable {
            // While every worker is away, the biggest one is not known.
            if unplaceable.never && self.worker_is_up.iter().all(|up| *up) {
                let task = unplaceable.task;
                self.with_server(|s, now, out| s.on_start_failure(&task, true, now, out));
            } else {
                self.unplaced.push(unplaceable.task);
            }
        }
    }

    fn worker_view(&self, n: usize) -> WorkerView {
        let capacity = self.scenario.worker_capacity;
        let tasks = self.containers.values().filter(|c| c.worker == n && !c.zombie).count();
        let free = Resources {
            milli_cpu: capacity.milli_cpu - tasks as u64 * self.scenario.container.milli_cpu,
            memory_mib: capacity.memory_mib - tasks as u64 * self.scenario.container.memory_mib,
            gpus: 0,
        };
        WorkerView { id: n.to_string(), capacity, free, tasks, max_tasks: 100 }
    }

    fn start(&mut self, task: TaskId, worker: usize) {
        self.containers_started += 1;
        self.containers.insert(task.clone(), Container::new(worker, self.now));
        let (low, high) = self.scenario.startup_ms;
        let startup = self.random.between(low, high);
        if self.fault(self.scenario.faults.failing_start) {
            self.after(startup, Event::StartFails(task));
        } else if self.fault(self.scenario.faults.failing_import) {
            self.after(startup, Event::ImportFails(task));
        } else {
            self.after(startup, Event::ContainerIsUp(task));
        }
    }

    /// The worker falls silent. Its containers are dead, or (a mere partition) go on and talk.
    fn worker_is_lost(&mut self, worker: usize) {
        if !std::mem::replace(&mut self.worker_is_up[worker], false) {
            return;
        }
        let alive = self.random.chance(0.5);
        let tasks: Vec<TaskId> =
            self.containers.iter().filter(|(_, c)| c.worker == worker && !c.zombie).map(|(id, _)| id.clone()).collect();
        for task in tasks {
            match self.containers.get_mut(&task).filter(|c| alive && c.up) {
                Some(container) => container.zombie = true,
                None => _ = self.containers.remove(&task),
            }
            let end = TaskEnd::Lost("the worker is silent".to_owned());
            self.after(WORKER_SILENCE_MS, Event::TaskEnded { epoch: self.epoch, task, end });
        }
        let away_ms = self.random.between(WORKER_SILENCE_MS, 40_000);
        self.after(away_ms, Event::WorkerIsBack(worker));
    }

    // -------------------------------------------------------------------------------------------------- callers

    fn caller_acts(&mut self, caller: usize, lane: usize) {
        let Some(request) = self.callers[caller].request(lane, self.now) else { return };
        let address = Address { caller, lane, step: self.callers[caller].steps[lane] };
        let patience = if matches!(request, Request::Collect(..)) {
            self.after(LONG_POLL_MS, Event::CollectEnds(self.epoch, address));
            LONG_POLL_MS + PATIENCE_MS
        } else {
            PATIENCE_MS
        };
        // A server that is down is noticed at once, a lost message after a while.
        if self.server.is_some() {
            self.send(Event::Request(address, request));
            self.after(patience, Event::CallerRepeats(address));
        } else {
            self.after(500, Event::CallerRepeats(address));
        }
    }

    fn caller_hears(&mut self, address: Address, reply: Reply) {
        let Address { caller: number, lane, step } = address;
        let caller = &mut self.callers[number];
        if caller.steps[lane] != step || caller.fate != Fate::Waiting {
            return;
        }
        if let Reply::Page(page) = &reply {
            page.outputs.iter().for_each(|output| self.ledger.on_seen(output));
        }
        let was_created = caller.created;
        let (accepted, pause) = caller.on_reply(lane, reply);
        let created = caller.created && !was_created;
        if caller.plan.durable {
            self.ledger.promised.extend(accepted);
        }
        self.after(pause, Event::CallerActs { caller: number, lane });
        if created {
            self.after(0, Event::CallerActs { caller: number, lane: COLLECT });
            self.after(0, Event::CallerActs { caller: number, lane: CANCEL });
        }
    }

    // ----------------------------------------------------------------------------------------------- containers

    fn container_is_up(&mut self, task: &TaskId) {
        if let Some(container) = self.containers.get_mut(task) {
            container.up = true;
            self.container_acts(task);
        }
    }

    /// Asks for an input if there is a free slot; leaves if it was told to and has nothing left.
    fn container_acts(&mut self, task: &TaskId) {
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

    fn poll_breaks(&mut self, task: TaskId, poll: u64) {
        let notices = self.random.between(0, PATIENCE_MS);
        self.after(notices, Event::PollOver { task: task.clone(), poll, broken: true });
        if let Some(container) = self.containers.get_mut(&task).filter(|c| c.poll == Some(poll)) {
            container.poll = None;
            self.container_acts(&task);
        }
    }

    fn container_is_handed(&mut self, epoch: usize, task: &TaskId, poll: u64, inputs: Vec<Assignment>) {
        let slots = self.scenario.settings.concurrency as usize;
        let Some(container) = self.containers.get_mut(task).filter(|c| c.poll == Some(poll)) else {
            // The connection was gone already.
            let inputs = inputs.into_iter().map(|i| i.input).collect();
            self.after(0, Event::NotHanded { epoch, task: task.clone(), inputs });
            return;
        };
        container.poll = None;
        let fresh = container.take_in(inputs, slots, self.scenario.batch);
        for assignment in fresh {
            self.ledger.on_handed(epoch, &assignment, &self.scenario.policy);
            self.begin_input(task, assignment);
        }
        self.container_acts(task);
    }

    fn begin_input(&mut self, task: &TaskId, assignment: Assignment) {
        let faults = self.scenario.faults;
        if self.fault(faults.hanging_input) {
            return;
        }
        let end = if self.fault(faults.crashing_input) {
            InputEnd::Crash
        } else if self.fault(faults.failing_input) {
            InputEnd::Failure
        } else {
            InputEnd::Success
        };
        let (low, high) = self.scenario.input_ms;
        let duration = self.random.between(low, high);
        let Assignment { input, attempt, .. } = assignment;
        self.after(duration, Event::InputEnds { task: task.clone(), input, attempt, end });
    }

    fn input_ends(&mut self, task: &TaskId, input: &InputId, attempt: u32, end: InputEnd) {
        let Some(container) = self.containers.get_mut(task) else { return };
        if container.running.get(input) != Some(&attempt) {
            return;
        }
        let status = match end {
            InputEnd::Crash => return self.container_ends(task, TaskEnd::Crashed("exit code 139".to_owned())),
            InputEnd::Failure => OutcomeStatus::Failure,
            InputEnd::Success => OutcomeStatus::Success,
        };
        self.input_is_done(task, input, status);
    }

    /// An input leaves its slot when its report was acknowledged.
    fn input_is_done(&mut self, task: &TaskId, input: &InputId, status: OutcomeStatus) {
        let Some(container) = self.containers.get_mut(task) else { return };
        let Some(attempt) = container.running.remove(input) else { return };
        let text = said(task, input, attempt);
        self.ledger.on_said(&text);
        container.unsent.insert((input.clone(), attempt), Outcome::of(status, text));
        self.container_reports(task, input, attempt);
    }

    fn container_reports(&mut self, task: &TaskId, input: &InputId, attempt: u32) {
        let Some(container) = self.containers.get(task) else { return };
        let Some(outcome) = container.unsent.get(&(input.clone(), attempt)).cloned() else { return };
        self.send(Event::Output { task: task.clone(), input: input.clone(), attempt, outcome });
        self.after(PATIENCE_MS, Event::Reports { task: task.clone(), input: input.clone(), attempt });
    }

    fn output_arrives(&mut self, task: &TaskId, input: &InputId, attempt: u32, outcome: Outcome) {
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

    fn container_is_interrupted(&mut self, task: &TaskId, inputs: &[InputId]) {
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
    fn container_ends(&mut self, task: &TaskId, end: TaskEnd) {
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
