//! How many containers a function needs, and which worker gets them. View in, plan out: no I/O, no clock, and every
//! plan says why in one line, so that the log line is the explanation.

pub mod autoscaler;
pub mod fairness;
pub mod placement;
pub mod schedule;

pub use autoscaler::{
    AutoscalerPlan, AutoscalerSettings, AutoscalerView, FailedStarts, InputTimes, RecentCompletions, StopReason,
    TaskPhase, TaskView, plan_autoscale,
};
pub use fairness::{Claim, Held, Holder, RoomWait, count_held, plan_reclaim, sort_by_fairness};
pub use placement::{
    Placement, PlacementPlan, PlacementRequest, Resources, SHARE_MILLI_CPU, Unplaceable, WorkerId, WorkerView,
    plan_placement,
};

/// Milliseconds since the Unix epoch. Time is always an argument here.
pub type Millis = calls::Millis;
