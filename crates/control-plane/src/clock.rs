//! The one place of the control plane that reads a clock; decisions get the time as an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use calls::Millis;

pub fn now_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis)
}

/// The protocol's floating-point seconds.
pub fn seconds(ms: Millis) -> f64 {
    ms as f64 / 1000.0
}

/// Milliseconds that are never given twice: clients page through lists by creation time, and two equal times across
/// a page's edge would lose one.
pub fn unique_now_ms() -> Millis {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = now_ms();
    let before = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    before.map_or(now, |last| now.max(last + 1))
}
