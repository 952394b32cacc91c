//! A concurrency target as Knative's autoscaler documents it: every two seconds as many containers as hold the mean
//! concurrency of the last minute at 70 % of the target, and in a panic of the last six seconds. Written from the
//! documented behaviour and its defaults.

use std::collections::VecDeque;

use calls::Millis;

use super::policies::{Decision, Rule, Sight};
use super::world::Phase;

const TICK_MS: Millis = 2_000;
const STABLE_WINDOW_MS: Millis = 60_000;
const PANIC_WINDOW_MS: Millis = 6_000;
const PANIC_THRESHOLD: f64 = 2.0;
/// Inputs per container at once, times the utilisation aimed at.
const TARGET: f64 = 0.7;
const SCALE_TO_ZERO_GRACE_MS: Millis = 30_000;

#[derive(Default)]
pub(super) struct Knative {
    /// (when, inputs that ran or waited), at each change.
    samples: VecDeque<(Millis, usize)>,
    next_tick: Millis,
    panic_until: Option<Millis>,
    /// The most wanted since the panic began: a panic never scales down.
    panic_peak: usize,
    unused_since: Option<Millis>,
}

impl Knative {
    /// The mean concurrency over a window that ends now.
    fn mean(&self, now: Millis, window: Millis) -> f64 {
        let from = now.saturating_sub(window);
        let mut sum = 0;
        let mut until = now;
        for (at, concurrency) in self.samples.iter().rev() {
            let begin = (*at).max(from);
            sum += (until - begin) * *concurrency as u64;
            until = begin;
            if *at <= from {
                break;
            }
        }
        // Before a whole window has passed, the mean is of what has.
        sum as f64 / (now - from).max(1) as f64
    }

    fn wanted(&mut self, now: Millis, have: usize) -> usize {
        let stable = (self.mean(now, STABLE_WINDOW_MS) / TARGET).ceil() as usize;
        let panic = (self.mean(now, PANIC_WINDOW_MS) / TARGET).ceil() as usize;
        if panic as f64 >= PANIC_THRESHOLD * have.max(1) as f64 {
            self.panic_peak = if self.panic_until.is_none() { have } else { self.panic_peak };
            self.panic_until = Some(now + STABLE_WINDOW_MS);
        }
        match self.panic_until.filter(|until| *until > now) {
            Some(_) => {
                self.panic_peak = self.panic_peak.max(panic);
                self.panic_peak
            }
            None => {
                self.panic_until = None;
                stable
            }
        }
    }
}

impl Rule for Knative {
    fn decide(&mut self, sight: &Sight<'_>) -> Decision {
        let now = sight.now;
        let busy = sight.containers.values().filter(|c| matches!(c.phase, Phase::Busy { .. })).count();
        let concurrency = busy + sight.waiting.len();
        if self.samples.back().is_none_or(|(_, last)| *last != concurrency) {
            self.samples.push_back((now, concurrency));
        }
        while self.samples.len() > 1 && self.samples[1].0 + STABLE_WINDOW_MS < now {
            self.samples.pop_front();
        }
        let have = sight.containers.len();
        // The activator asks for the first container at once.
        if have == 0 && !sight.waiting.is_empty() {
            return Decision { start: 1, look_at: Some(self.next_tick.max(now + 1)), ..Decision::default() };
        }
        if now < self.next_tick {
            return Decision { look_at: Some(self.next_tick), ..Decision::default() };
        }
        self.next_tick = now + TICK_MS;
        let mut wanted = self.wanted(now, have);
        if wanted == 0 {
            let since = *self.unused_since.get_or_insert(now);
            // The last one stays for the grace time, in case something comes.
            wanted = usize::from(have > 0 && now < since + SCALE_TO_ZERO_GRACE_MS);
        } else {
            self.unused_since = None;
        }
        let idle = sight.containers.iter().filter_map(|(id, c)| match c.phase {
            Phase::Idle { since } => Some((since, *id)),
            _ => None,
        });
        let mut idle: Vec<(Millis, usize)> = idle.collect();
        idle.sort_unstable();
        // Busy ones would finish first; they are asked again at the next tick.
        let stop = idle.into_iter().take(have.saturating_sub(wanted)).map(|(_, id)| id).collect();
        let quiet = have == 0 && concurrency == 0 && wanted == 0;
        let look_at = (!quiet).then_some(self.next_tick);
        Decision { start: wanted.saturating_sub(have), stop, look_at }
    }
}
