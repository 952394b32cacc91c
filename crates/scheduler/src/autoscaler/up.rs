//! Starting more. The reasoning is in the parent's header.

use super::{AutoscalerView, Facts};
use crate::Millis;

/// Containers that may start before anything was learned about the inputs: as many as a person's first parallel
/// example tends to want, and little enough to be harmless on two cores.
pub(super) const FIRST_STEP: usize = 4;
/// How long the effect of the last start is watched before the next step. A no-op takes about a millisecond, so
/// fifty of them would have shown; next to a container's start the wait is small.
pub(super) const OBSERVE_MS: Millis = 50;
/// For long inputs, the part of a start's time that a backlog may take without more containers. Chosen with the traces of
/// `simulation`: at 1 the waits are those of a concurrency target, at a quarter the price is that of one per input.
const LONG_INPUT_PATIENCE: f64 = 0.5;
/// So many times the estimate a first start may take before others are begun beside it.
const UNSEEN_STARTS: u64 = 4;
/// CPU time of starting a container's interpreter with the client imported, measured on a 2020s server core.
pub(super) const START_CPU_MS: f64 = 400.0;
/// When each container finishes an input more often than this, handling it is most of its cost, and that is CPU:
/// containers beyond the number of cores would only take turns.
const SHORT_INPUT_MS: f64 = 5.0;
/// Longest time between looks at a backlog that is being worked off.
const RECHECK_MS: Millis = 250;

pub(super) struct Up {
    pub(super) start: usize,
    pub(super) why: String,
    pub(super) reconsider_at: Option<Millis>,
}

impl Up {
    fn nothing(why: impl Into<String>) -> Self {
        Self { start: 0, why: why.into(), reconsider_at: None }
    }

    fn later(why: impl Into<String>, at: Millis) -> Self {
        Self { start: 0, why: why.into(), reconsider_at: Some(at) }
    }
}

pub(super) fn plan_up(view: &AutoscalerView, facts: &Facts) -> Up {
    let mut up = plan_for_backlog(view, facts);
    if view.app_active {
        let minimum = view.settings.min_containers as usize;
        if facts.live + up.start < minimum {
            up.start = minimum - facts.live;
            up.why = format!("`min_containers` is {minimum}");
        }
        // While the backlog is not covered, containers that join are busy at once, and a buffer is beyond reach.
        let covered = up.start * facts.concurrency >= facts.missing;
        let target = facts.floor(view);
        if covered && facts.live + up.start < target {
            up.start = target - facts.live;
            up.why = format!("{}, and {} kept ready", up.why, view.settings.buffer_containers);
        }
    }
    limit_up(view, facts, up)
}

/// Applies what no reason to start can override.
fn limit_up(view: &AutoscalerView, facts: &Facts, mut up: Up) -> Up {
    if up.start == 0 {
        return up;
    }
    if let Some(trial_at) = view.failed_starts.next_trial_at() {
        if facts.starting > 0 {
            return Up::nothing("the last start failed, and one container tries again");
        }
        if trial_at > view.now {
            return Up::later("the last start failed a moment ago", trial_at);
        }
        up.start = 1;
    }
    if let Some(max) = view.settings.max_containers {
        let room = (max as usize).saturating_sub(facts.live + facts.draining);
        if room == 0 {
            return Up::nothing(format!("at the maximum of {max} containers"));
        }
        up.start = up.start.min(room);
    }
    up
}

/// Containers for the inputs that have nowhere to go.
fn plan_for_backlog(view: &AutoscalerView, facts: &Facts) -> Up {
    if facts.missing == 0 {
        return Up::nothing("every input has a place");
    }
    let waiting_since = view.load.oldest_ready_at.unwrap_or(view.now);
    if facts.live > 0 {
        let patience_ends = waiting_since.saturating_add(view.settings.scaleup_window_ms);
        if view.now < patience_ends {
            return Up::later("the scaleup window has not passed", patience_ends);
        }
    }
    let wanted_total = facts.live + facts.missing.div_ceil(facts.concurrency);
    if let Some(input_ms) = view.input_ms {
        return plan_from_memory(view, facts, input_ms, wanted_total);
    }
    let first_step = FIRST_STEP.max(view.cores as usize);
    let step_total = if facts.live < first_step {
        first_step
    } else {
        if let Some(at) = starts_settle_at(view, facts).filter(|at| *at > view.now) {
            return Up::later(format!("{} containers are starting", facts.starting), at);
        }
        facts.live * 2
    };
    let why = format!("{} inputs wait for {} containers", view.load.ready, facts.live);
    let Some(last_active) = facts.last_active else {
        return Up { start: wanted_total.min(step_total) - facts.live, why, reconsider_at: None };
    };
    let observed_at = waiting_since.max(last_active).saturating_add(OBSERVE_MS);
    if view.now < observed_at {
        return Up::later("the effect of the containers is not yet seen", observed_at);
    }
    match drain_estimate(view, facts) {
        None => Up { start: wanted_total.min(step_total) - facts.live, why, reconsider_at: None },
        Some(drain) => plan_for_drain(view, facts, drain, wanted_total.min(step_total)),
    }
}

/// How long the inputs take is known from before: nothing needs to be tried first.
fn plan_from_memory(view: &AutoscalerView, facts: &Facts, input_ms: f64, wanted_total: usize) -> Up {
    if facts.active > 0 {
        return plan_for_drain(view, facts, remembered_drain(view, facts, input_ms), wanted_total);
    }
    // As if one container worked on all of it: the sum of times is least for the same number.
    let alone = Drain { ms: facts.missing_now as f64 * input_ms / facts.concurrency as f64, ms_per_input: input_ms };
    let total = wanted_total.min(worthwhile_total(view, 1, alone).max(1));
    if total <= facts.live {
        let at = starts_settle_at(view, facts).unwrap_or(view.now).max(view.now + RECHECK_MS);
        return Up::later(format!("{} containers are starting, as many as it takes", facts.starting), at);
    }
    let why = format!("{} inputs wait, and took {input_ms:.0} ms each before", view.load.ready);
    Up { start: total - facts.live, why, reconsider_at: None }
}

/// Containers for a backlog that would otherwise last as long as `drain` says, up to `most` in all.
fn plan_for_drain(view: &AutoscalerView, facts: &Facts, drain: Drain, most: usize) -> Up {
    // An input that costs more than a start will want the container again: for those it pays to be early.
    let long = drain.ms_per_input >= START_CPU_MS;
    let patience_ms = view.startup_estimate_ms as f64 * if long { LONG_INPUT_PATIENCE } else { 1.0 };
    if drain.ms <= patience_ms {
        return Up::later(
            format!("the backlog of {} drains in {:.0} ms, sooner than a container starts", view.load.ready, drain.ms),
            view.now + ((drain.ms / 2.0) as Millis).clamp(OBSERVE_MS / 2, RECHECK_MS),
        );
    }
    let why =
        format!("{} inputs wait for {} containers, and would for {:.0} ms", view.load.ready, facts.live, drain.ms);
    // What waits now is not all that will come: while every container is busy, up to twice as many are no loss.
    let half = facts.missing_now.div_ceil(2 * facts.concurrency);
    let grown = if long { facts.active + half.min(facts.active) } else { 0 };
    let start = most.min(worthwhile_total(view, facts.active, drain).max(grown)).saturating_sub(facts.live);
    if start == 0 {
        return Up::later(format!("{why}: more would not help"), view.now + RECHECK_MS);
    }
    Up { start, why, reconsider_at: None }
}

/// When the last step's starts are over or overdue. Many starts at once take turns on the cores.
fn starts_settle_at(view: &AutoscalerView, facts: &Facts) -> Option<Millis> {
    let turns_ms = facts.starting as f64 * START_CPU_MS / f64::from(view.cores.max(1));
    // Before any has come up, a late one says that the machine is slow, and more of them would make it slower.
    let estimates = if facts.active == 0 { UNSEEN_STARTS } else { 1 };
    let patience = view.startup_estimate_ms.saturating_mul(estimates).saturating_add(turns_ms as Millis);
    facts.last_start.map(|at| at.saturating_add(patience))
}

#[derive(Clone, Copy)]
pub(super) struct Drain {
    /// How long the active containers would take for the backlog.
    ms: f64,
    /// How often each of them finishes an input.
    ms_per_input: f64,
}

/// What the inputs of before say about the backlog, unless what is seen now says more.
fn remembered_drain(view: &AutoscalerView, facts: &Facts, input_ms: f64) -> Drain {
    let busy_since = facts.first_active.unwrap_or(view.now).max(view.load.backlog_since.unwrap_or(view.now));
    let busy_ms = view.now.saturating_sub(busy_since) as f64;
    if busy_ms >= input_ms.max(OBSERVE_MS as f64)
        && let Some(seen) = drain_estimate(view, facts)
    {
        return seen;
    }
    // Nothing was finished for longer than an input took before: they take at least that long now.
    let nothing_finished = view.load.completed_in_backlog == 0;
    let input_ms = if nothing_finished { input_ms.max(busy_ms) } else { input_ms };
    let slots = (facts.active * facts.concurrency).max(1) as f64;
    Drain { ms: facts.missing_now as f64 * input_ms / slots, ms_per_input: input_ms }
}

/// What the throughput says about the backlog; `None` while nothing was finished.
///
/// Only time in which the containers had work may count, or a burst after a quiet spell would look like a slow
/// function. They surely had since the backlog began, so a young backlog is measured by itself.
fn drain_estimate(view: &AutoscalerView, facts: &Facts) -> Option<Drain> {
    let recent = view.completed_recently;
    let busy_since = facts.first_active?.max(view.load.backlog_since.unwrap_or(view.now));
    let busy_ms = view.now.saturating_sub(busy_since);
    let (count, over_ms) = if busy_ms < recent.window_ms {
        (view.load.completed_in_backlog, busy_ms.max(1))
    } else {
        (recent.count, recent.window_ms.max(1))
    };
    if count == 0 {
        return None;
    }
    let per_ms = count as f64 / over_ms as f64;
    Some(Drain { ms: facts.missing_now as f64 / per_ms, ms_per_input: facts.active as f64 / per_ms })
}

/// The number of containers at which one more costs as much time as it saves.
///
/// With `n` containers the backlog takes `t`; with `m` it takes `t * n / m`, plus `c` for each of the `m - n` starts,
/// where `c` is a start's CPU time divided among the cores. The sum is least at `m = sqrt(t * n / c)`.
pub(super) fn worthwhile_total(view: &AutoscalerView, active: usize, drain: Drain) -> usize {
    let cores = view.cores.max(1);
    if drain.ms_per_input < SHORT_INPUT_MS {
        return cores as usize;
    }
    let cost_ms = START_CPU_MS / f64::from(cores);
    (drain.ms * active as f64 / cost_ms).sqrt() as usize
}
