//! Volumes as clients name them. Their files are in `volume_files.rs`.

use client_protocol::wire;
use metadata_store::ObjectRecord;
use tonic::{Request, Response, Status};
use types::objects::ObjectKind;

use crate::caller::Caller;
use crate::clock::seconds;
use crate::rpc::Api;
use crate::rpc::objects::{ObjectRequest, creation_info};

impl Api {
    pub(crate) async fn volume_get_or_create(
        &self,
        request: Request<wire::VolumeGetOrCreateRequest>,
    ) -> Result<Response<wire::VolumeGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (creation, version) = (request.object_creation_type(), request.version());
        let wanted = ObjectRequest {
            kind: ObjectKind::Volume,
            name: request.deployment_name,
            environment: request.environment_name,
            creation,
            app: request.app_id,
            version: chosen(version) as u32,
        };
        let (volume, _) = self.object_get_or_create(&caller, wanted).await?;
        let metadata = metadata(&volume);
        let version = metadata.version;
        let volume_id = volume.id.clone();
        Ok(Response::new(wire::VolumeGetOrCreateResponse { volume_id, version, metadata: Some(metadata) }))
    }

    pub(crate) fn volume_get_by_id(&self, id: &str) -> Result<Response<wire::VolumeGetByIdResponse>, Status> {
        let volume = self.object(ObjectKind::Volume, id)?;
        let metadata = Some(metadata(&volume));
        Ok(Response::new(wire::VolumeGetByIdResponse { volume_id: volume.id.clone(), metadata }))
    }

    pub(crate) fn volume_list(
        &self,
        request: Request<wire::VolumeListRequest>,
    ) -> Result<Response<wire::VolumeListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (volumes, environment) =
            self.object_list(&caller, ObjectKind::Volume, &request.environment_name, request.pagination)?;
        let item = |volume: &ObjectRecord| wire::VolumeListItem {
            label: volume.name.clone().unwrap_or_default(),
            volume_id: volume.id.clone(),
            created_at: seconds(volume.created_at_ms),
            metadata: Some(metadata(volume)),
        };
        let items = volumes.iter().map(|volume| item(volume)).collect();
        Ok(Response::new(wire::VolumeListResponse { items, environment_name: environment.name }))
    }
}

/// The two versions differ in which calls clients make. Who does not say gets the first.
fn chosen(version: wire::VolumeFsVersion) -> wire::VolumeFsVersion {
    match version {
        wire::VolumeFsVersion::Unspecified => wire::VolumeFsVersion::V1,
        version => version,
    }
}

pub(crate) fn metadata(volume: &ObjectRecord) -> wire::VolumeMetadata {
    wire::VolumeMetadata {
        version: volume.version as i32,
        name: volume.name.clone().unwrap_or_default(),
        creation_info: Some(creation_info(volume)),
    }
}
