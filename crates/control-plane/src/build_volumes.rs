//! Volumes that the steps of an image build see. When a step takes them and gives its writes back is the builder's matter.

use std::path::Path;
use std::sync::Arc;

use client_protocol::wire;
use image_builder::{BuildVolume, OpenVolume, VolumeMount, VolumeTree};
use manifest::changes::Committed;
use tonic::Status;
use types::errors::with_causes;
use types::ids::VolumeId;
use types::objects::ObjectKind;
use volume_fs::commit::{Taking, collect};
use volume_fs::layer::BuiltLayer;
use volume_fs::{View, VolumeError};

use crate::shared::Shared;
use crate::volumes::{Opened, VolumeUse, open};

struct OfBuild {
    shared: Arc<Shared>,
    usage: VolumeUse,
    place: VolumeMount,
    name: String,
}

struct OfStep {
    shared: Arc<Shared>,
    volume: VolumeId,
    name: String,
    opened: Opened,
    collected: Option<BuiltLayer>,
}

impl VolumeUse {
    /// What of it is part of an image's key.
    pub fn place(&self) -> VolumeMount {
        VolumeMount {
            target: self.mount_path.clone(),
            id: self.volume.to_string(),
            read_only: self.read_only,
            sub_path: self.sub_path.clone(),
        }
    }
}

impl Shared {
    /// # Errors
    /// As [`VolumeUse::of`]; `NOT_FOUND` for a volume that does not exist, `INVALID_ARGUMENT` for two on one path.
    pub fn build_volumes(self: &Arc<Self>, mounts: &[wire::VolumeMount]) -> Result<Vec<Arc<dyn BuildVolume>>, Status> {
        let mut volumes: Vec<Arc<dyn BuildVolume>> = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let usage = VolumeUse::of(mount)?;
            let record = self.objects.get(ObjectKind::Volume, usage.volume.as_str());
            let missing =
                || Status::not_found(format!("the image uses volume `{}`, which does not exist", usage.volume));
            let record = record.ok_or_else(missing)?;
            let place = usage.place();
            if volumes.iter().any(|volume| volume.place().target == place.target) {
                let text = format!("the image has two volumes on `{}`: mount one of them elsewhere", place.target);
                return Err(Status::invalid_argument(text));
            }
            let name = record.name.clone().unwrap_or_else(|| record.id.clone());
            volumes.push(Arc::new(OfBuild { shared: self.clone(), usage, place, name }));
        }
        Ok(volumes)
    }
}

impl BuildVolume for OfBuild {
    fn place(&self) -> &VolumeMount {
        &self.place
    }

    fn open(&self) -> Result<Box<dyn OpenVolume>, String> {
        let (shared, volume, name) = (self.shared.clone(), self.usage.volume.clone(), self.name.clone());
        if shared.objects.get(ObjectKind::Volume, volume.as_str()).is_none() {
            return Err(format!("volume `{name}` was deleted while the image was built"));
        }
        let opened = open(&shared.volumes.store, &self.usage);
        let opened = opened.map_err(|error| format!("volume `{name}` cannot be mounted: {}", with_causes(&error)))?;
        Ok(Box::new(OfStep { shared, volume, name, opened, collected: None }))
    }
}

impl OfStep {
    fn lost(&self, error: &VolumeError) -> String {
        let name = &self.name;
        match error {
            VolumeError::Deleted => format!("volume `{name}` was deleted while a step of the image was using it"),
            error => format!("what the step wrote to volume `{name}` could not be kept: {}", with_causes(error)),
        }
    }
}

impl OpenVolume for OfStep {
    fn tree(&self) -> VolumeTree {
        let data = self.shared.volumes.store.contents().data_layer().map(Path::to_owned);
        VolumeTree { layers: self.opened.layers.folders.clone(), data }
    }

    fn collect(&mut self, upper: &Path) -> Result<(), String> {
        let Opened { layers, building } = &self.opened;
        let below = View::of(layers.folders.iter().cloned());
        let contents = self.shared.volumes.store.contents();
        let collected = collect(contents, building, upper, &below, &Committed::default(), Taking::Final);
        let (layer, _) = collected.map_err(|error| self.lost(&error))?;
        self.collected = layer;
        Ok(())
    }

    fn publish(&mut self) -> Result<(), String> {
        let Some(layer) = self.collected.take() else { return Ok(()) };
        self.shared.publish_layer(&self.volume, &layer).map_err(|error| self.lost(&error))
    }
}

impl Drop for OfStep {
    fn drop(&mut self) {
        let contents = self.shared.volumes.store.contents();
        self.collected.iter().for_each(|layer| layer.discard(contents));
    }
}
