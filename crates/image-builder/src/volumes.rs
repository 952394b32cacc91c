//! Volumes that RUN steps see. Whoever asks for a build brings them; where they are kept is unknown here.
//!
//! Each step opens the volumes as they are when it begins, so it sees what the steps before it wrote, and what others
//! committed meanwhile. What it writes goes into folders beside its layer, never into the layer, and becomes part of the
//! volumes after the step has succeeded and before its layer is there:
//!
//! - A step that fails, takes too long or is abandoned leaves the volumes as they were: it has no layer either, and will
//!   run again, on what it found the first time. What the steps before it wrote stays, as their layers do.
//! - A step whose layer is there has its writes in the volumes. The other way round it may happen that a killed server has
//!   the writes and not the layer; then the step runs again.
//!
//! A cached step does not run, whatever the volumes hold by now.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use container_runtime::LayeredMount;
use image_plan::VolumeMount;

use crate::blocking::{Stop, blocking};
use crate::error::BuildError;
use crate::steps::mounts::Prepared;
use crate::store::{LayerStore, Workspace};

/// A volume for the RUN steps of one build. Errors are sentences that name the volume.
pub trait BuildVolume: Send + Sync {
    fn place(&self) -> &VolumeMount;

    /// The volume as it is now. Blocks.
    fn open(&self) -> Result<Box<dyn OpenVolume>, String>;
}

/// A volume as one step sees it. What it names stays on disk for as long as this lives.
pub trait OpenVolume: Send {
    fn tree(&self) -> VolumeTree;

    /// Takes over what the step's container, which has ended, wrote into `upper`, in overlayfs's format. It is part of the
    /// volume only once published, and thrown away if it never is. Blocks.
    fn collect(&mut self, upper: &Path) -> Result<(), String>;

    /// Blocks.
    fn publish(&mut self) -> Result<(), String>;
}

/// As in [`LayeredMount`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeTree {
    /// Lowest first.
    pub layers: Vec<PathBuf>,
    pub data: Option<PathBuf>,
}

/// The volumes of a step that runs or has run.
pub(crate) struct StepVolumes {
    opened: Vec<Opened>,
    /// Its own, not the step's: work on it goes on when the step is abandoned. None without volumes.
    workspace: Option<Workspace>,
}

struct Opened {
    volume: Box<dyn OpenVolume>,
    mount: LayeredMount,
}

impl StepVolumes {
    /// `volumes`: in the order of mounting.
    pub async fn open(volumes: &[Arc<dyn BuildVolume>], store: &LayerStore) -> Result<Self, BuildError> {
        if volumes.is_empty() {
            return Ok(Self { opened: Vec::new(), workspace: None });
        }
        let (volumes, store) = (volumes.to_vec(), store.clone());
        let open = move |_: &Stop| {
            let workspace = store.workspace()?;
            let opened = volumes.iter().enumerate().map(|(number, volume)| {
                let opened = volume.open().map_err(BuildError::Refused)?;
                let mount = layered_mount(volume.place(), opened.tree(), workspace.path().join(number.to_string()));
                Ok(Opened { volume: opened, mount })
            });
            let opened = opened.collect::<Result<_, BuildError>>()?;
            Ok(Self { opened, workspace: Some(workspace) })
        };
        blocking(open).await
    }

    pub fn mounts(&self) -> Vec<LayeredMount> {
        self.opened.iter().map(|opened| opened.mount.clone()).collect()
    }

    /// Makes what the step wrote part of the volumes. All of it is collected before any of it is published: what can be
    /// expected to fail (a full disk) fails in the first part.
    pub async fn commit(mut self) -> Result<(), BuildError> {
        if self.workspace.is_none() {
            return Ok(());
        }
        let commit = move |_: &Stop| {
            for Opened { volume, mount } in &mut self.opened {
                if let Some(upper) = &mount.upper {
                    volume.collect(&upper.join("diff")).map_err(BuildError::Refused)?;
                }
            }
            let mut written = self.opened.iter_mut().filter(|opened| opened.mount.upper.is_some());
            written.try_for_each(|opened| opened.volume.publish().map_err(BuildError::Refused))
        };
        blocking(commit).await
    }
}

fn layered_mount(place: &VolumeMount, tree: VolumeTree, upper: PathBuf) -> LayeredMount {
    LayeredMount {
        target: place.target.clone(),
        layers: tree.layers,
        data: tree.data,
        upper: (!place.read_only).then_some(upper),
        sub_path: place.sub_path.clone(),
        read_only: place.read_only,
    }
}

/// Volumes are mounted last; a step that would not find one of its own mounts is refused.
pub(crate) fn refuse_hidden_mounts(volumes: &[Arc<dyn BuildVolume>], mounts: &Prepared) -> Result<(), BuildError> {
    let targets = mounts.binds.iter().map(|bind| &bind.target).chain(mounts.tmpfs.iter().map(|tmpfs| &tmpfs.target));
    for target in targets {
        let hides = |volume: &&Arc<dyn BuildVolume>| Path::new(target).starts_with(&volume.place().target);
        if let Some(volume) = volumes.iter().find(hides) {
            let place = &volume.place().target;
            return Err(BuildError::Refused(format!(
                "the volume on `{place}` would hide `--mount=target={target}`: mount one of them elsewhere"
            )));
        }
    }
    Ok(())
}
