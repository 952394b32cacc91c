//! Images from an OCI registry.
//!
//! | file | does |
//! |---|---|
//! | `config.rs` | which hosts stand for a registry: mirrors, credentials, plain HTTP |
//! | `auth.rs` | what a `401` asks for |
//! | `credentials.rs` | from a secret's variables to a way of showing oneself |
//! | `ecr.rs` | a password from Amazon for an access key |
//! | `manifest.rs` | the documents a registry answers with |
//! | `client.rs` | requests: manifests, blobs, tokens, resumed downloads |
//! | `pull.rs` | a reference to layers on disk |
//! | `progress.rs` | what a person sees of it |
//! | `unpack.rs` | one layer's archive to overlayfs's own format |

mod auth;
mod client;
mod config;
mod credentials;
mod ecr;
mod manifest;
mod progress;
mod pull;
mod unpack;

pub use config::{Credentials, RegistryConfig};
pub use credentials::{AwsKeys, RegistryAuth, RegistryAuthKind};
pub(crate) use pull::Registries;
pub use unpack::LayerLimits;
pub(crate) use unpack::unpack_alone;
