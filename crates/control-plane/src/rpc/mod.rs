//! The client's calls, one file per resource. A handler parses its request, asks the domain, and answers; wire types
//! go no further than these files and the conversions beside them.

pub mod apps;
pub mod auth;
pub mod blobs;
pub mod call_reports;
pub mod calls;
pub mod classes;
pub mod containers;
pub mod deployments;
pub mod dicts;
pub mod environments;
pub mod functions;
pub mod generators;
pub mod image_names;
pub mod images;
pub mod listings;
pub mod logs;
pub mod mounts;
pub mod objects;
mod proxies;
pub mod queues;
pub mod secrets;
mod service;
mod shared_volumes;
pub mod volume_files;
pub mod volumes;

use std::sync::Arc;

use metadata_store::StoreError;
use sha2::{Digest, Sha256};
use tonic::Status;
use types::ids::{AppId, FunctionId};

use crate::apps::App;
use crate::caller::Caller;
use crate::owner::Owner;
use crate::shared::Shared;

/// Serves the client's protocol for one caller at a time; cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub shared: Arc<Shared>,
}

impl Api {
    pub(crate) fn app(&self, id: &str) -> Result<Arc<App>, Status> {
        let parsed = AppId::parse(id).ok_or_else(|| Status::invalid_argument(format!("`{id}` is not an app id")))?;
        let app = self.shared.apps.get(&parsed).map(|a| a.clone());
        app.ok_or_else(|| Status::not_found(format!("app `{id}` does not exist; `modal app list` shows those that do")))
    }

    pub(crate) fn owner(&self, id: &str) -> Result<Arc<Owner>, Status> {
        let parsed =
            FunctionId::parse(id).ok_or_else(|| Status::invalid_argument(format!("`{id}` is not a function id")))?;
        let owner = self.shared.owners.get(&parsed).map(|o| o.clone());
        owner.ok_or_else(|| {
            Status::not_found(format!("function `{id}` does not exist; its app may have been stopped meanwhile"))
        })
    }

    /// 22 letters and digits that a repeated request yields again: the client keeps its idempotency key over all
    /// attempts of a call, so what such a request creates is created once without anything being remembered.
    pub(crate) fn stable_suffix(&self, caller: &Caller, method: &str) -> Option<String> {
        let key = caller.idempotency_key.as_deref()?;
        let principal = format!("{:?}", caller.principal);
        Some(derive_suffix(&self.shared.config.salt, &[method, &principal, key]))
    }
}

/// One server has one workspace.
pub(crate) const WORKSPACE: &str = "dorian";

/// 22 hexadecimal digits (88 bits) from secret and parts.
pub(crate) fn derive_suffix(salt: &str, parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(salt);
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut text = hex::encode(hasher.finalize());
    text.truncate(22);
    text
}

/// What a failing store means for the caller: a full disk will not go away by asking again at once.
pub(crate) fn store_status(error: &StoreError) -> Status {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(%error, cause, "the metadata store failed");
    match error {
        StoreError::NoSpace { .. } => Status::resource_exhausted(format!(
            "the server's disk is full, nothing was accepted: {error}; free some space in its data directory"
        )),
        _ => Status::internal(format!("the server could not write its state: {error}")),
    }
}
