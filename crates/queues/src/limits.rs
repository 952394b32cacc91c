//! The limits that the client's documentation promises, and what is said when one is reached.

use crate::Millis;

/// Of the client's documentation, as are the next four: a queue has so many partitions with items in them.
pub const MAX_PARTITIONS: usize = 100_000;
/// Items in one partition.
pub const MAX_ITEMS: usize = 5_000;
pub const MAX_ITEM_BYTES: usize = 1 << 20;
pub const MAX_PARTITION_BYTES: usize = 64 << 20;
/// Bytes in a partition's key; the default partition's is empty.
pub const MAX_PARTITION_KEY: usize = 64;

/// Of the client's documentation: a partition goes so long after its last put.
pub const DEFAULT_TTL_MS: Millis = 24 * 3_600_000;
/// Of the client's documentation.
pub const MAX_TTL_MS: Millis = 7 * 24 * 3_600_000;

/// Gets of one queue that may be open at once. One connection carries 10,000 requests; each costs a few hundred bytes.
pub const MAX_OPEN_GETS: usize = 100_000;

/// Why a put or a get is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Passes when somebody takes items away.
    #[error("the partition is full: it has {items} items in {bytes} bytes, and takes up to {MAX_ITEMS} in {} MiB; get some first", MAX_PARTITION_BYTES >> 20)]
    PartitionFull { items: usize, bytes: usize },
    /// Passes when partitions run empty.
    #[error("the queue is full: {MAX_PARTITIONS} of its partitions hold items; empty some first")]
    QueueFull,
    #[error("an item has {bytes} bytes, and one takes up to {} MiB; keep large data in a volume and put its path", MAX_ITEM_BYTES >> 20)]
    ItemTooLarge { bytes: usize },
    #[error("{items} items in {bytes} bytes are more than a partition holds: up to {MAX_ITEMS} in {} MiB; put them in parts", MAX_PARTITION_BYTES >> 20)]
    PutTooLarge { items: usize, bytes: usize },
    #[error("{MAX_OPEN_GETS} gets wait for this queue already; let some end first")]
    TooManyGets,
}
