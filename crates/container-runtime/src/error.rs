//! What can go wrong with the runtime or with making a container, in words for the operator.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("containers need root: start the server as root, for example with `sudo`")]
    NotRoot,
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
