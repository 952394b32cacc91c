//! What can go wrong with the runtime or with making a container, in words for the operator.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("containers need root: start the server as root, for example with `sudo`")]
    NotRoot,
    #[error("the runtime must be started before any thread exists, but this process has {0} threads")]
    ThreadsRunning(usize),
    #[error("state folder `{}` is used by another running server; give this one its own data folder", .0.display())]
    StateInUse(PathBuf),
    #[error("{0}")]
    Start(String),
    #[error("container `{id}`: {message}")]
    Create { id: String, message: String },
    #[error("container `{id}`: cannot run `{program}`: {message}")]
    Exec { id: String, program: String, message: String },
    #[error("container `{0}` cannot be described to the launcher")]
    Encode(String, #[source] io::Error),
    #[error("the container launcher process has ended; restart the server")]
    LauncherGone,
}
