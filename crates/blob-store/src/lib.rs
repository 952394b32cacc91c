//! Bytes that are too large for a message, and files that are known by their content.
//!
//! Two name spaces. A *blob* has an id that we choose and bytes that a client uploads over HTTP, in parts and in any
//! order, until it says that the upload is complete; from then on it never changes. A *content file* is known by the
//! SHA-256 of its bytes, which is checked before the file gets that name.
//!
//! [`BlobStore`] is what the rest of the system sees; [`DiskBlobs`] keeps everything in one folder. An object store can
//! follow behind the same trait: it has parts, ETags of the same form, and completion. [`http`] serves the URLs that
//! [`urls`] makes; [`sign`] says which of them to believe.
//!
//! Rejected: a hash as the name of a blob (the client uploads before anybody knows the hash, and two users must not
//! learn from a name that they hold the same bytes); one file per part, joined on completion (copies everything once
//! more): parts are written to their place in one sparse file.
//!
//! Mistakes still possible: nothing here knows who still needs a blob; whoever deletes one must.

mod digest;
mod disk;
mod error;
pub mod http;
mod key_file;
mod parts;
mod range;
pub mod sign;
mod store;
pub mod urls;

pub use digest::{Md5Digest, Sha256Digest, multipart_etag};
pub use disk::{DiskBlobs, DiskConfig};
pub use error::BlobError;
pub use key_file::{load_or_create_key, load_or_create_key_bytes};
pub use parts::Parts;
pub use store::{BlobStore, ByteStream, Upload};
