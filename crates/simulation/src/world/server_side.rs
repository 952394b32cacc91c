//! The server among the others: what it asks for is carried out, it dies, and it begins again.

use calls::{Assignment, Millis};
use types::ids::TaskId;

use super::{Event, PATIENCE_MS, World};
use crate::server::{Out, Server};

impl World {
    /// Lets the server do something, if there is one, and carries out what it asks for.
    pub(super) fn with_server(&mut self, act: impl FnOnce(&mut Server, Millis, &mut Vec<Out>)) {
        let mut out = Vec::new();
        if let Some(server) = &mut self.server {
            act(server, self.now, &mut out);
        }
        self.carry_out(out);
    }

    pub(super) fn carry_out(&mut self, out: Vec<Out>) {
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

    pub(super) fn write_next(&mut self) {
        if self.disk.pending() > 0 {
            let delay = self.random.between(0, self.scenario.disk_ms);
            self.after(delay, Event::Written(self.epoch));
        }
    }

    /// Answers a container's request. If that is lost both sides notice, in their own time.
    pub(super) fn hand(&mut self, epoch: usize, task: TaskId, poll: u64, inputs: Vec<Assignment>) {
        if self.fault(self.scenario.faults.lost_message) {
            let attempts = inputs.into_iter().map(|i| (i.input, i.attempt)).collect();
            let (theirs, ours) = (self.random.between(1, PATIENCE_MS), self.random.between(1, PATIENCE_MS));
            self.after(theirs, Event::PollBreaks { task: task.clone(), poll });
            self.after(ours, Event::NotHanded { epoch, task, attempts });
        } else {
            let latency = self.random.between(0, self.scenario.latency_ms);
            self.after(latency, Event::Handed { epoch, task, poll, inputs });
        }
    }

    /// Containers die with the server, as they do when its cgroup is cleared.
    pub(super) fn server_dies(&mut self) {
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

    pub(super) fn server_begins(&mut self) {
        let mut out = Vec::new();
        self.server = Some(Server::begin(self.epoch, &self.scenario, &self.disk, self.now, &mut out));
        self.carry_out(out);
    }
}
