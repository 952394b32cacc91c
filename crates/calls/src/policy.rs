//! How often and how late a failed attempt is tried again.

use crate::Millis;
use crate::input::OutcomeStatus;

/// Attempts that the platform lost (a machine went away, the server restarted) are repeated without counting against
/// the user's policy, but not for ever: an input that takes its machine down each time must end somewhere. Eight is
/// the limit that the client itself applies to internal failures.
pub const MAX_SYSTEM_RETRIES: u32 = 8;

/// The user's `retries=`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    pub retries: u32,
    pub initial_delay_ms: u64,
    pub backoff_coefficient: f32,
    pub max_delay_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::NONE
    }
}

impl RetryPolicy {
    /// Whether an attempt that ended so is followed by another, after so many failures before it.
    pub(crate) fn repeats(&self, status: OutcomeStatus, failures: u32) -> bool {
        matches!(status, OutcomeStatus::Failure | OutcomeStatus::Timeout) && failures < self.retries
    }

    /// Delay before retry `n` (1 is the first): `initial * backoff^(n-1)`, at most the maximum.
    pub fn delay_ms(&self, n: u32) -> u64 {
        let factor = f64::from(self.backoff_coefficient).max(0.0).powi(n.saturating_sub(1).min(1_000) as i32);
        let delay = self.initial_delay_ms as f64 * factor;
        if delay.is_finite() { (delay as u64).min(self.max_delay_ms) } else { self.max_delay_ms }
    }
}

/// What a function's definition says about its calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    pub retry: RetryPolicy,
    /// Longest run of one attempt.
    pub timeout_ms: Millis,
    /// Inputs that may wait or run at once. Beyond it new inputs are refused with a hint to come back.
    pub max_inputs: usize,
    /// Bytes of arguments that may wait at once, likewise.
    pub max_input_bytes: usize,
    /// Inputs that a container runs at once; 0 when that is not known. All inputs of its batches count.
    pub slots_per_container: usize,
    /// Most inputs in a batch; 1 without batches.
    pub batch_max: usize,
    /// How long the first input of an incomplete batch waits for more.
    pub batch_linger_ms: Millis,
    /// A call that its caller waits for is recorded on disk when it has lasted this long; never without a value. Short
    /// calls then cost no wait for the disk, and long ones survive the server.
    pub durable_after_ms: Option<Millis>,
    /// Its containers report on whatever they run, also on what was cancelled or cancelled itself.
    pub reports_cancellations: bool,
    /// A container leaves after what it is handed first.
    pub single_use: bool,
}

impl RetryPolicy {
    const NONE: Self = Self { retries: 0, initial_delay_ms: 1_000, backoff_coefficient: 1.0, max_delay_ms: 60_000 };
}

impl Policy {
    /// What holds where a definition says nothing.
    pub const DEFAULT: Self = Self {
        retry: RetryPolicy::NONE,
        timeout_ms: 300_000,
        // A million inputs of a few bytes are about a gigabyte of memory here.
        max_inputs: 1_000_000,
        max_input_bytes: 2 << 30,
        slots_per_container: 0,
        batch_max: 1,
        batch_linger_ms: 0,
        durable_after_ms: None,
        reports_cancellations: false,
        single_use: false,
    };
}

impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_by_the_coefficient_up_to_the_maximum() {
        let policy = RetryPolicy { retries: 5, initial_delay_ms: 100, backoff_coefficient: 2.0, max_delay_ms: 500 };
        let delays: Vec<u64> = (1..=5).map(|n| policy.delay_ms(n)).collect();
        assert_eq!(delays, [100, 200, 400, 500, 500]);
    }

    #[test]
    fn an_overflowing_backoff_is_the_maximum_delay() {
        let policy = RetryPolicy { backoff_coefficient: 1e30, ..RetryPolicy::default() };
        assert_eq!(policy.delay_ms(u32::MAX), policy.max_delay_ms);
    }
}
