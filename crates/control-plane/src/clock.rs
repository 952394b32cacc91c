//! The one place of the control plane that reads clocks; decisions get the time as an argument.
//!
//! Two clocks, because one of them is wrong for each use. The wall clock says when something was: it is for records, logs,
//! schedules, links, and what a person sees. It can be set, and it goes on while a laptop sleeps. The steady clock measures how
//! long something takes: deadlines, heartbeats, idleness, throughput. It never goes back, nobody can set it, and it stands
//! still while the machine or the server does, so that whoever waited on a server that was not there has the rest of its time.
//! What is read from it means nothing to another server, nor beside a wall time: it begins far from both.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use calls::Millis;

/// Milliseconds since the Unix epoch, by a clock that can be set.
pub fn wall_ms() -> Millis {
    #[cfg(test)]
    if let Some(now) = simulated::wall_ms() {
        return now;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis)
}

/// Milliseconds of this server's life, pauses left out; the first is [`STEADY_ORIGIN_MS`].
pub fn steady_ms() -> Millis {
    #[cfg(test)]
    if let Some(now) = simulated::steady_ms() {
        return now;
    }
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    static CLOCK: SteadyClock = SteadyClock::new();
    CLOCK.at(BEGAN.elapsed().as_millis() as Millis)
}

/// A year: what is kept for a while reaches back to no time before 0, and nothing takes this for a wall time.
const STEADY_ORIGIN_MS: Millis = 365 * 24 * 3_600_000;

/// Nobody has read the clock for so long: the machine or the server stood still. Some loop reads it every
/// [two seconds](crate::shared::REAPER_LOOKS_EVERY), if anything runs.
const PAUSE_MS: Millis = 10_000;

/// A monotonic clock less the pauses. Linux leaves out what a sleeping machine misses, but not the time of a process that was
/// stopped, nor always of a virtual machine.
struct SteadyClock {
    /// The last reading in the upper half and all pauses in the lower, in [grains](GRAIN_BITS): one word, so that whoever
    /// reads sees both as they belong together, without a lock.
    read_and_paused: AtomicU64,
}

/// Of 256 ms, by which 32 bits last for 34 years and a busy server writes the word four times a second.
const GRAIN_BITS: u32 = 8;

impl SteadyClock {
    const fn new() -> Self {
        Self { read_and_paused: AtomicU64::new(0) }
    }

    /// The steady time at this time of the monotonic clock. It never goes back, whichever thread reads it.
    fn at(&self, monotonic: Millis) -> Millis {
        let word =
            self.read_and_paused.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| after(word, monotonic));
        let (read, paused) = parts(word.map_or_else(|same| same, |before| after(before, monotonic).unwrap_or(before)));
        // A thread that was held up, or stopped, with its reading in hand has the time of whoever has read the clock since.
        STEADY_ORIGIN_MS + monotonic.max(read << GRAIN_BITS) - (paused << GRAIN_BITS)
    }
}

/// The word once it is `monotonic`; `None` when that is not later.
fn after(word: u64, monotonic: Millis) -> Option<u64> {
    let (read, paused) = parts(word);
    let now = monotonic >> GRAIN_BITS;
    let since = now.checked_sub(read).filter(|since| *since > 0)?;
    // Less a grain, of which a part may have been handed out.
    let missed = if since << GRAIN_BITS > PAUSE_MS { since - 1 } else { 0 };
    Some(now << 32 | (paused + missed))
}

fn parts(word: u64) -> (u64, u64) {
    (word >> 32, word & u64::from(u32::MAX))
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
pub fn unique_wall_ms() -> Millis {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = wall_ms();
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

/// A simulation's thread has clocks of its own: the paused one of its runtime, and a wall that can be moved.
#[cfg(test)]
pub mod simulated {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::{Millis, STEADY_ORIGIN_MS};

    /// A clock: what it said, and when that was.
    type Set = (Instant, Millis);

    thread_local! {
        static WALL: Cell<Option<Set>> = const { Cell::new(None) };
        static STEADY: Cell<Option<Set>> = const { Cell::new(None) };
    }

    /// From here on the wall clock says `at` and later on this thread. To be called on the runtime.
    pub fn begin(at: Millis) {
        STEADY.set(Some((Instant::now(), STEADY_ORIGIN_MS)));
        set_wall(at);
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(at: Millis) {
        WALL.set(Some((Instant::now(), at)));
    }

    pub fn wall_ms() -> Option<Millis> {
        WALL.get().map(now)
    }

    pub fn steady_ms() -> Option<Millis> {
        STEADY.get().map(now)
    }

    fn now((since, at): Set) -> Millis {
        at + since.elapsed().as_millis() as Millis
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pause_is_left_out_and_whoever_waited_has_the_rest_of_its_time() {
        let clock = SteadyClock::new();
        let before = clock.at(5_000);
        assert_eq!(clock.at(5_000 + PAUSE_MS), before + PAUSE_MS, "a busy machine");
        let (before, hour) = (before + PAUSE_MS, 3_600_000);
        let after = clock.at(5_000 + PAUSE_MS + hour);
        assert!((before..before + 1_000).contains(&after), "{after}");
        assert_eq!(clock.at(6_000 + PAUSE_MS + hour), after + 1_000);
    }

    proptest! {
        #[test]
        fn the_steady_clock_never_goes_back_nor_ahead_of_the_monotonic_one(
            steps in proptest::collection::vec((0..40_000_u64, 0..20_000_u64), 1..50),
        ) {
            let (clock, mut monotonic, mut last) = (SteadyClock::new(), 0, 0);
            for (step, late) in steps {
                monotonic += step;
                // A thread that was held up comes with an old reading.
                let read = clock.at(monotonic);
                let held_up = clock.at(monotonic.saturating_sub(late));
                prop_assert!(last <= read && read <= STEADY_ORIGIN_MS + monotonic);
                prop_assert!(last.min(held_up) <= held_up && held_up <= read);
                last = read;
            }
        }
    }

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
