//! Asks the server of a data folder through its socket there; see `control_plane::ADMIN_SOCKET`.
//!
//! One request per connection, in HTTP/1.0, whose answer ends with the connection: nothing more is needed here.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use control_plane::ADMIN_SOCKET;

use crate::{data_dir, running_server};

/// The lines of an answer, as they come.
pub type Lines = std::io::Lines<BufReader<UnixStream>>;

/// `request`: `GET /layers`.
pub fn ask(data: &Path, request: &str) -> Result<Lines> {
    let mut stream = connect(data)?;
    let what = "ask the server";
    write!(stream, "{request} HTTP/1.0\r\nHost: dorian\r\n\r\n").context(what)?;
    let mut lines = BufReader::new(stream).lines();
    let mut next = || lines.next().context("the server ended without an answer")?.context(what);
    let status = next()?;
    while !next()?.trim().is_empty() {}
    if status.split(' ').nth(1) != Some("200") {
        let said: Vec<String> = lines.map_while(Result::ok).collect();
        bail!("the server refused: {}", said.join(" "));
    }
    Ok(lines)
}

fn connect(data: &Path) -> Result<UnixStream> {
    let folder = match std::fs::File::open(data) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(data_dir::nothing_runs(data)),
        folder => folder.with_context(|| format!("cannot open the data directory `{}`", data.display()))?,
    };
    // A socket's name has room for a hundred bytes, and a folder's may be longer.
    let short = format!("/proc/self/fd/{}/{ADMIN_SOCKET}", folder.as_raw_fd());
    let is_absent = |error: &std::io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
    let stream = match UnixStream::connect(&short) {
        // The socket is there before the server is ready.
        Err(error) if is_absent(&error) => running_server::find(data).map(|_| UnixStream::connect(&short))?,
        stream => stream,
    };
    match stream {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("only root may ask the server of `{}`; try again with `sudo`", data.display())
        }
        stream => stream.with_context(|| format!("cannot reach the server of `{}`", data.display())),
    }
}
