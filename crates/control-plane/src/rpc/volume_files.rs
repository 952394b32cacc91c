//! The files of volumes: what clients put, get, list, copy and remove, and what containers commit and reload.
//!
//! Each call exists twice, for the two versions of volumes; both work on any volume.

mod listing;
mod tree;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use client_protocol::wire;
use futures::Stream;
use manifest::content::{BlockDigest, ContentId, block_count, ranges};
use manifest::path::normalize;
use metadata_store::ObjectRecord;
use tonic::{Request, Response, Status};
use types::errors::with_causes;
use types::ids::VolumeId;
use types::objects::ObjectKind;
use volume_fs::http::Urls;
use volume_fs::layer::{Attributes, LayerBuilder, Source};
use volume_fs::{Asker, Kind, View, VolumeError};

use self::listing::Listing;
use self::tree::{copy, file_in, must_be_file, must_be_free, must_have_folder};
use crate::caller::{Caller, ClientVersion, Principal};
use crate::clock::steady_ms;
use crate::rpc::blobs::parse_sha256;
use crate::rpc::{Api, blobs};
use crate::sent_contents::KEPT_AFTER_USE;
use crate::tasks::Task;
use crate::volumes::{TaskMount, VolumeFailure};

/// Messages of a listing that may wait for the client.
const BATCHES_AHEAD: usize = 4;
/// Old clients get files in the answer itself; a larger one is made a blob, which they fetch in pieces.
const MAX_INLINE: u64 = 32 << 20;
/// Contents that were there may be gone before they are put, when another client puts and deletes the same. Then they are
/// asked for as if they had never been there; so often, before the client is told.
const MOST_TRIES: usize = 3;
/// Names in one upload; the message itself has a limit too.
const MAX_FILES: usize = 2_000_000;

pub type EntryStream = Pin<Box<dyn Stream<Item = Result<Vec<wire::FileEntry>, Status>> + Send>>;

/// One file of an upload.
#[derive(Hash)]
struct Upload {
    path: PathBuf,
    mode: u32,
    content: UploadContent,
}

#[derive(Hash)]
enum UploadContent {
    Empty,
    Content(ContentId, u64),
    File(PathBuf),
}

impl Api {
    fn volume(&self, id: &str) -> Result<Arc<ObjectRecord>, Status> {
        self.object(ObjectKind::Volume, id)
    }

    async fn with_volume<T: Send + 'static>(
        &self,
        id: &str,
        work: impl FnOnce(&volume_fs::Volumes, &str) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, Status> {
        let id = self.volume(id)?.id.clone();
        self.shared.volumes.with(move |store| work(store, &id)).await.map_err(|error| volume_status(&error))
    }

    pub(crate) async fn volume_put_files(
        &self,
        request: Request<wire::VolumePutFilesRequest>,
    ) -> Result<Response<()>, Status> {
        let repeated = self.repeatable(&request, "VolumePutFiles")?;
        if repeated.as_ref().is_some_and(|request| self.shared.volumes.is_made(request)) {
            // The files may have gone since.
            return Ok(Response::new(()));
        }
        let request = request.into_inner();
        let (mut uploads, mut sent) = (Vec::new(), Vec::new());
        for file in request.files {
            let path = file_path(&file.filename)?;
            let digest = parse_sha256(&file.sha256_hex)?;
            sent.push(digest);
            let content = self.shared.sent_contents.path(&digest).await.map_err(|e| blobs::blob_status(&e))?;
            uploads.push(Upload { path, mode: file.mode.unwrap_or(0o644), content: UploadContent::File(content) });
        }
        let only_new = request.disallow_overwrite_existing_files;
        let put = self.put_uploads(&request.volume_id, Arc::new(uploads), only_new);
        if self.once(repeated, put).await? {
            self.shared.sent_contents.were_used(&sent).await;
        }
        let until = steady_ms() + KEPT_AFTER_USE.as_millis() as u64;
        sent.into_iter().for_each(|digest| self.shared.passing_contents.note(digest, until));
        Ok(Response::new(()))
    }

    /// Twice per upload: first to learn which blocks are missing, then to have the files.
    pub(crate) async fn volume_put_files2(
        &self,
        request: Request<wire::VolumePutFiles2Request>,
    ) -> Result<Response<wire::VolumePutFiles2Response>, Status> {
        let urls = self.volume_urls(&Caller::of(&request)?);
        let repeated = self.repeatable(&request, "VolumePutFiles2")?;
        if repeated.as_ref().is_some_and(|request| self.shared.volumes.is_made(request)) {
            return Ok(Response::new(wire::VolumePutFiles2Response::default()));
        }
        let request = request.into_inner();
        if request.files.len() > MAX_FILES {
            return Err(Status::invalid_argument(format!("upload at most {MAX_FILES} files at a time")));
        }
        let (mut wanted, mut uploads) = (Vec::new(), Vec::new());
        // A client that comes again has sent at least one block, and says what it was answered.
        let mut again = false;
        for file in request.files {
            let path = file_path(&file.path)?;
            let blocks = digests(&file)?;
            again |= file.blocks.iter().any(|block| block.put_response.is_some());
            let content = match file.size {
                0 => UploadContent::Empty,
                size => UploadContent::Content(ContentId::of(size, &blocks), size),
            };
            wanted.push((file.size, blocks));
            uploads.push(Upload { path, mode: file.mode.unwrap_or(0o644), content });
        }
        if request.disallow_overwrite_existing_files {
            // Before anything is sent, not after.
            let paths: Vec<PathBuf> = uploads.iter().map(|upload| upload.path.clone()).collect();
            self.with_volume(&request.volume_id, move |store, id| {
                let view = store.view(id)?;
                paths.iter().try_for_each(|path| must_be_free(&view, path))
            })
            .await?;
        }
        let mut asker = Asker { key: key_of(&request.volume_id, &uploads), again };
        let (wanted, uploads) = (Arc::new(wanted), Arc::new(uploads));
        let only_new = request.disallow_overwrite_existing_files;
        for _ in 0..MOST_TRIES {
            let missing = self.missing_blocks(&request.volume_id, wanted.clone(), asker, &urls).await?;
            if !missing.is_empty() {
                return Ok(Response::new(wire::VolumePutFiles2Response { missing_blocks: missing }));
            }
            asker.again = true;
            let put = self.put_uploads(&request.volume_id, uploads.clone(), only_new);
            match self.once(repeated.clone(), put).await {
                Err(status) if is_unknown_block(&status) => {}
                Err(status) => return Err(status),
                Ok(is_made_now) => {
                    if is_made_now {
                        self.were_used(asker.key, &uploads);
                    }
                    return Ok(Response::new(wire::VolumePutFiles2Response::default()));
                }
            }
        }
        Err(volume_status(&VolumeError::UnknownBlock))
    }

    async fn missing_blocks(
        &self,
        volume: &str,
        wanted: Arc<Vec<(u64, Vec<BlockDigest>)>>,
        asker: Asker,
        urls: &Urls,
    ) -> Result<Vec<wire::volume_put_files2_response::MissingBlock>, Status> {
        let missing = self.with_volume(volume, move |store, _| {
            let (mut missing, mut asked) = (Vec::new(), HashSet::new());
            for (file, (size, blocks)) in wanted.iter().enumerate().filter(|(_, (size, _))| *size > 0) {
                let id = ContentId::of(*size, blocks);
                // Files with the same bytes are one content, for which the client waits once.
                let again = asker.again || !asked.insert(id.clone());
                let blocks = store.uploads().missing(*size, blocks, Asker { again, ..asker })?;
                missing.extend(blocks.into_iter().map(|block| (file, block, id.clone())));
            }
            Ok(missing)
        });
        let block = |(file, block, id): (usize, usize, ContentId)| wire::volume_put_files2_response::MissingBlock {
            file_index: file as u64,
            block_index: block as u64,
            put_url: urls.put_block(&id, block),
        };
        Ok(missing.await?.into_iter().map(block).collect())
    }

    fn were_used(&self, key: u64, uploads: &[Upload]) {
        let ids = uploads.iter().filter_map(|upload| match &upload.content {
            UploadContent::Content(id, _) => Some(id.clone()),
            UploadContent::Empty | UploadContent::File(_) => None,
        });
        self.shared.volumes.store.uploads().were_used(key, ids);
    }

    /// What a repetition of this change has again, if the client says.
    pub(crate) fn repeatable<T>(&self, request: &Request<T>, method: &str) -> Result<Option<String>, Status> {
        Ok(self.stable_suffix(&Caller::of(request)?, method))
    }

    /// Makes a change, unless this very request has made it; false when it had.
    async fn once(
        &self,
        repeated: Option<String>,
        change: impl Future<Output = Result<(), Status>>,
    ) -> Result<bool, Status> {
        let is_made = |request: &String| self.shared.volumes.is_made(request);
        if repeated.as_ref().is_some_and(is_made) {
            return Ok(false);
        }
        match change.await {
            // The same request, repeated while it was being carried out: the other one may have used up what both need.
            Err(_) if repeated.as_ref().is_some_and(is_made) => Ok(false),
            made => made.map(|()| repeated.is_none_or(|request| self.shared.volumes.note_made(request))),
        }
    }

    async fn put_uploads(&self, id: &str, uploads: Arc<Vec<Upload>>, only_new: bool) -> Result<(), Status> {
        self.change_volume(id, move |view, layer| {
            for upload in uploads.iter() {
                must_be_file(view, &upload.path)?;
                if only_new {
                    must_be_free(view, &upload.path)?;
                }
            }
            for upload in uploads.iter() {
                let source = match &upload.content {
                    UploadContent::Empty => Source::Empty,
                    UploadContent::Content(id, size) => Source::Content(id, *size),
                    UploadContent::File(path) => Source::Share(path),
                };
                layer.file(&upload.path, source, &Attributes { mode: upload.mode & 0o7777, ..Attributes::now() })?;
            }
            Ok(())
        })
        .await
    }

    async fn change_volume(
        &self,
        id: &str,
        change: impl FnOnce(&View, &mut LayerBuilder<'_>) -> Result<(), VolumeError> + Send + 'static,
    ) -> Result<(), Status> {
        let changed = self.with_volume(id, move |store, id| {
            store.change(id, |view, mut layer| {
                change(view, &mut layer)?;
                layer.finish()
            })
        });
        changed.await?;
        self.shared.tidy_volume(id.to_owned());
        Ok(())
    }

    pub(crate) async fn volume_get_file2(
        &self,
        request: Request<wire::VolumeGetFile2Request>,
    ) -> Result<Response<wire::VolumeGetFile2Response>, Status> {
        let urls = self.volume_urls(&Caller::of(&request)?);
        let request = request.into_inner();
        let path = volume_path(&request.path)?;
        let (start, len) = (request.start, request.len);
        let answer = self.with_volume(&request.volume_id, move |store, id| {
            let view = store.view(id)?;
            let node = file_in(&view, &path)?;
            let (blocks, len) = ranges(node.size, start, len);
            let get_urls = blocks.iter().map(|range| urls.read(id, &node, *range)).collect::<Result<_, _>>()?;
            Ok(wire::VolumeGetFile2Response { get_urls, size: node.size, start: start.min(node.size), len })
        });
        answer.await.map(Response::new)
    }

    /// Old clients': the bytes are in the answer.
    pub(crate) async fn volume_get_file(
        &self,
        request: wire::VolumeGetFileRequest,
    ) -> Result<Response<wire::VolumeGetFileResponse>, Status> {
        use wire::volume_get_file_response::DataOneof;
        let path = volume_path(&request.path)?;
        let (start, len) = (request.start, request.len);
        let read = self.with_volume(&request.volume_id, move |store, id| {
            let view = store.view(id)?;
            let node = file_in(&view, &path)?;
            let (_, length) = ranges(node.size, start, len);
            let real = node.content()?.map_or_else(|| node.path().to_owned(), |id| store.contents().path(&id));
            // The view ends here, and with it the promise that the file stays: it is opened before.
            let file =
                std::fs::File::open(&real).map_err(|source| VolumeError::Io { doing: "open", path: real, source })?;
            Ok((file, node.size, start.min(node.size), length))
        });
        let (file, size, start, length) = read.await?;
        let data = if length <= MAX_INLINE {
            DataOneof::Data(blobs::read_range(file, start, length).await?)
        } else {
            DataOneof::DataBlobId(self.blob_from_range(file, start, length).await?)
        };
        Ok(Response::new(wire::VolumeGetFileResponse { data_oneof: Some(data), size, start, len: length }))
    }

    pub(crate) async fn volume_list_files(
        &self,
        client: ClientVersion,
        volume: &str,
        path: &str,
        recursive: bool,
        max_entries: Option<u32>,
    ) -> Result<EntryStream, Status> {
        let (id, path) = (self.volume(volume)?.id.clone(), volume_path(path)?);
        let place = self.shared.listings.place().await?;
        let store = self.shared.volumes.store.clone();
        // What the listing begins with decides the call's status; the rest streams.
        let (node, view) = self
            .shared
            .volumes
            .with({
                let path = path.clone();
                move |store| {
                    let view = store.view(&id)?;
                    let node = view.find(&path)?.ok_or(VolumeError::NotFound(path))?;
                    Ok((node, view))
                }
            })
            .await
            .map_err(|error| volume_status(&error))?;
        let entries = place.list(BATCHES_AHEAD, move |outlet| {
            let _store = store;
            let most = max_entries.map_or(usize::MAX, |most| most as usize);
            let mut listing = Listing { view: &view, client, recursive, left: most, batch: Vec::new(), outlet };
            listing.run(&path, &node).map_err(|error| volume_status(&error))
        });
        Ok(Box::pin(entries))
    }

    pub(crate) async fn volume_remove_file(
        &self,
        repeated: Option<String>,
        volume: &str,
        path: &str,
        recursive: bool,
    ) -> Result<Response<()>, Status> {
        let path = volume_path(path)?;
        if path.as_os_str().is_empty() && !recursive {
            return Err(Status::invalid_argument(
                "`/` is the whole volume; remove it with `recursive`, or delete the volume",
            ));
        }
        let changed = self.change_volume(volume, move |view, layer| {
            let node = view.find(&path)?.ok_or_else(|| VolumeError::NotFound(path.clone()))?;
            if node.kind == Kind::Folder && !recursive && !view.list(&node)?.is_empty() {
                return Err(VolumeError::NotEmpty(path));
            }
            if path.as_os_str().is_empty() {
                return view.list(&node)?.keys().try_for_each(|name| layer.remove(Path::new(name)));
            }
            layer.remove(&path)
        });
        self.once(repeated, changed).await.map(|_| Response::new(()))
    }

    pub(crate) async fn volume_copy_files(
        &self,
        repeated: Option<String>,
        volume: &str,
        sources: Vec<String>,
        target: &str,
        recursive: bool,
    ) -> Result<Response<()>, Status> {
        let into_folder = target.ends_with('/');
        let target = volume_path(target)?;
        let sources = sources.iter().map(|source| volume_path(source)).collect::<Result<Vec<_>, _>>()?;
        if sources.is_empty() {
            return Err(Status::invalid_argument("name at least one file to copy"));
        }
        let changed = self.change_volume(volume, move |view, layer| {
            let at_target = view.find(&target)?;
            let is_folder = at_target.as_ref().is_some_and(|node| node.kind == Kind::Folder);
            if (sources.len() > 1 || into_folder) && !is_folder {
                return Err(
                    at_target.map_or(VolumeError::NotFound(target.clone()), |_| VolumeError::NotFolder(target.clone()))
                );
            }
            must_have_folder(view, &target)?;
            for source in &sources {
                let node = view.find(source)?.ok_or_else(|| VolumeError::NotFound(source.clone()))?;
                let to = match (is_folder, source.file_name()) {
                    (true, Some(name)) => target.join(name),
                    _ => target.clone(),
                };
                copy(view, layer, (source, &node), &to, recursive)?;
            }
            Ok(())
        });
        self.once(repeated, changed).await.map(|_| Response::new(()))
    }

    pub(crate) async fn volume_commit(
        &self,
        request: Request<wire::VolumeCommitRequest>,
    ) -> Result<Response<wire::VolumeCommitResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (task, mount) = self.mounted(&caller, &request.get_ref().volume_id)?;
        self.shared.commit_volume(&task, &mount, false).await.map_err(|error| failure_status(&error))?;
        // The container goes on with what it sees, its own changes included; a reload is the program's to ask for.
        Ok(Response::new(wire::VolumeCommitResponse { skip_reload: true }))
    }

    pub(crate) async fn volume_reload(
        &self,
        request: Request<wire::VolumeReloadRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let (task, mount) = self.mounted(&caller, &request.get_ref().volume_id)?;
        self.shared.reload_volume(&task, &mount).await.map_err(|error| failure_status(&error))?;
        Ok(Response::new(()))
    }

    fn mounted(&self, caller: &Caller, volume: &str) -> Result<(Arc<Task>, Arc<TaskMount>), Status> {
        let volume = VolumeId::parse(volume)
            .ok_or_else(|| Status::invalid_argument(format!("`{volume}` is not the id of a volume")))?;
        let Principal::Container(task) = &caller.principal else {
            return Err(Status::failed_precondition(
                "a volume is committed and reloaded in a container that mounts it; files put from here are committed already",
            ));
        };
        let task = self.shared.tasks.get(task);
        let mount =
            task.as_ref().and_then(|task| task.mounts.lock().iter().find(|m| m.usage.volume == volume).cloned());
        task.zip(mount).ok_or_else(|| {
            Status::failed_precondition(format!(
                "volume `{volume}` is not mounted in this container; name it in the function's `volumes=`"
            ))
        })
    }

    fn volume_urls(&self, caller: &Caller) -> Urls {
        let fetching = self.shared.volumes.store.fetching().clone();
        Urls { base: self.url_base(caller), key: self.shared.blob_key.clone(), fetching }
    }
}

/// Tells apart what clients put where.
fn key_of(volume: &str, uploads: &[Upload]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (volume, uploads).hash(&mut hasher);
    hasher.finish()
}

fn volume_path(text: &str) -> Result<PathBuf, Status> {
    normalize(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn file_path(text: &str) -> Result<PathBuf, Status> {
    match volume_path(text)? {
        path if path.as_os_str().is_empty() => Err(Status::invalid_argument("a file in a volume needs a name")),
        path => Ok(path),
    }
}

fn digests(file: &wire::volume_put_files2_request::File) -> Result<Vec<BlockDigest>, Status> {
    if file.blocks.len() as u64 != block_count(file.size) {
        return Err(Status::invalid_argument(format!(
            "`{}` has {} bytes and {} blocks, which do not go together",
            file.path,
            file.size,
            file.blocks.len()
        )));
    }
    let digest = |block: &wire::volume_put_files2_request::Block| {
        let bytes: &[u8] = &block.contents_sha256;
        bytes.try_into().map_err(|_| Status::invalid_argument(format!("a block of `{}` has no SHA-256", file.path)))
    };
    file.blocks.iter().map(digest).collect()
}

fn failure_status(failure: &VolumeFailure) -> Status {
    match failure {
        VolumeFailure::Store(error) => volume_status(error),
        VolumeFailure::Busy(_) => Status::failed_precondition(failure.to_string()),
        VolumeFailure::Worker(error) => {
            tracing::error!(error, "a volume could not be committed or reloaded");
            Status::failed_precondition(format!("the volume could not be committed or reloaded: {error}"))
        }
    }
}

fn is_unknown_block(status: &Status) -> bool {
    status.message() == VolumeError::UnknownBlock.to_string()
}

pub(crate) fn volume_status(error: &VolumeError) -> Status {
    let text = error.to_string();
    match error {
        VolumeError::NotFound(_) | VolumeError::Deleted => Status::not_found(text),
        VolumeError::Exists(_) => Status::already_exists(text),
        VolumeError::IsFolder(_)
        | VolumeError::NotFolder(_)
        | VolumeError::IntoItself(_)
        | VolumeError::WrongBlock
        | VolumeError::LongPath(_)
        | VolumeError::TooLarge(_) => Status::invalid_argument(text),
        VolumeError::NotEmpty(_) | VolumeError::UnknownBlock => Status::failed_precondition(text),
        // Passes, and the client may well try again.
        VolumeError::Stopping => Status::unavailable(text),
        VolumeError::NoSpace(_) => {
            tracing::error!(error = text, "a volume found the disk full");
            Status::resource_exhausted(
                "the server's disk is full, nothing was changed; free some space in its data directory",
            )
        }
        VolumeError::Io { .. } => {
            tracing::error!(error = with_causes(error), "a volume could not be read or written");
            Status::data_loss("the server could not use its disk for this volume; its log says why")
        }
    }
}
