//! See ARCHITECTURE.md.
pub mod spec;
