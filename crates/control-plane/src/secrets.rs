//! Secrets: environment variables for containers and builds. Their values are decrypted where they are handed out and
//! nowhere else, and never given back to a client.

use std::collections::BTreeMap;
use std::sync::Arc;

use calls::Millis;
use dashmap::DashMap;
use metadata_store::{SecretRecord, Vault, VaultError, Write};
use types::ids::{EnvironmentId, SecretId};

use crate::clock::wall_ms;
use crate::shared::Shared;

/// A nameless secret that belongs to no app, and that no function names, goes so long after it was made: its client
/// has had the time to define what uses it.
const UNCLAIMED_KEPT_MS: Millis = 24 * 3_600_000;

pub struct Secrets {
    vault: Vault,
    by_id: DashMap<SecretId, Arc<SecretRecord>>,
    by_name: DashMap<(EnvironmentId, String), SecretId>,
    /// Held while a secret is looked for and made, replaced or deleted.
    pub creating: tokio::sync::Mutex<()>,
}

impl Secrets {
    /// `key`: see [`Vault::new`].
    pub fn new(key: &[u8; 32]) -> Self {
        let vault = Vault::new(key);
        Self { vault, by_id: DashMap::new(), by_name: DashMap::new(), creating: tokio::sync::Mutex::default() }
    }

    pub fn insert(&self, record: SecretRecord) {
        if let Some(name) = &record.name {
            self.by_name.insert((record.environment.clone(), name.clone()), record.id.clone());
        }
        self.by_id.insert(record.id.clone(), Arc::new(record));
    }

    pub fn remove(&self, id: &SecretId) {
        let Some((_, record)) = self.by_id.remove(id) else { return };
        if let Some(name) = &record.name {
            self.by_name.remove_if(&(record.environment.clone(), name.clone()), |_, named| named == id);
        }
    }

    pub fn get(&self, id: &SecretId) -> Option<Arc<SecretRecord>> {
        self.by_id.get(id).map(|s| s.clone())
    }

    pub fn by_name(&self, environment: &EnvironmentId, name: &str) -> Option<Arc<SecretRecord>> {
        let id = self.by_name.get(&(environment.clone(), name.to_owned()))?.clone();
        self.get(&id)
    }

    pub fn of_environment(&self, environment: &EnvironmentId) -> Vec<Arc<SecretRecord>> {
        self.by_id.iter().filter(|s| s.environment == *environment).map(|s| s.clone()).collect()
    }

    pub fn seal(&self, id: &SecretId, variables: &BTreeMap<String, String>) -> Result<Vec<u8>, VaultError> {
        self.vault.seal(id, variables)
    }

    pub fn open(&self, record: &SecretRecord) -> Result<BTreeMap<String, String>, VaultError> {
        self.vault.open(&record.id, &record.sealed)
    }
}

impl Shared {
    /// The variables of these secrets, later ones winning.
    ///
    /// # Errors
    /// A sentence that names the secret.
    pub fn secret_variables(&self, ids: &[SecretId]) -> Result<BTreeMap<String, String>, String> {
        let mut all = BTreeMap::new();
        for id in ids {
            let record = self.secrets.get(id).ok_or_else(|| {
                format!(
                    "secret `{id}` does not exist (any more); run or deploy the program again to use it as it is now"
                )
            })?;
            let name = record.name.clone().unwrap_or_else(|| id.to_string());
            all.extend(self.secrets.open(&record).map_err(|e| format!("secret `{name}`: {e}"))?);
            self.note_use(&record);
        }
        Ok(all)
    }

    /// Names of these secrets, or their ids, with the bytes of their variables.
    pub fn secret_sizes(&self, ids: &[SecretId]) -> Vec<(String, usize)> {
        let size_of = |id: &SecretId| {
            let record = self.secrets.get(id)?;
            let variables = self.secrets.open(&record).ok()?;
            let bytes = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
            Some((record.name.clone().unwrap_or_else(|| id.to_string()), bytes))
        };
        ids.iter().filter_map(size_of).collect()
    }

    /// To the second: a container start must not wait for the disk, nor write more than it must.
    fn note_use(&self, record: &SecretRecord) {
        let now = wall_ms();
        if record.last_used_ms.is_some_and(|at| now < at + 1000) {
            return;
        }
        // Of whatever the secret is by now: it may be replaced or deleted at this moment.
        let used = |known: &mut Arc<SecretRecord>| Arc::make_mut(known).last_used_ms = Some(now);
        self.secrets.by_id.entry(record.id.clone()).and_modify(used);
        self.store.write_later(vec![Write::TouchSecret(record.id.clone(), now)]);
    }

    pub fn forget_secrets(&self, is_over: impl Fn(&SecretRecord) -> bool) {
        let over: Vec<SecretId> = self.secrets.by_id.iter().filter(|s| is_over(s)).map(|s| s.id.clone()).collect();
        for id in &over {
            self.secrets.remove(id);
        }
        if !over.is_empty() {
            self.store.write_later(over.into_iter().map(Write::DeleteSecret).collect());
        }
    }

    /// Nobody can come back for it.
    pub fn is_abandoned(&self, secret: &SecretRecord) -> bool {
        let is_claimed = || self.owners.iter().any(|o| o.definition().uses_secret(&secret.id));
        secret.name.is_none()
            && secret.app.is_none()
            && wall_ms() > secret.created_at_ms + UNCLAIMED_KEPT_MS
            && !is_claimed()
    }
}
