//! The real autoscaler, given what the owner of a function gives it.

use std::collections::VecDeque;

use calls::{Load, Millis};
use scheduler::{
    AutoscalerSettings, AutoscalerView, FailedStarts, InputTimes, RecentCompletions, TaskPhase, TaskView,
    plan_autoscale,
};
use types::ids::TaskId;

use super::policies::{Decision, Rule, Sight, WINDOW_MS};
use super::world::{CORES, Container, Phase};

/// As in the control plane.
const THROUGHPUT_WINDOW_MS: Millis = 2_000;

#[derive(Default)]
pub(super) struct Ours {
    startup_estimate_ms: Option<u64>,
    seen_ready: usize,
    input_times: InputTimes,
    throughput: VecDeque<(Millis, u64)>,
    /// When the backlog began, and what was completed then.
    backlog: Option<(Millis, u64)>,
}

impl Ours {
    fn note(&mut self, sight: &Sight<'_>) -> RecentCompletions {
        self.input_times.on_progress(sight.completed, sight.completed_run_ms);
        // Those that became ready since the last look; ids grow in the order of starts.
        for (id, container) in sight.containers.range(self.seen_ready..) {
            if matches!(container.phase, Phase::Starting) {
                break;
            }
            let took = container.ready_at.saturating_sub(container.begun_at);
            self.startup_estimate_ms = Some((self.startup_estimate_ms.unwrap_or(1_000) + took) / 2);
            self.seen_ready = id + 1;
        }
        self.backlog = match (sight.waiting.is_empty(), self.backlog) {
            (true, _) => None,
            (false, None) => Some((sight.now, sight.completed)),
            (false, began) => began,
        };
        self.throughput.push_back((sight.now, sight.completed));
        while self.throughput.len() > 2 && self.throughput[1].0 + THROUGHPUT_WINDOW_MS < sight.now {
            self.throughput.pop_front();
        }
        let (since, before) = self.throughput[0];
        RecentCompletions { count: sight.completed - before, window_ms: sight.now - since }
    }
}

fn id_of(number: usize) -> TaskId {
    TaskId::parse(&format!("ta-{number:026}")).expect("digits")
}

fn view_of(number: usize, container: &Container) -> TaskView {
    let (phase, idle_since, running) = match container.phase {
        Phase::Starting => (TaskPhase::Starting { since: container.begun_at }, None, 0),
        Phase::Busy { .. } => (TaskPhase::Active { since: container.ready_at }, None, 1),
        Phase::Idle { since } => (TaskPhase::Active { since: container.ready_at }, Some(since), 0),
    };
    TaskView { id: id_of(number), phase, idle_since, running }
}

impl Rule for Ours {
    fn decide(&mut self, sight: &Sight<'_>) -> Decision {
        let completed_recently = self.note(sight);
        let tasks: Vec<TaskView> = sight.containers.iter().map(|(number, c)| view_of(*number, c)).collect();
        let load = Load {
            ready: sight.waiting.len(),
            delayed: 0,
            running: tasks.iter().map(|t| t.running).sum(),
            oldest_ready_at: sight.waiting.first().copied(),
            backlog_since: self.backlog.map(|(since, _)| since),
            completed_in_backlog: self.backlog.map_or(0, |(_, before)| sight.completed - before),
        };
        let plan = plan_autoscale(&AutoscalerView {
            now: sight.now,
            load,
            completed_recently,
            tasks,
            settings: AutoscalerSettings { scaledown_window_ms: WINDOW_MS, ..AutoscalerSettings::default() },
            startup_estimate_ms: self.startup_estimate_ms.unwrap_or(1_000),
            input_ms: self.input_times.estimate_ms(),
            cores: CORES as u32,
            app_active: true,
            failed_starts: FailedStarts::default(),
        });
        let number = |id: &TaskId| id.as_str()[3..].parse().expect("digits");
        let stop = plan.stop.iter().map(|(id, _)| number(id)).collect();
        Decision { start: plan.start, stop, look_at: plan.reconsider_at }
    }
}
