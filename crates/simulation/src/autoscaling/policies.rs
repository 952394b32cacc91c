//! What a rule sees and says, and the simplest of them.

use calls::Millis;

use super::knative::Knative;
use super::ours::Ours;
use super::world::{Containers, Phase};

/// The scale-down window of ours and of the simple rule: the default of the platform.
pub(super) const WINDOW_MS: Millis = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Ours,
    OnePerPendingInput,
    ConcurrencyTarget,
}

impl Policy {
    pub const ALL: [Self; 3] = [Self::Ours, Self::OnePerPendingInput, Self::ConcurrencyTarget];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "Dorian",
            Self::OnePerPendingInput => "one container per pending input",
            Self::ConcurrencyTarget => "concurrency target",
        }
    }

    pub(super) fn rule(self) -> Box<dyn Rule> {
        match self {
            Self::Ours => Box::new(Ours::default()),
            Self::OnePerPendingInput => Box::new(OnePerPendingInput),
            Self::ConcurrencyTarget => Box::new(Knative::default()),
        }
    }
}

/// What a rule may look at.
pub(super) struct Sight<'a> {
    pub(super) now: Millis,
    /// When the waiting inputs came, oldest first.
    pub(super) waiting: &'a [Millis],
    pub(super) containers: &'a Containers,
    /// Inputs finished so far, and how long they ran in sum.
    pub(super) completed: u64,
    pub(super) completed_run_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Decision {
    pub(super) start: usize,
    pub(super) stop: Vec<usize>,
    pub(super) look_at: Option<Millis>,
}

pub(super) trait Rule {
    /// Asked after everything that happens, and at the time that it names.
    fn decide(&mut self, sight: &Sight<'_>) -> Decision;
}

/// Each input that waits gets a container of its own, unless one is starting for it; idle ones leave after a window.
struct OnePerPendingInput;

impl Rule for OnePerPendingInput {
    fn decide(&mut self, sight: &Sight<'_>) -> Decision {
        let starting = sight.containers.values().filter(|c| matches!(c.phase, Phase::Starting)).count();
        let mut decision = Decision { start: sight.waiting.len().saturating_sub(starting), ..Decision::default() };
        for (id, container) in sight.containers {
            let Phase::Idle { since } = container.phase else { continue };
            let at = since + WINDOW_MS;
            if at <= sight.now {
                decision.stop.push(*id);
            } else {
                decision.look_at = Some(decision.look_at.map_or(at, |other| other.min(at)));
            }
        }
        decision
    }
}
