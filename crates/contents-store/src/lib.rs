//! What programs keep in dicts and queues, on disk.
//!
//! A SQLite database of its own, with a writer of its own: values are up to 100 MiB, and a commit that carries one must
//! not hold up the records of calls; and what programs throw away by the million leaves the records' file as it is.
//!
//! One thread owns the writing connection and commits in groups, in the order in which jobs were handed over; what was
//! handed over together is committed together. A job is told on that thread when the disk has it, in the same order:
//! so a queue's state in memory follows the disk without ever being ahead of what it promises. Reads use connections of
//! their own on blocking threads.
//!
//! Nothing that was asked happens twice. What changes something under a request's key leaves a [`replies`] row in the same
//! transaction; a repeated request finds it, also in the next server. What a get took from a queue, or a pop from a dict,
//! stays where it is until that row is swept away, so that the note costs a few bytes however large the value.
//!
//! Rejected: values in memory with a log beside them (a dict may hold more than memory does, and SQLite's pages and the
//! kernel's are the cache that a second one would double); deleting what was taken at once (an answer that was lost could
//! not be given again).
//!
//! Mistakes still possible: a caller that answers before its job was told so promises more than the disk knows.

mod dicts;
mod error;
mod jobs;
mod queues;
mod replies;
mod schema;
mod store;
mod writer;

pub use dicts::{Found, Updated};
pub use error::ContentsError;
pub use jobs::{Job, Room};
pub use queues::{ItemRow, StoredItem};
pub use store::ContentsStore;
