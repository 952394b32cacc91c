//! A disk for simulations: the same statements, on a database in memory that outlives the servers that use it. Writes take
//! the runtime's time, which a simulation moves, and end as its seed wants.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::error::{RowError, StoreError};
use crate::queue::{Batch, Job};
use crate::schema;
use crate::writer::{Writer, answer};

/// How a group of writes ends, after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Stored {
        after: Duration,
    },
    /// The disk is full: nothing of it is stored.
    NoSpace {
        after: Duration,
    },
    /// The server is killed before it hears of the end; the group reached the disk, or did not.
    Killed {
        after: Duration,
        stored: bool,
    },
}

type Decide = dyn Fn() -> Fate + Send + Sync;

/// Databases whose day is over, emptied: to make one, and to prepare its statements, takes a good part of what a day takes.
static SPARE: Mutex<Vec<Writer>> = Mutex::new(Vec::new());

/// Goes back to the others in the end.
struct Database(Option<Writer>);

impl Database {
    /// An empty one.
    fn take() -> rusqlite::Result<Self> {
        let spare = SPARE.lock().pop();
        let made = || schema::in_memory().map(|connection| Writer::new(connection, PathBuf::from("simulated")));
        spare.map_or_else(made, Ok).map(|writer| Self(Some(writer)))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let emptied = self.0.take().filter(|writer| writer.empty().is_ok());
        SPARE.lock().extend(emptied);
    }
}

/// Cheap to clone; all clones are one disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    database: Arc<Mutex<Database>>,
    fate: Arc<Decide>,
    /// Told when a fate wants the server dead.
    killed: Arc<tokio::sync::Notify>,
}

impl SimulatedDisk {
    /// An empty one. `fate` is asked for each group of writes.
    ///
    /// # Panics
    /// When SQLite has no memory.
    #[allow(clippy::expect_used, reason = "a simulation has nothing to do without its disk")]
    pub fn new(fate: impl Fn() -> Fate + Send + Sync + 'static) -> Self {
        let database = Database::take().expect("a database in memory can be made");
        Self { database: Arc::new(Mutex::new(database)), fate: Arc::new(fate), killed: Arc::default() }
    }

    #[allow(clippy::expect_used, reason = "it goes with the disk")]
    fn with<T>(&self, act: impl FnOnce(&mut Writer) -> T) -> T {
        act(self.database.lock().0.as_mut().expect("a disk has its database"))
    }

    /// Returns when the server is to be killed.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    pub(crate) async fn run(self, mut jobs: UnboundedReceiver<Job>) {
        let mut next = jobs.recv().await;
        while let Some(job) = next.take() {
            match job {
                Job::Batch(batch) => {
                    let mut group = vec![batch];
                    next = loop {
                        match jobs.try_recv() {
                            Ok(Job::Batch(batch)) => group.push(batch),
                            other => break other.ok(),
                        }
                    };
                    self.end(group).await;
                }
                Job::Expire { before_ms, answer } => {
                    let expired = self.with(|writer| writer.expire(before_ms));
                    let _ = answer.send(expired);
                }
                Job::Close(answer) => {
                    let _ = answer.send(Ok(()));
                    return;
                }
            }
            if next.is_none() {
                next = jobs.recv().await;
            }
        }
    }

    /// Returns when the group has met its fate; never, when that is the server's death.
    async fn end(&self, mut group: Vec<Batch>) {
        match (self.fate)() {
            Fate::Stored { after } => {
                tokio::time::sleep(after).await;
                self.with(|writer| writer.commit(&mut group));
            }
            Fate::NoSpace { after } => {
                tokio::time::sleep(after).await;
                group.into_iter().for_each(|batch| answer(batch, Err(StoreError::NoSpace("simulated".into()))));
            }
            Fate::Killed { after, stored } => {
                tokio::time::sleep(after).await;
                let _unanswered: Vec<_> = group.iter_mut().map(|batch| batch.answer.take()).collect();
                if stored {
                    self.with(|writer| writer.commit(&mut group));
                }
                self.killed.notify_one();
                std::future::pending().await
            }
        }
    }

    /// Sees what is stored, not what waits to be.
    pub(crate) async fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T, RowError>) -> Result<T, RowError> {
        tokio::task::yield_now().await;
        self.with(|writer| writer.read(query))
    }
}
