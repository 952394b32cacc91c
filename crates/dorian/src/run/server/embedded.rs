//! A server as our child: this very binary with `up`, its log in a file, its end tied to ours.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::output::{progress, say};

/// What a server is given to end in order. Containers get 5 seconds of it; the rest is for the store.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// An end that takes longer than this is worth a line.
const WORTH_SAYING: Duration = Duration::from_secs(1);
/// Two logs of this size are kept: this run's and the older one.
const LOG_LIMIT: u64 = 16 << 20;
/// Enough of a failed start's log to see why.
const LAST_LINES: usize = 6;

pub struct Embedded {
    child: Child,
    log: PathBuf,
    /// Kept open, so that whatever the server prints later does not end it.
    _stdout: BufReader<ChildStdout>,
}

impl Embedded {
    /// Starts a server on a free port of loopback and waits for its `ready` line. To be called by the main thread: the
    /// server ends with the thread that started it.
    pub fn start(data: &Path) -> Result<Self> {
        let path = data.join("server.log");
        let log = open_log(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
        let begin = log.metadata().map_or(0, |metadata| metadata.len());

        // By way of /proc, so that a binary that was replaced meanwhile starts its like.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("dorian").arg("up").arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // SAFETY: setsid and prctl are plain system calls, which may be made between fork and exec.
        unsafe { command.pre_exec(set_apart) };
        let mut child = command.spawn().context("cannot start the server")?;
        let stdout = child.stdout.take().context("cannot read what the server prints")?;

        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        while stdout.read_line(&mut line).is_ok_and(|read| read > 0) {
            if line.starts_with("ready") {
                return Ok(Self { child, log: path, _stdout: stdout });
            }
            line.clear();
        }
        let status = child.wait().context("cannot wait for the server")?;
        bail!("the server did not start ({status}):\n{}\nmore in `{}`", last_lines(&path, begin), path.display())
    }

    pub fn stop(mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            say(&format!("the server had ended by itself ({status}); see `{}`", self.log.display()));
            return;
        }
        // A pid that has not been waited for is not given to another process.
        // SAFETY: kill takes two integers.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        if self.wait(WORTH_SAYING).is_some() {
            return;
        }
        progress("stopping the server");
        if self.wait(STOP_LIMIT).is_none() {
            say(&format!("the server did not stop in time and was killed; see `{}`", self.log.display()));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(None) if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(10)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }
}

/// A session of its own, so that Ctrl-C reaches the program first; and an end with ours, should we be killed.
fn set_apart() -> std::io::Result<()> {
    // SAFETY: both calls take integers and concern only this process.
    let (session, signal) = unsafe { (libc::setsid(), libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM)) };
    if session < 0 || signal < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// The log is added to, run after run, until it is large.
fn open_log(path: &Path) -> std::io::Result<File> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// What the log says since `begin`, its last lines.
fn last_lines(path: &Path, begin: u64) -> String {
    let Ok(mut log) = File::open(path) else { return String::new() };
    let _ = log.seek(SeekFrom::Start(begin));
    let lines: Vec<_> = BufReader::new(log).lines().map_while(Result::ok).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_only_this_runs_last_lines_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        fs::write(&path, "old\n1\n2\n3\n4\n5\n6\n7\n").unwrap();
        assert_eq!(last_lines(&path, 4), "2\n3\n4\n5\n6\n7");
        assert_eq!(last_lines(&path, 14), "6\n7");
        assert_eq!(last_lines(&path, 99), "");
    }
}
