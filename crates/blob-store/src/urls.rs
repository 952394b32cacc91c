//! The URLs that clients and containers are given for one blob.

use types::ids::BlobId;

use crate::sign::{Operation, UrlKey};
use crate::store::Upload;

/// Makes URLs below one base, such as `http://127.0.0.1:9900`.
#[derive(Debug, Clone)]
pub struct BlobUrls {
    base: String,
    key: UrlKey,
}

/// Both ways to send a blob; the client picks one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadUrls {
    /// One `PUT` of everything. Clients accept it only for hosts that they know.
    pub whole: String,
    /// One `PUT` per part, the first part first.
    pub parts: Vec<String>,
    /// `POST`, once all parts are there.
    pub complete: String,
}

impl BlobUrls {
    pub fn new(base: impl Into<String>, key: UrlKey) -> Self {
        let base = base.into().trim_end_matches('/').to_owned();
        Self { base, key }
    }

    pub fn upload(&self, upload: &Upload, expires_s: u64) -> UploadUrls {
        let blob = &upload.blob;
        UploadUrls {
            whole: self.url(Operation::PutWhole, blob, expires_s),
            parts: (1..=upload.parts.count()).map(|part| self.url(Operation::PutPart(part), blob, expires_s)).collect(),
            complete: self.url(Operation::Complete, blob, expires_s),
        }
    }

    pub fn download(&self, blob: &BlobId, expires_s: u64) -> String {
        self.url(Operation::Get, blob, expires_s)
    }

    fn url(&self, operation: Operation, blob: &BlobId, expires_s: u64) -> String {
        let rest = match operation {
            Operation::PutWhole | Operation::Get => String::new(),
            Operation::PutPart(part) => format!("/{part}"),
            Operation::Complete => "/complete".to_owned(),
        };
        format!("{}/blobs/{blob}{rest}?{}", self.base, self.key.query(operation, blob, expires_s))
    }
}
