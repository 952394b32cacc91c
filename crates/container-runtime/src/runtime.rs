//! The asynchronous side: what the server holds.

use std::net::TcpListener;

use crate::{ContainerSpec, Exit, RuntimeConfig, RuntimeError};

/// Handle to the launcher; cheap to clone.
#[derive(Clone)]
pub struct Runtime {}

/// A running container. Dropping the last handle kills it.
pub struct Container {}

/// What a container uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: u64,
    pub cpu_usec: u64,
}

impl Runtime {
    /// Call first thing in `main`, before any thread (so before tokio) exists.
    pub fn start(_config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        Err(RuntimeError::Start("not implemented yet".into()))
    }
    /// What the platform could not give (no user namespaces, no `nft`, a loopback resolver...), in words.
    pub fn warnings(&self) -> &[String] {
        &[]
    }
    pub async fn create(&self, spec: ContainerSpec) -> Result<Container, RuntimeError> {
        Err(RuntimeError::Create { id: spec.id, message: "not implemented yet".into() })
    }
    /// Kills every container and removes what the runtime made on this machine.
    pub async fn shutdown(&self) {}
}

impl Container {
    pub fn id(&self) -> &str {
        ""
    }
    /// Host process id of the first process.
    pub fn pid(&self) -> u32 {
        0
    }
    pub async fn wait(&self) -> Exit {
        std::future::pending().await
    }
    /// To the first process only.
    pub fn signal(&self, _signal: i32) {}
    /// Everything in the container.
    pub fn kill(&self) {}
    pub fn take_listener(&self) -> Option<TcpListener> {
        None
    }
    pub fn usage(&self) -> Usage {
        Usage::default()
    }
}
