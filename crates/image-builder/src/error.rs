//! Why an image could not be built, in words for the person whose build it was.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use image_plan::{DockerfileError, Place, Position};
use types::words::shortened;

/// Cloned to everybody who waits for the same layer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Dockerfile(#[from] DockerfileError),
    /// A step's program ended with an error.
    #[error("step {place} (`{}`) failed: {reason}{}{}", shown(title), tail_text(tail), hint_text(hint))]
    Step {
        place: Box<Place>,
        title: String,
        /// `exit code 1`, `killed by signal 9`, `out of memory`.
        reason: String,
        /// The last lines that it printed.
        tail: Vec<String>,
        hint: Option<&'static str>,
    },
    #[error("step {place} (`{}`) was stopped: the build took longer than its limit of {} s", shown(title), limit.as_secs())]
    Timeout { place: Box<Place>, title: String, limit: Duration },
    /// Something about a base image; a whole sentence.
    #[error("{0}")]
    Base(String),
    /// A request that cannot be carried out as it is; a whole sentence.
    #[error("{0}")]
    Refused(String),
    #[error("cannot {action}")]
    Io { action: String, source: Arc<io::Error> },
    #[error(
        "cannot {action}: the disk with `{disk}` is full; make room, or remove what no image needs with `dorian gc`"
    )]
    DiskFull { action: String, disk: String },
    #[error("cannot start a build container")]
    Container(#[source] Arc<container_runtime::RuntimeError>),
    #[error("the build was abandoned: everybody who waited for it has gone")]
    Abandoned,
}

impl BuildError {
    /// A refusal with the place in the Dockerfile that it is about.
    pub(crate) fn at(self, position: &Position) -> Self {
        match self {
            Self::Refused(message) => Self::Dockerfile(DockerfileError::new(position, message)),
            other => other,
        }
    }

    /// `action` says what was attempted on what: "write `/a/b`".
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source: Arc::new(source) }
    }

    /// Names the disk when it is full. `folder`: where everything that a build writes is.
    pub(crate) fn on_disk_of(self, folder: &Path) -> Self {
        match self {
            Self::Io { action, source }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Self::DiskFull { action, disk: folder.display().to_string() }
            }
            other => other,
        }
    }

    pub(crate) fn on(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{verb} `{}`", path.display()))
    }
}

/// An instruction may be a whole script, and a program may print without an end of line.
fn shown(text: &str) -> Cow<'_, str> {
    shortened(text, 300)
}

fn tail_text(tail: &[String]) -> String {
    tail.iter().map(|line| format!("\n  {}", shown(line))).collect()
}

fn hint_text(hint: &Option<&'static str>) -> String {
    hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default()
}
