//! When a call may leave memory. Pure: from how a call stands to the time from which nobody is wronged by its absence.
//!
//! Every other place reports what it knows (somebody asks, somebody has collected, the store has it, the app is over), and
//! this one decides. Before, six places each removed calls by a rule of their own, and calls that fit none of the rules
//! stayed for ever: finished within a second with the caller gone, or a map whose caller was killed before it said that it
//! was complete.
//!
//! Leaving memory is not losing. A call that the store has is answered for by the store, and comes back when its caller
//! sends more inputs to it. One that is only in memory waits for its caller, and is written down after a second anyway; so
//! the long patience for it counts only while the disk refuses everything.

use crate::Millis;
use crate::input::OnDisk;

/// A call whose outputs were delivered is kept this long: the reply may have been lost, and then the client asks again.
pub const DELIVERED_KEPT_MS: Millis = 30_000;
/// A map without its last word stays in memory this long after its caller was last heard. Longer than a client takes to
/// come back from a broken network; one that sleeps longer finds the call in the store.
pub const SILENT_CALLER_MS: Millis = 600_000;
/// Outputs that are only in memory, and generators' items that nobody has read, are kept this long for their caller.
pub const UNREAD_KEPT_MS: Millis = 3_600_000;
/// Late readers find the outputs of a stopped app this long.
pub const STOPPED_KEPT_MS: Millis = 60_000;

/// How a call stands, for [`decide_leaving`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub on_disk: OnDisk,
    /// Its caller may have gone away for good and another ask for its outputs.
    pub spawned: bool,
    /// The caller has everything that it wants.
    pub collected: bool,
    /// Since when none of its inputs waits or runs.
    pub idle_since: Option<Millis>,
    /// No more inputs will come.
    pub inputs_complete: bool,
    /// Requests for its outputs or items that wait now.
    pub asking: usize,
    /// When the caller last said or asked something.
    pub heard_at: Millis,
    /// It has yielded items that nobody has read.
    pub unread_items: bool,
    /// Since when its app is over.
    pub closed_at: Option<Millis>,
    /// So many calls wait to leave that the first of them must not wait for its time.
    pub crowded: bool,
}

/// From when on the call may leave if nothing else happens; `None` when something must happen first.
pub fn decide_leaving(standing: &Standing) -> Option<Millis> {
    let Standing { on_disk, idle_since, heard_at, .. } = *standing;
    if let Some(closed_at) = standing.closed_at {
        // A reader who stays connected to what is over does not hold it.
        return idle_since.map(|idle| idle.max(closed_at) + STOPPED_KEPT_MS);
    }
    if standing.asking > 0 {
        return None;
    }
    let delivered_kept = if standing.crowded { 0 } else { DELIVERED_KEPT_MS };
    if standing.collected && !standing.spawned {
        // What of it still runs, runs for nobody.
        let kept = if standing.unread_items { UNREAD_KEPT_MS } else { delivered_kept };
        return Some(heard_at + kept);
    }
    let since = idle_since?.max(heard_at);
    match on_disk {
        OnDisk::Begun => None,
        OnDisk::No => Some(since + UNREAD_KEPT_MS),
        OnDisk::Yes if standing.unread_items => Some(since + UNREAD_KEPT_MS),
        OnDisk::Yes if !standing.inputs_complete => Some(since + SILENT_CALLER_MS),
        OnDisk::Yes => Some(since + delivered_kept),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Millis = 1_000_000;

    /// A spawned call that has ended and was never asked for.
    const OVER: Standing = Standing {
        on_disk: OnDisk::Yes,
        spawned: true,
        collected: false,
        idle_since: Some(NOW),
        inputs_complete: true,
        asking: 0,
        heard_at: 0,
        unread_items: false,
        closed_at: None,
        crowded: false,
    };

    #[test]
    fn a_call_that_the_store_has_leaves_soon_after_it_has_ended() {
        assert_eq!(decide_leaving(&OVER), Some(NOW + DELIVERED_KEPT_MS));
        let heard_late = Standing { heard_at: NOW + 5, ..OVER };
        assert_eq!(decide_leaving(&heard_late), Some(NOW + 5 + DELIVERED_KEPT_MS));
    }

    #[test]
    fn nothing_leaves_that_runs_or_is_asked_for_or_is_on_its_way_to_the_disk() {
        for standing in [
            Standing { idle_since: None, ..OVER },
            Standing { asking: 1, ..OVER },
            Standing { asking: 1, collected: true, spawned: false, ..OVER },
            Standing { on_disk: OnDisk::Begun, ..OVER },
        ] {
            assert_eq!(decide_leaving(&standing), None, "{standing:?}");
        }
    }

    #[test]
    fn a_collected_call_leaves_also_when_some_of_it_runs_unless_it_was_spawned() {
        let collected = Standing { collected: true, spawned: false, heard_at: NOW, idle_since: None, ..OVER };
        assert_eq!(decide_leaving(&collected), Some(NOW + DELIVERED_KEPT_MS));
        assert_eq!(decide_leaving(&Standing { spawned: true, ..collected }), None);
    }

    #[test]
    fn the_map_of_a_killed_caller_leaves_when_it_was_not_heard_for_long() {
        let open = Standing { inputs_complete: false, spawned: false, ..OVER };
        assert_eq!(decide_leaving(&open), Some(NOW + SILENT_CALLER_MS));
        assert_eq!(decide_leaving(&Standing { crowded: true, ..open }), Some(NOW + SILENT_CALLER_MS));
    }

    #[test]
    fn unread_items_keep_a_call_longer_and_the_end_of_its_app_does_not_wait_for_them() {
        let unread = Standing { unread_items: true, collected: true, spawned: false, heard_at: NOW, ..OVER };
        assert_eq!(decide_leaving(&unread), Some(NOW + UNREAD_KEPT_MS));
        let closed = Standing { closed_at: Some(NOW + 1), asking: 1, ..unread };
        assert_eq!(decide_leaving(&closed), Some(NOW + 1 + STOPPED_KEPT_MS));
        assert_eq!(decide_leaving(&Standing { idle_since: None, ..closed }), None);
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        let on_disk = prop_oneof![Just(OnDisk::No), Just(OnDisk::Begun), Just(OnDisk::Yes)];
        let times = (proptest::option::of(0..NOW), 0..NOW, proptest::option::of(0..NOW));
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        (on_disk, times, 0..3_usize, flags).prop_map(|(on_disk, times, asking, flags)| Standing {
            on_disk,
            spawned: flags.0,
            collected: flags.1,
            idle_since: times.0,
            inputs_complete: flags.2,
            asking,
            heard_at: times.1,
            unread_items: flags.3,
            closed_at: times.2,
            crowded: flags.4,
        })
    }

    proptest! {
        /// Whatever happened: once nobody asks, nothing runs and the disk has answered, there is a time, within bounds.
        #[test]
        fn every_call_that_is_at_rest_leaves_within_an_hour(standing in any_standing()) {
            let due = decide_leaving(&standing);
            let Standing { idle_since: Some(idle), asking: 0, heard_at, closed_at, .. } = standing else { return Ok(()) };
            if standing.on_disk == OnDisk::Begun {
                return Ok(());
            }
            let last = idle.max(heard_at).max(closed_at.unwrap_or(0));
            prop_assert!(due.is_some_and(|due| due <= last + UNREAD_KEPT_MS), "{:?}", due);
        }

        /// Only the store or the caller's own word lets a call go whose outputs somebody may still want.
        #[test]
        fn what_is_only_in_memory_waits_for_its_caller(standing in any_standing()) {
            let is_wanted = standing.spawned || !standing.collected;
            if is_wanted && standing.on_disk == OnDisk::No && standing.closed_at.is_none() {
                let last = standing.idle_since.map_or(u64::MAX - UNREAD_KEPT_MS, |idle| idle.max(standing.heard_at));
                prop_assert!(decide_leaving(&standing).is_none_or(|due| due >= last + UNREAD_KEPT_MS));
            }
        }
    }
}
