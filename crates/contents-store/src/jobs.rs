//! One thing for the writer to do, and who is told of it.

use rusqlite::Connection;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::ContentsError;

/// A job's share of what may wait for the disk; given back when the job is done with.
#[derive(Debug, Default)]
pub struct Room {
    _held: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(crate) fn of(held: OwnedSemaphorePermit) -> Self {
        Self { _held: Some(held) }
    }

    /// For jobs of a few bytes that follow from others, and that nobody may wait with.
    pub fn none() -> Self {
        Self::default()
    }
}

pub(crate) trait Work: Send {
    /// Inside a transaction that may be rolled back; then it runs again, alone.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// After the commit, on the writer's thread: must neither wait nor take long.
    fn finish(self: Box<Self>, committed: Result<(), ContentsError>);
}

/// Made in the files of what it is about.
pub struct Job(pub(crate) Box<dyn Work>);

struct Closures<T, W, D> {
    work: W,
    done: D,
    result: Option<T>,
    _room: Room,
}

impl<T, W, D> Work for Closures<T, W, D>
where
    T: Send,
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    D: FnOnce(Result<T, ContentsError>) + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), ContentsError>) {
        let result = self.result;
        (self.done)(committed.and_then(|()| result.ok_or(ContentsError::Closed)));
    }
}

impl Job {
    pub(crate) fn new<T: Send + 'static>(
        room: Room,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        done: impl FnOnce(Result<T, ContentsError>) + Send + 'static,
    ) -> Self {
        Self(Box::new(Closures { work, done, result: None, _room: room }))
    }
}

/// For jobs whose failure only leaves something behind that is swept away later.
pub(crate) fn log_failure(doing: &'static str) -> impl FnOnce(Result<(), ContentsError>) + Send + 'static {
    move |result| {
        if let Err(error) = result {
            tracing::error!(%error, doing, "contents were not changed");
        }
    }
}
