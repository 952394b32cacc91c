//! Typed identifiers, one type per kind, with the client protocol's two-letter prefix.
//!
//! The client picks a Python class by the prefix, and matches some kinds against a pattern: an app is `ap-` and 22
//! letters or digits, a task is `ta-` and 26 upper-case letters or digits. Every id carries exactly one dash.

use std::fmt;
use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Crockford's base 32, the alphabet of ULIDs: sorts by time when the time comes first.
const BASE32: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// `length` random letters and digits, about 5.95 bits each.
pub fn random_base62(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| BASE62[rng.random_range(0..62)] as char).collect()
}

/// Twenty-six characters as in a ULID: 48 bits of `now_ms`, then 80 random bits.
fn ulid(now_ms: u64) -> String {
    let random: u128 = rand::rng().random::<u128>() & ((1 << 80) - 1);
    let value = (u128::from(now_ms) << 80) | random;
    (0..26).rev().map(|digit| BASE32[((value >> (digit * 5)) & 31) as usize] as char).collect()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The prefix of this kind, with its dash.
            pub const PREFIX: &'static str = concat!($prefix, "-");

            /// A new random id of 22 base-62 characters (131 bits).
            pub fn random() -> Self {
                Self(format!("{}{}", Self::PREFIX, random_base62(22)).into())
            }

            /// Accepts text of this kind: the prefix, then one or more ASCII letters or digits.
            pub fn parse(text: &str) -> Option<Self> {
                let rest = text.strip_prefix(Self::PREFIX)?;
                let plain = !rest.is_empty() && rest.len() <= 64 && rest.bytes().all(|b| b.is_ascii_alphanumeric());
                plain.then(|| Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }
    )*};
}

ids! {
    /// A deployed or running program.
    AppId = "ap";
    /// A namespace of apps.
    EnvironmentId = "en";
    /// A function, a class's service function, or a variant of either.
    FunctionId = "fu";
    /// A class; its work is done by its service function.
    ClassId = "cs";
    /// One stored definition of a function.
    DefinitionId = "de";
    /// One invocation, or one map over many inputs.
    FunctionCallId = "fc";
    /// One unit of argument of a function call.
    InputId = "in";
    /// One scheduled run of a container.
    TaskId = "ta";
    ImageId = "im";
    /// One publication of an image under a name.
    ImageRevisionId = "ir";
    MountId = "mo";
    BlobId = "bl";
    SecretId = "st";
    VolumeId = "vo";
    DictId = "di";
    QueueId = "qu";
    /// A network file system.
    SharedVolumeId = "sv";
}

impl TaskId {
    /// A new task id whose text sorts by creation time. Task ids are upper-case: the client recognises a remote
    /// traceback by `<ta-…>` with 26 upper-case letters or digits.
    pub fn at(now_ms: u64) -> Self {
        Self(format!("{}{}", Self::PREFIX, ulid(now_ms)).into())
    }

    /// When it was made; `None` of an id that another program made up.
    pub fn created_at_ms(&self) -> Option<u64> {
        let digits = self.0.strip_prefix(Self::PREFIX)?;
        if digits.len() != 26 {
            return None;
        }
        let value = |digit: u8| BASE32.iter().position(|known| *known == digit).map(|at| at as u128);
        let number = digits.bytes().try_fold(0_u128, |sum, digit| sum.checked_mul(32)?.checked_add(value(digit)?))?;
        Some((number >> 80) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_are_upper_case_and_sort_by_time() {
        let (early, late) = (TaskId::at(1_700_000_000_000), TaskId::at(1_700_000_000_001));
        assert!(early < late);
        assert_eq!(early.created_at_ms(), Some(1_700_000_000_000));
        for other in ["ta-1", "ta-ZZZZZZZZZZZZZZZZZZZZZZZZZZ", "ta-ILOUILOUILOUILOUILOUILOUIL"] {
            assert_eq!(TaskId::parse(other).and_then(|id| id.created_at_ms()), None, "{other}");
        }
        let body = early.as_str().strip_prefix("ta-").unwrap();
        assert_eq!(body.len(), 26);
        assert!(body.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let app = AppId::random();
        assert_eq!(AppId::parse(app.as_str()), Some(app.clone()));
        assert_eq!(FunctionId::parse(app.as_str()), None);
        assert_eq!(AppId::parse("ap-"), None);
        assert_eq!(AppId::parse("ap-a-b"), None);
    }
}
