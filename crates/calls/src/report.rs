//! Inputs as a person asks after them: where each is, since when, and how it ended.

use types::ids::{FunctionCallId, InputId, TaskId};

use crate::Millis;
use crate::input::OutcomeStatus;

/// One input, at the moment of asking.
#[derive(Debug, Clone, PartialEq)]
pub struct InputReport {
    pub input: InputId,
    pub call: FunctionCallId,
    /// When its call was made, by the wall clock.
    pub enqueued_at: Millis,
    pub stage: ReportedStage,
    /// The container that runs or ran it.
    pub task: Option<TaskId>,
    /// Seconds since the epoch, as the container said; 0 when it said nothing.
    pub started_at: f64,
    pub ended_at: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedStage {
    /// Waits for a container, or for its next attempt.
    Pending,
    Running,
    Finished(OutcomeStatus),
}
