//! The data directory: who may use it, and what identifies this server.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use types::ids::random_base62;

/// Where state goes unless told otherwise.
pub const DEFAULT: &str = "/var/lib/dorian";
/// Where clients reach the server unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9900";

/// What a client needs to be let in, and the salt from which ids are derived. Made once per data directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    pub token_id: String,
    pub token_secret: String,
    pub salt: String,
}

/// An opened data directory; the lock ends with it.
pub struct DataDir {
    pub path: PathBuf,
    pub identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Opens or makes the folder for a server.
    pub fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| {
            format!("cannot make the data directory `{}`; name another with --data", path.display())
        })?;
        let path = path.canonicalize().with_context(|| format!("cannot resolve `{}`", path.display()))?;
        let lock = lock(&path)?;
        // Made here, since it appears with the first build, long after the others are closed.
        let _ = fs::DirBuilder::new().mode(0o700).create(path.join("build-logs"));
        // What a server that was killed has left there is not where this one will listen.
        forget_address(&path);
        let identity = match read_identity(&path)? {
            Some(identity) => identity,
            None => make_identity(&path)?,
        };
        Ok(Self { path, identity, _lock: lock })
    }

    /// Notes where the server listens, for `dorian env` and its like.
    pub fn write_address(&self, address: &str) -> Result<()> {
        write_private(&self.path.join("address"), address.as_bytes())
    }
}

/// What others on the machine have no business in: arguments and results, volumes, what programs and builds printed. (The
/// folders of layers and of running containers are closed where they are made.)
const PRIVATE: [&str; 12] = [
    "metadata.sqlite",
    "metadata.sqlite-wal",
    "metadata.sqlite-shm",
    "contents.sqlite",
    "contents.sqlite-wal",
    "contents.sqlite-shm",
    "blobs",
    "volumes",
    "build-logs",
    "server.log",
    "server.log.1",
    // Passwords of registries.
    "config.toml",
];

impl DataDir {
    /// Takes from others the right to read what is theirs to ask the server for. Done once everything is there, on every
    /// start, so that a folder of an earlier version, or one that was restored, is closed too.
    pub fn close_to_others(&self) -> Result<()> {
        for name in PRIVATE {
            let path = self.path.join(name);
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let mode = metadata.permissions().mode();
            if metadata.is_symlink() || mode & 0o077 == 0 {
                continue;
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o700))
                .with_context(|| format!("cannot close `{}` to other people of this machine", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for DataDir {
    /// Before the lock goes, so that nobody takes this server's address for the next one's.
    fn drop(&mut self) {
        forget_address(&self.path);
    }
}

fn forget_address(path: &Path) {
    let _ = fs::remove_file(path.join("address"));
}

/// Where the server of this directory said last that it listens; see `running_server` for when to believe it. A damaged
/// file is none: whoever is about to start writes it anew.
pub fn address(path: &Path) -> Option<SocketAddr> {
    fs::read_to_string(path.join("address")).ok()?.trim().parse().ok()
}

/// What a client needs to be let in by the server of this directory.
pub fn identity(path: &Path) -> Result<Identity> {
    read_identity(path)?.ok_or_else(|| nothing_runs(path))
}

/// Who holds a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A server, ready or not.
    Server,
    Nobody,
    /// The lock is root's, and this process may not look at it.
    Unknown,
}

pub fn holder(path: &Path) -> Holder {
    let lock = match OpenOptions::new().read(true).open(path.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Holder::Nobody,
        Err(_) => return Holder::Unknown,
    };
    if is_held(&lock) { Holder::Server } else { Holder::Nobody }
}

/// Whether a server uses a data directory now. The next one may start before the caller has looked at anything.
///
/// # Errors
/// When there is no such directory, or this process may not look into it.
pub fn is_used(path: &Path) -> Result<bool> {
    match File::open(path.join("lock")) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no data directory `{}`; name another with --data", path.display())
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("only root may look into `{}`; try again with `sudo`", path.display())
        }
        file => Ok(is_held(&file.with_context(|| format!("cannot open the lock of `{}`", path.display()))?)),
    }
}

/// The lock is tried, not asked for, because `flock` cannot be asked: a server that starts in the same microsecond would be
/// told that the directory is in use, and says so.
fn is_held(lock: &File) -> bool {
    // SAFETY: flock only reads the descriptor, which `lock` keeps open; closing it gives the lock back.
    unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) != 0 }
}

/// The error for a command that needs a server where there is none.
pub fn nothing_runs(path: &Path) -> anyhow::Error {
    let place = if path == Path::new(DEFAULT) { String::new() } else { format!(" --data {}", path.display()) };
    anyhow::anyhow!(
        "no server runs on the data directory `{}`; start one with `dorian up{place}`, then try again",
        path.display()
    )
}

fn lock(path: &Path) -> Result<File> {
    let file = path.join("lock");
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&file);
    let lock = lock.with_context(|| {
        format!("cannot write to the data directory `{}`; name another with --data", path.display())
    })?;
    if !take(&lock) {
        bail!(
            "cannot use the data directory `{}`: a dorian runs on it already; use that one (`dorian env`), stop it, or name \
             another with --data",
            path.display()
        );
    }
    Ok(lock)
}

fn take(lock: &File) -> bool {
    // SAFETY: flock only reads the descriptor, which `lock` keeps open.
    let taken = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    taken == 0
}

fn read_identity(path: &Path) -> Result<Option<Identity>> {
    let file = path.join("identity.json");
    match fs::read(&file) {
        Ok(bytes) => {
            Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
                format!("`{}` is damaged; restore it, or delete it for new tokens", file.display())
            })?))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("`{}` holds tokens, and only root may read it; try again with `sudo`", file.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", file.display())),
    }
}

fn make_identity(path: &Path) -> Result<Identity> {
    let identity = Identity {
        token_id: format!("ak-{}", random_base62(22)),
        token_secret: format!("as-{}", random_base62(22)),
        salt: random_base62(32),
    };
    write_private(&path.join("identity.json"), &serde_json::to_vec_pretty(&identity)?)?;
    Ok(identity)
}

/// A file that appears whole or not at all, and that only its owner can read.
fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = file.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut out = options.create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&temporary, file)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        let cure = match error.kind() {
            ErrorKind::StorageFull => "; free some space, or name another folder with --data",
            _ => "",
        };
        anyhow::Error::new(error).context(format!("cannot write `{}`{cure}", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_of_the_machine_cannot_look_into_what_programs_keep() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        for name in ["blobs", "client"] {
            fs::create_dir(data.path.join(name)).unwrap();
        }
        for name in ["metadata.sqlite", "config.toml"] {
            fs::write(data.path.join(name), "").unwrap();
        }
        data.close_to_others().unwrap();
        let mode = |name: &str| fs::metadata(data.path.join(name)).unwrap().permissions().mode() & 0o077;
        let closed = ["blobs", "build-logs", "metadata.sqlite", "config.toml", "identity.json", "lock"];
        assert_eq!(closed.map(mode), [0; 6]);
        assert_ne!(mode("client"), 0, "people run the client that is in there");
    }

    #[test]
    fn a_look_at_a_data_directory_keeps_no_server_from_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_used(folder.path()).unwrap_err().to_string().starts_with("there is no data directory"));
        drop(DataDir::open(folder.path()).unwrap());
        let is_used_now = is_used(folder.path()).unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        assert!(!is_used_now && is_used(folder.path()).unwrap());
        drop(data);
    }

    #[test]
    fn a_server_that_has_ended_leaves_no_address() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        data.write_address("127.0.0.1:9900").unwrap();
        assert_eq!((address(folder.path()).is_some(), holder(folder.path())), (true, Holder::Server));
        drop(data);
        assert_eq!((address(folder.path()), holder(folder.path())), (None, Holder::Nobody));
    }
}
