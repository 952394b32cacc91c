//! What happens to an item of a queue, from the put to the get. Event in, effects out: no I/O, no clock, no wire types.
//!
//! ```text
//!             put                        get, or one that waits
//!   caller ─────────▶ in its partition ───────────────────────▶ taken ─────▶ handed ─────▶ delivered
//!                          ▲                                      │ disk knows  │ answer begun
//!                          └──────────────────────────────────────┴─────────────┘
//!                              the caller went away, or the disk refused
//! ```
//!
//! One [`Queue`] holds the partitions of one queue; queues never share state, so that each can live behind its own small
//! lock. What a value is, is the shell's affair: it may be bytes in memory, or a note that they are on disk.
//!
//! Puts and takes are written down in the order in which they were decided, by one writer. So an item may be taken while
//! its put is still on its way to the disk: both are answered when the disk has them, and where a get waits, that is one
//! and the same commit. The invariants, which the property tests check:
//!
//! 1. an item is in its partition or with one get, never both and never with two;
//! 2. an item is answered to a get only after its taking was written down, and never again once it was delivered;
//! 3. what comes back keeps its position: gets see a partition in the order of its puts;
//! 4. a partition never takes more than its limits, and its items go when its time is over.
//!
//! Rejected: taking items only when the store has confirmed them (a get that waits would then need two commits, one after
//! the other); one order over all partitions (partitions are independent by their documentation).

mod gets;
mod limits;
mod partition;
#[cfg(test)]
mod properties;
mod queue;
#[cfg(test)]
mod tests;

pub use gets::{GetId, Taking};
pub use limits::{
    DEFAULT_TTL_MS, MAX_ITEM_BYTES, MAX_ITEMS, MAX_OPEN_GETS, MAX_PARTITION_BYTES, MAX_PARTITION_KEY, MAX_PARTITIONS,
    MAX_TTL_MS, Refusal,
};
pub use partition::Item;
pub use queue::{Effect, Got, LookId, NewGet, Queue, Stored};

/// Milliseconds since the epoch.
pub type Millis = u64;

/// Where an item stands among all items; grows with every put.
pub type Position = u64;
