//! The server that a program runs on: found, or started for it and stopped again.
//!
//! Several `dorian run` may share a data directory. Whoever finds no server starts one, as its child; the others use that
//! one, and its owner waits for them before it stops it. Two locks in the data directory keep that straight:
//!
//! - `run.lock`, held while somebody looks for a server, starts one or stops one;
//! - `users.lock`, held shared by everybody who uses the server. Its owner stops the server only while it holds both.
//!
//! An owner that is killed takes the server along (the kernel sends it SIGTERM), and the others' programs fail.

mod embedded;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::client_settings::{ClientSettings, forget_address, is_in_use};
use crate::output::{progress, say, step};
use crate::person;
use embedded::Embedded;

/// A server that another process has begun to start: a restart with much to recover takes seconds.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Between two tries to connect to a server that is about to start. This is not on a call's way.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// The right to use the server of a data directory.
pub struct Membership {
    data: PathBuf,
    /// None for a person who may use the server but not write to its data directory.
    users: Option<File>,
    own: Option<Embedded>,
}

/// Says at once what a person without root's rights cannot do here.
pub fn require_rights(data: &Path) -> Result<()> {
    if person::is_root() {
        return Ok(());
    }
    // With a server that runs and tokens that can be read, nothing more is needed.
    match ClientSettings::read(data) {
        Ok(settings) if settings.is_reachable() => Ok(()),
        Err(error) if data.join("identity.json").exists() => Err(error),
        _ => bail!(
            "no server runs on the data directory `{}`, and starting one takes root's rights, since it makes containers; \
             try `sudo dorian run`",
            data.display()
        ),
    }
}

impl Membership {
    pub fn enter(data: &Path) -> Result<Self> {
        if !person::is_root() {
            return Ok(Self { data: data.to_owned(), users: None, own: None });
        }
        let deciding = lock(data, "run.lock", libc::LOCK_EX, "waiting for another `dorian run`")?;
        let own = if is_in_use(data) {
            wait_until_reachable(data)?;
            None
        } else {
            Some(step("starting the server", || Embedded::start(data))?)
        };
        let users = lock(data, "users.lock", libc::LOCK_SH, "waiting for a server to stop")?;
        drop(deciding);
        Ok(Self { data: data.to_owned(), users: Some(users), own })
    }

    pub fn settings(&self) -> Result<ClientSettings> {
        ClientSettings::read(&self.data)
    }

    /// Gives the server up, and stops it if it was started for us. The program has ended: what goes wrong here is said,
    /// and does not change its exit code.
    pub fn leave(mut self) {
        drop(self.users.take());
        let Some(own) = self.own.take() else { return };
        match self.sole_use() {
            Ok(_locks) => own.stop(),
            Err(error) => {
                say(&format!("{error:#}"));
                own.stop();
            }
        }
        forget_address(&self.data);
    }

    /// Both locks, once nobody else uses the server. They are asked for in the order in which `enter` takes them, and the
    /// first is not kept while waiting for the second, so that newcomers can still come and go.
    fn sole_use(&self) -> Result<(File, File)> {
        loop {
            let deciding = lock(&self.data, "run.lock", libc::LOCK_EX, "waiting for another `dorian run`")?;
            let users = open(&self.data, "users.lock")?;
            if take(&users, libc::LOCK_EX | libc::LOCK_NB) {
                return Ok((deciding, users));
            }
            drop(deciding);
            progress("waiting for other programs on this server to end");
            take(&users, libc::LOCK_EX);
        }
    }
}

fn wait_until_reachable(data: &Path) -> Result<()> {
    let reachable = || ClientSettings::read(data).is_ok_and(|settings| settings.is_reachable());
    if reachable() {
        return Ok(());
    }
    step("waiting for the server to start", || {
        let started = Instant::now();
        while started.elapsed() < START_LIMIT {
            std::thread::sleep(TRY_AGAIN);
            if reachable() {
                return Ok(());
            }
        }
        bail!(
            "a server uses the data directory `{}` but takes no connections; look at its log, or stop it",
            data.display()
        )
    })
}

/// Takes a lock, saying what it waits for if it has to.
fn lock(data: &Path, name: &str, kind: libc::c_int, waiting: &str) -> Result<File> {
    let file = open(data, name)?;
    if !take(&file, kind | libc::LOCK_NB) {
        progress(waiting);
        take(&file, kind);
    }
    Ok(file)
}

fn open(data: &Path, name: &str) -> Result<File> {
    let path = data.join(name);
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    opened.with_context(|| format!("cannot open `{}`", path.display()))
}

fn take(file: &File, operation: libc::c_int) -> bool {
    // SAFETY: flock only reads the descriptor, which `file` keeps open.
    unsafe { libc::flock(file.as_raw_fd(), operation) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let data = tempfile::tempdir().unwrap();
        let first = lock(data.path(), "users.lock", libc::LOCK_SH, "").unwrap();
        let second = lock(data.path(), "users.lock", libc::LOCK_SH, "").unwrap();
        let alone = open(data.path(), "users.lock").unwrap();
        assert!(!take(&alone, libc::LOCK_EX | libc::LOCK_NB));
        drop((first, second));
        assert!(take(&alone, libc::LOCK_EX | libc::LOCK_NB));
    }
}
