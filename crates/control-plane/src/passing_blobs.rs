//! Blobs that are needed for a while only: copies that the server made so that they can be downloaded, and uploads that
//! have been copied to where they belong. Files that were sent for volumes are kept for a while in the same way.
//!
//! No record names them, and a blob that no record names is deleted after eight days: files of many gigabytes that are read
//! every hour would fill the disk before. These are deleted by the hour. They are known in memory only; what a server that
//! ended has left goes after the eight days.

use std::collections::BTreeSet;

use blob_store::Sha256Digest;
use calls::Millis;
use parking_lot::Mutex;
use types::ids::BlobId;

/// More are not remembered, and go after eight days as well.
const MAX_REMEMBERED: usize = 100_000;

pub struct Passing<T>(Mutex<BTreeSet<(Millis, T)>>);

pub type PassingBlobs = Passing<BlobId>;
pub type PassingContents = Passing<Sha256Digest>;

impl<T> Default for Passing<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Ord> Passing<T> {
    /// Nobody needs it from then on, unless a record names it.
    pub fn note(&self, blob: T, until: Millis) {
        let mut all = self.0.lock();
        if all.len() < MAX_REMEMBERED {
            all.insert((until, blob));
        }
    }

    /// All, whether their time is over or not; they are not remembered any more.
    pub fn take_all(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock()).into_iter().map(|(_, blob)| blob).collect()
    }

    /// Those whose time is over; they are not remembered any more.
    pub fn take_over(&self, now: Millis) -> Vec<T> {
        let mut all = self.0.lock();
        let mut over = Vec::new();
        while all.first().is_some_and(|(until, _)| *until <= now) {
            over.extend(all.pop_first().map(|(_, blob)| blob));
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goes_at_its_time_and_once() {
        let (passing, early, late) = (PassingBlobs::default(), BlobId::random(), BlobId::random());
        passing.note(late.clone(), 20);
        passing.note(early.clone(), 10);
        assert_eq!(passing.take_over(9), []);
        assert_eq!(passing.take_over(10), [early]);
        assert_eq!(passing.take_over(30), [late]);
        assert_eq!(passing.take_over(30), []);
        passing.note(BlobId::random(), 40);
        assert_eq!((passing.take_all().len(), passing.take_all().len()), (1, 0));
    }

    #[test]
    fn not_more_are_remembered_than_fit() {
        let passing = PassingBlobs::default();
        for _ in 0..MAX_REMEMBERED + 1 {
            passing.note(BlobId::random(), 1);
        }
        assert_eq!(passing.take_over(1).len(), MAX_REMEMBERED);
    }
}
