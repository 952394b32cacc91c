//! How much of the disk each volume takes up, and how much of it could go.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use manifest::content::ContentId;
use manifest::keeping::stays;
use manifest::merging::{LayerSize, Need, plan_merge};
use trees::usage::Usage;

use super::{Head, LayerEntry, Volumes};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeBytes {
    /// Contents that several volumes have count in equal parts.
    pub all: u64,
    /// What giving back would give: replaced or deleted files that nobody reads, fetches or is about to put, and that are
    /// worth the merge.
    pub unused: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumesBytes {
    pub volumes: BTreeMap<String, VolumeBytes>,
    /// Of no volume: files on their way into one, and such as are still being fetched.
    pub loose: u64,
}

impl Volumes {
    /// Blocks.
    pub fn bytes(&self, usage: &mut Usage) -> VolumesBytes {
        let now = SystemTime::now();
        let known = |id: &str| {
            if self.inner.deleted.lock().contains_key(id) {
                return Some(Known { is_deleted: true, ..Known::default() });
            }
            let volume = self.inner.volumes.lock().get(id).cloned()?;
            let state = volume.state.lock();
            let layers = state.head.layers.iter().map(|layer| &layer.name);
            let layers = layers.chain(state.retired.iter().map(|layer| &layer.name));
            let is_held = |name: &&String| state.keeps(name, None, self.fetching(), now, Need::Space);
            Some(Known {
                held: layers.filter(is_held).cloned().collect(),
                head: state.head.clone(),
                ..Known::default()
            })
        };
        let stays_now = |id: &ContentId, metadata: &fs::Metadata| stays(&self.unused(id, metadata, now), Need::Space);
        measure(&self.inner.root, known, stays_now, usage)
    }
}

/// The same from the folder alone, while no server uses it.
pub fn bytes_on_disk(root: &Path, usage: &mut Usage) -> VolumesBytes {
    measure(root, |_| None, |_, _| false, usage)
}

/// What a server knows of a volume.
#[derive(Default)]
struct Known {
    head: Head,
    /// Names of layers that somebody reads or fetches.
    held: HashSet<String>,
    /// It is still there for its last reader, and goes with that.
    is_deleted: bool,
}

impl Known {
    fn of_disk(volume: &Path) -> Option<Self> {
        let head = serde_json::from_slice(&fs::read(volume.join("head")).ok()?).ok()?;
        Some(Self { head, ..Self::default() })
    }

    /// What a merge would leave behind, and the layers would take with them.
    fn hidden_bytes(&self) -> u64 {
        let sizes: Vec<LayerSize> = self.head.layers.iter().map(LayerEntry::size).collect();
        let merged = plan_merge(&sizes, Need::Space).map_or(&[][..], |range| &self.head.layers[range]);
        let gone = merged.iter().filter(|layer| !self.held.contains(&layer.name));
        gone.map(|layer| layer.hidden_bytes).sum()
    }

    /// It goes when space is given back.
    fn is_unused(&self, layer: &str) -> bool {
        !self.is_deleted && !self.held.contains(layer) && !self.head.layers.iter().any(|used| used.name == layer)
    }
}

fn measure(
    root: &Path,
    known: impl Fn(&str) -> Option<Known>,
    stays: impl Fn(&ContentId, &fs::Metadata) -> bool,
    usage: &mut Usage,
) -> VolumesBytes {
    let mut measured = VolumesBytes::default();
    let mut referred: HashMap<String, Referred> = HashMap::new();
    let mut sharing: HashMap<ContentId, u64> = HashMap::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if !id.starts_with("vo-") {
            continue;
        }
        let volume = known(&id).or_else(|| Known::of_disk(&entry.path())).unwrap_or_default();
        let (bytes, contents) = layers_of(&entry.path(), &volume, usage);
        contents.used.union(&contents.unused).for_each(|content| *sharing.entry(content.clone()).or_default() += 1);
        measured.volumes.insert(id.clone(), bytes);
        referred.insert(id, contents);
    }
    let content = root.join("content");
    // Its size, and as much of it as could go.
    let mut size_of = |id: &ContentId| {
        let Ok(metadata) = fs::metadata(content.join(id.as_str())) else { return (0, 0) };
        // Its names are references; the bytes count here, not where else it may have one.
        usage.of_file(&metadata);
        let bytes = metadata.blocks() * 512 / sharing.get(id).copied().unwrap_or(1).max(1);
        (bytes, if stays(id, &metadata) { 0 } else { bytes })
    };
    for (id, contents) in &referred {
        let Some(bytes) = measured.volumes.get_mut(id) else { continue };
        bytes.all += contents.used.iter().map(|content| size_of(content).0).sum::<u64>();
        for (all, unused) in contents.unused.difference(&contents.used).map(&mut size_of) {
            bytes.all += all;
            bytes.unused += unused;
        }
        bytes.unused = bytes.unused.min(bytes.all);
    }
    // What is counted already counts no more.
    measured.loose = usage.of(&content) + usage.of(&root.join("uploads"));
    measured
}

#[derive(Default)]
struct Referred {
    used: BTreeSet<ContentId>,
    unused: BTreeSet<ContentId>,
}

fn layers_of(volume: &Path, known: &Known, usage: &mut Usage) -> (VolumeBytes, Referred) {
    let (mut bytes, mut contents) = (VolumeBytes::default(), Referred::default());
    bytes.unused = known.hidden_bytes();
    let is_used = |name: &str| !known.is_unused(name);
    let listed = fs::read_dir(volume.join("layers")).into_iter().flatten().flatten();
    let mut layers: Vec<_> =
        listed.map(|entry| (is_used(&entry.file_name().to_string_lossy()), entry.path())).collect();
    // The used ones first: what they share with others is theirs.
    layers.sort_by_key(|(is_used, _)| !is_used);
    for (is_used, layer) in layers {
        let refs = fs::read_dir(layer.join("refs")).into_iter().flatten().flatten();
        let names = refs.filter_map(|entry| ContentId::parse(entry.file_name().to_str()?));
        if is_used {
            contents.used.extend(names)
        } else {
            contents.unused.extend(names)
        }
        let own = usage.of(&layer.join("diff"));
        bytes.all += own;
        bytes.unused += if is_used { 0 } else { own };
    }
    (bytes, contents)
}
