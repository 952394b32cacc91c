//! The words of the system: typed ids, digests, resources and limits. Plain data that any crate may use;
//! nothing here performs I/O or knows the wire.

pub mod errors;
pub mod ids;
pub mod objects;
pub mod owners;
pub mod variables;
pub mod words;
