//! What the state machine asks of its shell, and the small answers it gives.

use types::ids::{FunctionCallId, InputId, TaskId};

use crate::Millis;
use crate::input::{Assignment, FinishedOutput, Restored};

/// One thing for the shell to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer the container's waiting request `poll` with these inputs. All have the same method name.
    Deliver { task: TaskId, poll: u64, inputs: Vec<Assignment> },
    /// Answer the container's waiting request with the word to finish what it runs and exit.
    Drain { task: TaskId, poll: u64 },
    /// The call has news: wake who waits for its outputs.
    OutputReady { call: FunctionCallId },
    /// Write this call down as it is, before any later output of it, then say [`crate::FunctionCalls::on_call_recorded`]
    /// or [`crate::FunctionCalls::on_call_not_recorded`].
    RecordCall(Box<Restored>),
    /// Write this output of a durable call down, then say [`crate::FunctionCalls::on_recorded`].
    Record { call: FunctionCallId, output: FinishedOutput },
    /// Tell the container to stop working on these inputs.
    CancelInputs { task: TaskId, inputs: Vec<InputId> },
    /// Write a line to the app's log, about this input on this container.
    Tell { task: TaskId, call: FunctionCallId, input: InputId, text: String },
    /// End the container: what it runs can no longer be used. Said once for each container.
    StopTask { task: TaskId, why: String },
}

/// Why a container is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEnd {
    /// It ended by itself, by what user code did (exit, segfault, memory limit): counts against the user's retries.
    Crashed(String),
    /// It was taken away: the machine was lost, the server restarted, or it was stopped for another input's sake.
    Lost(String),
    /// It had been told to leave, and left.
    Left,
}

/// Answer to new inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    Yes,
    /// The function's queue is full; nothing was taken.
    QueueFull,
    /// The store has the call, so it must have the inputs first; nothing was taken.
    WriteFirst,
    /// The call is not here (any more).
    NoSuchCall,
}

/// Which outputs a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// Outputs already seen by this cursor; 0 is the start.
    pub after: usize,
    /// Inclusive range of positions, when only these are wanted.
    pub range: Option<(i32, i32)>,
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OutputPage {
    pub outputs: Vec<FinishedOutput>,
    /// Cursor after these.
    pub next: usize,
    pub unfinished: usize,
}

/// Facts for the autoscaler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub ready: usize,
    pub delayed: usize,
    pub running: usize,
    pub oldest_ready_at: Option<Millis>,
    /// Since when there has been a ready input at every moment: the containers have been busy all that time.
    pub backlog_since: Option<Millis>,
    /// Inputs completed in that time.
    pub completed_in_backlog: u64,
}
