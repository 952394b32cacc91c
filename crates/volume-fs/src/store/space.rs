//! Giving back the space of what volumes do not refer to any more: files that were replaced or deleted, volumes that were.
//!
//! 1. A merge leaves behind the files that its layers hid from each other. It costs links, so [`manifest::merging`] decides
//!    when it is worth them; what a layer hides is counted once, after it was published.
//! 2. The layers that were merged away go when nobody reads or fetches them ([`manifest::keeping`]), and with them their
//!    links to contents.
//! 3. A content goes with its last link, unless somebody fetches it or is about to use it.
//!
//! A server may be killed between any two of these: its successor finds layers that no head names, and contents without a
//! link, and both are looked at as the others, if a little later for the sake of clients that were told of them. Nothing
//! here decides by a note that could be lost: the head says which layers there are, the file system counts the links.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use manifest::content::ContentId;
use manifest::keeping::{SENT_KEPT, Unused, need_of, stays};
use manifest::merging::{LayerSize, Need, plan_merge};
use types::errors::with_causes;

use super::{LayerEntry, Retired, State, Volume, Volumes};
use crate::content::Looked;
use crate::error::{Doing, VolumeError};
use crate::fetching::{Fetched, Fetching};
use crate::hidden::hidden_by;
use crate::layer::BuiltLayer;
use crate::merge;
use crate::view::View;

impl Volumes {
    /// How much a free byte is worth.
    pub fn need(&self) -> Need {
        // A disk that does not say has no bytes at all, and is none to worry about.
        let (free, all) = trees::usage::disk_room(&self.inner.root);
        need_of(free, all)
    }

    /// Merges layers if that is worth it; true when it did.
    pub fn merge(&self, id: &str, need: Need) -> Result<bool, VolumeError> {
        // Only of a volume that is in use: one that was deleted meanwhile must not come back.
        let volume = self.inner.volumes.lock().get(id).cloned();
        volume.map_or(Ok(false), |volume| volume.merge(need))
    }

    /// Opens the volumes that are on disk, so that what an earlier server has left in them is found.
    pub fn open_all(&self) -> Result<Vec<String>, VolumeError> {
        let listed = fs::read_dir(&self.inner.root).doing("list", &self.inner.root)?.flatten();
        let names = listed.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let volumes: Vec<String> = names.filter(|name| name.starts_with("vo-")).collect();
        // One that cannot be read says so when somebody uses it.
        Ok(volumes.into_iter().filter(|name| self.volume(name).is_ok()).collect())
    }

    /// Returns when there may be something to sweep. Called by one at a time.
    pub async fn loosened(&self) {
        self.inner.contents.loose().changed().await;
    }

    /// Deletes layers and contents that have lost their last use; answers with the bytes of contents.
    pub fn sweep(&self, now: SystemTime, need: Need) -> Result<u64, VolumeError> {
        self.sweep_layers(now, need);
        let loose = self.inner.contents.loose().take();
        self.sweep_contents(loose, now, need)
    }

    /// As [`Volumes::sweep`], and looks at every content: also at what a server that was killed has left.
    pub fn sweep_all(&self, now: SystemTime, need: Need) -> Result<u64, VolumeError> {
        // A volume that was not opened yet may have references that are none, see `mend_references`.
        self.open_all()?;
        self.sweep_layers(now, need);
        self.forget_deleted(now);
        self.inner.uploads.sweep(now, need);
        self.inner.fetching.forget_old(now);
        drop(self.inner.contents.loose().take());
        self.sweep_contents(self.inner.contents.all()?, now, need)
    }

    /// As much as can go goes: layers are merged for less than usual, and waiting is cut short.
    pub fn give_back(&self, now: SystemTime) -> Result<u64, VolumeError> {
        for id in self.open_all()? {
            if let Err(error) = self.merge(&id, Need::Space) {
                tracing::warn!(volume = id, error = with_causes(&error), "layers of a volume could not be merged");
            }
        }
        self.sweep_all(now, Need::Space)
    }

    /// As long as a reader keeps the folder, whoever opened the volume again would take what is read for a leftover.
    fn forget_deleted(&self, now: SystemTime) {
        let is_kept = |id: &str, since: &SystemTime| ago(*since, now) < SENT_KEPT || self.inner.root.join(id).exists();
        self.inner.deleted.lock().retain(|id, since| is_kept(id, since));
    }

    fn sweep_layers(&self, now: SystemTime, need: Need) {
        let volumes: Vec<_> = self.inner.volumes.lock().values().cloned().collect();
        for volume in volumes {
            volume.drop_retired(&self.inner.fetching, now, need);
        }
    }

    fn sweep_contents(
        &self,
        ids: impl IntoIterator<Item = ContentId>,
        now: SystemTime,
        need: Need,
    ) -> Result<u64, VolumeError> {
        let contents = self.contents();
        let (mut freed, mut stay) = (0, Vec::new());
        for id in ids {
            let stays_now = |metadata: &fs::Metadata| stays(&self.unused(&id, metadata, now), need);
            match contents.remove_unused(&id, stays_now).doing("remove", &contents.path(&id))? {
                Looked::Gone(bytes) => freed += bytes,
                Looked::Stays => stay.push(id),
                Looked::NotUnused => {}
            }
        }
        contents.loose().put_back(stay);
        Ok(freed)
    }

    pub(super) fn unused(&self, id: &ContentId, metadata: &fs::Metadata, now: SystemTime) -> Unused {
        // The change time: when it lost its last link, if it had one.
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().max(0) as u64);
        let is_left = changed + Duration::from_secs(1) < self.inner.opened_at;
        Unused {
            is_read: false,
            fetched: self.inner.fetching.ago(&Fetched::Content(id.clone()), now),
            awaited: self.inner.uploads.awaited_since(id).map(|since| ago(since, now)),
            left: is_left.then(|| ago(self.inner.opened_at, now)),
        }
    }
}

impl Volume {
    fn merge(self: &Arc<Self>, need: Need) -> Result<bool, VolumeError> {
        self.is_merge_wanted.store(true, Ordering::SeqCst);
        let mut has_merged = false;
        while self.is_merge_wanted.load(Ordering::SeqCst) {
            // Every commit asks for a merge. Whoever merges now looks again for those that ask meanwhile: it lets go of the
            // lock before that look, so one of the two sees the other.
            let Some(_merging) = self.merging.try_lock() else { return Ok(has_merged) };
            if self.is_merge_wanted.swap(false, Ordering::SeqCst) {
                has_merged |= self.merge_once(need)?;
            }
        }
        Ok(has_merged)
    }

    /// The caller holds `merging`.
    fn merge_once(self: &Arc<Self>, need: Need) -> Result<bool, VolumeError> {
        let pinned = self.layers()?;
        self.count_hidden(&pinned.pinned.names)?;
        let head = self.state.lock().head.clone();
        let count = pinned.folders.len();
        let sizes: Vec<LayerSize> = head.layers[..count].iter().map(LayerEntry::size).collect();
        let Some(range) = plan_merge(&sizes, need) else { return Ok(false) };
        let merged: Vec<LayerEntry> = head.layers[range.clone()].to_vec();
        let parts: Vec<PathBuf> = pinned.folders[range.clone()].iter().rev().cloned().collect();
        let layer = merge::merge(&self.contents, &self.folder.join("building"), &parts, range.start == 0)?;
        if let Some(layer) = &layer {
            layer.forget_needless(&View::of(pinned.folders[..range.start].iter().cloned()))?;
        }
        let is_merged = self.replace(&merged, layer)?;
        drop(pinned);
        // Not before: while they were being merged, they were read.
        self.contents.loose().wake();
        Ok(is_merged)
    }

    /// Counts what layers hide that were published since. Nobody else merges meanwhile, and commits add on top.
    pub(super) fn count_hidden(&self, names: &[String]) -> Result<(), VolumeError> {
        let uncounted: Vec<String> = {
            let state = self.state.lock();
            let layers = state.head.layers.iter().filter(|layer| !layer.is_counted);
            layers.map(|layer| layer.name.clone()).filter(|name| names.contains(name)).collect()
        };
        for name in uncounted {
            let Some(at) = names.iter().position(|other| *other == name) else { continue };
            let below: Vec<PathBuf> = names[..at].iter().rev().map(|name| self.layer(name).join("diff")).collect();
            let bytes = hidden_by(&self.layer(&name).join("diff"), &below, &self.contents)?;
            let mut state = self.state.lock();
            for (number, bytes) in bytes {
                state.head.layers[at - 1 - number].hidden_bytes += bytes;
            }
            state.head.layers[at].is_counted = true;
        }
        Ok(())
    }

    /// Puts one layer in the place of several, if they are still there.
    fn replace(&self, merged: &[LayerEntry], layer: Option<BuiltLayer>) -> Result<bool, VolumeError> {
        let _publishing = self.publishing.lock();
        let mut head = self.state.lock().head.clone();
        // Commits only add on top.
        let is_same = |(one, other): (&LayerEntry, &LayerEntry)| one.name == other.name;
        let mut windows = head.layers.windows(merged.len());
        let Some(at) = windows.position(|layers| layers.iter().zip(merged).all(is_same)) else {
            layer.iter().for_each(|layer| layer.discard(&self.contents));
            return Ok(false);
        };
        let replacement = match &layer {
            Some(layer) => {
                let name = self.take_in(layer)?;
                // What its parts hid of the layers below is counted there.
                Some(LayerEntry { is_counted: true, ..LayerEntry::new(name, layer.entries) })
            }
            None => None,
        };
        let name = replacement.as_ref().map(|layer| layer.name.clone());
        head.layers.splice(at..at + merged.len(), replacement);
        // First, so that there is no moment at which a URL given out before finds a layer in neither place. The caller reads
        // them, so they do not go before the new head is on disk.
        let retired = merged.iter().map(|layer| Retired { name: layer.name.clone(), left: None });
        self.state.lock().retired.extend(retired);
        if let Err(error) = self.replace_head(head) {
            // Whatever the disk has of it: they are looked at again when the head has been read again.
            let is_merged = |layer: &Retired| merged.iter().any(|merged| merged.name == layer.name);
            self.state.lock().retired.retain(|layer| !is_merged(layer));
            for name in name.iter().filter(|name| !self.layer_is_named(name)) {
                let _ = self.contents.remove_layer(&self.layer(name));
            }
            return Err(error);
        }
        Ok(true)
    }

    fn drop_retired(&self, fetching: &Fetching, now: SystemTime, need: Need) {
        let mut state = self.state.lock();
        let retired = std::mem::take(&mut state.retired);
        let is_kept = |layer: &Retired| state.keeps(&layer.name, layer.left, fetching, now, need);
        let (kept, gone): (Vec<Retired>, Vec<Retired>) = retired.into_iter().partition(is_kept);
        state.retired = kept;
        drop(state);
        for layer in gone {
            if let Err(error) = self.contents.remove_layer(&self.layer(&layer.name)) {
                tracing::warn!(folder = %self.folder.display(), layer = layer.name, %error, "a layer stays for now");
                self.state.lock().retired.push(layer);
            }
        }
    }
}

impl State {
    /// Somebody needs a layer, whether it is part of the volume or not. `left`: since when it is known here, if an earlier
    /// server has left it.
    pub(super) fn keeps(
        &self,
        layer: &str,
        left: Option<SystemTime>,
        fetching: &Fetching,
        now: SystemTime,
        need: Need,
    ) -> bool {
        let unused = Unused {
            is_read: self.readers.contains_key(layer),
            fetched: fetching.ago(&Fetched::Layer(layer.to_owned()), now),
            awaited: None,
            left: left.map(|since| ago(since, now)),
        };
        stays(&unused, need)
    }
}

fn ago(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}
