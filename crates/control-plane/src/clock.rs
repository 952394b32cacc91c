//! The one place of the control plane that reads a clock; decisions get the time as an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use calls::Millis;

pub fn now_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis)
}

/// The protocol's floating-point seconds.
pub fn seconds(ms: Millis) -> f64 {
    ms as f64 / 1000.0
}

/// How long a request is willing to wait, from 0 to `most`; what is no number counts as 0.
pub fn patience(seconds: f32, most: Duration) -> Duration {
    Duration::try_from_secs_f32(seconds.max(0.0)).unwrap_or(most).min(most)
}

/// Milliseconds that are never given twice: clients page through lists by creation time, and two equal times across
/// a page's edge would lose one.
pub fn unique_now_ms() -> Millis {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = now_ms();
    let before = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    before.map_or(now, |last| now.max(last + 1))
}

/// A wire time in milliseconds since the epoch, rounded up; before the epoch is 0.
pub fn milliseconds(at: prost_types::Timestamp) -> u64 {
    (at.seconds.max(0) as u64).saturating_mul(1000).saturating_add((at.nanos.max(0) as u64).div_ceil(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_is_a_patience() {
        let most = Duration::from_secs(60);
        for (seconds, wanted) in [(f32::NAN, 0), (-1.0, 0), (5.0, 5), (f32::INFINITY, 60), (1e30, 60)] {
            assert_eq!(patience(seconds, most), Duration::from_secs(wanted), "{seconds}");
        }
    }
}
