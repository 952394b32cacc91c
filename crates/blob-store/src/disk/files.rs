//! Small acts on files, each of which either happened, durably, or left nothing.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use md5::Md5;
use sha2::{Digest, Sha256};

use crate::digest::{Md5Digest, Sha256Digest};
use crate::error::BlobError;

/// Read and written at once when a file is passed through.
pub(super) const PIECE_BYTES: usize = 1 << 20;

pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        // Names of ours are ASCII; others are not ours.
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// May be repeated.
pub(super) fn remove_file(path: &Path) -> Result<(), BlobError> {
    ignore_missing(fs::remove_file(path)).map_err(|source| BlobError::io("delete", path, source))
}

/// May be repeated.
pub(super) fn remove_folder(path: &Path) -> Result<(), BlobError> {
    ignore_missing(fs::remove_dir_all(path)).map_err(|source| BlobError::io("delete", path, source))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes a new file whose bytes are on disk when this returns; on failure there is no file.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), BlobError> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    written.map_err(|source| {
        // The error at hand is the one to report.
        let _ = fs::remove_file(path);
        BlobError::io("write", path, source)
    })
}

/// Gives a file on disk its final name, durably.
pub(super) fn publish(from: &Path, to: &Path) -> Result<(), BlobError> {
    publish_by(to, || fs::rename(from, to))
}

/// Gives a file a second name, durably; a name that is there already stays as it is.
pub(super) fn publish_link(from: &Path, to: &Path) -> Result<(), BlobError> {
    publish_by(to, || match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    })
}

fn publish_by(to: &Path, act: impl FnOnce() -> io::Result<()>) -> Result<(), BlobError> {
    let published = || {
        let Some(folder) = to.parent() else { return act() };
        match fs::create_dir(folder) {
            Ok(()) => folder.parent().map_or(Ok(()), sync_folder)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        act()?;
        sync_folder(folder)
    };
    published().map_err(|source| BlobError::io("publish", to, source))
}

/// The names in a folder are on disk only when the folder itself is.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(super) fn sha256_of(file: &mut File) -> io::Result<Sha256Digest> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Sha256Digest::finish(hasher)),
            read => hasher.update(&piece[..read]),
        }
    }
}

pub(super) fn md5_of(file: &File, range: Range<u64>) -> io::Result<Md5Digest> {
    let mut hasher = Md5::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = range.start;
    while at < range.end {
        let wanted = PIECE_BYTES.min((range.end - at) as usize);
        file.read_exact_at(&mut piece[..wanted], at)?;
        hasher.update(&piece[..wanted]);
        at += wanted as u64;
    }
    Ok(Md5Digest::finish(hasher))
}
