//! Durable records: what must still be there after the server was killed at any moment.
//!
//! SQLite in WAL mode with `synchronous=FULL`. One thread owns the only writing connection and commits in groups:
//! everything that waits goes into one transaction, so that a thousand callers share one wait for the disk, and each
//! is answered after the commit that holds its writes. Reads use connections of their own on blocking threads and
//! never wait for the writer.
//!
//! What is kept is plain: one struct per kind of record ([`AppRecord`] and its siblings), one file per table in
//! `rows/`. Nothing here decides: which calls are durable, when an app stops, what is restored, is the caller's.
//!
//! Rejected: a connection pool for writes (SQLite has one writer at a time anyway, and a pool turns waiting into
//! `SQLITE_BUSY`); an ORM (a dozen statements do not need one); foreign keys (the order in which records of different
//! kinds arrive is the caller's affair, and one record in the wrong order must not fail the group around it).
//!
//! Mistakes still possible: a caller that acknowledges before [`MetadataStore::write`] returns promises more than the
//! disk knows; [`MetadataStore::write_later`] promises order, not durability, until [`MetadataStore::close`].

mod error;
mod queue;
mod records;
mod rows;
mod schema;
#[cfg(feature = "simulation")]
mod simulated;
mod store;
mod vault;
mod writer;

pub use error::StoreError;
pub use records::{
    AppRecord, AppState, CallRecord, DefinitionRecord, DeploymentRecord, EnvironmentRecord, Expired, FunctionRecord,
    ImageRecord, ImageRevisionRecord, InputRecord, LoadedState, MountFileRecord, MountRecord, ObjectRecord,
    OutputRecord, ScheduleRecord, ScheduledRun, SecretRecord, StoredCall, VariantRecord, Write,
};
#[cfg(feature = "simulation")]
pub use simulated::{Fate, SimulatedDisk};
pub use store::{MetadataStore, names_of_objects};
pub use vault::{Vault, VaultError};
