//! The autoscaler beside two simpler rules, under the same arrivals: what each costs in container-seconds, and how long
//! inputs wait. A seed decides every arrival and every duration, so the table is the same for everybody who makes it.
//!
//! What is simulated is a function on a machine with [`world::CORES`] cores. Containers start as they really do: most
//! of a start is the CPU time of an interpreter and its imports, so many at once take turns. Inputs themselves wait for
//! something else (a model on a GPU, a database), or the number of containers would matter little. Rejected: starts
//! that take the same time however many there are; they flatter whoever starts most.

mod knative;
mod ours;
mod policies;
mod table;
mod traces;
mod world;

pub use policies::Policy;
pub use table::{Row, autoscaling_table, measure};
pub use traces::Trace;
