//! Digests, as types that cannot hold anything else, and the ETags that clients compare.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};

macro_rules! digests {
    ($($(#[$doc:meta])* $name:ident = $length:literal bytes;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $length]);

        impl $name {
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Accepts lower- and upper-case hex.
            pub fn from_hex(text: &str) -> Option<Self> {
                Self::from_bytes(&hex::decode(text).ok()?)
            }

            pub fn from_base64(text: &str) -> Option<Self> {
                Self::from_bytes(&BASE64.decode(text).ok()?)
            }

            pub fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        /// Lower-case hex.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

digests! {
    /// Names a content file.
    Sha256Digest = 32 bytes;
    /// What the client compares after each part. It guards against accidents, not against malice.
    Md5Digest = 16 bytes;
}

impl Sha256Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    pub(crate) fn finish(hasher: sha2::Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl Md5Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Md5::digest(bytes).into())
    }

    pub(crate) fn finish(hasher: Md5) -> Self {
        Self(hasher.finalize().into())
    }
}

/// The ETag of an upload in parts, as S3 makes it and the client expects it: the MD5 of the parts' MD5s, a dash, and
/// the number of parts.
pub fn multipart_etag(parts: &[Md5Digest]) -> String {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part.as_bytes());
    }
    format!("{}-{}", Md5Digest::finish(hasher), parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_etag_of_parts_is_the_md5_of_their_binary_md5s_and_their_number() {
        let parts = [Md5Digest::of(b"first"), Md5Digest::of(b"second")];
        // python3: hashlib.md5(md5(b"first").digest() + md5(b"second").digest()).hexdigest() + "-2"
        assert_eq!(multipart_etag(&parts), "018d78427d06dd29caa19b06085b7e7e-2");
    }

    #[test]
    fn only_hex_of_the_right_length_is_a_digest() {
        let digest = Sha256Digest::of(b"x");
        assert_eq!(Sha256Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Sha256Digest::from_hex(&digest.to_string().to_uppercase()), Some(digest));
        assert_eq!(Sha256Digest::from_hex("../../etc/passwd"), None);
        assert_eq!(Sha256Digest::from_hex("ab"), None);
    }
}
