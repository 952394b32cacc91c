//! How much of the disk each volume takes up, and how much of it could go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use manifest::content::ContentId;
use trees::usage::Usage;

use super::{Head, Volumes};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeBytes {
    /// Contents that several volumes have count in equal parts.
    pub all: u64,
    /// Of versions before the newest: replaced or deleted files that were not given back yet.
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
        let head_of = |id: &str| Some(self.inner.volumes.lock().get(id)?.state.lock().head.clone());
        measure(&self.inner.root, head_of, usage)
    }
}

/// The same from the folder alone, while no server uses it.
pub fn bytes_on_disk(root: &Path, usage: &mut Usage) -> VolumesBytes {
    measure(root, |_| None, usage)
}

fn measure(root: &Path, head_of: impl Fn(&str) -> Option<Head>, usage: &mut Usage) -> VolumesBytes {
    let mut measured = VolumesBytes::default();
    let mut referred: HashMap<String, Referred> = HashMap::new();
    let mut sharing: HashMap<ContentId, u64> = HashMap::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if !id.starts_with("vo-") {
            continue;
        }
        let head = head_of(&id).or_else(|| serde_json::from_slice(&fs::read(entry.path().join("head")).ok()?).ok());
        let (bytes, contents) = layers_of(&entry.path(), &head.unwrap_or_default(), usage);
        contents.used.union(&contents.unused).for_each(|content| *sharing.entry(content.clone()).or_default() += 1);
        measured.volumes.insert(id.clone(), bytes);
        referred.insert(id, contents);
    }
    let content = root.join("content");
    let mut size_of = |id: &ContentId| {
        // Its names are references; the bytes count here, not where else it may have one.
        let metadata = fs::metadata(content.join(id.as_str()));
        metadata.map_or(0, |metadata| {
            usage.of_file(&metadata);
            metadata.blocks() * 512
        })
    };
    for (id, contents) in &referred {
        let Some(bytes) = measured.volumes.get_mut(id) else { continue };
        let mut share = |content: &ContentId| size_of(content) / sharing.get(content).copied().unwrap_or(1).max(1);
        let unused: u64 = contents.unused.difference(&contents.used).map(&mut share).sum();
        bytes.all += contents.used.iter().map(&mut share).sum::<u64>() + unused;
        bytes.unused = (bytes.unused + unused).min(bytes.all);
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

fn layers_of(volume: &Path, head: &Head, usage: &mut Usage) -> (VolumeBytes, Referred) {
    let (mut bytes, mut contents) = (VolumeBytes::default(), Referred::default());
    bytes.unused = head.layers.iter().map(|layer| layer.hidden_bytes).sum();
    let is_used = |name: &str| head.layers.iter().any(|layer| layer.name == name);
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
