//! The launcher's containers, from prepared to removed.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use super::slots::Slots;
use super::start::Started;
use crate::cgroup;
use crate::container::{self, Place};
use crate::network::{self, Link};
use crate::sys::process::{self, Forked, Status};
use crate::sys::{self, At, Doing, Failure, socket};
use crate::wire::{self, News, RemountOutcome, Report, StartFailure, Ticket};

/// Counts containers, and names their cgroups.
type Number = u64;

/// Something for the server to know.
pub struct Finished {
    pub news: News,
    pub fd: Option<OwnedFd>,
}

impl From<News> for Finished {
    fn from(news: News) -> Self {
        Self { news, fd: None }
    }
}

struct Child {
    pid: i32,
    socket: OwnedFd,
    group: String,
    /// Which address it has.
    slot: Option<u32>,
    /// Whose job it does; none while it waits for one.
    ticket: Option<Ticket>,
    prepared: bool,
    main: Option<OwnedFd>,
    status: Option<Status>,
    failed: bool,
    /// Its end of the socket is closed: it is ending, and has nothing more to say.
    hung_up: bool,
}

pub struct Children {
    started: Started,
    signals: OwnedFd,
    next: Number,
    slots: Option<Slots>,
    living: BTreeMap<Number, Child>,
    waiting: VecDeque<Number>,
    /// Processes that replace a mount of a container, with the end of the pipe on which they answer.
    remounts: BTreeMap<i32, (Ticket, OwnedFd)>,
    /// Groups that could not be removed yet.
    removals: Vec<String>,
    /// After a failure to prepare, nothing is prepared ahead until a creation has worked.
    broken: bool,
}

impl Children {
    pub fn new(started: Started) -> Self {
        // A machine without signal descriptors cannot run containers; there is nobody to tell but the exit code.
        let Ok(signals) = process::child_signals() else { process::exit_now(2) };
        let slots = started.network.as_ref().ok().map(|bridge| Slots::new(bridge.subnet));
        Self {
            started,
            signals,
            next: 0,
            slots,
            living: BTreeMap::new(),
            waiting: VecDeque::new(),
            remounts: BTreeMap::new(),
            removals: Vec::new(),
            broken: false,
        }
    }

    pub fn signals(&self) -> RawFd {
        self.signals.as_raw_fd()
    }

    pub fn sockets(&self) -> Vec<(Number, RawFd)> {
        let talking = self.living.iter().filter(|(_, child)| !child.hung_up);
        talking.map(|(number, child)| (*number, child.socket.as_raw_fd())).collect()
    }

    /// Gives the job to a prepared container, or to a new one that will find it waiting when it is prepared.
    pub fn create(&mut self, ticket: Ticket, fds: &[OwnedFd]) -> Doing<()> {
        let number = match self.take_waiting() {
            Some(number) => number,
            None => self.prepare()?,
        };
        let child = self.living.get_mut(&number).ok_or_else(|| Failure("a prepared container vanished".into()))?;
        child.ticket = Some(ticket);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let handed_over = wire::send(child.socket.as_fd(), &(), &fds).at("hand over the job");
        if handed_over.is_err() {
            // It would wait for its job for ever, with its place on the bridge. The caller is told by this error.
            child.failed = true;
            let _ = process::kill(child.pid, libc::SIGKILL);
        }
        handed_over
    }

    /// One that is ready, else one that is on its way.
    fn take_waiting(&mut self) -> Option<Number> {
        let ready = self.waiting.iter().position(|number| self.living.get(number).is_some_and(|c| c.prepared));
        self.waiting.remove(ready.unwrap_or(0))
    }

    pub fn refill(&mut self) -> Doing<()> {
        while !self.broken && self.waiting.len() < self.started.config.warm {
            let number = self.prepare()?;
            self.waiting.push_back(number);
        }
        Ok(())
    }

    fn prepare(&mut self) -> Doing<Number> {
        let number = self.next;
        self.next += 1;
        let started = &self.started;
        let child = match &mut self.slots {
            Some(slots) => slots.take_for(|slot| first_process(started, number, slot))?,
            None => first_process(started, number, None)?,
        };
        self.living.insert(number, child);
        Ok(number)
    }

    /// A process of its own does it: mounting many layers takes a while.
    pub fn remount(&mut self, ticket: Ticket, request: Ticket, fds: Vec<OwnedFd>) -> Doing<()> {
        let main = self.by_ticket(ticket).and_then(|child| child.main.as_ref());
        let main = main.ok_or_else(|| Failure("the container has ended".into()))?;
        let file = fds.into_iter().next().ok_or_else(|| Failure("the order came without its descriptor".into()))?;
        let bytes = sys::read_memfd(file).at("read the order")?;
        let wanted = serde_json::from_slice(&bytes)
            .map_err(|error| Failure(format!("cannot understand what to mount: {error}")))?;
        let (answer, theirs) = sys::close_on_exec_pipe().at("make a pipe")?;
        match process::fork(0).at("start a process that mounts")? {
            Forked::Child => container::remount(&self.started.common, &wanted, main.as_fd(), theirs),
            Forked::Parent { pid, .. } => {
                self.remounts.insert(pid, (request, answer));
                Ok(())
            }
        }
    }

    pub fn signal(&self, ticket: Ticket, signal: i32) {
        if let Some(main) = self.by_ticket(ticket).and_then(|child| child.main.as_ref()) {
            // Ended already: its exit is on the way.
            let _ = process::signal_process(main.as_fd(), signal);
        }
    }

    /// Killing the first process of a pid namespace makes the kernel kill all others.
    pub fn kill(&self, ticket: Ticket) {
        if let Some(child) = self.by_ticket(ticket) {
            let _ = process::kill(child.pid, libc::SIGKILL);
        }
    }

    fn by_ticket(&self, ticket: Ticket) -> Option<&Child> {
        self.living.values().find(|child| child.ticket == Some(ticket))
    }

    /// Reads what a container has to say.
    pub fn hear(&mut self, number: Number) -> Vec<Finished> {
        let Some(child) = self.living.get_mut(&number) else { return Vec::new() };
        let mut news = Vec::new();
        loop {
            let (report, fds) = match wire::receive::<Report>(child.socket.as_fd(), false) {
                Ok(Some(received)) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => {
                    child.hung_up = true;
                    break;
                }
            };
            match report {
                Report::Ready => {
                    child.prepared = true;
                    self.broken = false;
                }
                Report::Started { phases } => {
                    let mut fds = fds.into_iter();
                    child.main = fds.next();
                    let pid = child.main.as_ref().and_then(host_pid).unwrap_or(0);
                    if let Some(ticket) = child.ticket {
                        let news_item = News::Started { ticket, pid, cgroup: child.group.clone(), phases };
                        news.push(Finished { news: news_item, fd: fds.next() });
                    }
                }
                Report::Failed(failure) => {
                    child.failed = true;
                    self.broken |= !child.prepared;
                    news.extend(failed(child.ticket, failure).map(Finished::from));
                }
                Report::MainEnded { status } => child.status = Some(status),
            }
        }
        news
    }

    /// Collects ended first processes; with each, its whole container has ended.
    pub fn collect(&mut self) -> Vec<Finished> {
        process::drain_signals(self.signals.as_fd());
        let mut news = Vec::new();
        while let Some((pid, _)) = process::reap(false) {
            if let Some((request, answer)) = self.remounts.remove(&pid) {
                news.push(Finished::from(News::Remounted { request, outcome: read_outcome(answer) }));
                continue;
            }
            let Some(number) = self.living.iter().find(|(_, child)| child.pid == pid).map(|(number, _)| *number) else {
                continue;
            };
            news.extend(self.hear(number));
            if let Some(child) = self.living.remove(&number) {
                news.extend(self.bury(number, child).map(Finished::from));
            }
        }
        news
    }

    fn bury(&mut self, number: Number, child: Child) -> Option<News> {
        self.waiting.retain(|waiting| *waiting != number);
        if let (Some(slots), Some(slot)) = (&mut self.slots, child.slot) {
            slots.give_back(slot);
        }
        let hierarchy = self.started.common.hierarchy.as_ref();
        let account = hierarchy.account(&child.group);
        if !cgroup::remove(hierarchy, &child.group) {
            self.removals.push(child.group);
        }
        let ticket = child.ticket.filter(|_| !child.failed)?;
        if child.main.is_none() {
            let oom = if account.oom_kills > 0 { " (its memory limit is too low to start anything)" } else { "" };
            let message = format!("the container's first process was killed during setup{oom}");
            return failed(Some(ticket), StartFailure::Setup(message));
        }
        Some(News::Ended {
            ticket,
            status: child.status,
            oom_killed: account.oom_kills > 0,
            memory_peak_bytes: account.memory_peak_bytes,
            cpu_usec: account.cpu_usec,
        })
    }

    pub fn has_removals(&self) -> bool {
        !self.removals.is_empty()
    }

    pub fn retry_removals(&mut self) {
        let hierarchy = self.started.common.hierarchy.as_ref();
        self.removals.retain(|group| !cgroup::remove(hierarchy, group));
    }

    /// Kills and removes everything that this runtime made.
    pub fn end_all(mut self) {
        for child in self.living.values() {
            let _ = process::kill(child.pid, libc::SIGKILL);
        }
        while !self.living.is_empty() {
            let Some((pid, _)) = process::reap(true) else { break };
            self.living.retain(|_, child| child.pid != pid);
        }
        let parent = self.started.config.cgroup_name();
        let hierarchy = self.started.common.hierarchy.as_ref();
        // About a second in all; what is still held then is left to the next start.
        for _ in 0..50 {
            if cgroup::remove(hierarchy, &parent) {
                break;
            }
            std::thread::sleep(super::RETRY_REMOVAL);
        }
        network::tear_down(&self.started.config);
    }
}

/// Starts a container's first process, which prepares and waits for a job.
fn first_process(started: &Started, number: Number, slot: Option<u32>) -> Doing<Child> {
    let group = format!("{}/{number}", started.config.cgroup_name());
    let (ours, theirs) = socket::pair().at("make a socket")?;
    let place = Place { group: group.clone(), link: link(started, slot), launcher: theirs };
    match process::fork(process::NEW_PID).at("start a container's first process")? {
        Forked::Child => container::live(&started.common, &place),
        Forked::Parent { pid, .. } => Ok(Child {
            pid,
            socket: ours,
            group,
            slot,
            ticket: None,
            prepared: false,
            main: None,
            status: None,
            failed: false,
            hung_up: false,
        }),
    }
}

/// The link that belongs to a slot, or why there is none.
fn link(started: &Started, slot: Option<u32>) -> Result<Link, String> {
    let bridge = started.network.clone()?;
    let address = slot.and_then(|slot| bridge.subnet.address(slot));
    let (Some(slot), Some(address)) = (slot, address) else {
        return Err("every place on this machine's container bridge is taken; wait for a container to end".into());
    };
    Ok(Link { host_name: started.config.veth_name(slot), address, bridge })
}

/// The process has ended, so what it had to say is in the pipe, or nothing.
fn read_outcome(answer: OwnedFd) -> RemountOutcome {
    let mut bytes = Vec::new();
    let read = fs::File::from(answer).read_to_end(&mut bytes);
    let outcome = read.ok().and_then(|_| serde_json::from_slice(&bytes).ok());
    outcome.unwrap_or_else(|| RemountOutcome::Failed("the process that mounts was killed".to_owned()))
}

fn failed(ticket: Option<Ticket>, failure: StartFailure) -> Option<News> {
    match ticket {
        Some(ticket) => Some(News::Failed { ticket, failure }),
        None => match failure {
            StartFailure::Setup(message) | StartFailure::Exec { message, .. } => {
                Some(News::Log { message: format!("cannot prepare a container: {message}") })
            }
        },
    }
}

/// A process descriptor knows its process's id as seen from here.
fn host_pid(main: &OwnedFd) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", main.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}
