//! How many containers one function should have.
//!
//! Starting a container is dear (about [`up::START_CPU_MS`] of one core for the interpreter and its imports), so a queue
//! of many short inputs must not be answered with as many containers, while a queue of sleepers should be. The two
//! look alike when they arrive; what tells them apart is the throughput seen shortly after. So:
//!
//! 0. where inputs were finished before, how long they took is remembered ([`InputTimes`]), and the number follows from
//!    that at once: as many as the backlog is worth, none for one that drains sooner than a container starts;
//! 1. otherwise up to [`up::FIRST_STEP`] containers (or one per core) start at once when inputs have nowhere to go;
//! 2. what happens next waits until those starts are over and their effect has been seen for [`up::OBSERVE_MS`];
//! 3. then, while the backlog would outlast a start, the number doubles at most, and goes no higher than where the
//!    CPU spent on starting exceeds the waiting it saves ([`up::worthwhile_total`]).
//!
//! After a start that failed, one container at a time tries, ever more seldom ([`FailedStarts`]); what waits is given up as
//! [`decide_failed_start`] says.
//!
//! Scaling down is by idleness alone: longest idle first, never below what is kept. Rejected: predicting demand from
//! history (needs days of it), and a target of CPU use (an input that sleeps uses none and still holds its slot).
//!
//! The plan depends on the view alone, and carrying it out and planning again plans nothing: a start counts as
//! capacity at once, a stop as gone at once. A start that never ends must be ended by the caller, with a deadline.

use calls::Load;
use types::ids::TaskId;

use crate::Millis;

mod down;
mod failed_starts;
mod input_times;
mod up;

pub use failed_starts::{FailedStartVerdict, FailedStartView, FailedStarts, StartFault, decide_failed_start};
pub use input_times::InputTimes;

#[cfg(test)]
mod tests;

/// What the decision looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoscalerView {
    pub now: Millis,
    pub load: Load,
    pub completed_recently: RecentCompletions,
    pub tasks: Vec<TaskView>,
    pub settings: AutoscalerSettings,
    /// How long recent cold starts took; 1,000 when nothing is known.
    pub startup_estimate_ms: u64,
    /// How long inputs took in the past; `None` when none was ever finished.
    pub input_ms: Option<f64>,
    pub cores: u32,
    /// The app is deployed, or its client is connected.
    pub app_active: bool,
    /// While the last start has failed, one container at a time tries.
    pub failed_starts: FailedStarts,
}

/// Inputs finished in the last `window_ms`. A window of one or two seconds serves best: long enough to hold several
/// inputs, short enough to forget the load of before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecentCompletions {
    pub count: u64,
    pub window_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    pub id: TaskId,
    pub phase: TaskPhase,
    /// Since when it has had nothing to do; `None` while it works.
    pub idle_since: Option<Millis>,
    /// Inputs that it runs now.
    pub running: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskPhase {
    /// Decided or on its way, and has not asked for inputs yet.
    Starting { since: Millis },
    /// Has asked for inputs, first at `since`.
    Active { since: Millis },
    /// Told to leave; it counts against the maximum until it is gone, and as nothing else.
    Draining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoscalerSettings {
    /// Kept while the app is active, whether they are needed or not.
    pub min_containers: u32,
    pub max_containers: Option<u32>,
    /// Idle containers kept ready beside the busy ones while there is any input.
    pub buffer_containers: u32,
    /// How long inputs must have waited before more containers join those that exist. The first is never held back.
    pub scaleup_window_ms: u64,
    /// How long a container may be idle.
    pub scaledown_window_ms: u64,
    /// Inputs that a container should work on at once; 0 counts as 1.
    pub concurrency: u32,
}

impl Default for AutoscalerSettings {
    fn default() -> Self {
        Self {
            min_containers: 0,
            max_containers: None,
            buffer_containers: 0,
            scaleup_window_ms: 0,
            scaledown_window_ms: 60_000,
            concurrency: 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Idle for longer than the scaledown window.
    Idle,
    /// More containers than `max_containers`, which was lowered.
    OverMaximum,
    /// Idle, and the app is not active any more.
    AppStopped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoscalerPlan {
    /// Containers to start now.
    pub start: usize,
    /// Containers to drain now. One that has not begun may be dropped at once.
    pub stop: Vec<(TaskId, StopReason)>,
    /// When to plan again if nothing else happens first.
    pub reconsider_at: Option<Millis>,
    /// The reason, in one line.
    pub why: String,
}

/// Decides how many containers to start and which to stop.
pub fn plan_autoscale(view: &AutoscalerView) -> AutoscalerPlan {
    let facts = Facts::of(view);
    let up = up::plan_up(view, &facts);
    let down = down::plan_down(view, &facts);
    let why = match (up.start, down.stop.len()) {
        (0, 0) => up.why,
        (_, 0) => format!("start {}: {}", up.start, up.why),
        (0, _) => format!("stop {}: {}", down.stop.len(), down.why),
        _ => format!("start {}: {}; stop {}: {}", up.start, up.why, down.stop.len(), down.why),
    };
    let reconsider_at = [up.reconsider_at, down.reconsider_at].into_iter().flatten().min();
    AutoscalerPlan { start: up.start, stop: down.stop, reconsider_at, why }
}

/// The view, counted.
struct Facts {
    concurrency: usize,
    /// Starting and active.
    live: usize,
    starting: usize,
    active: usize,
    draining: usize,
    /// Inputs that run on live containers.
    running: usize,
    /// Ready inputs for which no live container has a free slot.
    missing: usize,
    /// The same, not counting the slots of containers that are still starting.
    missing_now: usize,
    first_active: Option<Millis>,
    last_active: Option<Millis>,
    last_start: Option<Millis>,
}

impl Facts {
    fn of(view: &AutoscalerView) -> Self {
        let concurrency = view.settings.concurrency.max(1) as usize;
        let mut facts = Facts {
            concurrency,
            live: 0,
            starting: 0,
            active: 0,
            draining: 0,
            running: 0,
            missing: 0,
            missing_now: 0,
            first_active: None,
            last_active: None,
            last_start: None,
        };
        let mut free_active = 0;
        for task in &view.tasks {
            match task.phase {
                TaskPhase::Draining => {
                    facts.draining += 1;
                    continue;
                }
                TaskPhase::Starting { since } => {
                    facts.starting += 1;
                    facts.last_start = facts.last_start.max(Some(since));
                }
                TaskPhase::Active { since } => {
                    facts.active += 1;
                    free_active += concurrency.saturating_sub(task.running);
                    facts.first_active = Some(facts.first_active.map_or(since, |first| first.min(since)));
                    facts.last_active = facts.last_active.max(Some(since));
                }
            }
            facts.live += 1;
            // A container from before the concurrency was lowered may run more; it needs no second one for that.
            facts.running += task.running.min(concurrency);
        }
        facts.missing_now = view.load.ready.saturating_sub(free_active);
        facts.missing = facts.missing_now.saturating_sub(facts.starting * concurrency);
        facts
    }

    /// Containers that the inputs at hand would fill.
    fn needed(&self, view: &AutoscalerView) -> usize {
        (self.running + view.load.ready).div_ceil(self.concurrency)
    }

    fn any_input(&self, view: &AutoscalerView) -> bool {
        view.load.ready + view.load.running > 0
    }

    /// Containers kept whatever their idleness.
    fn floor(&self, view: &AutoscalerView) -> usize {
        if !view.app_active {
            return self.needed(view);
        }
        let minimum = view.settings.min_containers as usize;
        let buffer = if self.any_input(view) { view.settings.buffer_containers as usize } else { 0 };
        minimum.max(self.needed(view) + buffer)
    }
}
