//! Volumes between control plane and worker.
//!
//! The control plane says which layers a mount consists of and what becomes part of a volume; the worker mounts, and turns
//! what containers wrote into layers. A layer is handed over as a folder: on one machine both see the same disk.

use std::path::PathBuf;

use types::ids::{TaskId, VolumeId};

/// Names a request; its answer carries it.
pub type RequestId = u64;

/// A volume as a container sees it.
#[derive(Debug, Clone)]
pub struct VolumeSpec {
    pub volume: VolumeId,
    /// Absolute.
    pub mount_path: String,
    /// The layers' folders, lowest first.
    pub layers: Vec<PathBuf>,
    /// Where new layers are built.
    pub building: PathBuf,
    pub read_only: bool,
    /// Only this folder, which exists.
    pub sub_path: Option<String>,
}

/// A layer that is whole, and becomes part of a volume or is thrown away by whoever gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeLayer {
    pub folder: PathBuf,
    /// Names in it.
    pub entries: u64,
    /// Those of them that it deletes.
    pub removed: Vec<PathBuf>,
}

#[derive(Debug)]
pub enum VolumeCommand {
    /// Make a layer of what the task has changed since the last one that was taken.
    Collect { task: TaskId, volume: VolumeId, request: RequestId, leave_open: bool },
    /// What the layer of this request holds is part of the volume now, or is not and must come again.
    Settle { task: TaskId, volume: VolumeId, request: RequestId, is_taken: bool },
    /// Show these layers from now on, unless something in the volume is in use.
    Remount { task: TaskId, volume: VolumeId, request: RequestId, layers: Vec<PathBuf> },
}

impl VolumeCommand {
    pub fn task(&self) -> &TaskId {
        match self {
            Self::Collect { task, .. } | Self::Settle { task, .. } | Self::Remount { task, .. } => task,
        }
    }

    pub fn volume(&self) -> &VolumeId {
        match self {
            Self::Collect { volume, .. } | Self::Settle { volume, .. } | Self::Remount { volume, .. } => volume,
        }
    }
}

#[derive(Debug)]
pub enum VolumeAnswer {
    /// None when nothing has changed.
    Collected(Option<VolumeLayer>),
    /// With what was written between the last collection and the change.
    Remounted(Option<VolumeLayer>),
    /// Nothing was changed; what is open, if that could be seen.
    Busy(Option<String>),
    /// A sentence.
    Failed(String),
    /// The same; it may succeed when the disk has more room.
    NoSpace(String),
}

/// What a container wrote to a volume, and of which no layer could be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncollected {
    pub why: String,
    /// Where it was moved to; without that it is lost.
    pub place: Option<PathBuf>,
}
