//! Stopping what is not needed any more: by idleness, the longest idle first.

use types::ids::TaskId;

use super::{AutoscalerView, Facts, StopReason, TaskPhase, TaskView};
use crate::Millis;

pub(super) struct Down {
    pub(super) stop: Vec<(TaskId, StopReason)>,
    pub(super) why: String,
    pub(super) reconsider_at: Option<Millis>,
}

pub(super) fn plan_down(view: &AutoscalerView, facts: &Facts) -> Down {
    let mut stop = over_maximum(view, facts);
    let (window_ms, reason) = if view.app_active {
        (view.settings.scaledown_window_ms, StopReason::Idle)
    } else {
        (0, StopReason::AppStopped)
    };
    let why = match (stop.is_empty(), view.app_active) {
        (false, _) => format!("`max_containers` is {}", view.settings.max_containers.unwrap_or_default()),
        (true, true) => format!("idle for {} s", window_ms as f64 / 1000.0),
        (true, false) => "the app is not active any more".to_owned(),
    };
    let spare = (facts.live - stop.len()).saturating_sub(facts.floor(view));
    // An idle container beside a waiting input is about to get it.
    if spare == 0 || view.load.ready > 0 {
        return Down { stop, why, reconsider_at: None };
    }
    let stopped: Vec<&TaskId> = stop.iter().map(|(id, _)| id).collect();
    let idle = view.tasks.iter().filter(|t| !stopped.contains(&&t.id)).filter_map(idle_task);
    let (mut due, later): (Vec<_>, Vec<_>) =
        idle.partition(|(_, since, _)| since.saturating_add(window_ms) <= view.now);
    due.sort();
    due.truncate(spare);
    let next = later.iter().map(|(_, since, _)| since.saturating_add(window_ms)).min();
    let reconsider_at = next.filter(|_| due.len() < spare);
    stop.extend(due.into_iter().map(|(_, _, id)| (id.clone(), reason)));
    Down { stop, why, reconsider_at }
}

/// Whether it has begun, and since when it is idle. One that has not begun counts from the decision to start it: it
/// may still wait for room on a worker, long after the inputs that it was meant for were done by others.
fn idle_task(task: &TaskView) -> Option<(bool, Millis, &TaskId)> {
    match task.phase {
        TaskPhase::Starting { since } => Some((false, since, &task.id)),
        TaskPhase::Active { .. } if task.running == 0 => task.idle_since.map(|since| (true, since, &task.id)),
        _ => None,
    }
}

/// Containers beyond a lowered maximum: those that have not begun first, then those with the least to do.
fn over_maximum(view: &AutoscalerView, facts: &Facts) -> Vec<(TaskId, StopReason)> {
    let Some(max) = view.settings.max_containers else { return Vec::new() };
    let excess = facts.live.saturating_sub(max as usize);
    let mut live: Vec<&TaskView> = view.tasks.iter().filter(|t| t.phase != TaskPhase::Draining).collect();
    live.sort_by_key(|t| (matches!(t.phase, TaskPhase::Active { .. }), t.running, t.idle_since, t.id.clone()));
    live.into_iter().take(excess).map(|t| (t.id.clone(), StopReason::OverMaximum)).collect()
}
