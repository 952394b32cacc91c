//! What clients are fetching: they are told where, and come for it piece by piece.
//!
//! Known in memory only. A client of a server that has ended comes again soon, or not at all; see [`manifest::keeping`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use manifest::content::ContentId;
use manifest::keeping::FETCH_PAUSE;
use parking_lot::Mutex;

/// Where bytes are that a client was told to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Fetched {
    Content(ContentId),
    /// By its name, which no other layer has.
    Layer(String),
}

/// Cheap to clone; all clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Fetching {
    /// Locked for a moment only.
    asked: Arc<Mutex<HashMap<Fetched, Asked>>>,
}

#[derive(Debug)]
struct Asked {
    /// When it was last asked for, or a piece of it was sent whole.
    last: SystemTime,
    /// Pieces that are being sent: over a slow line one takes longer than a client may be silent.
    sending: usize,
}

impl Asked {
    fn ago(&self, now: SystemTime) -> Duration {
        if self.sending > 0 { Duration::ZERO } else { now.duration_since(self.last).unwrap_or_default() }
    }
}

impl Fetching {
    pub(crate) fn note(&self, what: Fetched) {
        self.note_sending(what, |sending| sending);
    }

    fn note_sending(&self, what: Fetched, change: impl FnOnce(usize) -> usize) {
        let last = SystemTime::now();
        let mut all = self.asked.lock();
        let asked = all.entry(what).or_insert(Asked { last, sending: 0 });
        *asked = Asked { last, sending: change(asked.sending) };
    }

    /// How long ago somebody last asked for it.
    pub(crate) fn ago(&self, what: &Fetched, now: SystemTime) -> Option<Duration> {
        Some(self.asked.lock().get(what)?.ago(now))
    }

    pub(crate) fn forget_old(&self, now: SystemTime) {
        self.asked.lock().retain(|_, asked| asked.ago(now) < FETCH_PAUSE);
    }
}

/// Held while bytes are sent: as long as it is, they are asked for.
pub(crate) struct Sending {
    fetching: Fetching,
    what: Fetched,
}

impl Sending {
    pub fn begin(fetching: Fetching, what: Fetched) -> Self {
        fetching.note_sending(what.clone(), |sending| sending + 1);
        Self { fetching, what }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.fetching.note_sending(self.what.clone(), |sending| sending.saturating_sub(1));
    }
}
