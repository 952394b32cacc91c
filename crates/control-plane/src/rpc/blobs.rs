//! Payloads that travel by HTTP: where to put them and where to get them.

use std::fs::File;
use std::io::SeekFrom;
use std::os::unix::fs::FileExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blob_store::urls::{BlobUrls, UploadUrls};
use blob_store::{BlobError, BlobStore, DiskBlobs, Sha256Digest};
use bytes::Bytes;
use client_protocol::wire;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use tonic::{Request, Response, Status};
use types::ids::BlobId;
use wire::blob_create_response::{UploadTypeOneof, UploadTypesOneof};

use crate::caller::{Caller, Principal, Sdk};
use crate::clock::{steady_ms, wall_ms};
use crate::convert;
use crate::rpc::Api;

/// How long a link works. Uploads of many gigabytes on slow lines take hours.
const LINK_LIFE_SECS: u64 = 24 * 3600;
/// A single `PUT` begins anew when it breaks off, and stores with S3's interface take as much.
const MAX_SINGLE_PUT: u64 = 5 << 30;
/// Bytes read from disk at a time.
const PIECE: usize = 256 << 10;
/// Where a container reaches the blobs: a port on its own loopback that the worker serves.
const IN_CONTAINER: &str = "127.0.0.1:48999";

impl Api {
    /// What URLs for this caller begin with.
    pub(crate) fn url_base(&self, caller: &Caller) -> String {
        let host = match caller.principal {
            Principal::Container(_) => IN_CONTAINER,
            Principal::Client => &caller.authority,
        };
        format!("http://{host}")
    }

    fn blob_urls(&self, caller: &Caller) -> BlobUrls {
        BlobUrls::new(self.url_base(caller), self.shared.blob_key.clone())
    }

    /// A new blob with a part of a file, for as long as a download of it may take.
    pub(crate) async fn blob_from_range(&self, file: File, start: u64, length: u64) -> Result<String, Status> {
        let blob = self.begin_copy(length).await?;
        let copied = copy_range(&self.shared.blobs, &blob, file, start, length).await;
        self.end_copy(&blob, copied).await
    }

    /// A new blob for bytes that are here already. It goes when a link to it does: its client asks for one at once.
    pub(crate) async fn begin_copy(&self, length: u64) -> Result<BlobId, Status> {
        let upload = self.shared.blobs.create(length, None).await.map_err(|e| blob_status(&e))?;
        self.shared.passing_blobs.note(upload.blob.clone(), steady_ms() + LINK_LIFE_SECS * 1000);
        Ok(upload.blob)
    }

    /// What is to be said of a copy; one that failed leaves nothing behind.
    pub(crate) async fn end_copy(&self, blob: &BlobId, copied: Result<(), Status>) -> Result<String, Status> {
        if copied.is_err()
            && let Err(error) = self.shared.blobs.delete(blob).await
        {
            tracing::warn!(%blob, %error, "a copy that failed stays on disk until tomorrow");
        }
        copied.map(|()| blob.to_string())
    }

    pub(crate) async fn blob_create(
        &self,
        request: Request<wire::BlobCreateRequest>,
    ) -> Result<Response<wire::BlobCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let urls = self.blob_urls(&caller);
        let request = request.into_inner();
        let length = u64::try_from(request.content_length)
            .map_err(|_| Status::invalid_argument("the content's length is negative"))?;
        check_single_put(caller.sdk, length)?;
        let sha256 = STANDARD.decode(&request.content_sha256_base64).ok().and_then(|b| Sha256Digest::from_bytes(&b));
        let upload = self.shared.blobs.create(length, sha256).await.map_err(|e| blob_status(&e))?;
        let links = urls.upload(&upload, wall_ms() / 1000 + LINK_LIFE_SECS);
        let (of_old_clients, of_current_ones) = upload_types(caller.sdk, upload.parts.part_length, links);
        let blob_id = upload.blob.to_string();
        Ok(Response::new(wire::BlobCreateResponse {
            blob_id: blob_id.clone(),
            blob_ids: vec![blob_id],
            upload_type_oneof: Some(of_old_clients),
            upload_types_oneof: Some(of_current_ones),
        }))
    }

    pub(crate) async fn blob_get(
        &self,
        request: Request<wire::BlobGetRequest>,
    ) -> Result<Response<wire::BlobGetResponse>, Status> {
        let urls = self.blob_urls(&Caller::of(&request)?);
        let blob = convert::blob_id(&request.get_ref().blob_id)?;
        self.shared.blobs.length(&blob).await.map_err(|e| blob_status(&e))?;
        let download_url = urls.download(&blob, wall_ms() / 1000 + LINK_LIFE_SECS);
        Ok(Response::new(wire::BlobGetResponse { download_url }))
    }
}

/// # Errors
/// `INVALID_ARGUMENT` for a blob that its client could not send.
fn check_single_put(sdk: Sdk, length: u64) -> Result<(), Status> {
    if sdk == Sdk::Python || length <= MAX_SINGLE_PUT {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "this client sends an argument in one request, which takes at most {} GiB, and this one has {length} bytes; put \
         large data into a volume or a bucket",
        MAX_SINGLE_PUT >> 30
    )))
}

/// How to send a blob, in the words of old clients and in those of current ones.
fn upload_types(sdk: Sdk, part_length: u64, links: UploadUrls) -> (UploadTypeOneof, UploadTypesOneof) {
    match sdk {
        // Always in parts, even one: for a single upload these clients accept only hosts that they know.
        Sdk::Python => {
            let multipart = wire::MultiPartUpload {
                part_length: part_length as i64,
                upload_urls: links.parts,
                completion_url: links.complete,
            };
            let list = wire::MultiPartUploadList { items: vec![multipart.clone()] };
            (UploadTypeOneof::Multipart(multipart), UploadTypesOneof::Multiparts(list))
        }
        // These know nothing of parts.
        Sdk::Other => {
            let list = wire::UploadUrlList { items: vec![links.whole.clone()] };
            (UploadTypeOneof::UploadUrl(links.whole), UploadTypesOneof::UploadUrls(list))
        }
    }
}

async fn copy_range(blobs: &DiskBlobs, blob: &BlobId, file: File, start: u64, length: u64) -> Result<(), Status> {
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(start)).await.map_err(|e| unreadable(&e))?;
    let bytes = ReaderStream::with_capacity(file.take(length), PIECE);
    let put = blobs.put_whole(blob, Box::pin(bytes)).await;
    put.map(drop).map_err(|e| blob_status(&e))
}

pub(crate) async fn read_range(file: File, start: u64, length: u64) -> Result<Bytes, Status> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, start).map(|()| bytes)
    });
    let read = read.await.map_err(|_| Status::unavailable("the server is being stopped"))?;
    read.map(Bytes::from).map_err(|error| unreadable(&error))
}

fn unreadable(error: &std::io::Error) -> Status {
    tracing::error!(%error, "a file could not be read");
    Status::data_loss("the server could not read its disk; its log says why")
}

pub(crate) fn blob_status(error: &BlobError) -> Status {
    let text = error.to_string();
    match error {
        BlobError::NotFound(_) | BlobError::NoContent(_) => Status::not_found(text),
        BlobError::TooLarge { .. } | BlobError::WrongDigest { .. } => Status::invalid_argument(text),
        BlobError::NoSpace(_) => Status::resource_exhausted(text),
        BlobError::BrokenOff(_) | BlobError::Io { .. } => Status::internal(text),
        _ => Status::failed_precondition(text),
    }
}

pub(crate) fn parse_sha256(text: &str) -> Result<Sha256Digest, Status> {
    Sha256Digest::from_hex(text)
        .ok_or_else(|| Status::invalid_argument(format!("`{text}` is not a SHA-256 in hexadecimal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_javascript_and_go_clients_get_one_url_and_the_python_client_parts() {
        let links = || UploadUrls { whole: "w".into(), parts: vec!["p1".into(), "p2".into()], complete: "c".into() };
        let (old, current) = upload_types(Sdk::Other, 10, links());
        assert_eq!(old, UploadTypeOneof::UploadUrl("w".into()));
        assert_eq!(current, UploadTypesOneof::UploadUrls(wire::UploadUrlList { items: vec!["w".into()] }));
        let (old, _) = upload_types(Sdk::Python, 10, links());
        assert!(matches!(old, UploadTypeOneof::Multipart(parts) if parts.upload_urls == ["p1", "p2"]));
    }

    #[test]
    fn what_one_request_cannot_carry_is_refused_before_it_is_sent() {
        assert!(check_single_put(Sdk::Other, MAX_SINGLE_PUT).is_ok());
        let error = check_single_put(Sdk::Other, MAX_SINGLE_PUT + 1).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(check_single_put(Sdk::Python, MAX_SINGLE_PUT + 1).is_ok());
    }
}
