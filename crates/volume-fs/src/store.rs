//! All volumes of one machine: which layers each is, and who reads them. What is merged and deleted: `space.rs`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use manifest::content::ContentId;
use manifest::merging::LayerSize;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::content::ContentStore;
use crate::error::{Doing, VolumeError};
use crate::fetching::Fetching;
use crate::layer::{BuiltLayer, LayerBuilder};
use crate::sys;
use crate::unsaved::UnsavedFolder;
use crate::uploads::Uploads;
use crate::view::View;

mod space;
mod usage;

pub use usage::{VolumeBytes, VolumesBytes, bytes_on_disk};

/// Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    contents: ContentStore,
    uploads: Uploads,
    fetching: Fetching,
    unsaved: UnsavedFolder,
    opened_at: SystemTime,
    /// Locked for a look-up only.
    volumes: Mutex<HashMap<String, Arc<Volume>>>,
    /// Ids of volumes that were deleted, and when: requests for them may be on their way still, and readers may look at them.
    deleted: Mutex<HashMap<String, SystemTime>>,
}

#[derive(Debug)]
struct Volume {
    folder: PathBuf,
    contents: ContentStore,
    /// Held by the one commit that goes on: what it checks stays so until it is published.
    publishing: Mutex<()>,
    /// Held by the one merge that goes on.
    merging: Mutex<()>,
    /// Somebody has asked for a merge since the last one began.
    is_merge_wanted: AtomicBool,
    /// Locked for a moment, never while the disk works except to replace the head.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    head: Head,
    /// How many views look at each layer.
    readers: HashMap<String, usize>,
    /// Layers that are no part of the volume any more.
    retired: Vec<Retired>,
    deleted: bool,
    /// Its files are being taken away.
    is_removed: bool,
}

#[derive(Debug)]
struct Retired {
    name: String,
    /// Since when it is known here, if an earlier server has left it.
    left: Option<SystemTime>,
}

impl State {
    /// True once: for the one who takes its files away.
    fn is_over(&mut self) -> bool {
        self.deleted && self.readers.is_empty() && !std::mem::replace(&mut self.is_removed, true)
    }
}

/// What a volume is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
struct Head {
    /// Counts commits.
    version: u64,
    /// Lowest first.
    layers: Vec<LayerEntry>,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct LayerEntry {
    name: String,
    entries: u64,
    /// Bytes of its files that layers above it hide, of those that are counted.
    #[serde(default)]
    hidden_bytes: u64,
    /// What it hides is in the numbers of the layers below it.
    #[serde(default)]
    is_counted: bool,
}

impl LayerEntry {
    fn new(name: String, entries: u64) -> Self {
        Self { name, entries, hidden_bytes: 0, is_counted: false }
    }

    fn size(&self) -> LayerSize {
        LayerSize { entries: self.entries, hidden_bytes: self.hidden_bytes }
    }
}

/// Keeps layers from being deleted.
#[derive(Debug)]
pub struct Pinned {
    volume: Arc<Volume>,
    names: Vec<String>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut state = self.volume.state.lock();
        for name in &self.names {
            if let Some(readers) = state.readers.get_mut(name) {
                *readers -= 1;
                if *readers == 0 {
                    state.readers.remove(name);
                }
            }
        }
        let (is_over, is_loose) = (state.is_over(), !state.retired.is_empty());
        drop(state);
        if is_loose {
            self.volume.contents.loose().wake();
        }
        if is_over {
            // Wherever the last reader is let go, nobody waits for the removal of many files.
            let volume = self.volume.clone();
            std::thread::spawn(move || volume.remove());
        }
    }
}

/// A volume's layers for a mount.
#[derive(Debug)]
pub struct Layers {
    pub version: u64,
    /// The layers' `diff` folders, lowest first; none for a volume that was never written to.
    pub folders: Vec<PathBuf>,
    pub pinned: Pinned,
}

impl Volumes {
    /// Opens the folder. No container is running: what was being built or sent is taken away.
    pub fn open(root: &Path) -> Result<Self, VolumeError> {
        sys::ignore_broken_leases();
        let contents = ContentStore::open(root)?;
        // A program of a container's root, with its set-user bit, must not be a program of this machine's root.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).doing("close", root)?;
        for entry in fs::read_dir(contents.incoming()).doing("list", contents.incoming())?.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let uploads = Uploads::new(contents.clone());
        let unsaved = UnsavedFolder::default();
        unsaved.add(root.join("unsaved"))?;
        let inner = Inner {
            root: root.to_owned(),
            contents,
            uploads,
            fetching: Fetching::default(),
            unsaved,
            opened_at: SystemTime::now(),
            volumes: Mutex::default(),
            deleted: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn contents(&self) -> &ContentStore {
        &self.inner.contents
    }

    pub fn uploads(&self) -> &Uploads {
        &self.inner.uploads
    }

    /// What containers could not commit.
    pub fn unsaved(&self) -> &UnsavedFolder {
        &self.inner.unsaved
    }

    pub fn fetching(&self) -> &Fetching {
        &self.inner.fetching
    }

    /// Where a worker builds layers of this volume.
    pub fn building(&self, volume: &str) -> Result<PathBuf, VolumeError> {
        Ok(self.volume(volume)?.folder.join("building"))
    }

    fn volume(&self, id: &str) -> Result<Arc<Volume>, VolumeError> {
        let mut volumes = self.inner.volumes.lock();
        if let Some(volume) = volumes.get(id) {
            return Ok(volume.clone());
        }
        if self.inner.deleted.lock().contains_key(id) {
            return Err(VolumeError::Deleted);
        }
        let volume = Arc::new(Volume::open(self.inner.root.join(id), self.contents().clone(), SystemTime::now())?);
        volumes.insert(id.to_owned(), volume.clone());
        Ok(volume)
    }

    /// What the volume is now.
    pub fn view(&self, id: &str) -> Result<View, VolumeError> {
        let layers = self.layers(id)?;
        Ok(View::pinned(layers.folders.into_iter(), layers.pinned))
    }

    pub fn layers(&self, id: &str) -> Result<Layers, VolumeError> {
        Volume::layers(&self.volume(id)?)
    }

    /// Makes a layer over the volume as it is, and makes it part of the volume; answers with the volume's version. Nobody
    /// else changes the volume meanwhile.
    pub fn change(
        &self,
        id: &str,
        build: impl FnOnce(&View, LayerBuilder<'_>) -> Result<Option<BuiltLayer>, VolumeError>,
    ) -> Result<u64, VolumeError> {
        let volume = self.volume(id)?;
        let _publishing = volume.publishing.lock();
        let view = self.view(id)?;
        let layer = LayerBuilder::new(self.contents(), &volume.folder.join("building"), &view)?;
        match build(&view, layer)? {
            Some(layer) => volume.publish(&layer).inspect_err(|_| layer.discard(self.contents())),
            None => Ok(volume.state.lock().head.version),
        }
    }

    /// Makes a layer that a worker built part of the volume. One that could not become that is where it was.
    pub fn publish(&self, id: &str, layer: &BuiltLayer) -> Result<u64, VolumeError> {
        let volume = self.volume(id)?;
        let _publishing = volume.publishing.lock();
        volume.publish(layer)
    }

    /// The volume is gone for everybody who comes from now on; its files go when the last reader does.
    pub fn delete(&self, id: &str) -> Result<(), VolumeError> {
        let volume = match self.volume(id) {
            Err(VolumeError::Deleted) => return Ok(()),
            volume => volume?,
        };
        // Before it is out of the one list it is in the other.
        self.inner.deleted.lock().insert(id.to_owned(), SystemTime::now());
        self.inner.volumes.lock().remove(id);
        let mut state = volume.state.lock();
        state.deleted = true;
        let is_over = state.is_over();
        drop(state);
        if is_over {
            volume.remove();
        }
        Ok(())
    }

    /// Deletes volumes that are not among these, once, before anybody uses one.
    pub fn retain(&self, known: &HashSet<String>) -> Result<(), VolumeError> {
        for entry in fs::read_dir(&self.inner.root).doing("list", &self.inner.root)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("vo-") && !known.contains(&name) {
                let _ = trees::remove(&entry.path());
            }
        }
        Ok(())
    }
}

impl Volume {
    fn open(folder: PathBuf, contents: ContentStore, now: SystemTime) -> Result<Self, VolumeError> {
        let head = match fs::read(folder.join("head")) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(io::Error::other).doing("understand", &folder.join("head"))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Head::default(),
            Err(error) => return Err(error).doing("read", &folder.join("head")),
        };
        let building = folder.join("building");
        let _ = trees::remove(&building);
        for path in [&folder.join("layers"), &building] {
            fs::create_dir_all(path).doing("make folder", path)?;
        }
        mend_references(&folder, &contents)?;
        let unnamed = unnamed_layers(&folder, &head)?.into_iter();
        let retired = unnamed.map(|name| Retired { name, left: Some(now) }).collect();
        let state = Mutex::new(State { head, retired, ..State::default() });
        Ok(Self {
            folder,
            contents,
            publishing: Mutex::default(),
            merging: Mutex::default(),
            is_merge_wanted: AtomicBool::default(),
            state,
        })
    }

    fn layer(&self, name: &str) -> PathBuf {
        self.folder.join("layers").join(name)
    }

    fn layers(self: &Arc<Self>) -> Result<Layers, VolumeError> {
        let mut state = self.state.lock();
        if state.deleted {
            return Err(VolumeError::Deleted);
        }
        let names: Vec<String> = state.head.layers.iter().map(|layer| layer.name.clone()).collect();
        for name in &names {
            *state.readers.entry(name.clone()).or_default() += 1;
        }
        let folders = names.iter().map(|name| self.layer(name).join("diff")).collect();
        Ok(Layers { version: state.head.version, folders, pinned: Pinned { volume: self.clone(), names } })
    }

    /// The caller holds `publishing`.
    fn publish(self: &Arc<Self>, layer: &BuiltLayer) -> Result<u64, VolumeError> {
        let head = self.layers()?;
        layer.forget_needless(&View::of(head.folders.into_iter()))?;
        let name = self.take_in(layer)?;
        let mut head = self.state.lock().head.clone();
        head.version += 1;
        head.layers.push(LayerEntry::new(name.clone(), layer.entries));
        let replaced = self.replace_head(head);
        if replaced.is_err() && !self.layer_is_named(&name) {
            let _ = fs::rename(self.layer(&name), &layer.folder);
        }
        replaced
    }

    fn take_in(&self, layer: &BuiltLayer) -> Result<String, VolumeError> {
        if self.state.lock().deleted {
            return Err(VolumeError::Deleted);
        }
        let name = layer.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::rename(&layer.folder, self.layer(&name)).doing("take in", &layer.folder)?;
        let layers = self.folder.join("layers");
        let synced = sys::sync_folder(&layers).doing("write", &layers);
        synced.inspect_err(|_| drop(fs::rename(self.layer(&name), &layer.folder)))?;
        Ok(name)
    }

    /// From the moment of the rename the volume is what the new head says, whatever happens.
    fn replace_head(&self, head: Head) -> Result<u64, VolumeError> {
        let (path, next) = (self.folder.join("head"), self.folder.join("head.next"));
        let bytes = serde_json::to_vec(&head).map_err(io::Error::other).doing("encode", &path)?;
        let written = fs::File::create(&next).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.doing("write", &next)?;
        fs::rename(&next, &path).doing("replace", &path)?;
        let version = head.version;
        self.state.lock().head = head;
        sys::sync_folder(&self.folder).doing("write", &self.folder)?;
        Ok(version)
    }

    /// The head first: what is left of it after a crash is then no version of the volume.
    fn remove(&self) {
        let _ = fs::remove_file(self.folder.join("head"));
        let listed = fs::read_dir(self.folder.join("layers")).into_iter().flatten().flatten();
        let layers: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
        if let Err(error) = self.contents.remove_layers(layers.iter().map(PathBuf::as_path), &self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "files of a deleted volume stay until the next start");
        }
    }

    fn layer_is_named(&self, name: &str) -> bool {
        let state = self.state.lock();
        state.head.layers.iter().any(|layer| layer.name == name)
            || state.retired.iter().any(|retired| retired.name == name)
    }
}

impl Volumes {
    /// A file of a layer that was named in a URL, while that is still there. Blocks.
    pub(crate) fn file_of_layer(&self, id: &str, layer: &str, path: &Path) -> Option<PathBuf> {
        let volume = self.volume(id).ok()?;
        volume.layer_is_named(layer).then(|| volume.layer(layer).join("diff").join(path))
    }
}

/// References must be links to the content in its place: their number says whether it is used. A copy of the data directory
/// that kept no hard links has a file in the place of each; one that had been through the contents before a commit came has
/// the references, and not the content.
fn mend_references(volume: &Path, contents: &ContentStore) -> Result<(), VolumeError> {
    let layers = volume.join("layers");
    for layer in fs::read_dir(&layers).doing("list", &layers)?.flatten() {
        for reference in fs::read_dir(layer.path().join("refs")).into_iter().flatten().flatten() {
            let id = reference.file_name().to_str().and_then(ContentId::parse);
            if let Some(id) = id.filter(|id| !is_link_to(&reference, &contents.path(id))) {
                contents.refer_again(&id, &reference.path())?;
            }
        }
    }
    Ok(())
}

fn is_link_to(reference: &fs::DirEntry, content: &Path) -> bool {
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let [reference, content] = [reference.metadata(), fs::symlink_metadata(content)].map(|found| found.ok().map(inode));
    content.is_some() && reference == content
}

/// Layers that the head does not name were never committed, or were merged away.
fn unnamed_layers(volume: &Path, head: &Head) -> Result<Vec<String>, VolumeError> {
    let layers = volume.join("layers");
    let listed = fs::read_dir(&layers).doing("list", &layers)?.flatten();
    let names = listed.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_named = |name: &String| head.layers.iter().any(|layer| layer.name == *name);
    Ok(names.filter(|name| !is_named(name)).collect())
}

#[cfg(test)]
mod tests;
