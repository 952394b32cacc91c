//! What to fetch for a reader, and what to fetch ahead of it.
//!
//! Who reads on from where it stopped gets larger and larger pieces, fetched while it works on the earlier ones; who jumps
//! about gets little more than it asks for. Reads of one program arrive a little out of order (the kernel reads ahead on
//! its own), so a piece is kept for a while after it was passed.

use std::collections::VecDeque;
use std::ops::Range;

/// The first piece after a jump. A request costs as much time as a few hundred kilobytes.
const FIRST: u64 = 256 << 10;
/// The largest piece: a few connections at once then carry as much as most networks.
const LARGEST: u64 = 8 << 20;
/// Pieces that may be under way or waiting ahead of the reader.
const AHEAD: usize = 2;
/// What is kept behind the reader, and how far a read may lie before the window without being a jump.
const BEHIND: u64 = 2 << 20;
/// Bytes that may be skipped without giving up the run: fetching them costs less than starting anew.
const SKIP: u64 = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// It lies in the window; pieces to fetch now, in their order, those at the end only ahead of the reader.
    Window { fetch: Vec<Range<u64>> },
    /// It lies just before the window: to be fetched by itself.
    Stray,
}

/// Pieces that are there or under way, each beginning where the one before ends.
#[derive(Debug, Default)]
pub struct Window {
    pieces: VecDeque<Range<u64>>,
    next: u64,
    /// Reads that followed each other.
    run: u32,
}

impl Window {
    /// A read of `read`, which lies within an object of `size` bytes and is not empty. Afterwards [`Self::start`] says
    /// what need not be kept.
    pub fn on_read(&mut self, read: Range<u64>, size: u64) -> Plan {
        let (start, end) = (self.start(), self.end());
        if self.pieces.is_empty() || read.start > end + SKIP || read.start + BEHIND < start {
            self.restart();
        } else if read.start < start {
            return Plan::Stray;
        }
        let mut fetch = Vec::new();
        if self.pieces.is_empty() {
            self.push(read.start, read.end - read.start, size, &mut fetch);
        } else {
            self.run += 1;
        }
        while self.end() < read.end {
            self.push(self.end(), 0, size, &mut fetch);
        }
        // Only who has read on once is likely to do so again.
        let under_way = |window: &Self| window.pieces.iter().filter(|piece| piece.start >= read.end).count();
        while self.run > 0 && self.end() < size && under_way(self) < AHEAD {
            self.push(self.end(), 0, size, &mut fetch);
        }
        while self.pieces.len() > 1 && self.pieces[0].end + BEHIND <= read.start {
            self.pieces.pop_front();
        }
        Plan::Window { fetch }
    }

    pub fn start(&self) -> u64 {
        self.pieces.front().map_or(0, |piece| piece.start)
    }

    fn end(&self) -> u64 {
        self.pieces.back().map_or(0, |piece| piece.end)
    }

    /// Piece and all after it are not there after all.
    pub fn cut(&mut self, at: u64) {
        while self.pieces.back().is_some_and(|piece| piece.start >= at) {
            self.pieces.pop_back();
        }
    }

    fn restart(&mut self) {
        *self = Self { pieces: VecDeque::new(), next: FIRST, run: 0 };
    }

    fn push(&mut self, start: u64, least: u64, size: u64, fetch: &mut Vec<Range<u64>>) {
        let piece = start..(start + self.next.max(least)).min(size);
        self.next = (self.next * 2).min(LARGEST);
        self.pieces.push_back(piece.clone());
        fetch.push(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn fetched(plan: Plan) -> u64 {
        match plan {
            Plan::Window { fetch } => fetch.iter().map(|piece| piece.end - piece.start).sum(),
            Plan::Stray => panic!("stray"),
        }
    }

    #[test]
    fn a_first_read_fetches_little_and_a_second_one_ahead() {
        let mut window = Window::default();
        assert_eq!(fetched(window.on_read(0..128 * KIB, 100 * MIB)), 256 * KIB);
        assert_eq!(fetched(window.on_read(128 * KIB..256 * KIB, 100 * MIB)), (512 + 1024) * KIB);
    }

    #[test]
    fn a_small_file_is_one_request() {
        let mut window = Window::default();
        let whole = 0..10;
        assert_eq!(window.on_read(0..10, 10), Plan::Window { fetch: vec![whole] });
        assert_eq!(window.on_read(5..10, 10), Plan::Window { fetch: vec![] });
    }

    #[test]
    fn who_jumps_about_gets_little_more_than_it_asks_for() {
        let mut window = Window::default();
        for at in [900, 100, 500, 300] {
            assert_eq!(fetched(window.on_read(at * MIB..at * MIB + 4 * KIB, 1000 * MIB)), 256 * KIB);
        }
        assert_eq!(fetched(window.on_read(0..MIB, 1000 * MIB)), MIB);
    }

    #[test]
    fn a_late_read_does_not_disturb_the_run() {
        let mut window = Window::default();
        for at in 0..64 {
            window.on_read(at * MIB..(at + 1) * MIB, 1000 * MIB);
        }
        let start = window.start();
        assert!(start > 4 * MIB);
        assert_eq!(window.on_read(start - MIB..start - MIB + 4 * KIB, 1000 * MIB), Plan::Stray);
        assert_eq!(window.start(), start);
    }

    proptest! {
        /// Whatever is read, in whatever order: what is planned covers it, without gaps, and memory stays bounded.
        #[test]
        fn reads_are_covered_and_memory_is_bounded(reads in proptest::collection::vec((0u64..60, 1u64..1024), 1..80)) {
            let size = 40 * MIB + 7;
            let mut window = Window::default();
            for (at, len) in reads {
                let read = (at * MIB / 2).min(size - 1)..(at * MIB / 2 + len * KIB).min(size);
                let read = read.start..read.end.max(read.start + 1);
                if let Plan::Window { .. } = window.on_read(read.clone(), size) {
                    prop_assert!(window.start() <= read.start && window.end() >= read.end);
                }
                prop_assert!(window.pieces.iter().zip(window.pieces.iter().skip(1)).all(|(a, b)| a.end == b.start));
                prop_assert!(window.pieces.iter().all(|piece| piece.start < piece.end && piece.end <= size));
                let held: u64 = window.pieces.iter().map(|piece| piece.end - piece.start).sum();
                prop_assert!(held <= (AHEAD as u64 + 2) * LARGEST + BEHIND + SKIP, "{held}");
            }
        }
    }
}
