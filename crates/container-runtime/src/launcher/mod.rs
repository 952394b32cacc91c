//! The process that owns every container.
//!
//! Making a container takes root, forks and changes of namespace, none of which a server full of threads can do safely
//! or cheaply. So the server forks this small process before its first thread exists, and asks it over a socket.
//! The launcher has one thread and one loop, and does nothing slow in it: each container's setup happens in that
//! container's own first process (`container`). It is also what makes cleaning up certain. When the server ends, however
//! it ends, the socket closes; the launcher then kills all containers, removes what was made, and ends too. When the
//! launcher itself is killed, the kernel kills the containers, and the next start sweeps up the rest.
//!
//! Rejected: forking from the server (unsafe with threads, slow with much memory); an executable of its own (a second
//! file to install, and a slower start).

mod children;
mod slots;
mod start;
mod sweep;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::config::RuntimeConfig;
use crate::sys::process;
use crate::wire::{self, News, Order, RemountOutcome, StartFailure};
use children::{Children, Finished};

/// A busy moment should not be made busier by preparing the next containers.
const REFILL_DELAY: Duration = Duration::from_millis(30);
/// The kernel frees a group shortly after its last process was collected.
const RETRY_REMOVAL: Duration = Duration::from_millis(20);

/// Runs in the forked process and never returns.
pub fn run(config: RuntimeConfig, server: OwnedFd) -> ! {
    process::set_name("dorian-launcher");
    // A Ctrl-C in the terminal is for the server, which tells us in its own time.
    process::new_session();
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM, libc::SIGPIPE] {
        process::ignore(signal);
    }
    process::close_others(&[server.as_raw_fd()]);
    // Two descriptors for each container; as many as we may have.
    let _ = process::limit(libc::RLIMIT_NOFILE, 1 << 20, 1 << 20);
    let code = match start::start(config) {
        Ok(started) => {
            let (warnings, root_user) = (started.warnings.clone(), started.common.host_id(0));
            let _ = wire::send(server.as_fd(), &News::Up { warnings, root_user, error: None }, &[]);
            Launcher { server, children: Children::new(started), refill_at: Some(Instant::now()) }.serve()
        }
        Err(failure) => {
            let news = News::Up { warnings: Vec::new(), root_user: 0, error: Some(failure.0) };
            let _ = wire::send(server.as_fd(), &news, &[]);
            1
        }
    };
    process::exit_now(code)
}

struct Launcher {
    server: OwnedFd,
    children: Children,
    refill_at: Option<Instant>,
}

impl Launcher {
    fn serve(mut self) -> i32 {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.tell(&News::Log { message: format!("container launcher: {error}") });
                    break;
                }
            }
        }
        self.children.end_all();
        0
    }

    /// Waits for something to happen and deals with it; false when it is time to end.
    fn turn(&mut self) -> io::Result<bool> {
        let mut fds = vec![self.server.as_raw_fd(), self.children.signals()];
        let sockets = self.children.sockets();
        fds.extend(sockets.iter().map(|(_, fd)| *fd));
        let ready = crate::sys::poll_readable(&fds, self.timeout())?;
        for ((number, _), ready) in sockets.iter().zip(&ready[2..]) {
            if *ready {
                let news = self.children.hear(*number);
                self.tell_all(news);
            }
        }
        if ready[1] {
            let finished = self.children.collect();
            self.tell_all(finished);
        }
        self.children.retry_removals();
        if ready[0] && !self.take_order()? {
            return Ok(false);
        }
        if self.refill_at.is_some_and(|at| at <= Instant::now()) {
            self.refill_at = None;
            if let Err(failure) = self.children.refill() {
                self.tell(&News::Log { message: failure.0 });
            }
        }
        Ok(true)
    }

    fn timeout(&self) -> i32 {
        let refill = self.refill_at.map(|at| at.saturating_duration_since(Instant::now()));
        let removal = self.children.has_removals().then_some(RETRY_REMOVAL);
        let soonest = refill.into_iter().chain(removal).min();
        soonest.map_or(-1, |wait| wait.as_millis() as i32 + 1)
    }

    fn take_order(&mut self) -> io::Result<bool> {
        let Some((order, fds)) = wire::receive::<Order>(self.server.as_fd(), false)? else { return Ok(false) };
        match order {
            Order::Create { ticket } => {
                if let Err(failure) = self.children.create(ticket, &fds) {
                    self.tell(&News::Failed { ticket, failure: StartFailure::Setup(failure.0) });
                }
                // The first of many sets the time, or a steady stream of orders would put it off for ever.
                self.refill_at.get_or_insert_with(|| Instant::now() + REFILL_DELAY);
            }
            Order::Signal { ticket, signal } => self.children.signal(ticket, signal),
            Order::Kill { ticket } => self.children.kill(ticket),
            Order::Remount { ticket, request } => {
                if let Err(failure) = self.children.remount(ticket, request, fds) {
                    self.tell(&News::Remounted { request, outcome: RemountOutcome::Failed(failure.0) });
                }
            }
            Order::Shutdown => return Ok(false),
        }
        Ok(true)
    }

    fn tell_all(&self, news: Vec<Finished>) {
        for item in news {
            let fds: Vec<_> = item.fd.iter().map(AsFd::as_fd).collect();
            let _ = wire::send(self.server.as_fd(), &item.news, &fds);
        }
    }

    /// A server that is gone is noticed when its socket is next read.
    fn tell(&self, news: &News) {
        let _ = wire::send(self.server.as_fd(), news, &[]);
    }
}
