//! Contents that have lost a reference, until somebody looks whether it was the last.
//!
//! A look at every content on disk finds the same, and is taken now and then for what a killed server has left; but after
//! each commit it would cost as much as there is.

use std::collections::HashSet;

use manifest::content::ContentId;
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Loose {
    /// Locked for a moment only.
    contents: Mutex<HashSet<ContentId>>,
    changed: Notify,
}

impl Loose {
    pub fn note(&self, contents: impl IntoIterator<Item = ContentId>) {
        self.contents.lock().extend(contents);
        self.wake();
    }

    /// There may be something to take away that has no name here: a layer.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    pub fn take(&self) -> HashSet<ContentId> {
        std::mem::take(&mut *self.contents.lock())
    }

    /// These are looked at again another time, when they may have become old.
    pub fn put_back(&self, contents: impl IntoIterator<Item = ContentId>) {
        self.contents.lock().extend(contents);
    }

    /// Waits for the next change, or for none if there was one since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
