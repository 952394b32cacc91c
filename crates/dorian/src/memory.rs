//! Gives memory back after bursts.
//!
//! The C library's allocator keeps what was freed for later: everything below the highest block in use, in an arena for
//! each thread that found the others busy. A server that once moved large payloads on many threads so holds hundreds of
//! megabytes for as long as it lives. Once it idles, it is told to hand back what is free.
//!
//! Seen after a burst of 3,000 calls and 300 MB of arguments and results: 160 to 230 MB at its end, 45 to 68 MB a minute
//! later, of which 4 MB were in use; with this, about 15 MB.
//!
//! Rejected: another allocator, which returns memory by itself. It is a C build on the way to a user's first result, and
//! what it would be better at, many threads that allocate at once, is not what bounds a call here. Rejected, too: to do it
//! whatever the server does. It takes each arena's lock, so it waits for idle moments; a server that is never idle uses its
//! memory again.

use std::time::Duration;

/// When nothing is free this costs about a millisecond, so an idle server may do it as often.
const EVERY: Duration = Duration::from_secs(10);
/// A process that has less keeps it: the page faults of the next burst cost more.
const SMALL_KIB: u64 = 16 << 10;
/// A server that uses less of a core than this is idle.
const IDLE_CORE_PERCENT: u32 = 5;

/// What the process has at one moment.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Memory that is no file's.
    anonymous_kib: u64,
    /// Used so far, by all threads.
    cpu: Duration,
}

/// Looks from time to time, on a thread of its own, until the process ends.
pub fn give_back_when_idle() {
    let look = || {
        let Some(mut before) = see() else { return };
        loop {
            std::thread::sleep(EVERY);
            let Some(now) = see() else { return };
            if decide_trim(before, now) {
                // SAFETY: it takes the allocator's own locks and touches only memory that nobody has.
                unsafe { libc::malloc_trim(0) };
            }
            before = now;
        }
    };
    // Without the thread memory stays as it is.
    let _ = std::thread::Builder::new().name("memory".to_owned()).stack_size(128 << 10).spawn(look);
}

/// By what the server does, not by what it has: how much of that is free cannot be seen from outside.
fn decide_trim(before: Seen, now: Seen) -> bool {
    let is_idle = now.cpu.saturating_sub(before.cpu) < EVERY * IDLE_CORE_PERCENT / 100;
    is_idle && now.anonymous_kib >= SMALL_KIB
}

fn see() -> Option<Seen> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let anonymous_kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.split_whitespace().next()?;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in a structure that lives here.
    if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) } != 0 {
        return None;
    }
    let cpu = Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?);
    Some(Seen { anonymous_kib: anonymous_kib.parse().ok()?, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(anonymous_mib: u64, cpu_ms: u64) -> Seen {
        Seen { anonymous_kib: anonymous_mib << 10, cpu: Duration::from_millis(cpu_ms) }
    }

    #[test]
    fn an_idle_process_gives_back_what_is_free_and_a_busy_or_small_one_keeps_it() {
        let before = seen(300, 10_000);
        assert!(decide_trim(before, seen(300, 10_010)));
        assert!(!decide_trim(before, seen(300, 11_000)), "it is busy");
        assert!(!decide_trim(before, seen(10, 10_010)), "it is small");
    }

    #[test]
    fn what_the_process_has_can_be_read() {
        let now = see().unwrap();
        assert!(now.anonymous_kib > 0 && now.cpu > Duration::ZERO);
    }
}
