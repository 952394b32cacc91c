//! The store as its users see it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot};

use crate::error::ContentsError;
use crate::jobs::{Job, Room};
use crate::replies;
use crate::schema;
use crate::writer::{Message, Writer};

/// What may wait for the disk: enough for a second of writing on an ordinary one.
const MAX_WAITING_KIB: u32 = 64 << 10;
/// Reads at once, each on a connection and a blocking thread of its own. More would wait for the same cores and disk.
const READERS: usize = 8;

/// Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct ContentsStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    messages: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    /// One for each read that may go on.
    reading: Arc<Semaphore>,
    readers: Mutex<Vec<Connection>>,
    next_position: AtomicU64,
    /// Keys of notes that did not happen, which the disk has not been told yet.
    untold: Mutex<Vec<String>>,
}

impl ContentsStore {
    /// Opens or creates the database file and starts its writer thread. The folder must exist. `now_us` is the time in
    /// microseconds: positions go on from there, so that they grow even when the last ones are on disk no more.
    pub fn open(path: &Path, now_us: u64) -> Result<Self, ContentsError> {
        let connection = schema::open_and_migrate(path)?;
        let last = connection.query_row("SELECT coalesce(max(position), 0) FROM queue_items", [], |row| row.get(0));
        let last: u64 = last.map_err(|e| ContentsError::new(&e, "read the last position", path))?;
        let (messages, receiver) = mpsc::channel();
        let writer = Writer { connection, path: path.to_owned() };
        let thread = thread::Builder::new().name("contents-writer".to_owned());
        thread.spawn(move || writer.run(&receiver)).map_err(|error| ContentsError::Database {
            doing: "start the writer thread",
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
        let inner = Inner {
            path: path.to_owned(),
            messages,
            room: Arc::new(Semaphore::new(MAX_WAITING_KIB as usize)),
            reading: Arc::new(Semaphore::new(READERS)),
            readers: Mutex::new(Vec::new()),
            next_position: AtomicU64::new(now_us.max(last + 1)),
            untold: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn note_untold(&self, key: String) {
        self.inner.untold.lock().push(key);
    }

    /// Tells the disk again what it has not taken. As long as it refuses, what it holds must not be swept by its notes.
    pub(crate) async fn tell_again(&self) -> Result<(), ContentsError> {
        let untold = self.inner.untold.lock().clone();
        if untold.is_empty() {
            return Ok(());
        }
        let keys = untold.clone();
        self.change(0, move |connection| keys.iter().try_for_each(|key| replies::delete(connection, key))).await?;
        self.inner.untold.lock().retain(|key| !untold.contains(key));
        Ok(())
    }

    /// Positions for so many items, greater than all before: the first of them.
    pub fn positions(&self, count: u64) -> u64 {
        self.inner.next_position.fetch_add(count, Ordering::Relaxed)
    }

    /// Room for a job of so many bytes; waits without holding a thread. A job larger than all the room waits until it is
    /// alone in it.
    pub async fn room(&self, bytes: usize) -> Result<Room, ContentsError> {
        let kib = (bytes as u64 / 1024 + 1).min(u64::from(MAX_WAITING_KIB)) as u32;
        let permit = self.inner.room.clone().acquire_many_owned(kib).await;
        permit.map(Room::of).map_err(|_| ContentsError::Closed)
    }

    /// Hands jobs over, to be committed together and in this order. Does not wait. When the store is closed they are
    /// dropped untold: the server ends, and whoever hands over may hold a lock that being told would take.
    pub fn send(&self, jobs: Vec<Job>) {
        if !jobs.is_empty() {
            // Only a closed store refuses.
            let _ = self.inner.messages.send(Message::Jobs(jobs));
        }
    }

    /// Does this in the writer; when it returns it is on disk. Dropping the future does not take it back.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ContentsError> {
        let room = self.room(bytes).await?;
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have gone; what was asked is done all the same.
        self.send(vec![Job::new(room, work, move |result| drop(answer.send(result)))]);
        answered.await.unwrap_or(Err(ContentsError::Closed))
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ContentsError> {
        let turn = self.inner.reading.clone().acquire_owned().await.map_err(|_| ContentsError::Closed)?;
        let inner = self.inner.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Also when whoever asked has gone.
            let _turn = turn;
            inner.with_reader(query).map_err(|error| ContentsError::new(&error, doing, &inner.path))
        });
        // The closure neither panics nor is aborted, unless the runtime itself is going down.
        read.await.unwrap_or(Err(ContentsError::Closed))
    }

    /// Stores everything that was handed over, and closes the database. Later jobs are refused.
    pub async fn close(&self) {
        if let Err(error) = self.tell_again().await {
            tracing::error!(%error, "items of queues that were given back stay taken");
        }
        // Readers first: the log can only be cut when nobody reads it.
        self.inner.readers.lock().clear();
        let (answer, answered) = oneshot::channel();
        if self.inner.messages.send(Message::Close(answer)).is_ok() {
            // The writer answers, or it has ended before.
            let _ = answered.await;
        }
    }
}

impl Inner {
    fn with_reader<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.readers.lock().pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => self.open_reader()?,
        };
        // One transaction: what a query reads in several statements is of one moment.
        let transaction = reader.transaction()?;
        let result = query(&transaction);
        drop(transaction);
        self.readers.lock().push(reader);
        result
    }

    fn open_reader(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&self.path, flags)?;
        reader.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(reader)
    }
}
