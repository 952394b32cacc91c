//! How many requests of a mount are with its store at once.
//!
//! A container may have hundreds of threads that all look something up. Each request needs a socket of the server, which
//! has only so many for everything it does, and a store answers a crowd no sooner than a line. Uploads stand in a line of
//! their own: they last minutes on a slow link, and a look at a file is not to wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// As many as keep a store busy that answers after a tenth of a second.
const LOOKS: usize = 64;
/// A mount's memory for what is written has room for 24 parts.
const UPLOADS: usize = 32;

pub struct Places {
    looks: Semaphore,
    uploads: Semaphore,
    /// Grows whenever a request of the mount gets on.
    moved: Arc<AtomicU64>,
}

impl Places {
    pub fn new(moved: Arc<AtomicU64>) -> Self {
        Self { looks: Semaphore::new(LOOKS), uploads: Semaphore::new(UPLOADS), moved }
    }

    /// Waits in line as long as others get on; none when nothing moved for `patience`. It ends: each of those before has
    /// an end.
    pub async fn take(&self, is_upload: bool, patience: Duration) -> Option<SemaphorePermit<'_>> {
        let places = if is_upload { &self.uploads } else { &self.looks };
        let place = places.acquire();
        // Kept over each patience, and with it the place in the line.
        tokio::pin!(place);
        loop {
            let seen = self.moved.load(Ordering::Relaxed);
            if let Ok(place) = timeout(patience, &mut place).await {
                return place.ok();
            }
            if seen == self.moved.load(Ordering::Relaxed) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_while_others_get_on_and_no_longer() {
        let moved = Arc::new(AtomicU64::new(0));
        let places = Places::new(moved.clone());
        let mut taken = Vec::new();
        for _ in 0..LOOKS {
            taken.push(places.take(false, SECOND).await.unwrap());
        }
        assert!(places.take(true, SECOND).await.is_some(), "uploads have their own");
        let begun = tokio::time::Instant::now();
        let others = async {
            for _ in 0..20 {
                tokio::time::sleep(SECOND / 2).await;
                moved.fetch_add(1, Ordering::Relaxed);
            }
            drop(taken.pop());
        };
        let (place, ()) = tokio::join!(places.take(false, SECOND), others);
        assert!(place.is_some() && begun.elapsed() >= 10 * SECOND);
        assert!(places.take(false, SECOND).await.is_none());
    }
}
