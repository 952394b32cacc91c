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
    let mut idle: Vec<(Millis, &TaskId)> = view.tasks.iter().filter_map(idle_task).collect();
    idle.retain(|(_, id)| stop.iter().all(|(stopped, _)| stopped != *id));
    idle.sort();
    idle.truncate(spare);
    let due = idle.partition_point(|(since, _)| since.saturating_add(window_ms) <= view.now);
    let reconsider_at = idle.get(due).map(|(since, _)| since.saturating_add(window_ms));
    stop.extend(idle[..due].iter().map(|(_, id)| ((*id).clone(), reason)));
    Down { stop, why, reconsider_at }
}

fn idle_task(task: &TaskView) -> Option<(Millis, &TaskId)> {
    let active = matches!(task.phase, TaskPhase::Active { .. });
    (active && task.running == 0).then_some(task.idle_since?).map(|since| (since, &task.id))
}

/// Containers beyond a lowered maximum: those that have not begun first, then those with the least to do.
fn over_maximum(view: &AutoscalerView, facts: &Facts) -> Vec<(TaskId, StopReason)> {
    let Some(max) = view.settings.max_containers else { return Vec::new() };
    let excess = facts.live.saturating_sub(max as usize);
    let mut live: Vec<&TaskView> = view.tasks.iter().filter(|t| t.phase != TaskPhase::Draining).collect();
    live.sort_by_key(|t| (matches!(t.phase, TaskPhase::Active { .. }), t.running, t.idle_since, t.id.clone()));
    live.into_iter().take(excess).map(|t| (t.id.clone(), StopReason::OverMaximum)).collect()
}
