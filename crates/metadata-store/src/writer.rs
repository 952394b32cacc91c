//! The writer thread: takes what waits, commits it as one transaction, answers.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, TransactionBehavior};

use crate::error::{RowError, StoreError};
use crate::queue::{Batch, Job};
use crate::records::{Expired, Write};
use crate::rows;

/// A group is committed once it has this many batches. It bounds how long the first of a group waits for the last.
const MAX_GROUP: usize = 1_024;
/// Calls that one transaction of an expiry takes away, so that writes get their turn in between.
const EXPIRE_AT_ONCE: usize = 200;

pub(crate) struct Writer {
    connection: Connection,
    path: PathBuf,
}

impl Writer {
    pub fn new(connection: Connection, path: PathBuf) -> Self {
        Self { connection, path }
    }

    /// Runs until the store is closed, or until nobody can send any more.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        let mut group = Vec::new();
        let mut next = jobs.recv().ok();
        while let Some(job) = next.take() {
            match job {
                Job::Batch(batch) => group.push(batch),
                Job::Expire { before_ms, answer } => {
                    self.commit(&mut group);
                    // A caller that has gone away does not want the count.
                    let _ = answer.send(self.expire(before_ms));
                }
                Job::Close(answer) => {
                    self.commit(&mut group);
                    let _ = answer.send(self.close());
                    return;
                }
            }
            if group.len() < MAX_GROUP {
                next = jobs.try_recv().ok();
            }
            if next.is_none() {
                self.commit(&mut group);
                next = jobs.recv().ok();
            }
        }
        self.commit(&mut group);
    }

    /// Commits everything in the group and answers everybody in it.
    pub(crate) fn commit(&mut self, group: &mut Vec<Batch>) {
        if group.is_empty() {
            return;
        }
        match self.transact(group.iter().flat_map(|batch| &batch.writes)) {
            Ok(()) => group.drain(..).for_each(|batch| answer(batch, Ok(()))),
            Err(error) if group.len() == 1 => {
                if let Some(batch) = group.pop() {
                    answer(batch, Err(error.at("store", &self.path)));
                }
            }
            // Nothing of the group is stored. One by one, each gets its own answer, and one bad batch harms no other.
            Err(_) => {
                for batch in group.drain(..) {
                    let result = self.transact(batch.writes.iter()).map_err(|error| error.at("store", &self.path));
                    answer(batch, result);
                }
            }
        }
    }

    fn transact<'a>(&mut self, writes: impl Iterator<Item = &'a Write>) -> Result<(), RowError> {
        let now_ms = now_ms();
        // Dropping the transaction on the way out rolls it back.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for write in writes {
            rows::write(&transaction, write, now_ms)?;
        }
        Ok(transaction.commit()?)
    }

    pub(crate) fn expire(&mut self, before_ms: u64) -> Result<Expired, StoreError> {
        self.expire_some(before_ms).map_err(|error| error.at("delete old calls", &self.path))
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn read<T>(&mut self, query: impl FnOnce(&Connection) -> Result<T, RowError>) -> Result<T, RowError> {
        let transaction = self.connection.transaction()?;
        query(&transaction)
    }

    /// Takes everything out but the schema.
    #[cfg(feature = "simulation")]
    pub(crate) fn empty(&self) -> rusqlite::Result<()> {
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'schema_versions'";
        let mut tables = self.connection.prepare_cached(tables)?;
        let names: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let transaction = self.connection.unchecked_transaction()?;
        for name in names {
            transaction.prepare_cached(&format!("DELETE FROM `{name}`"))?.execute([])?;
        }
        transaction.commit()
    }

    fn expire_some(&mut self, before_ms: u64) -> Result<Expired, RowError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let expired = rows::expire_calls(&transaction, before_ms, EXPIRE_AT_ONCE)?;
        transaction.commit()?;
        Ok(expired)
    }

    /// Moves the log into the database, so that a closed store is one file.
    fn close(self) -> Result<(), StoreError> {
        let checkpoint = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = checkpoint {
            // Nothing is lost: the log is replayed when the store is next opened.
            tracing::warn!(path = %self.path.display(), error = %error, "cannot tidy the database's log");
        }
        self.connection.close().map_err(|(_, source)| RowError::from(source).at("finish", &self.path))
    }
}

pub(crate) fn answer(batch: Batch, result: Result<(), StoreError>) {
    match (batch.answer, result) {
        // The caller may have stopped waiting; what it asked for is done all the same.
        (Some(answer), result) => drop(answer.send(result)),
        (None, Ok(())) => {}
        (None, Err(error)) => {
            tracing::error!(error = %error, source = ?std::error::Error::source(&error), "a record was not stored");
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}
