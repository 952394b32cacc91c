//! What keeps a layer or a content that no volume refers to any more.
//!
//! Nothing does, but for those who were told of it: a container that shows an older version, a client that is fetching it,
//! a client that was told that it need not send it. The first two say when they are done or fall silent; of the third
//! nothing is heard until all of its other files have come, which may take hours.

use std::time::Duration;

use crate::merging::Need;

/// A client fetches one piece after the other; one that asks for none for so long has gone, or begins again.
pub const FETCH_PAUSE: Duration = Duration::from_secs(600);
/// The same when space is needed.
const SHORT_FETCH_PAUSE: Duration = Duration::from_secs(60);
/// A file that came whole waits so long for the others of its upload: as long as their URLs are good.
pub const SENT_KEPT: Duration = Duration::from_secs(12 * 3600);
/// The same when space is needed: an upload that was given up must not hold a full disk until tomorrow.
const SENT_KEPT_AT_NEED: Duration = Duration::from_secs(3600);
/// Clients that were told of it by a server that has ended come again within this time.
pub const LEFT_KEPT: Duration = Duration::from_secs(600);

/// Space is needed when less than this part of the disk is free, or less than so much on a large one.
const SHORT_PART: u64 = 10;
const SHORT_BYTES: u64 = 32 << 30;

/// How much a free byte is worth on a disk.
pub fn need_of(free_bytes: u64, all_bytes: u64) -> Need {
    let is_short = free_bytes < (all_bytes / SHORT_PART).min(SHORT_BYTES);
    if is_short { Need::Space } else { Need::Usual }
}

/// A layer or a content that no volume refers to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unused {
    /// Somebody reads a version of the volume that has it.
    pub is_read: bool,
    /// How long ago a client was last told where to fetch it, or fetched some of it.
    pub fetched: Option<Duration>,
    /// How long ago a client was last told that it has come.
    pub awaited: Option<Duration>,
    /// It was here when the server started, so long ago.
    pub left: Option<Duration>,
}

/// Whether it stays for now. Time alone never makes something stay that could go before.
pub fn stays(unused: &Unused, need: Need) -> bool {
    let (fetch_pause, sent_kept, left_kept) = match need {
        Need::Usual => (FETCH_PAUSE, SENT_KEPT, LEFT_KEPT),
        Need::Space => (SHORT_FETCH_PAUSE, SENT_KEPT_AT_NEED, Duration::ZERO),
    };
    let within = |ago: Option<Duration>, time: Duration| ago.is_some_and(|ago| ago < time);
    unused.is_read
        || within(unused.fetched, fetch_pause)
        || within(unused.awaited, sent_kept)
        || within(unused.left, left_kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_unused() -> impl Strategy<Value = Unused> {
        let ago = || prop::option::of((0_u64..100_000).prop_map(Duration::from_secs));
        (any::<bool>(), ago(), ago(), ago()).prop_map(|(is_read, fetched, awaited, left)| Unused {
            is_read,
            fetched,
            awaited,
            left,
        })
    }

    #[test]
    fn space_is_short_on_a_disk_that_is_nearly_full_whatever_its_size() {
        let gib = 1 << 30;
        assert_eq!([need_of(9 * gib, 100 * gib), need_of(0, gib)], [Need::Space; 2]);
        assert_eq!([need_of(11 * gib, 100 * gib), need_of(40 * gib, 4000 * gib), need_of(0, 0)], [Need::Usual; 3]);
    }

    #[test]
    fn what_nobody_was_told_of_goes_at_once() {
        assert!(!stays(&Unused::default(), Need::Usual));
    }

    #[test]
    fn a_fetch_or_an_upload_that_goes_on_keeps_its_file_also_when_space_is_needed() {
        let moment = Some(Duration::from_secs(5));
        for unused in [Unused { fetched: moment, ..Unused::default() }, Unused { awaited: moment, ..Unused::default() }]
        {
            assert!(stays(&unused, Need::Space), "{unused:?}");
        }
        let silent = Unused { fetched: Some(SHORT_FETCH_PAUSE), ..Unused::default() };
        assert!(stays(&silent, Need::Usual) && !stays(&silent, Need::Space));
    }

    proptest! {
        #[test]
        fn a_reader_keeps_it_whatever_else_holds(unused in any_unused()) {
            let read = Unused { is_read: true, ..unused };
            prop_assert!(stays(&read, Need::Usual) && stays(&read, Need::Space));
        }

        #[test]
        fn what_goes_usually_goes_at_need(unused in any_unused()) {
            prop_assert!(stays(&unused, Need::Usual) || !stays(&unused, Need::Space));
        }

        #[test]
        fn without_a_reader_everything_goes_in_time(unused in any_unused(), passed in 0_u64..100_000) {
            let later = |ago: Option<Duration>| ago.map(|ago| ago + Duration::from_secs(passed));
            let aged = Unused {
                is_read: unused.is_read,
                fetched: later(unused.fetched),
                awaited: later(unused.awaited),
                left: later(unused.left),
            };
            for need in [Need::Usual, Need::Space] {
                prop_assert!(stays(&unused, need) || !stays(&aged, need));
                let over = passed >= SENT_KEPT.as_secs();
                prop_assert!(!over || aged.is_read || !stays(&aged, need));
            }
        }
    }
}
