//! Which segments of kept logs go: the oldest first, by age, by the size of each app's and by the size of all.

use std::collections::BTreeMap;

use types::ids::AppId;

/// How much of the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    pub app_bytes: u64,
    pub total_bytes: u64,
    pub keep_ms: u64,
}

impl Default for LogLimits {
    /// A month, as long as the client looks back by itself; and sizes that a small disk bears.
    fn default() -> Self {
        Self { app_bytes: 256 << 20, total_bytes: 4 << 30, keep_ms: 30 * 24 * 3_600_000 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentView {
    pub app: AppId,
    /// Sequence of its first entry; grows with time within an app.
    pub first: u64,
    pub bytes: u64,
    /// When it was last written to.
    pub written_ms: u64,
}

/// Positions in `segments` of those that go.
pub fn plan_expiry(segments: &[SegmentView], limits: LogLimits, wall_ms: u64) -> Vec<usize> {
    let mut newest_first: Vec<usize> = (0..segments.len()).collect();
    newest_first.sort_by_key(|&i| std::cmp::Reverse((segments[i].written_ms, segments[i].first)));
    let mut of_app: BTreeMap<&AppId, u64> = BTreeMap::new();
    let mut total = 0;
    let mut goes = Vec::new();
    for index in newest_first {
        let segment = &segments[index];
        let kept_of_app = of_app.entry(&segment.app).or_default();
        let too_old = segment.written_ms.saturating_add(limits.keep_ms) < wall_ms;
        let too_much = *kept_of_app + segment.bytes > limits.app_bytes || total + segment.bytes > limits.total_bytes;
        if too_old || too_much {
            // What is older than something that went must go as well, or a log would have a hole.
            *kept_of_app = u64::MAX / 2;
            goes.push(index);
        } else {
            *kept_of_app += segment.bytes;
            total += segment.bytes;
        }
    }
    goes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: LogLimits = LogLimits { app_bytes: 100, total_bytes: 250, keep_ms: 1000 };

    fn segment(app: u8, first: u64, bytes: u64, written_ms: u64) -> SegmentView {
        SegmentView { app: AppId::parse(&format!("ap-{app}")).unwrap(), first, bytes, written_ms }
    }

    #[test]
    fn the_oldest_of_an_app_goes_when_it_has_too_much() {
        let segments = [segment(1, 1, 40, 10), segment(1, 2, 40, 20), segment(1, 3, 40, 30), segment(2, 1, 40, 5)];
        assert_eq!(plan_expiry(&segments, LIMITS, 100), [0]);
    }

    #[test]
    fn the_oldest_of_all_goes_when_there_is_too_much() {
        let segments = [segment(1, 1, 90, 10), segment(2, 1, 90, 20), segment(3, 1, 90, 30)];
        assert_eq!(plan_expiry(&segments, LIMITS, 100), [0]);
    }

    #[test]
    fn what_is_too_old_goes_however_small() {
        assert_eq!(plan_expiry(&[segment(1, 1, 1, 10), segment(1, 2, 1, 1500)], LIMITS, 2000), [0]);
    }

    proptest! {
        #[test]
        fn what_stays_is_within_the_limits_and_without_holes(
            given in proptest::collection::vec((0..4_u8, 1..60_u64, 0..2000_u64), 0..30)
        ) {
            let mut given = given;
            given.sort_by_key(|(_, _, written)| *written);
            let segments: Vec<_> =
                given.iter().enumerate().map(|(i, (app, bytes, at))| segment(*app, i as u64, *bytes, *at)).collect();
            let goes = plan_expiry(&segments, LIMITS, 2000);
            let stays: Vec<_> = (0..segments.len()).filter(|i| !goes.contains(i)).map(|i| &segments[i]).collect();
            prop_assert!(stays.iter().map(|s| s.bytes).sum::<u64>() <= LIMITS.total_bytes);
            prop_assert!(stays.iter().all(|s| s.written_ms + LIMITS.keep_ms >= 2000));
            for app in 0..4 {
                let of_app = |s: &&&SegmentView| s.app.as_str() == format!("ap-{app}");
                prop_assert!(stays.iter().filter(of_app).map(|s| s.bytes).sum::<u64>() <= LIMITS.app_bytes);
                let oldest = stays.iter().filter(of_app).map(|s| s.first).min().unwrap_or(u64::MAX);
                prop_assert!(goes.iter().map(|&i| &segments[i]).filter(|s| of_app(&s)).all(|s| s.first < oldest));
            }
            // Once carried out, there is nothing more to do.
            let stays: Vec<_> = stays.into_iter().cloned().collect();
            prop_assert_eq!(plan_expiry(&stays, LIMITS, 2000), Vec::<usize>::new());
        }
    }
}
