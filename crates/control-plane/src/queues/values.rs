//! Values of items in memory, counted over all queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::convert::apart;

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
    /// Keeps a value, if it is small and there is room.
    pub fn keep(self: &Arc<Self>, value: &Bytes) -> Option<Held> {
        let size = value.len();
        if size > MAX_VALUE || self.0.load(Ordering::Relaxed) + size > MAX_HELD {
            return None;
        }
        self.0.fetch_add(size, Ordering::Relaxed);
        Some(Held { bytes: apart(value.clone()), counter: self.clone() })
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
        assert!(held.keep(&vec![0; MAX_VALUE + 1].into()).is_none());
        let value = Bytes::from(vec![0; MAX_VALUE]);
        let mut kept: Vec<Held> = (0..MAX_HELD / MAX_VALUE).map(|_| held.keep(&value).unwrap()).collect();
        assert!(held.keep(&value).is_none());
        kept.pop();
        assert!(held.keep(&value).is_some());
    }
}
