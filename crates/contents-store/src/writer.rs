//! The writer thread: takes what waits, commits it as one transaction, tells everybody.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use crate::error::ContentsError;
use crate::jobs::Job;

/// A group is committed once it has this many jobs. It bounds how long the first of a group waits for the last.
const MAX_GROUP: usize = 1_024;

pub(crate) enum Message {
    /// To be committed together.
    Jobs(Vec<Job>),
    Close(oneshot::Sender<()>),
}

pub(crate) struct Writer {
    pub connection: Connection,
    pub path: PathBuf,
}

impl Writer {
    /// Runs until the store is closed, or until nobody can send any more.
    pub fn run(mut self, messages: &Receiver<Message>) {
        let mut group = Vec::new();
        while let Ok(first) = messages.recv() {
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Jobs(jobs) => group.extend(jobs),
                    Message::Close(answer) => {
                        self.commit(&mut group);
                        self.tidy_log();
                        // Whoever closes the store may have stopped waiting.
                        let _ = answer.send(());
                        return;
                    }
                }
                if group.len() < MAX_GROUP {
                    next = messages.try_recv().ok();
                }
            }
            self.commit(&mut group);
        }
    }

    fn commit(&mut self, group: &mut Vec<Job>) {
        match self.transact(group) {
            Ok(()) => group.drain(..).for_each(|job| job.0.finish(Ok(()))),
            // Nothing of the group is stored. One by one, each gets its own answer, and one bad job harms no other.
            Err(_) => {
                for mut job in group.drain(..) {
                    let result = self.transact(std::slice::from_mut(&mut job));
                    job.0.finish(result.map_err(|error| ContentsError::new(&error, "store contents", &self.path)));
                }
            }
        }
    }

    fn transact(&mut self, jobs: &mut [Job]) -> rusqlite::Result<()> {
        // Dropping the transaction on the way out rolls it back.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for job in jobs {
            job.0.run(&transaction)?;
        }
        transaction.commit()
    }

    /// Moves the log into the database, so that a closed store is one file.
    fn tidy_log(&self) {
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            // Nothing is lost: the log is replayed when the store is next opened.
            tracing::warn!(path = %self.path.display(), %error, "cannot tidy the database's log");
        }
    }
}
