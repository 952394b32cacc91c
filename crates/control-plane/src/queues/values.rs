//! Values of items in memory, counted over all queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Bytes of all queues' values that are kept in memory. What is beyond is read from the disk when somebody gets it; mostly
/// it is in the kernel's memory then.
const MAX_HELD: usize = 256 << 20;
/// A larger value costs more to send than to read.
const MAX_VALUE: usize = 256 << 10;

#[derive(Default)]
pub struct HeldBytes(AtomicUsize);

/// A value in memory; gives its bytes back when it is let go.
pub struct Held {
    pub bytes: Bytes,
    counter: Arc<HeldBytes>,
}

impl HeldBytes {
    /// Keeps a value, if it is small and there is room. In memory of its own: as it comes it is a slice of the buffer that its
    /// request was read into, and one value that waits would keep all of those megabytes, which are not counted here.
    pub fn keep(self: &Arc<Self>, value: &[u8]) -> Option<Held> {
        let size = value.len();
        if size > MAX_VALUE {
            return None;
        }
        let has_room = |held: usize| Some(held + size).filter(|held| *held <= MAX_HELD);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, has_room).ok()?;
        Some(Held { bytes: Bytes::copy_from_slice(value), counter: self.clone() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counter.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_while_there_is_room_and_only_small_ones() {
        let held = Arc::new(HeldBytes::default());
        assert!(held.keep(&vec![0; MAX_VALUE + 1]).is_none());
        let value = vec![0; MAX_VALUE];
        let mut kept: Vec<Held> = (0..MAX_HELD / MAX_VALUE).map(|_| held.keep(&value).unwrap()).collect();
        assert!(held.keep(&value).is_none());
        kept.pop();
        assert!(held.keep(&value).is_some());
    }

    #[test]
    fn a_kept_value_does_not_keep_the_request_that_it_came_in() {
        let held = Arc::new(HeldBytes::default());
        for size in [1, 100 << 10, MAX_VALUE] {
            let mut request = Bytes::from(vec![7; 1 << 20]);
            let kept = held.keep(&request.split_to(size)).unwrap();
            assert!(request.is_unique() && kept.bytes == vec![7; size], "{size}");
        }
    }
}
