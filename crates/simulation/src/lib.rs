//! Seeded days in the life of one function: the real state machine and the real scheduler, between simulated callers,
//! containers, workers, a network that loses things and a disk that is slow, on a clock moved by hand.
//!
//! A seed decides everything, so a failing day can be had again: `SEED=123 cargo test -p dorian-simulation`, which
//! also prints what happened. What is checked, all the time and at the end ([`ledger`]):
//!
//! - no accepted input of a durable call is lost, whenever the server is killed;
//! - an input has one output, the same for everyone who asks, and it was made by an attempt that was handed out;
//! - attempts never exceed the policy, and none begins while an earlier one still runs; a container never holds more
//!   inputs than its slots;
//! - no more containers than the maximum, and the minimum once it is quiet;
//! - every caller gets its outputs, or learns that its call is gone; in the end nothing is left over.
//!
//! Beside the days, [`autoscaling`] compares the autoscaler with simpler rules under a fixed set of arrival traces.
//!
//! The shell around the state machine is a model here ([`server`]): small enough to be read beside the real one, which
//! has the same events. What it cannot show: races between threads, and mistakes in the real shell.

pub mod autoscaling;
mod caller;
mod container;
mod disk;
mod ledger;
mod random;
mod scenario;
mod server;
mod world;

pub use scenario::Scenario;
pub use world::{Summary, run};
