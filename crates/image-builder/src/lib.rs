//! Carries out an image plan: gets the base, runs steps in containers, keeps each result as a layer.
//!
//! What to do is decided in `image-plan`; this crate does it, remembers what is done, and shows it to the person who
//! waits. The path of one build is [`ImageBuilder::build`] in `builder.rs`; the files beside it each do one kind of step.
//!
//! | file | does |
//! |---|---|
//! | `builder.rs` | one build from request to image; which layers are there already |
//! | `bases/` | the image that FROM names: registry or Debian mirror |
//! | `registry/` | the registry's side of that: requests, manifests, unpacking |
//! | `steps/` | RUN and its mounts, COPY, ADD, WORKDIR; hints for what failed |
//! | `volumes.rs` | volumes that RUN steps see, and committing what they wrote |
//! | `downloads.rs`, `archives.rs` | what ADD takes: files from the web, archives to be unpacked |
//! | `store.rs` | layers on disk; crash safety |
//! | `collect.rs` | what lies in the store, and taking it away |
//! | `once.rs` | the same layer is never made twice at once |
//! | `container.rs`, `host.rs` | programs in build containers, and what they inherit from this machine |
//! | `debs.rs` | Debian packages shared by builds |
//! | `blocking.rs` | work on threads, and how it is stopped |
//! | `bytecode.rs` | Python files that a step left uncompiled |
//! | `stack.rs` | layers read as one tree |
//! | `client.rs`, `tree.rs`, `metadata.rs` | the client's package, mounts, and facts about an image |

mod archives;
mod bases;
mod blocking;
mod builder;
mod bytecode;
mod changes;
mod client;
mod collect;
mod config;
mod container;
mod debs;
mod downloads;
mod error;
mod host;
mod logs;
mod metadata;
mod once;
mod registry;
mod request;
mod stack;
mod standalone;
mod steps;
mod store;
mod tree;
mod volumes;

pub use builder::ImageBuilder;
pub use collect::{LayerInfo, Swept};
pub use config::BuilderConfig;
pub use error::BuildError;
pub use host::HostEnv;
pub use image_plan::{ImageConfig, KeyHasher, LayerKey, Place, VolumeMount};
pub use logs::LogSink;
pub use registry::{AwsKeys, Credentials, LayerLimits, RegistryAuth, RegistryAuthKind, RegistryConfig};
pub use request::{BuildLog, BuildRequest, BuiltImage, CacheUse, ContextEntry, ImageMetadata, LogStream, TreeEntry};
pub use standalone::StandalonePython;
pub use volumes::{BuildVolume, OpenVolume, VolumeTree};
