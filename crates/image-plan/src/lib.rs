//! From a recipe (Dockerfile text and what it may read) to ordered steps and their cache keys.
//!
//! Everything here is a decision over plain data: nothing reads a file, a clock or the network. `image-builder` carries
//! the plan out. The path is
//!
//! 1. [`parse`]: text to [`Instruction`]s that know their place, so that an error can point at it;
//! 2. [`Recipe::from_instructions`]: its stages, which of them the last one needs, and which images they start from,
//!    which is all that can be known before those images' own configurations are;
//! 3. [`plan`]: the recipe, the bases' configurations and the facts (context, arguments, secret names) to a [`Plan`]:
//!    for each needed stage the steps that write a layer, each with a fingerprint of exactly what can change its result,
//!    and the final configuration.
//!
//! A layer's key is a hash of its parent's key and its step's fingerprint ([`LayerKey::child`]). What does not change
//! a layer's content (LABEL, CMD, the text of a comment) is not in any key, so editing it rebuilds nothing.
//!
//! What is not supported is refused by name rather than skipped: a skipped instruction would build a different
//! image than the one asked for.

mod config;
mod copy;
mod error;
mod expand;
mod fingerprint;
pub mod glob;
mod instruction;
mod key;
mod lines;
mod mode;
mod mount;
mod parse;
mod plan;
mod recipe;
mod reference;
mod scope;

pub use config::ImageConfig;
pub use copy::{ContextFile, ContextPart, CopyItem, CopySource};
pub use error::{DockerfileError, Position};
pub use instruction::{Command, Flag, Heredoc, Instruction, Kind};
pub use key::{KeyHasher, LayerKey};
pub use mode::ModeChange;
pub use mount::{Owned, Sharing, VolumeMount};
pub use parse::parse;
pub use plan::{Action, CopyFrom, Facts, Input, Mount, Plan, Setting, StagePlan, Step, plan};
pub use recipe::{From, Origin, Place, Recipe, Stage};
pub use reference::{Reference, ReferenceError};
