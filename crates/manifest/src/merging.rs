//! When a stack of layers has become too high, and which of them to merge.
//!
//! Each layer costs a look whenever a name is sought, and overlayfs takes some hundreds at most. Merging costs one hard link
//! per entry. So layers are merged when those above one are together about as large as it is: an entry is then linked
//! again only when what lies on top has doubled, a logarithmic number of times, and a volume of 100,000 files is not
//! touched because one file changed a hundred times.

use std::ops::Range;

/// Fewer are not worth the work.
const FEWEST: usize = 4;
/// A layer is merged with those above it when it has at most this many times their entries, and a few.
const RATIO: u64 = 2;
const FEW_ENTRIES: u64 = 64;
/// A stack of layers of very different sizes is merged from this height all the same. Far below what overlayfs takes, far
/// above what the rule above leaves of any history that was seen.
const HIGHEST: usize = 48;

/// Which layers (lowest first, by number of entries) to merge into one now.
pub fn plan_merge(entries: &[u64]) -> Option<Range<usize>> {
    let count = entries.len();
    let (mut start, mut above) = (count, 0_u64);
    while start > 0 && (start == count || entries[start - 1] <= RATIO * above + FEW_ENTRIES) {
        start -= 1;
        above = above.saturating_add(entries[start]);
    }
    if count - start >= FEWEST {
        return Some(start..count);
    }
    (count > HIGHEST).then_some(count / 2..count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_commits_on_a_large_volume_leave_the_large_layer_alone() {
        assert_eq!(plan_merge(&[100_000, 1, 1, 1, 1]), Some(1..5));
        assert_eq!(plan_merge(&[100_000, 5, 1]), None);
    }

    #[test]
    fn layers_of_like_size_are_merged_together() {
        assert_eq!(plan_merge(&[1000, 1000, 1000, 1000]), Some(0..4));
        assert_eq!(plan_merge(&[]), None);
    }

    proptest! {
        #[test]
        fn the_stack_stays_low_and_an_entry_is_linked_few_times(commits in prop::collection::vec(1_u64..2000, 1..300)) {
            let (mut stack, mut links, mut total) = (Vec::new(), 0_u64, 0_u64);
            for entries in commits {
                stack.push(entries);
                total += entries;
                while let Some(range) = plan_merge(&stack) {
                    let merged: u64 = stack[range.clone()].iter().sum();
                    links += merged;
                    stack.splice(range, [merged]);
                }
                prop_assert!(stack.len() <= HIGHEST);
            }
            prop_assert!(links <= total * 24, "{links} links for {total} entries");
        }
    }
}
