//! Where a key of the server lives: a file of 32 random bytes that only its user can read, so that what was made with it
//! (URLs, encrypted secrets) survives a restart.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::Rng;

use crate::error::BlobError;
use crate::sign::UrlKey;

/// The key of blob URLs, see [`load_or_create_key_bytes`].
pub fn load_or_create_key(path: &Path) -> Result<UrlKey, BlobError> {
    load_or_create_key_bytes(path).map(UrlKey::from_bytes)
}

/// Reads the key, or makes one that only this user can read. Two servers that start at once get the same key: the
/// file appears with its content or not at all.
pub fn load_or_create_key_bytes(path: &Path) -> Result<[u8; 32], BlobError> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result.map_err(|source| BlobError::io("read the key file", path, source)),
    }
    create(path).map_err(|source| BlobError::io("write the key file", path, source))?;
    read(path).map_err(|source| BlobError::io("read the key file", path, source))
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    let bytes = fs::read(path)?;
    let wrong_length =
        || io::Error::other("it does not hold 32 bytes; delete it, and what was made with it becomes unreadable");
    bytes.try_into().map_err(|_| wrong_length())
}

fn create(path: &Path) -> io::Result<()> {
    let key: [u8; 32] = rand::rng().random();
    let temporary = path.with_extension(format!("new-{:016x}", rand::rng().random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let linked = file.write_all(&key).and_then(|()| file.sync_all()).and_then(|()| {
        // Unlike a rename, a link does not replace the key that another process may just have made.
        fs::hard_link(&temporary, path)
    });
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
