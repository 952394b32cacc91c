//! One container on one machine. See `launcher` for how the privileged work is done and by whom.
//!
//! `Runtime::start` forks the launcher; `Runtime::create` asks it for a container; a `Container` is waited for, signalled
//! and killed. `container` is what happens inside the new process, `sys` are the kernel calls, `cgroup` the limits and
//! `network` the way out. This crate knows nothing of functions, images or users.

mod cgroup;
pub mod config;
mod container;
pub mod error;
pub mod id_map;
mod launcher;
mod network;
pub mod runtime;
pub mod spec;
mod sys;
mod wire;

pub use config::{RuntimeConfig, Subnet};
pub use error::RuntimeError;
pub use runtime::{Container, Runtime, Usage};
pub use spec::{Bind, ContainerSpec, Exit, LayeredMount, Limits, Network, Profile, Tmpfs};
pub use wire::{Phases, RemountOutcome};
