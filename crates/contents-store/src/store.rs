//! The store as its users see it.

use std::collections::HashMap;
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
    /// Keys of notes that did not happen, which the disk has not been told yet. Changed on the writer's thread only, so that
    /// it is in step with what has been written.
    untold: Mutex<HashMap<String, Untold>>,
}

/// A note on disk that did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Untold {
    ToBeDeleted,
    /// A later taking under the same key is being written over it.
    Replaced,
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

    /// On the writer's thread, as are the next three.
    pub(crate) fn note_untold(&self, key: String) {
        self.inner.untold.lock().insert(key, Untold::ToBeDeleted);
    }

    /// A request that waits again keeps its key: what it takes now is written over what is untold, and must not be deleted
    /// as that. Then say [`Self::end_replacing`].
    pub(crate) fn begin_replacing(&self, key: &str) {
        if let Some(untold) = self.inner.untold.lock().get_mut(key) {
            *untold = Untold::Replaced;
        }
    }

    pub(crate) fn end_replacing(&self, key: &str, is_written: bool) {
        let mut untold = self.inner.untold.lock();
        if is_written {
            untold.remove(key);
        } else if let Some(untold) = untold.get_mut(key) {
            *untold = Untold::ToBeDeleted;
        }
    }

    pub(crate) fn is_untold(&self, key: &str) -> bool {
        self.inner.untold.lock().contains_key(key)
    }

    fn to_be_told(&self) -> Vec<String> {
        let untold = self.inner.untold.lock();
        untold.iter().filter(|(_, state)| **state == Untold::ToBeDeleted).map(|(key, _)| key.clone()).collect()
    }

    /// Tells the disk again what it has not taken. As long as it refuses, what it holds must not be swept by its notes.
    pub(crate) async fn tell_again(&self) -> Result<(), ContentsError> {
        if self.inner.untold.lock().is_empty() {
            return Ok(());
        }
        let (store, (answer, answered)) = (self.clone(), oneshot::channel());
        // Looked at when it is written: meanwhile one of the keys may have been taken under again.
        let work = {
            let store = self.clone();
            move |connection: &Connection| {
                let keys = store.to_be_told();
                keys.iter().try_for_each(|key| replies::delete(connection, key)).map(|()| keys)
            }
        };
        let done = move |result: Result<Vec<String>, ContentsError>| {
            let told = result.map(|keys| store.inner.untold.lock().retain(|key, _| !keys.contains(key)));
            // Whoever asked may have gone.
            drop(answer.send(told));
        };
        self.send(vec![Job::new(Room::none(), work, done)]);
        answered.await.unwrap_or(Err(ContentsError::Closed))
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(store: &ContentsStore, key: &str, position: u64) {
        let (told, stored) = oneshot::channel();
        store.send(vec![Job::take(store, "qu-1", key, vec![position], 1, move |result| drop(told.send(result)))]);
        stored.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_told_again_is_not_what_was_taken_since_under_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentsStore::open(&folder.path().join("contents.sqlite"), 1).unwrap();
        take(&store, "again", 1).await;
        take(&store, "gone", 2).await;
        // The disk refused to hear that both were given back.
        store.note_untold("again".to_owned());
        store.note_untold("gone".to_owned());
        take(&store, "again", 3).await;
        store.tell_again().await.unwrap();
        assert_eq!(store.taken_by("again".to_owned()).await.unwrap(), Some(vec![3]));
        assert_eq!(store.taken_by("gone".to_owned()).await.unwrap(), None);
        assert!(store.inner.untold.lock().is_empty());
    }

    #[tokio::test]
    async fn a_taking_that_is_written_together_with_what_is_told_again_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentsStore::open(&folder.path().join("contents.sqlite"), 1).unwrap();
        take(&store, "again", 1).await;
        store.note_untold("again".to_owned());
        let (told, stored) = oneshot::channel();
        let tell = store.clone();
        // One group: the second is executed before the first is known to be on disk.
        let later = Job::new(Room::none(), move |_: &Connection| Ok(tell.to_be_told()), |keys| drop(told.send(keys)));
        store.send(vec![Job::take(&store, "qu-1", "again", vec![3], 1, |_| ()), later]);
        assert_eq!(stored.await.unwrap().unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_taking_that_the_disk_refuses_leaves_what_is_to_be_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentsStore::open(&folder.path().join("contents.sqlite"), 1).unwrap();
        take(&store, "again", 1).await;
        store.note_untold("again".to_owned());
        store.begin_replacing("again");
        store.end_replacing("again", false);
        store.tell_again().await.unwrap();
        assert_eq!(store.taken_by("again".to_owned()).await.unwrap(), None);
    }
}
