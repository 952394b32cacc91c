//! Signatures of blob URLs. Pure: no clock, no I/O.
//!
//! Clients send no credentials to blob URLs, so the URL itself is the permission: it names one thing that may be done
//! to one blob until a time, and carries an HMAC-SHA256 over exactly that.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use types::ids::BlobId;

/// What a URL allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    PutWhole,
    PutPart(u32),
    Complete,
    Get,
}

/// The secret of one data directory. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlKey([u8; 32]);

impl fmt::Debug for UrlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UrlKey(…)")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the URL has no valid signature for this; ask the server for a new one")]
    Wrong,
    #[error("the URL has expired; ask the server for a new one")]
    Expired,
}

impl UrlKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The query that allows `operation` on `blob` until `expires_s` (seconds since the epoch).
    pub fn query(&self, operation: Operation, blob: &BlobId, expires_s: u64) -> String {
        let signature = hex::encode(self.mac(operation, blob, expires_s).finalize().into_bytes());
        format!("expires={expires_s}&signature={signature}")
    }

    /// Whether `query` allows `operation` on `blob` at `now_s`.
    pub fn check(&self, operation: Operation, blob: &BlobId, query: &str, now_s: u64) -> Result<(), SignatureError> {
        self.check_mac(query, now_s, |expires_s| self.mac(operation, blob, expires_s))
    }

    /// As [`Self::query`], for something else than a blob: `what` says what is allowed, and on what.
    pub fn query_for(&self, what: &str, expires_s: u64) -> String {
        let signature = hex::encode(self.mac_for(what, expires_s).finalize().into_bytes());
        format!("expires={expires_s}&signature={signature}")
    }

    /// Whether `query` allows `what` at `now_s`.
    pub fn check_for(&self, what: &str, query: &str, now_s: u64) -> Result<(), SignatureError> {
        self.check_mac(query, now_s, |expires_s| self.mac_for(what, expires_s))
    }

    fn check_mac(&self, query: &str, now_s: u64, mac: impl FnOnce(u64) -> Hmac<Sha256>) -> Result<(), SignatureError> {
        let expires_s = field(query, "expires").and_then(|text| text.parse().ok()).ok_or(SignatureError::Wrong)?;
        let signature = field(query, "signature").and_then(|text| hex::decode(text).ok());
        let signature = signature.ok_or(SignatureError::Wrong)?;
        // Compares in constant time.
        mac(expires_s).verify_slice(&signature).map_err(|_| SignatureError::Wrong)?;
        if now_s >= expires_s { Err(SignatureError::Expired) } else { Ok(()) }
    }

    /// Its messages begin otherwise than those of blobs, so neither passes for the other.
    fn mac_for(&self, what: &str, expires_s: u64) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new(&padded(&self.0));
        mac.update(format!("dorian url 1\n{expires_s}\n{what}").as_bytes());
        mac
    }

    fn mac(&self, operation: Operation, blob: &BlobId, expires_s: u64) -> Hmac<Sha256> {
        let (verb, part) = match operation {
            Operation::PutWhole => ("put-whole", 0),
            Operation::PutPart(part) => ("put-part", part),
            Operation::Complete => ("complete", 0),
            Operation::Get => ("get", 0),
        };
        let mut mac = <Hmac<Sha256> as Mac>::new(&padded(&self.0));
        // No field can hold a newline, so no two meanings share a message.
        mac.update(format!("dorian blob url 1\n{verb}\n{blob}\n{part}\n{expires_s}").as_bytes());
        mac
    }
}

/// The key at HMAC's own block size: a shorter key is padded with zeros by definition (RFC 2104), and this way there is
/// no length check that could fail.
fn padded(key: &[u8; 32]) -> hmac::digest::Key<Hmac<Sha256>> {
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    block[..key.len()].copy_from_slice(key);
    block
}

/// Our queries hold only digits and hex, so nothing needs unescaping.
fn field<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATIONS: [Operation; 5] =
        [Operation::PutWhole, Operation::PutPart(0), Operation::PutPart(1), Operation::Complete, Operation::Get];

    #[test]
    fn a_url_allows_only_what_it_was_made_for() {
        let key = UrlKey::from_bytes([7; 32]);
        let (blob, other) = (BlobId::random(), BlobId::random());
        for made_for in OPERATIONS {
            let query = key.query(made_for, &blob, 1_000);
            for tried in OPERATIONS {
                let expected = if tried == made_for { Ok(()) } else { Err(SignatureError::Wrong) };
                assert_eq!(key.check(tried, &blob, &query, 999), expected, "{made_for:?} used for {tried:?}");
            }
            assert_eq!(key.check(made_for, &other, &query, 999), Err(SignatureError::Wrong));
            assert_eq!(UrlKey::from_bytes([8; 32]).check(made_for, &blob, &query, 999), Err(SignatureError::Wrong));
        }
    }

    #[test]
    fn a_url_ends_at_its_time_and_cannot_be_prolonged() {
        let key = UrlKey::from_bytes([7; 32]);
        let blob = BlobId::random();
        let query = key.query(Operation::Get, &blob, 1_000);
        assert_eq!(key.check(Operation::Get, &blob, &query, 1_000), Err(SignatureError::Expired));
        let prolonged = query.replace("expires=1000", "expires=2000");
        assert_eq!(key.check(Operation::Get, &blob, &prolonged, 1_000), Err(SignatureError::Wrong));
    }

    #[test]
    fn nonsense_is_refused_without_a_panic() {
        let key = UrlKey::from_bytes([7; 32]);
        let blob = BlobId::random();
        for query in ["", "expires=1", "signature=00", "expires=x&signature=zz", "expires=9&signature=", "&&=&"] {
            assert_eq!(key.check(Operation::Get, &blob, query, 0), Err(SignatureError::Wrong));
        }
    }

    #[test]
    fn the_key_does_not_print_itself() {
        assert!(!format!("{:?}", UrlKey::from_bytes([7; 32])).contains('7'));
    }
}
