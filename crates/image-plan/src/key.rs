//! Cache keys: the hash of a cause, never of a result.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Names one layer: 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerKey(String);

impl LayerKey {
    /// The key of "no layer at all", the parent of a first layer.
    pub fn empty() -> Self {
        KeyHasher::new("empty").finish()
    }

    /// Accepts exactly what [`LayerKey::as_str`] gives, so that a key is always safe as a folder name.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| Self(text.to_owned()))
    }

    /// The key of the layer that a step with this fingerprint makes on top of `self`.
    pub fn child(&self, fingerprint: &LayerKey) -> Self {
        KeyHasher::new("child").field(&self.0).field(&fingerprint.0).finish()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough of it for people: twelve digits.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl TryFrom<String> for LayerKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is not a layer key"))
    }
}

impl From<LayerKey> for String {
    fn from(key: LayerKey) -> String {
        key.0
    }
}

/// Hashes a sequence of fields. Every field is preceded by its length, so that `("ab", "c")` and `("a", "bc")` differ.
pub struct KeyHasher(Sha256);

impl KeyHasher {
    /// `kind` separates the different things that are hashed. The version goes up when a builder's result for the
    /// same inputs changes; every layer is rebuilt then.
    pub fn new(kind: &str) -> Self {
        Self(Sha256::new()).field("dorian layer 1").field(kind)
    }

    pub fn field(mut self, value: impl AsRef<[u8]>) -> Self {
        let bytes = value.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// A list: its length, then its fields.
    pub fn list<T: AsRef<[u8]>>(self, values: impl IntoIterator<Item = T>) -> Self {
        let values: Vec<T> = values.into_iter().collect();
        let start = self.field((values.len() as u64).to_le_bytes());
        values.into_iter().fold(start, |hasher, value| hasher.field(value))
    }

    pub fn finish(self) -> LayerKey {
        LayerKey(hex::encode(self.0.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_letter_between_fields_changes_the_key() {
        let left = KeyHasher::new("t").field("ab").field("c").finish();
        let right = KeyHasher::new("t").field("a").field("bc").finish();
        assert_ne!(left, right);
    }

    #[test]
    fn a_list_is_not_its_fields_in_a_row() {
        assert_ne!(KeyHasher::new("t").list(["a"]).finish(), KeyHasher::new("t").field("a").finish());
    }

    #[test]
    fn a_key_that_could_leave_its_folder_is_refused() {
        assert_eq!(LayerKey::parse("../../etc/passwd"), None);
        assert_eq!(LayerKey::parse(&"A".repeat(64)), None);
        let key = LayerKey::empty();
        assert_eq!(LayerKey::parse(key.as_str()), Some(key));
    }
}
