//! How an upload is cut into parts. Pure arithmetic, and the one place for it.

use std::ops::Range;

/// More parts than this gain nothing, and each costs an older client 16 MiB of memory, because it sends all of them at
/// once.
const MAX_PARTS: u64 = 64;
const MIB: u64 = 1 << 20;

/// A length, cut into parts of one size of which the last may be shorter. There is always at least one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    pub length: u64,
    pub part_length: u64,
}

impl Parts {
    /// Parts of `preferred` bytes, or larger ones where that would be too many.
    pub fn plan(length: u64, preferred: u64) -> Self {
        let enough = length.div_ceil(MAX_PARTS).next_multiple_of(MIB);
        Self { length, part_length: enough.max(preferred).max(1) }
    }

    pub fn count(&self) -> u32 {
        self.length.div_ceil(self.part_length).max(1) as u32
    }

    /// The bytes of part `number`, counted from 1.
    pub fn range(&self, number: u32) -> Option<Range<u64>> {
        if number == 0 || number > self.count() {
            return None;
        }
        let start = u64::from(number - 1) * self.part_length;
        Some(start..(start + self.part_length).min(self.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_whole_length_once_and_in_order() {
        for length in [0, 1, 63 * MIB, 64 * MIB, 64 * MIB + 1, 200 * MIB, 16 << 30, (16 << 30) + 12_345] {
            let parts = Parts::plan(length, 64 * MIB);
            assert!(u64::from(parts.count()) <= MAX_PARTS);
            let mut end = 0;
            for number in 1..=parts.count() {
                let range = parts.range(number).unwrap();
                assert_eq!(range.start, end);
                assert!(number == parts.count() || range.end - range.start == parts.part_length);
                end = range.end;
            }
            assert_eq!(end, length);
        }
    }

    #[test]
    fn there_is_no_part_before_the_first_or_after_the_last() {
        let parts = Parts::plan(10, 4);
        assert_eq!(parts.count(), 1, "parts are at least a mebibyte when the plan chooses");
        assert_eq!(parts.range(0), None);
        assert_eq!(parts.range(2), None);
    }

    #[test]
    fn an_empty_blob_is_one_empty_part() {
        let parts = Parts::plan(0, 64 * MIB);
        assert_eq!((parts.count(), parts.range(1)), (1, Some(0..0)));
    }
}
