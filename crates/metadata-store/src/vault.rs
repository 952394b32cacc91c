//! Values that are on disk only encrypted: secrets.
//!
//! The key lives in a file of its own, outside the database, so that a copy of the database alone tells nothing.
//! AES-256-GCM with a random nonce for each value; the record's id is authenticated with it, so that one secret's
//! bytes cannot be put in the place of another's. What is still possible: whoever can read the data folder as the
//! server's user has both.

use std::collections::BTreeMap;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use types::ids::SecretId;

/// Encrypts and decrypts the variables of secrets.
pub struct Vault {
    key: LessSafeKey,
    random: SystemRandom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("the system gave no random numbers, so the secret was not stored")]
    NoRandomness,
    #[error(
        "the secret cannot be decrypted: its record was damaged, or the key file of the data directory was replaced since; create the secret again"
    )]
    Unreadable,
}

impl Vault {
    /// `key`: 32 random bytes that must stay the same for as long as sealed values are to be read.
    pub fn new(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "a key of AES-256 is any 32 bytes")]
        let key = UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key");
        Self { key: LessSafeKey::new(key), random: SystemRandom::new() }
    }

    /// # Errors
    /// [`VaultError::NoRandomness`].
    pub fn seal(&self, id: &SecretId, variables: &BTreeMap<String, String>) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| VaultError::NoRandomness)?;
        // A map of text to text always has a JSON form.
        let mut text = serde_json::to_vec(variables).map_err(|_| VaultError::Unreadable)?;
        let aad = Aad::from(id.as_str().as_bytes());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)
            .map_err(|_| VaultError::NoRandomness)?;
        Ok([nonce.as_slice(), &text].concat())
    }

    /// # Errors
    /// [`VaultError::Unreadable`].
    pub fn open(&self, id: &SecretId, sealed: &[u8]) -> Result<BTreeMap<String, String>, VaultError> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or(VaultError::Unreadable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Unreadable)?;
        let mut text = text.to_vec();
        let aad = Aad::from(id.as_str().as_bytes());
        let plain = self.key.open_in_place(nonce, aad, &mut text).map_err(|_| VaultError::Unreadable)?;
        serde_json::from_slice(plain).map_err(|_| VaultError::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> BTreeMap<String, String> {
        BTreeMap::from([("TOKEN".to_owned(), "hush".to_owned())])
    }

    #[test]
    fn a_sealed_secret_shows_nothing_and_opens_again() {
        let (vault, id) = (Vault::new(&[7; 32]), SecretId::random());
        let sealed = vault.seal(&id, &variables()).unwrap();
        assert!(!sealed.windows(4).any(|part| part == b"hush" || part == b"TOKE"));
        assert_eq!(vault.open(&id, &sealed), Ok(variables()));
        assert_ne!(vault.seal(&id, &variables()).unwrap(), sealed, "a nonce was used twice");
    }

    #[test]
    fn another_key_another_id_and_a_changed_byte_open_nothing() {
        let (vault, id) = (Vault::new(&[7; 32]), SecretId::random());
        let sealed = vault.seal(&id, &variables()).unwrap();
        assert_eq!(Vault::new(&[8; 32]).open(&id, &sealed), Err(VaultError::Unreadable));
        assert_eq!(vault.open(&SecretId::random(), &sealed), Err(VaultError::Unreadable));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(vault.open(&id, &changed), Err(VaultError::Unreadable));
            assert_eq!(vault.open(&id, &sealed[..at]), Err(VaultError::Unreadable));
        }
    }
}
