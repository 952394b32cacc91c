//! The data directory: who may use it, and what identifies this server.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
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

/// Keeps servers away from a data directory while it is held; none when one uses it now.
pub fn lock_unused(path: &Path) -> Result<Option<File>> {
    let absent = || format!("there is no data directory `{}`; name another with --data", path.display());
    let file = match File::open(path.join("lock")) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(absent()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("only root may look into `{}`; try again with `sudo`", path.display())
        }
        file => file.with_context(|| format!("cannot open the lock of `{}`", path.display()))?,
    };
    Ok(take(&file).then_some(file))
}

/// Reads what a client needs from a data directory that a server has used.
pub fn client_settings(path: &Path) -> Result<(Identity, String)> {
    let identity = read_identity(path)?.with_context(|| {
        format!("no server has used the data directory `{}` yet; start one with `dorian up --data {0}`", path.display())
    })?;
    let address = fs::read_to_string(path.join("address")).unwrap_or_else(|_| DEFAULT_LISTEN.to_owned());
    Ok((identity, address))
}

fn lock(path: &Path) -> Result<File> {
    let file = path.join("lock");
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&file);
    let lock = lock.with_context(|| format!("cannot open `{}`", file.display()))?;
    if !take(&lock) {
        bail!(
            "the data directory `{}` is in use by another dorian; stop that one, or name another with --data",
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
