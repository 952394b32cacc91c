//! The clock, the network and everybody on it. One queue of events, in order of time.

use std::collections::BTreeMap;

use calls::{Assignment, Millis, Outcome, TaskEnd};
use scheduler::StartFault;
use types::ids::{InputId, TaskId};

use crate::caller::{CANCEL, Caller, FEED, Fate};
use crate::container::{Container, InputEnd};
use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::random::Random;
use crate::scenario::{FAULTS_END, Scenario};
use crate::server::{Address, Reply, Request, Server};

mod callers;
mod containers;
mod server_side;
mod workers;

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
        attempts: Vec<(InputId, u32)>,
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
                    self.with_server(|s, now, out| s.on_failed_start(&task, StartFault::Platform, now, out));
                    self.place();
                }
            }
            Event::ImportFails(task) => {
                if self.containers.remove(&task).is_some() {
                    self.with_server(|s, now, out| s.on_failed_start(&task, StartFault::UserCode, now, out));
                    self.place();
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
            Event::NotHanded { epoch, task, attempts } => {
                if self.epoch == epoch {
                    self.with_server(|s, now, out| s.on_undelivered(&task, &attempts, now, out));
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
}
