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

use anyhow::{Context, Result, bail};

use crate::client_settings::ClientSettings;
use crate::data_dir::{self, Holder};
use crate::output::{progress, say, step};
use crate::{person, running_server};
use embedded::Embedded;

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
    let identity = data_dir::identity(data);
    if running_server::is_ready(data) || (identity.is_err() && data.join("identity.json").exists()) {
        return identity.map(|_| ());
    }
    bail!(
        "no server runs on the data directory `{}`, and starting one takes root's rights, since it makes containers; \
         try `sudo dorian run`",
        data.display()
    )
}

impl Membership {
    pub fn enter(data: &Path) -> Result<Self> {
        if !person::is_root() {
            return Ok(Self { data: data.to_owned(), users: None, own: None });
        }
        let deciding = lock(data, "run.lock", libc::LOCK_EX, "waiting for another `dorian run`")?;
        let own = if data_dir::holder(data) == Holder::Server {
            running_server::find(data)?;
            None
        } else {
            Some(step("starting the server", || Embedded::start(data))?)
        };
        let users = lock(data, "users.lock", libc::LOCK_SH, "waiting for a server to stop")?;
        drop(deciding);
        Ok(Self { data: data.to_owned(), users: Some(users), own })
    }

    pub fn settings(&self) -> Result<ClientSettings> {
        ClientSettings::of_running_server(&self.data)
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
