//! The memory of a mount for files that are being written.
//!
//! A file takes it as it grows, and gives it back with each part that the store has. When all of it is taken by files that
//! are too short to be sent yet, none of them could go on; so one file at a time may then grow to a whole part without
//! taking any, and gives back what it had taken before once it is sent. Rejected: a whole part for each file from its
//! beginning, since a hundred small files that are open at once would have to wait for each other. Mistake still
//! possible: a program that fills more files than fit, in turns and on one thread, waits for itself until its patience is
//! over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory is counted in this unit.
const UNIT: usize = 64 << 10;

pub struct Memory {
    units: Arc<Semaphore>,
    /// To grow to a whole part when there are no units.
    turn: Arc<Semaphore>,
    /// Grows when something is given back, or is on its way to the store.
    moves: Arc<AtomicU64>,
    /// While `moves` stays the same.
    patience: Duration,
}

/// What a file holds. Given back when it is dropped.
#[derive(Default)]
pub struct Held {
    units: Option<OwnedSemaphorePermit>,
    turn: Option<OwnedSemaphorePermit>,
    moves: Option<Arc<AtomicU64>>,
}

impl Memory {
    pub fn new(bytes: usize, patience: Duration, moves: Arc<AtomicU64>) -> Self {
        let (units, turn) = (Arc::new(Semaphore::new(bytes / UNIT)), Arc::new(Semaphore::new(1)));
        Self { units, turn, moves, patience }
    }

    /// Until `held` is enough for `bytes`, a part at most. False when nothing moved for too long.
    pub async fn hold(&self, held: &mut Held, bytes: usize) -> bool {
        let has = held.units.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wants = bytes.div_ceil(UNIT).saturating_sub(has);
        if wants == 0 || held.turn.is_some() {
            return true;
        }
        held.moves = Some(self.moves.clone());
        let units = self.units.clone().acquire_many_owned(u32::try_from(wants).unwrap_or(u32::MAX));
        let turn = self.turn.clone().acquire_owned();
        // Both are kept over each patience, and with them the place in their lines.
        tokio::pin!(units, turn);
        loop {
            let seen = self.moves.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                got = &mut units => {
                    match (&mut held.units, got) {
                        (Some(units), Ok(got)) => units.merge(got),
                        (none, got) => *none = got.ok(),
                    }
                    return held.units.is_some();
                }
                got = &mut turn => {
                    held.turn = got.ok();
                    return held.turn.is_some();
                }
                () = tokio::time::sleep(self.patience) => {}
            }
            if seen == self.moves.load(Ordering::Relaxed) {
                return false;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(moves) = &self.moves {
            moves.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const PART: usize = 8 << 20;

    #[tokio::test]
    async fn when_all_is_taken_one_at_a_time_may_grow_to_a_part() {
        let memory = Memory::new(2 * UNIT, LONG, Arc::default());
        let [mut first, mut second, mut third] = [Held::default(), Held::default(), Held::default()];
        assert!(memory.hold(&mut first, UNIT).await && memory.hold(&mut second, 1).await);
        assert!(memory.hold(&mut first, 2 * UNIT).await && memory.hold(&mut first, PART).await);
        let mut wait = Box::pin(memory.hold(&mut third, 1));
        assert!(futures::poll!(&mut wait).is_pending());
        drop(first);
        assert!(wait.await);
    }

    #[tokio::test]
    async fn who_waits_for_nothing_is_told_so() {
        let memory = Memory::new(UNIT, Duration::from_millis(1), Arc::default());
        let [mut all, mut turn, mut other] = [Held::default(), Held::default(), Held::default()];
        assert!(memory.hold(&mut all, UNIT).await && memory.hold(&mut turn, UNIT).await);
        assert!(!memory.hold(&mut other, UNIT).await);
    }
}
