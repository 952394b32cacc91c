//! Network file systems, and the files in them as clients see them from outside.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use blob_store::{BlobError, BlobStore, DiskBlobs};
use bytes::Bytes;
use client_protocol::wire;
use futures::{Stream, StreamExt, TryStreamExt};
use shared_files::{Content, Entry, EntryKind, FilesError, SharedFiles};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tonic::{Request, Response, Status};
use types::ids::BlobId;
use types::objects::ObjectKind;
use wire::file_entry::FileType;
use wire::shared_volume_get_file_response::DataOneof as Got;
use wire::shared_volume_put_file_request::DataOneof as Put;

use crate::answer_limit;
use crate::caller::Caller;
use crate::clock::{seconds, steady_ms};
use crate::convert;
use crate::rpc::Api;
use crate::rpc::blobs::blob_status;
use crate::rpc::objects::ObjectRequest;

const KIND: ObjectKind = ObjectKind::SharedVolume;
/// Files up to here travel in the answer; clients themselves send larger ones as blobs.
const INLINE: u64 = 4 << 20;
/// Entries in one message of a listing, and messages that wait for the client.
const BATCH: usize = 500;
const BATCHES: usize = 4;
/// What a listing in one message may have: old clients ask for it, and it is all in memory.
const MAX_ENTRIES: usize = 100_000;
const PIECE: usize = 1 << 20;
/// An upload stays so long after it was copied into its file system: a client that had no answer puts it again.
const UPLOAD_KEPT_MS: u64 = 3_600_000;

pub type FileStream = Pin<Box<dyn Stream<Item = Result<wire::SharedVolumeListFilesResponse, Status>> + Send>>;

impl Api {
    pub(crate) async fn shared_volume_get_or_create(
        &self,
        request: Request<wire::SharedVolumeGetOrCreateRequest>,
    ) -> Result<Response<wire::SharedVolumeGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let creation = request.object_creation_type();
        self.refuse_volume(&caller, &request)?;
        let wanted = ObjectRequest {
            kind: KIND,
            name: request.deployment_name,
            environment: request.environment_name,
            creation,
            app: request.app_id,
            version: 0,
        };
        let (record, _) = self.object_get_or_create(&caller, wanted).await?;
        let id = record.id.clone();
        // Of a known one too: the server may have ended between its record and its folder.
        self.in_files(move |files| files.ensure(&id)).await?;
        Ok(Response::new(wire::SharedVolumeGetOrCreateResponse { shared_volume_id: record.id.clone() }))
    }

    /// Whoever takes a volume for a network file system is told so in the words that clients look for.
    fn refuse_volume(&self, caller: &Caller, request: &wire::SharedVolumeGetOrCreateRequest) -> Result<(), Status> {
        let name = &request.deployment_name;
        let looks_up = [wire::ObjectCreationType::Unspecified, wire::ObjectCreationType::CreateIfMissing];
        if name.is_empty() || !looks_up.contains(&request.object_creation_type()) {
            return Ok(());
        }
        let environment = self.environment(caller, &request.environment_name)?;
        let is_known = |kind| self.shared.objects.by_name(&environment.id, kind, name).is_some();
        match !is_known(KIND) && is_known(ObjectKind::Volume) {
            true => Err(Status::not_found("App has wrong entity vo")),
            false => Ok(()),
        }
    }

    pub(crate) fn shared_volume_list(
        &self,
        request: Request<wire::SharedVolumeListRequest>,
    ) -> Result<Response<wire::SharedVolumeListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (records, environment) = self.object_list(&caller, KIND, &request.get_ref().environment_name, None)?;
        let items = records.iter().map(|record| wire::SharedVolumeListItem {
            label: record.name.clone().unwrap_or_default(),
            shared_volume_id: record.id.clone(),
            created_at: seconds(record.created_at_ms),
        });
        Ok(Response::new(wire::SharedVolumeListResponse { items: items.collect(), environment_name: environment.name }))
    }

    pub(crate) async fn shared_volume_put_file(
        &self,
        request: wire::SharedVolumePutFileRequest,
    ) -> Result<Response<wire::SharedVolumePutFileResponse>, Status> {
        let id = self.object(KIND, &request.shared_volume_id)?.id.clone();
        let mut uploaded = None;
        let content = match request.data_oneof {
            Some(Put::Data(data)) => Content::Bytes(data),
            Some(Put::DataBlobId(blob)) => {
                let blob = convert::blob_id(&blob)?;
                self.shared.blobs.length(&blob).await.map_err(|e| blob_status(&e))?;
                let path = self.shared.blobs.path(&blob);
                uploaded = Some(blob);
                Content::File(path)
            }
            None => return Err(Status::invalid_argument(format!("no content is given for `{}`", request.path))),
        };
        let (path, hash) = (request.path, Some(request.sha256_hex).filter(|hash| !hash.is_empty()));
        self.in_files(move |files| files.put(&id, &path, content, hash.as_deref())).await?;
        if let Some(blob) = uploaded {
            self.shared.passing_blobs.note(blob, steady_ms() + UPLOAD_KEPT_MS);
        }
        Ok(Response::new(wire::SharedVolumePutFileResponse { exists: true }))
    }

    pub(crate) async fn shared_volume_get_file(
        &self,
        request: wire::SharedVolumeGetFileRequest,
    ) -> Result<Response<wire::SharedVolumeGetFileResponse>, Status> {
        let id = self.object(KIND, &request.shared_volume_id)?.id.clone();
        let path = request.path.clone();
        let (file, length) = self.in_files(move |files| files.get(&id, &path)).await?;
        let file = File::from_std(file);
        let mut room = None;
        let got = if length <= INLINE {
            room = answer_limit::room_for(length as usize).await;
            let mut data = Vec::with_capacity(length as usize);
            // It may be written to meanwhile.
            let read = file.take(INLINE).read_to_end(&mut data).await;
            read.map_err(|error| unreadable(&request.path, &error))?;
            Got::Data(data.into())
        } else {
            let blob = self.begin_copy(length).await?;
            let copied = copy_into(&self.shared.blobs, &blob, file, length, &request.path).await;
            Got::DataBlobId(self.end_copy(&blob, copied).await?)
        };
        Ok(answer_limit::respond(wire::SharedVolumeGetFileResponse { data_oneof: Some(got) }, room))
    }

    /// A walk that waits for the client when that is slow.
    pub(crate) async fn shared_volume_list_files_stream(
        &self,
        request: wire::SharedVolumeListFilesRequest,
    ) -> Result<FileStream, Status> {
        let id = self.object(KIND, &request.shared_volume_id)?.id.clone();
        let files = self.shared.shared_files.clone();
        let listing = self.shared.listings.place().await?.list(BATCHES, move |outlet| {
            let mut batch = Vec::new();
            let found = files.find(&id, &request.path, &mut |entry| {
                batch.push(wire_entry(entry));
                batch.len() < BATCH || outlet.send(response(&mut batch))
            });
            found.map_err(|error| files_status(&error))?;
            if !batch.is_empty() {
                outlet.send(response(&mut batch));
            }
            Ok(())
        });
        Ok(Box::pin(listing))
    }

    pub(crate) async fn shared_volume_list_files(
        &self,
        request: wire::SharedVolumeListFilesRequest,
    ) -> Result<Response<wire::SharedVolumeListFilesResponse>, Status> {
        let id = self.object(KIND, &request.shared_volume_id)?.id.clone();
        let place = self.shared.listings.place().await?;
        let mut entries = self
            .in_files(move |files| {
                let _place = place;
                let mut entries = Vec::new();
                files.find(&id, &request.path, &mut |entry| {
                    entries.push(wire_entry(entry));
                    entries.len() <= MAX_ENTRIES
                })?;
                Ok(entries)
            })
            .await?;
        match entries.len() > MAX_ENTRIES {
            true => Err(Status::resource_exhausted(format!(
                "there are more than {MAX_ENTRIES} files; list folders one by one, or use a newer client"
            ))),
            false => Ok(Response::new(response(&mut entries))),
        }
    }

    pub(crate) async fn shared_volume_remove_file(
        &self,
        request: wire::SharedVolumeRemoveFileRequest,
    ) -> Result<Response<()>, Status> {
        let id = self.object(KIND, &request.shared_volume_id)?.id.clone();
        self.in_files(move |files| files.remove(&id, &request.path, request.recursive)).await?;
        Ok(Response::new(()))
    }

    async fn in_files<T: Send + 'static>(
        &self,
        act: impl FnOnce(&SharedFiles) -> Result<T, FilesError> + Send + 'static,
    ) -> Result<T, Status> {
        let files = self.shared.shared_files.clone();
        let done = tokio::task::spawn_blocking(move || act(&files)).await;
        done.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| files_status(&error))
    }
}

/// Fills a blob with a file of `length` bytes, which containers may write to meanwhile.
async fn copy_into(blobs: &DiskBlobs, blob: &BlobId, file: File, length: u64, path: &str) -> Result<(), Status> {
    let read_error = Arc::new(OnceLock::new());
    let (note, of) = (read_error.clone(), path.to_owned());
    let bytes = futures::stream::try_unfold((file, length), |(mut file, left)| async move {
        let mut piece = vec![0; PIECE.min(left as usize)];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(piece), (file, left - read as u64))))
    });
    let bytes = bytes.inspect_err(move |error| {
        let _ = note.set(unreadable(&of, error));
    });
    match (blobs.put_whole(blob, bytes.boxed()).await, read_error.get()) {
        (Ok(_), _) => Ok(()),
        (Err(_), Some(unreadable)) => Err(unreadable.clone()),
        (Err(error @ BlobError::WrongLength { .. }), None) => {
            Err(Status::aborted(format!("`{path}` was changed while it was read ({error}); read it again")))
        }
        (Err(error), None) => Err(blob_status(&error)),
    }
}

fn unreadable(path: &str, error: &std::io::Error) -> Status {
    tracing::error!(%error, path, "a file of a network file system could not be read");
    Status::data_loss(format!("could not read `{path}`: {error}"))
}

fn response(batch: &mut Vec<wire::FileEntry>) -> wire::SharedVolumeListFilesResponse {
    wire::SharedVolumeListFilesResponse { entries: std::mem::take(batch) }
}

fn wire_entry(entry: Entry) -> wire::FileEntry {
    let kind = match entry.kind {
        EntryKind::File => FileType::File,
        EntryKind::Folder => FileType::Directory,
        EntryKind::Link => FileType::Symlink,
        // Old clients fail on the wire's own words for pipes and sockets, and no client does anything with them.
        EntryKind::Pipe | EntryKind::Socket | EntryKind::Other => FileType::Unspecified,
    };
    wire::FileEntry { path: entry.path, r#type: kind as i32, mtime: entry.modified, size: entry.size }
}

fn files_status(error: &FilesError) -> Status {
    let text = types::errors::with_causes(error);
    match error {
        FilesError::NotFound(_) => Status::not_found(text),
        FilesError::BadPath(_) | FilesError::WrongDigest { .. } => Status::invalid_argument(text),
        FilesError::IsFolder(_) | FilesError::FolderInTheWay(_) | FilesError::NoFile(_) | FilesError::NoFolder(_) => {
            Status::failed_precondition(text)
        }
        FilesError::NoSpace(_) | FilesError::TooMany { .. } => Status::resource_exhausted(text),
        FilesError::Io { .. } => Status::data_loss(text),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use blob_store::DiskConfig;
    use tonic::Code;

    use super::*;

    /// A file system of a few megabytes, taken away again at the end.
    struct SmallDisk(tempfile::TempDir);

    impl SmallDisk {
        /// `None` without root.
        fn mount() -> Option<Self> {
            let folder = tempfile::tempdir().unwrap();
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=16m", "small"]).arg(folder.path());
            mount.status().is_ok_and(|status| status.success()).then(|| Self(folder))
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    const LENGTH: u64 = 8 << 20;

    /// Copies a file that has `has` bytes, and had [`LENGTH`] of them before `meanwhile`.
    async fn copied(disk: &Path, has: u64, meanwhile: impl FnOnce()) -> Result<(), Status> {
        let blobs = DiskBlobs::open(&disk.join("blobs"), DiskConfig::default()).unwrap();
        let upload = blobs.create(LENGTH, None).await.unwrap();
        meanwhile();
        let file = tempfile::tempfile().unwrap();
        file.set_len(has).unwrap();
        copy_into(&blobs, &upload.blob, File::from_std(file), LENGTH, "model.bin").await
    }

    #[tokio::test]
    async fn a_large_file_is_copied_as_long_as_it_was_and_one_that_shrinks_is_to_be_read_again() {
        let disk = tempfile::tempdir().unwrap();
        for has in [LENGTH, LENGTH + 1] {
            copied(disk.path(), has, || ()).await.unwrap();
        }
        let shrunk = copied(disk.path(), LENGTH - 1, || ()).await.unwrap_err();
        assert_eq!(shrunk.code(), Code::Aborted);
        assert!(shrunk.message().contains("`model.bin` was changed while it was read"), "{shrunk}");
    }

    #[tokio::test]
    async fn a_disk_that_fills_while_a_file_is_read_is_told_as_that() {
        let Some(disk) = SmallDisk::mount() else {
            eprintln!("skipped: mounting a small file system needs root");
            return;
        };
        let disk = disk.0.path();
        let full = copied(disk, LENGTH, || fs::write(disk.join("ballast"), vec![1; 12 << 20]).unwrap()).await;
        let full = full.unwrap_err();
        assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
        assert!(full.message().contains("is full; free some space"), "{full}");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_told_as_that() {
        let disk = tempfile::tempdir().unwrap();
        let blobs = DiskBlobs::open(&disk.path().join("blobs"), DiskConfig::default()).unwrap();
        let upload = blobs.create(LENGTH, None).await.unwrap();
        // Open for writing only.
        let file = File::from_std(fs::File::create(disk.path().join("file")).unwrap());
        let unreadable = copy_into(&blobs, &upload.blob, file, LENGTH, "model.bin").await.unwrap_err();
        assert_eq!(unreadable.code(), Code::DataLoss, "{unreadable}");
    }
}
