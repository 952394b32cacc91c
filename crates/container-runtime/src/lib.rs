//! One container on one machine. See `launcher` for how the privileged work is done and by whom.
pub mod config;
pub mod error;
pub mod runtime;
pub mod spec;

pub use config::{RuntimeConfig, Subnet};
pub use error::RuntimeError;
pub use runtime::{Container, Runtime, Usage};
pub use spec::{Bind, ContainerSpec, Exit, Limits, Network, Profile};
