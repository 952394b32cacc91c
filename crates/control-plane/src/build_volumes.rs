//! Volumes in image builds: the steps of a build see them, and what they write becomes part of them at its end.

use std::path::PathBuf;
use std::sync::Arc;

use image_builder::{BuildVolume, LayeredMount};
use manifest::changes::Committed;
use types::errors::with_causes;
use types::ids::VolumeId;
use volume_fs::View;
use volume_fs::commit::{Taking, collect};
use worker_protocol::{VolumeLayer, VolumeSpec};

use crate::shared::Shared;
use crate::volumes::{TaskMount, VolumeUse};

pub struct VolumeOfBuild {
    spec: VolumeSpec,
    /// Where large files' bytes are, if the kernel can show them from there.
    data: Option<PathBuf>,
    /// Made by the first step that runs; a build whose steps are all there already makes none.
    upper: PathBuf,
    /// Keeps the layers on disk.
    _mount: Arc<TaskMount>,
}

impl VolumeOfBuild {
    pub fn for_builder(&self) -> BuildVolume {
        let spec = &self.spec;
        let mount = LayeredMount {
            target: spec.mount_path.clone(),
            layers: spec.layers.clone(),
            data: self.data.clone(),
            upper: (!spec.read_only).then(|| self.upper.clone()),
            sub_path: spec.sub_path.clone(),
            read_only: spec.read_only,
        };
        BuildVolume { id: spec.volume.to_string(), mount }
    }
}

impl Shared {
    /// # Errors
    /// A sentence that names the volume.
    pub async fn volumes_of_build(&self, uses: &[VolumeUse]) -> Result<Vec<VolumeOfBuild>, String> {
        let (specs, mounts) = self.volume_specs(uses).await?;
        let data = self.volumes.store.contents().data_layer();
        let of_build = |(spec, mount): (VolumeSpec, _)| {
            // A name of its own: the same volume may be in several builds.
            let upper = spec.building.join(VolumeId::random().as_str());
            VolumeOfBuild { upper, data: data.map(Into::into), spec, _mount: mount }
        };
        Ok(specs.into_iter().zip(mounts).map(of_build).collect())
    }

    /// After the build's last container.
    pub async fn keep_writes_of_build(self: &Arc<Self>, volumes: Vec<VolumeOfBuild>) {
        for volume in volumes.into_iter().filter(|volume| !volume.spec.read_only) {
            let id = volume.spec.volume.clone();
            let collected = self.volumes.with(move |store| {
                let upper = volume.upper.join("diff");
                if !upper.exists() {
                    return Ok(None);
                }
                let below = View::of(volume.spec.layers.iter().cloned());
                let (building, none) = (&volume.spec.building, Committed::default());
                let (layer, _) = collect(store.contents(), building, &upper, &below, &none, Taking::Final)?;
                let _ = std::fs::remove_dir_all(&volume.upper);
                Ok(layer)
            });
            let kept = match collected.await {
                Ok(None) => continue,
                Ok(Some(layer)) => {
                    let layer = VolumeLayer { folder: layer.folder, entries: layer.entries, removed: layer.removed };
                    self.publish_volume(&id, layer).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = kept {
                tracing::error!(volume = %id, error = with_causes(&error), "what a build wrote to a volume is lost");
            }
        }
    }
}
