//! How many containers a function needs, and which worker gets them. View in, plan out: no I/O, no clock, and every
//! plan says why in one line, so that the log line is the explanation.

pub mod autoscaler;
pub mod fairness;
pub mod placement;
pub mod room;
pub mod schedule;
pub mod tasks;

pub use autoscaler::{
    AutoscalerPlan, AutoscalerSettings, AutoscalerView, FailedStartVerdict, FailedStartView, FailedStarts, InputTimes,
    RecentCompletions, StartFault, StopReason, TaskPhase, TaskView, decide_failed_start, plan_autoscale,
};
pub use fairness::{Held, Holder, RoomWait, count_held, is_idle_enough, plan_reclaim};
pub use placement::{
    NoRoom, Placement, PlacementPlan, PlacementRequest, Resources, SHARE_MILLI_CPU, Shape, Unplaceable, WorkerId,
    WorkerView, plan_placement,
};
pub use room::{Claim, RoomQueue};
pub use tasks::{Asked, EndedTask, FunctionTasks};

/// Milliseconds of a clock that only goes forward; of schedules, of the wall clock. Time is always an argument here.
pub type Millis = calls::Millis;
