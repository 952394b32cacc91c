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
    /// When something was last asked for. Locked for a moment only.
    times: Arc<Mutex<HashMap<Fetched, SystemTime>>>,
}

impl Fetching {
    pub(crate) fn note(&self, what: Fetched) {
        self.times.lock().insert(what, SystemTime::now());
    }

    /// How long ago somebody last asked for it.
    pub(crate) fn ago(&self, what: &Fetched, now: SystemTime) -> Option<Duration> {
        let time = self.times.lock().get(what).copied()?;
        Some(now.duration_since(time).unwrap_or_default())
    }

    pub(crate) fn forget_old(&self, now: SystemTime) {
        let is_kept = |time: &SystemTime| now.duration_since(*time).unwrap_or_default() < FETCH_PAUSE;
        self.times.lock().retain(|_, time| is_kept(time));
    }
}

/// Held while bytes are sent; its end counts as the last time that they were asked for.
pub(crate) struct Sending {
    fetching: Fetching,
    what: Fetched,
}

impl Sending {
    pub fn begin(fetching: Fetching, what: Fetched) -> Self {
        fetching.note(what.clone());
        Self { fetching, what }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.fetching.note(self.what.clone());
    }
}
