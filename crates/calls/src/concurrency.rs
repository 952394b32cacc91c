//! How many inputs a container may run at once, where the user gave a range.

use crate::effect::Load;

/// Decides between `target` and `max` for each of `containers` that take inputs: its even share of what is there. So a
/// backlog is taken in at once, up to the maximum, while new containers are on their way, and when they are there each
/// goes back to its target.
pub fn decide_concurrency(target: u32, max: u32, load: &Load, containers: usize) -> u32 {
    let target = target.clamp(1, max.max(1));
    let share = (load.ready + load.running).div_ceil(containers.max(1));
    u32::try_from(share).unwrap_or(u32::MAX).clamp(target, max.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(ready: usize, running: usize) -> Load {
        Load { ready, running, ..Load::default() }
    }

    #[test]
    fn a_backlog_raises_it_to_the_maximum_and_its_end_lowers_it_to_the_target() {
        assert_eq!(decide_concurrency(4, 10, &load(50, 4), 1), 10);
        assert_eq!(decide_concurrency(4, 10, &load(0, 7), 1), 7);
        assert_eq!(decide_concurrency(4, 10, &load(0, 2), 1), 4);
    }

    #[test]
    fn new_containers_take_their_share() {
        assert_eq!(decide_concurrency(4, 10, &load(4, 12), 2), 8);
        assert_eq!(decide_concurrency(4, 10, &load(4, 12), 4), 4);
    }

    #[test]
    fn whatever_is_asked_the_answer_is_between_the_limits() {
        for (target, max) in [(0, 0), (5, 2), (1, u32::MAX), (u32::MAX, 1)] {
            for load in [load(0, 0), load(usize::MAX / 2, 3)] {
                let concurrency = decide_concurrency(target, max, &load, 0);
                assert!((1..=max.max(1)).contains(&concurrency), "{target} {max} {load:?}: {concurrency}");
            }
        }
    }
}
