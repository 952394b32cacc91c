//! The one place of the control plane that reads a clock; decisions get the time as an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use calls::Millis;

pub fn now_ms() -> Millis {
    #[cfg(test)]
    if let Some(now) = simulated::now_ms() {
        return now;
    }
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

/// What a wire time may be off from the millisecond that it stands for: clients carry it through a 64-bit float of
/// seconds, whose steps are a quarter of a microsecond.
const WIRE_TIME_ERROR_NANOS: i32 = 1_000;

/// A wire time in milliseconds since the epoch, rounded up except for its error; before the epoch is 0.
pub fn milliseconds(at: prost_types::Timestamp) -> u64 {
    let nanos = at.nanos.saturating_sub(WIRE_TIME_ERROR_NANOS).max(0) as u64;
    (at.seconds.max(0) as u64).saturating_mul(1000).saturating_add(nanos.div_ceil(1_000_000))
}

/// A simulation's thread has a clock of its own: the paused one of its runtime.
#[cfg(test)]
pub mod simulated {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::Millis;

    thread_local! {
        static BEGAN: Cell<Option<(Instant, Millis)>> = const { Cell::new(None) };
    }

    /// From here on it is `at` and later on this thread. To be called on the runtime.
    pub fn begin(at: Millis) {
        BEGAN.set(Some((Instant::now(), at)));
    }

    pub fn now_ms() -> Option<Millis> {
        BEGAN.get().map(|(began, at)| at + began.elapsed().as_millis() as Millis)
    }
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

    #[test]
    fn a_millisecond_that_went_through_a_client_is_the_same() {
        let start = 1_795_881_024_000;
        for ms in start..start + 2_000 {
            let seconds = seconds(ms);
            let nanos = (seconds.fract() * 1e9) as i32;
            assert_eq!(milliseconds(prost_types::Timestamp { seconds: seconds as i64, nanos }), ms, "{seconds}");
        }
    }

    #[test]
    fn between_milliseconds_is_the_next() {
        let at = |nanos| milliseconds(prost_types::Timestamp { seconds: 1, nanos });
        assert_eq!([0, 2_000, 1_000_000, 1_300_000, i32::MIN].map(at), [1_000, 1_001, 1_001, 1_002, 1_000]);
    }
}
