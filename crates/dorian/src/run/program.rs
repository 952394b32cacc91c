//! The program itself: the client's `modal run`, with its variables, its signals and its exit code.
//!
//! Ctrl-C in a terminal goes to every process of the foreground group, so to the client as well as to us: we only wait
//! for it to end. SIGTERM and SIGHUP are meant for us alone, and are passed on as the SIGINT on which the client cancels
//! its inputs and stops its app. A SIGINT sent to our process alone cannot be told from Ctrl-C, and is not passed on.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::managed_client::ManagedClient;
use crate::client_settings::ClientSettings;

/// What the client is given to stop its app after we were told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Variables that would send the client elsewhere, or make it refuse its token: credentials of another kind, a profile
/// that our empty configuration does not have, and what only containers have.
const NOT_OURS: [&str; 9] = [
    "MODAL_PROFILE",
    "MODAL_OAUTH_REFRESH_TOKEN",
    "MODAL_OAUTH_CLIENT_ID",
    "MODAL_OAUTH_CLIENT_SECRET",
    "MODAL_OAUTH_JWT_KEY",
    "MODAL_IS_REMOTE",
    "MODAL_TASK_ID",
    "MODAL_TASK_SECRET",
    "PYTHONHOME",
];

pub struct Program {
    pub client: ManagedClient,
    pub settings: ClientSettings,
    pub arguments: Vec<String>,
    /// The client's configuration file, which need not exist.
    pub config: PathBuf,
}

impl Program {
    /// Runs to the end, whatever comes, and returns the exit code as a shell counts it.
    pub fn run_to_end(&self) -> Result<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot prepare for waiting")?;
        let (status, told) = runtime.block_on(async {
            // Before the program starts, so that no signal finds us unprepared. Handlers, unlike ignored signals, are not
            // handed on to it.
            let mut signals = Signals::catch().context("cannot catch signals")?;
            let child = self.command().spawn();
            let child = child.with_context(|| format!("cannot run the client in `{}`", self.client.bin.display()))?;
            signals.wait_for(child).await.context("cannot wait for the client")
        })?;
        Ok(exit_code(status, told))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.client.bin.join("modal"));
        command.args(&self.arguments);
        for name in NOT_OURS {
            command.env_remove(name);
        }
        command.envs(self.settings.variables());
        command.env("MODAL_CONFIG_PATH", &self.config);
        // What the program starts in turn should find the same Python and the same `modal`.
        command.env("VIRTUAL_ENV", self.client.bin.parent().unwrap_or(&self.client.bin));
        command.env("PATH", prepended(&self.client.bin, std::env::var_os("PATH")));
        let host = self.settings.host.to_string();
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, with_host(std::env::var(name).ok().as_deref(), &host));
        }
        command
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// How the program ended, and by which signal we were told to stop it, if by any.
    async fn wait_for(&mut self, mut child: Child) -> std::io::Result<(ExitStatus, Option<libc::c_int>)> {
        let mut deadline: Option<Instant> = None;
        let mut told = None;
        loop {
            let overdue = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = child.wait() => return Ok((status?, told)),
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {
                    told = told.or(Some(libc::SIGTERM));
                    deadline = deadline.or(interrupt(&child));
                }
                _ = self.hang_up.recv() => {
                    told = told.or(Some(libc::SIGHUP));
                    deadline = deadline.or(interrupt(&child));
                }
                () = overdue => {
                    child.start_kill()?;
                    deadline = None;
                }
            }
        }
    }
}

/// Asks the client to stop; says until when it may take.
fn interrupt(child: &Child) -> Option<Instant> {
    let pid = child.id()?;
    // SAFETY: kill takes two integers, and a pid that has not been waited for is not given to another process.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGINT) };
    Some(Instant::now() + STOP_LIMIT)
}

/// As shells do: 128 and the signal's number for a program that a signal ended. A client that is interrupted says that all
/// went well; whoever told us to stop has not seen the program's end, and is not told that it succeeded.
fn exit_code(status: ExitStatus, told: Option<libc::c_int>) -> u8 {
    let by_signal = |signal| 128 + signal;
    let code = match (status.code(), told) {
        (Some(0), Some(signal)) => by_signal(signal),
        (Some(code), _) => code,
        (None, _) => status.signal().map_or(1, by_signal),
    };
    u8::try_from(code).unwrap_or(1)
}

fn prepended(folder: &std::path::Path, path: Option<OsString>) -> OsString {
    let mut all = folder.as_os_str().to_owned();
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        all.push(":");
        all.push(path);
    }
    all
}

fn with_host(list: Option<&str>, host: &str) -> String {
    match list.filter(|list| !list.is_empty()) {
        Some(list) => format!("{list},{host}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signalled_program_counts_as_shells_count_it() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8), None), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGKILL), None), 137);
    }

    #[test]
    fn a_program_that_was_told_to_stop_has_not_succeeded() {
        assert_eq!(exit_code(ExitStatus::from_raw(0), Some(libc::SIGTERM)), 143);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8), Some(libc::SIGTERM)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(0), None), 0);
    }

    #[test]
    fn lists_are_added_to_and_not_replaced() {
        assert_eq!(with_host(Some("example.org"), "127.0.0.1"), "example.org,127.0.0.1");
        assert_eq!(with_host(None, "127.0.0.1"), "127.0.0.1");
        assert_eq!(prepended(std::path::Path::new("/a"), Some("/b:/c".into())), OsString::from("/a:/b:/c"));
    }

    #[test]
    fn a_program_told_to_stop_is_interrupted_and_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (status, told) = runtime.block_on(async {
            let mut signals = Signals::catch().unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", "trap 'exit 7' INT; kill -TERM $PPID; while :; do sleep 0.05; done"]);
            signals.wait_for(command.spawn().unwrap()).await.unwrap()
        });
        assert_eq!((exit_code(status, told), told), (7, Some(libc::SIGTERM)));
    }
}
