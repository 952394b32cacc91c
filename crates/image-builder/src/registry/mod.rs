//! Images from an OCI registry.
//!
//! | file | does |
//! |---|---|
//! | `config.rs` | which hosts stand for a registry: mirrors, credentials, plain HTTP |
//! | `auth.rs` | what a `401` asks for |
//! | `manifest.rs` | the documents a registry answers with |
//! | `client.rs` | requests: manifests, blobs, tokens, resumed downloads |
//! | `pull.rs` | a reference to layers on disk |
//! | `unpack.rs` | one layer's archive to overlayfs's own format |

mod auth;
mod client;
mod config;
mod manifest;
mod pull;
mod unpack;

pub use config::{Credentials, RegistryConfig};
pub(crate) use pull::Registries;
