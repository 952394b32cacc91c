//! Files from the user's machine.

use std::collections::HashSet;

use blob_store::{BlobStore, Sha256Digest};
use client_protocol::wire;
use image_builder::{LogSink, StandalonePython};
use metadata_store::{MountFileRecord, MountRecord, Write};
use tonic::{Request, Response, Status};
use types::ids::MountId;
use wire::mount_put_file_request::DataOneof;

use crate::caller::Caller;
use crate::clock::{steady_ms, wall_ms};
use crate::convert;
use crate::mounts::{CLIENT_MOUNT_PREFIX, Mount, content_digest};
use crate::rpc::blobs::{blob_status, parse_sha256};
use crate::rpc::{Api, store_status};

/// Files in one mount. Above this a volume or an image layer serves better.
const MAX_FILES: usize = 200_000;

impl Api {
    pub(crate) async fn mount_check_existence(
        &self,
        request: wire::MountBatchedCheckExistenceRequest,
    ) -> Result<Response<wire::MountBatchedCheckExistenceResponse>, Status> {
        let mut missing = Vec::new();
        for hash in request.sha256_hex_hashes {
            let digest = parse_sha256(&hash)?;
            if !self.shared.sent_contents.has(&digest).await.map_err(|e| blob_status(&e))? {
                missing.push(hash);
            }
        }
        Ok(Response::new(wire::MountBatchedCheckExistenceResponse {
            missing_sha256_hex_hashes: missing,
            ..Default::default()
        }))
    }

    /// Without data it is the old clients' question whether the file is there.
    pub(crate) async fn mount_put_file(
        &self,
        request: wire::MountPutFileRequest,
    ) -> Result<Response<wire::MountPutFileResponse>, Status> {
        let (digest, sent) = (parse_sha256(&request.sha256_hex)?, &self.shared.sent_contents);
        if !sent.has(&digest).await.map_err(|e| blob_status(&e))? {
            let stored = match request.data_oneof {
                None => return Ok(Response::new(wire::MountPutFileResponse { exists: false, checked_at: None })),
                Some(DataOneof::Data(data)) => sent.put(&digest, data).await,
                Some(DataOneof::DataBlobId(id)) => {
                    let blob = convert::blob_id(&id)?;
                    let stored = sent.put_from_blob(&digest, &blob).await;
                    if stored.is_ok() {
                        // The content has the bytes now, and a repeated request finds it.
                        self.shared.passing_blobs.note(blob, steady_ms());
                    }
                    stored
                }
            };
            stored.map_err(|e| blob_status(&e))?;
        }
        Ok(Response::new(wire::MountPutFileResponse { exists: true, checked_at: None }))
    }

    pub(crate) async fn mount_get_or_create(
        &self,
        request: Request<wire::MountGetOrCreateRequest>,
    ) -> Result<Response<wire::MountGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let files = request.files.iter().filter_map(|file| Sha256Digest::from_hex(&file.sha256_hex));
        // The client asks for each content once, under however many names it is mounted.
        let files: HashSet<Sha256Digest> = files.collect();
        let made = self.get_or_create_mount(&caller, request).await?;
        self.shared.sent_contents.were_used(&files).await;
        Ok(made)
    }

    async fn get_or_create_mount(
        &self,
        caller: &Caller,
        request: wire::MountGetOrCreateRequest,
    ) -> Result<Response<wire::MountGetOrCreateResponse>, Status> {
        let _creating = self.shared.mounts.creating.lock().await;
        let name = request.deployment_name.clone();
        if !name.is_empty() {
            if let Some(mount) = self.shared.mounts.by_name(&name) {
                return Ok(reply(&mount));
            }
            if request.object_creation_type() == wire::ObjectCreationType::Unspecified {
                return self.global_mount(&name, caller).await;
            }
        }
        let files = self.mount_files(request.files).await?;
        let digest = content_digest(&files);
        if let (true, Some(mount)) = (name.is_empty(), self.shared.mounts.by_content(&digest)) {
            return Ok(reply(&mount));
        }
        self.create_mount((!name.is_empty()).then_some(name), digest, files).await
    }

    /// A lookup in the global name space: the client's own package, and Pythons for images that have none.
    async fn global_mount(
        &self,
        name: &str,
        caller: &Caller,
    ) -> Result<Response<wire::MountGetOrCreateResponse>, Status> {
        if StandalonePython::parse(name).is_some() {
            // Its files are fetched by the build that copies them.
            return self.create_mount(Some(name.to_owned()), content_digest(&[]), Vec::new()).await;
        }
        let Some(version) = name.strip_prefix(CLIENT_MOUNT_PREFIX) else {
            return Err(Status::not_found(format!("mount `{name}` does not exist")));
        };
        if version.is_empty() || !version.bytes().all(|b| b.is_ascii_alphanumeric() || b".".contains(&b)) {
            return Err(Status::invalid_argument(format!("`{version}` is not a version of the client")));
        }
        self.prepare_client_layer(version, caller);
        self.create_mount(Some(name.to_owned()), content_digest(&[]), Vec::new()).await
    }

    /// The first container will need the client's package: it is made while the image is built, not after. Only for
    /// a guess that costs nothing: the caller's own Python, where a base for it can always be made.
    fn prepare_client_layer(&self, version: &str, caller: &Caller) {
        let Some(python) = caller.python_minor.clone().filter(|p| ["3.11", "3.13"].contains(&p.as_str())) else {
            return;
        };
        let (builder, version) = (self.shared.images.builder.clone(), version.to_owned());
        tokio::spawn(async move {
            // A failure is reported by the container that needs the layer.
            let _ = builder.ensure_client_layer(&version, &python, &LogSink::discard()).await;
        });
    }

    async fn create_mount(
        &self,
        name: Option<String>,
        content_digest: String,
        files: Vec<MountFileRecord>,
    ) -> Result<Response<wire::MountGetOrCreateResponse>, Status> {
        let record = MountRecord { id: MountId::random(), name, content_digest, files, created_at_ms: wall_ms() };
        self.shared.store.write(vec![Write::Mount(record.clone())]).await.map_err(|e| store_status(&e))?;
        Ok(reply(&self.shared.mounts.insert(record)))
    }

    async fn mount_files(&self, files: Vec<wire::MountFile>) -> Result<Vec<MountFileRecord>, Status> {
        if files.len() > MAX_FILES {
            return Err(Status::invalid_argument(format!(
                "the mount has {} files, and at most {MAX_FILES} are taken; ignore what is not needed",
                files.len()
            )));
        }
        let mut records = Vec::with_capacity(files.len());
        for file in files {
            let digest = parse_sha256(&file.sha256_hex)?;
            if !self.shared.blobs.has_content(&digest).await.map_err(|e| blob_status(&e))? {
                return Err(Status::failed_precondition(format!("file `{}` was never uploaded", file.filename)));
            }
            records.push(MountFileRecord {
                path: file.filename,
                sha256: file.sha256_hex,
                mode: file.mode.unwrap_or(0o644) & 0o7777,
                size: file.size.unwrap_or(0),
            });
        }
        Ok(records)
    }
}

fn reply(mount: &Mount) -> Response<wire::MountGetOrCreateResponse> {
    let metadata = wire::MountHandleMetadata { content_checksum_sha256_hex: mount.record.content_digest.clone() };
    Response::new(wire::MountGetOrCreateResponse {
        mount_id: mount.record.id.to_string(),
        handle_metadata: Some(metadata),
    })
}
