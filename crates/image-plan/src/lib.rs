//! From a recipe (Dockerfile text and what it may read) to ordered steps and their cache keys.
//!
//! Everything here is a decision over plain data: nothing reads a file, a clock or the network. `image-builder` carries
//! the plan out. The path is
//!
//! 1. [`parse`]: text to [`Instruction`]s that know their place, so that an error can point at it;
//! 2. [`Recipe::from_instructions`]: which image it starts from, which is all that can be known before that image's
//!    own configuration is;
//! 3. [`plan`]: the recipe, the base's configuration and the facts (context, arguments, secret names) to a [`Plan`]:
//!    steps that write a layer, each with a fingerprint of exactly what can change its result, and the image's final
//!    configuration.
//!
//! A layer's key is a hash of its parent's key and its step's fingerprint ([`LayerKey::child`]). What does not change
//! a layer's content (LABEL, CMD, the text of a comment) is not in any key, so editing it rebuilds nothing.
//!
//! What is not supported yet is refused by name rather than skipped: a skipped instruction would build a different
//! image than the one asked for.

mod config;
mod copy;
mod error;
mod expand;
mod glob;
mod instruction;
mod key;
mod lines;
mod parse;
mod plan;
mod recipe;
mod reference;

pub use config::ImageConfig;
pub use copy::{ContextFile, CopyItem, CopySource};
pub use error::{DockerfileError, Position};
pub use instruction::{Command, Flag, Heredoc, Instruction, Kind};
pub use key::{KeyHasher, LayerKey};
pub use parse::parse;
pub use plan::{Action, Facts, Plan, Step, plan};
pub use recipe::{From, Recipe};
pub use reference::{Reference, ReferenceError};
