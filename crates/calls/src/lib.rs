//! What happens to an input, from submission to output. Event in, effects out: no I/O, no clock, no wire types.
//!
//! ```text
//!            add_inputs            poll                      output: success, or no attempt left
//!   caller ────────────▶ ready ───────────▶ running on a task ────────────────────────────▶ finished
//!                          ▲                     │         │ timeout, or any word but          ▲  │ durable calls:
//!                          │                     │         │ success once the task is          │  │ recorded first
//!                          │  failure with       │         ▼ being stopped                     │  ▼
//!                          │  attempts left, or  │     stopping ───────────────────────────────┘ published
//!                          │  the task was lost  │         │ the task has ended, its last
//!                          └──── delayed ◀───────┴─────────┘ writes are committed: as it
//!                              (backoff)                     would have gone on before
//! ```
//!
//! What is ready while no container starts is given up: delayed as after a failure, or finished.
//!
//! One [`FunctionCalls`] holds every call of one function; functions never share state, so that each can live behind
//! its own small lock. The invariants, which the property tests and the simulation check:
//!
//! 1. an accepted input is ready, delayed, running, stopping or finished, and in exactly one of these;
//! 2. an input is published at most once, and a published output never changes;
//! 3. an input's attempts never exceed what its policy allows: `1 + retries` that the user's code answers for, and
//!    [`MAX_SYSTEM_RETRIES`] that the platform answers for;
//! 4. only the task that holds the current attempt can finish it; what an older attempt sends is refused;
//! 5. no attempt begins while an earlier one of the same input may still write on a task that is being stopped.
//!
//! Rejected: one queue per call (a map of 10,000 inputs would then starve a single call behind it, or need a
//! scheduler of its own); FIFO over all calls of a function is what users of one container pool expect.

mod concurrency;
mod container;
mod effect;
mod function;
mod input;
mod leaving;
mod policy;
mod ready;
mod recent;
mod report;

pub use concurrency::decide_concurrency;
pub use effect::{Accepted, Effect, Load, OutputPage, PageRequest, TaskEnd};
pub use function::{FunctionCalls, Left, PAST_KEPT, shrink};
pub use input::{
    Assignment, CallKind, CallSpec, FinishedOutput, NewInput, OnDisk, Outcome, OutcomeStatus, Payload, Restored,
};
pub use leaving::{SILENT_CALLER_MS, STOPPED_KEPT_MS, Standing, decide_leaving};
pub use policy::{MAX_SYSTEM_RETRIES, Policy, RetryPolicy};
pub use report::{InputReport, ReportedStage};

/// Milliseconds of a clock that only goes forward, except where a time is said to be of the wall clock. Time is always an
/// argument here.
pub type Millis = u64;
