//! How many containers a function needs, and which worker gets them. View in, plan out: no I/O, no clock, and every
//! plan says why in one line, so that the log line is the explanation.

pub mod autoscaler;
pub mod fairness;
pub mod placement;
pub mod schedule;
pub mod tasks;

pub use autoscaler::{
    AutoscalerPlan, AutoscalerSettings, AutoscalerView, FailedStartVerdict, FailedStartView, FailedStarts, InputTimes,
    RecentCompletions, StartFault, StopReason, TaskPhase, TaskView, decide_failed_start, plan_autoscale,
};
pub use fairness::{Claim, Held, Holder, RoomWait, count_held, plan_reclaim, sort_by_fairness};
pub use placement::{
    Placement, PlacementPlan, PlacementRequest, Resources, SHARE_MILLI_CPU, Unplaceable, WorkerId, WorkerView,
    plan_placement,
};
pub use tasks::{Asked, EndedTask, FunctionTasks};

/// Milliseconds since the Unix epoch. Time is always an argument here.
pub type Millis = calls::Millis;
