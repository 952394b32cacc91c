//! Which layers of a stack to merge: because it has become too high, or because of the space that this gives back.
//!
//! Each layer costs a look whenever a name is sought, and overlayfs takes some hundreds at most. Merging costs one hard link
//! per entry. So layers are merged when those above one are together about as large as it is: an entry is then linked
//! again only when what lies on top has doubled, a logarithmic number of times, and a volume of 100,000 files is not
//! touched because one file changed a hundred times.
//!
//! A file that was replaced or deleted stays on disk as long as its layer does, and may be a checkpoint of gigabytes. So
//! layers are also merged when that frees enough for the links that it costs: at once for a large file in a small layer,
//! after more has been replaced where a hundred thousand other files must be linked for it. When space is short, less is
//! enough; not nothing, since a disk may be short of space for months.

use std::ops::Range;

/// Fewer are not worth the work of merging for height alone.
const FEWEST: usize = 4;
/// A layer is merged with those above it when it has at most this many times their entries, and a few.
const RATIO: u64 = 2;
const FEW_ENTRIES: u64 = 64;
/// A stack of layers of very different sizes is merged from this height all the same. Far below what overlayfs takes, far
/// above what the rule above leaves of any history that was seen.
const HIGHEST: usize = 48;
/// What linking an entry must give back: about what a file system needs to keep one more, and a few microseconds' writing.
const BYTES_PER_LINK: u64 = 4 << 10;
/// Less is not worth a merge at all.
const FEW_BYTES: u64 = 1 << 20;
/// What linking an entry must give back when space is needed.
const BYTES_PER_LINK_AT_NEED: u64 = 256;

/// What is known of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerSize {
    pub entries: u64,
    /// Bytes of its files that layers above it hide.
    pub hidden_bytes: u64,
}

/// How much work a byte is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Usual,
    /// The disk is nearly full, or somebody asked for space.
    Space,
}

/// Which layers (lowest first) to merge into one now. Always up to the highest.
pub fn plan_merge(layers: &[LayerSize], need: Need) -> Option<Range<usize>> {
    let starts = [start_by_height(layers), start_by_space(layers, need)];
    starts.into_iter().flatten().min().map(|start| start..layers.len())
}

fn start_by_height(layers: &[LayerSize]) -> Option<usize> {
    let count = layers.len();
    let (mut start, mut above) = (count, 0_u64);
    while start > 0 && (start == count || layers[start - 1].entries <= RATIO * above + FEW_ENTRIES) {
        start -= 1;
        above = above.saturating_add(layers[start].entries);
    }
    if count - start >= FEWEST {
        return Some(start);
    }
    (count > HIGHEST).then_some(count / 2)
}

fn start_by_space(layers: &[LayerSize], need: Need) -> Option<usize> {
    let (bytes_per_link, few_bytes) = match need {
        Need::Usual => (BYTES_PER_LINK, FEW_BYTES),
        Need::Space => (BYTES_PER_LINK_AT_NEED, 1),
    };
    let (mut freed, mut cost) = (0_u64, 0_u64);
    let mut best = None;
    let mut most = few_bytes - 1;
    for (start, layer) in layers.iter().enumerate().rev() {
        freed = freed.saturating_add(layer.hidden_bytes);
        cost = cost.saturating_add(layer.entries.saturating_mul(bytes_per_link));
        if freed.saturating_sub(cost) > most {
            (most, best) = (freed - cost, Some(start));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn sizes(entries: &[u64]) -> Vec<LayerSize> {
        entries.iter().map(|entries| LayerSize { entries: *entries, hidden_bytes: 0 }).collect()
    }

    fn layer(entries: u64, hidden_mib: u64) -> LayerSize {
        LayerSize { entries, hidden_bytes: hidden_mib * MIB }
    }

    #[test]
    fn small_commits_on_a_large_volume_leave_the_large_layer_alone() {
        assert_eq!(plan_merge(&sizes(&[100_000, 1, 1, 1, 1]), Need::Usual), Some(1..5));
        assert_eq!(plan_merge(&sizes(&[100_000, 5, 1]), Need::Usual), None);
    }

    #[test]
    fn layers_of_like_size_are_merged_together() {
        assert_eq!(plan_merge(&sizes(&[1000, 1000, 1000, 1000]), Need::Usual), Some(0..4));
        assert_eq!(plan_merge(&[], Need::Usual), None);
    }

    #[test]
    fn a_large_file_that_was_replaced_in_a_small_layer_goes_at_once() {
        assert_eq!(plan_merge(&[layer(100_000, 0), layer(1, 30), layer(1, 0)], Need::Usual), Some(1..3));
        assert_eq!(plan_merge(&[layer(1, 5000), layer(1, 0)], Need::Usual), Some(0..2));
    }

    #[test]
    fn many_files_are_not_linked_anew_for_a_little_space_unless_it_is_needed() {
        let volume = [layer(100_000, 30), layer(1, 0)];
        assert_eq!(plan_merge(&volume, Need::Usual), None);
        assert_eq!(plan_merge(&volume, Need::Space), Some(0..2));
        assert_eq!(plan_merge(&[layer(100_000, 3), layer(1, 0)], Need::Space), None);
        assert_eq!(plan_merge(&[layer(100_000, 5000), layer(1, 0)], Need::Usual), Some(0..2));
    }

    /// Entries of each commit, and how much of what is in the layers below it hides, in thousandths.
    fn any_history() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((1_u64..2000, 0_u64..1000), 1..200)
    }

    /// A stack, the bytes that can be seen in each layer, and what merging has cost and given back.
    #[derive(Default)]
    struct Stack {
        layers: Vec<LayerSize>,
        seen: Vec<u64>,
        links: u64,
        freed: u64,
    }

    impl Stack {
        fn commit(&mut self, entries: u64, hides: u64) {
            for (layer, seen) in self.layers.iter_mut().zip(&mut self.seen) {
                let hidden = *seen * hides / 1000;
                layer.hidden_bytes += hidden;
                *seen -= hidden;
            }
            self.layers.push(LayerSize { entries, hidden_bytes: 0 });
            self.seen.push(entries * 100_000);
        }

        fn merge(&mut self, need: Need) {
            while let Some(range) = plan_merge(&self.layers, need) {
                assert_eq!(range.end, self.layers.len());
                let merged = &self.layers[range.clone()];
                let entries = merged.iter().map(|layer| layer.entries).sum();
                self.freed += merged.iter().map(|layer| layer.hidden_bytes).sum::<u64>();
                self.links += entries;
                let seen = self.seen.drain(range.clone()).sum();
                self.layers.splice(range, [LayerSize { entries, hidden_bytes: 0 }]);
                self.seen.push(seen);
            }
        }

        fn hidden(&self) -> u64 {
            self.layers.iter().map(|layer| layer.hidden_bytes).sum()
        }
    }

    proptest! {
        #[test]
        fn the_stack_stays_low_and_an_entry_is_linked_few_times(commits in any_history()) {
            let mut stack = Stack::default();
            let mut total = 0;
            for (entries, hides) in commits {
                stack.commit(entries, hides);
                total += entries;
                stack.merge(Need::Usual);
                prop_assert!(stack.layers.len() <= HIGHEST);
            }
            let (links, paid) = (stack.links, stack.freed / BYTES_PER_LINK);
            prop_assert!(links <= total * 24 + paid, "{links} links for {total} entries and {paid} paid by space");
        }

        #[test]
        fn what_is_hidden_stays_below_what_it_costs_to_take_away(commits in any_history()) {
            let mut stack = Stack::default();
            for (entries, hides) in commits {
                stack.commit(entries, hides);
                stack.merge(Need::Usual);
                let entries: u64 = stack.layers.iter().map(|layer| layer.entries).sum();
                prop_assert!(stack.hidden() <= entries * BYTES_PER_LINK + FEW_BYTES);
            }
            stack.merge(Need::Space);
            let entries: u64 = stack.layers.iter().map(|layer| layer.entries).sum();
            prop_assert!(stack.hidden() <= entries * BYTES_PER_LINK_AT_NEED);
        }
    }
}
