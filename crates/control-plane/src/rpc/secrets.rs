//! Secrets. Values come in and never go out.

use std::collections::BTreeMap;
use std::sync::Arc;

use client_protocol::wire;
use metadata_store::{EnvironmentRecord, SecretRecord, VaultError, Write};
use tonic::{Request, Response, Status};
use types::ids::{AppId, SecretId};
use wire::ObjectCreationType;

use crate::caller::Caller;
use crate::clock::{seconds, unique_wall_ms};
use crate::environment_size;
use crate::near_matches::did_you_mean;
use crate::rpc::{Api, store_status};

/// Names and values of one secret together. What a process gets as its environment must fit into 2 MiB or so, and a
/// bigger thing wants to be a file.
const MAX_BYTES: usize = 256 << 10;

impl Api {
    pub(crate) async fn secret_get_or_create(
        &self,
        request: Request<wire::SecretGetOrCreateRequest>,
    ) -> Result<Response<wire::SecretGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.secret_environment(&caller, &request)?;
        let creation = request.object_creation_type();
        let name = request.deployment_name;
        let _creating = self.shared.secrets.creating.lock().await;
        let known = self.shared.secrets.by_name(&environment.id, &name).filter(|_| !name.is_empty());
        // A repeated request gets the same secret: the first answer may have been lost.
        let suffix = self.stable_suffix(&caller, "Secret");
        let id = suffix.and_then(|suffix| SecretId::parse(&format!("{}{suffix}", SecretId::PREFIX)));
        if let Some(made) = id.as_ref().and_then(|id| self.shared.secrets.get(id)) {
            let metadata = Some(self.secret_metadata(&made));
            return Ok(Response::new(wire::SecretGetOrCreateResponse { secret_id: made.id.to_string(), metadata }));
        }
        let secret = match (creation, known) {
            (ObjectCreationType::Unspecified, Some(secret)) => with_keys(secret, &request.required_keys)?,
            (ObjectCreationType::Unspecified, None) => {
                return Err(self.no_secret(&environment, &name));
            }
            (ObjectCreationType::CreateFailIfExists, Some(_)) => {
                return Err(Status::already_exists(format!(
                    "secret `{name}` exists already in environment `{}`; replace it with `--force`",
                    environment.name
                )));
            }
            (ObjectCreationType::CreateIfMissing, Some(secret)) => with_keys(secret, &request.required_keys)?,
            (ObjectCreationType::CreateOverwriteIfExists, Some(old)) => {
                let replaced = SecretRecord { last_used_ms: None, ..old.as_ref().clone() };
                self.store_secret(replaced, request.env_dict.into_iter().collect()).await?
            }
            (kind, _) => {
                let app = self.owning_app(kind, &request.app_id)?;
                let named = !matches!(kind, ObjectCreationType::AnonymousOwnedByApp | ObjectCreationType::Ephemeral);
                if named && !is_object_name(&name) {
                    return Err(Status::invalid_argument(format!(
                        "`{name}` cannot name a secret: use up to 64 letters, digits, `-`, `_` and `.`"
                    )));
                }
                let record = SecretRecord {
                    id: id.unwrap_or_else(SecretId::random),
                    environment: environment.id.clone(),
                    name: named.then_some(name),
                    app,
                    keys: Vec::new(),
                    sealed: Default::default(),
                    created_at_ms: unique_wall_ms(),
                    last_used_ms: None,
                };
                self.store_secret(record, request.env_dict.into_iter().collect()).await?
            }
        };
        let metadata = Some(self.secret_metadata(&secret));
        Ok(Response::new(wire::SecretGetOrCreateResponse { secret_id: secret.id.to_string(), metadata }))
    }

    fn no_secret(&self, environment: &EnvironmentRecord, name: &str) -> Status {
        let known = self.shared.secrets.of_environment(&environment.id);
        let meant = did_you_mean(name, known.iter().filter_map(|secret| secret.name.as_deref()));
        Status::not_found(format!(
            "Secret '{name}' not found in environment '{0}'; create it with `modal secret create --env {0} {name} \
             KEY=VALUE`{meant}",
            environment.name
        ))
    }

    /// An app's nameless secret lives in the app's environment.
    fn secret_environment(
        &self,
        caller: &Caller,
        request: &wire::SecretGetOrCreateRequest,
    ) -> Result<EnvironmentRecord, Status> {
        if request.environment_name.is_empty() && !request.app_id.is_empty() {
            let of_app = self.app(&request.app_id)?.environment.clone();
            let environments = self.shared.environments.read();
            if let Some(found) = environments.values().find(|e| e.id == of_app) {
                return Ok(found.clone());
            }
        }
        self.environment(caller, &request.environment_name)
    }

    fn owning_app(&self, kind: ObjectCreationType, app: &str) -> Result<Option<AppId>, Status> {
        match kind {
            ObjectCreationType::AnonymousOwnedByApp => self.app(app).map(|app| Some(app.id.clone())),
            _ => Ok(None),
        }
    }

    async fn store_secret(
        &self,
        record: SecretRecord,
        variables: BTreeMap<String, String>,
    ) -> Result<Arc<SecretRecord>, Status> {
        check_variables(&variables)?;
        let sealed = self.shared.secrets.seal(&record.id, &variables).map_err(|e| vault_status(&e))?;
        let record = SecretRecord { keys: variables.into_keys().collect(), sealed: sealed.into(), ..record };
        self.shared.store.write(vec![Write::Secret(record.clone())]).await.map_err(|e| store_status(&e))?;
        self.shared.secrets.insert(record.clone());
        Ok(Arc::new(record))
    }

    pub(crate) fn secret(&self, id: &str) -> Result<Arc<SecretRecord>, Status> {
        let parsed = SecretId::parse(id).ok_or_else(|| Status::invalid_argument(format!("`{id}` is no secret id")))?;
        let found = self.shared.secrets.get(&parsed);
        found.ok_or_else(|| {
            Status::not_found(format!("secret `{id}` does not exist; `modal secret list` shows those that do"))
        })
    }

    pub(crate) fn secret_get_info(&self, id: &str) -> Result<Response<wire::SecretGetInfoResponse>, Status> {
        let metadata = Some(self.secret_metadata(&*self.secret(id)?));
        Ok(Response::new(wire::SecretGetInfoResponse { metadata }))
    }

    pub(crate) async fn secret_update(&self, request: wire::SecretUpdateRequest) -> Result<Response<()>, Status> {
        let _creating = self.shared.secrets.creating.lock().await;
        let secret = self.secret(&request.secret_id)?;
        let mut variables = self.shared.secrets.open(&secret).map_err(|e| vault_status(&e))?;
        for update in request.updates {
            match update.value {
                Some(value) => variables.insert(update.key, value),
                None => variables.remove(&update.key),
            };
        }
        self.store_secret(secret.as_ref().clone(), variables).await?;
        Ok(Response::new(()))
    }

    pub(crate) async fn secret_delete(&self, id: &str) -> Result<Response<()>, Status> {
        let _creating = self.shared.secrets.creating.lock().await;
        let secret = self.secret(id)?;
        let gone = vec![Write::DeleteSecret(secret.id.clone())];
        self.shared.store.write(gone).await.map_err(|e| store_status(&e))?;
        self.shared.secrets.remove(&secret.id);
        Ok(Response::new(()))
    }

    pub(crate) fn secret_list(
        &self,
        request: Request<wire::SecretListRequest>,
    ) -> Result<Response<wire::SecretListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        let page = request.pagination.unwrap_or_default();
        let mut secrets = self.shared.secrets.of_environment(&environment.id);
        secrets.retain(|s| {
            s.name.is_some() && (page.created_before <= 0.0 || seconds(s.created_at_ms) < page.created_before)
        });
        secrets.sort_by_key(|s| std::cmp::Reverse(s.created_at_ms));
        if page.max_objects > 0 {
            secrets.truncate(page.max_objects as usize);
        }
        let items = secrets.iter().map(|s| self.secret_item(s, &environment)).collect();
        Ok(Response::new(wire::SecretListResponse { items, environment_name: environment.name }))
    }

    fn secret_item(&self, secret: &SecretRecord, environment: &EnvironmentRecord) -> wire::SecretListItem {
        wire::SecretListItem {
            label: secret.name.clone().unwrap_or_default(),
            created_at: seconds(secret.created_at_ms),
            last_used_at: secret.last_used_ms.map_or(0.0, seconds),
            environment_name: environment.name.clone(),
            secret_id: secret.id.to_string(),
            metadata: Some(self.secret_metadata(secret)),
        }
    }

    fn secret_metadata(&self, secret: &SecretRecord) -> wire::SecretMetadata {
        wire::SecretMetadata {
            name: secret.name.clone().unwrap_or_default(),
            creation_info: Some(wire::CreationInfo { created_at: seconds(secret.created_at_ms), ..Default::default() }),
            keys: secret.keys.clone(),
            environment_name: self.shared.environment_name(&secret.environment),
            last_used_at: secret.last_used_ms.map_or(0.0, seconds),
        }
    }
}

fn with_keys(secret: Arc<SecretRecord>, required: &[String]) -> Result<Arc<SecretRecord>, Status> {
    let missing: Vec<&str> = required.iter().filter(|k| !secret.keys.contains(k)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(secret);
    }
    let name = secret.name.as_deref().unwrap_or_default();
    Err(Status::failed_precondition(format!(
        "Secret is missing key(s): {}; secret `{name}` does not have them",
        missing.join(", ")
    )))
}

fn check_variables(variables: &BTreeMap<String, String>) -> Result<(), Status> {
    let size: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_BYTES {
        return Err(Status::invalid_argument(format!(
            "a secret holds at most {} KiB, this one has {} KiB; put large data into a file",
            MAX_BYTES >> 10,
            size.div_ceil(1 << 10)
        )));
    }
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Status::invalid_argument(format!(
                "`{}` cannot be an environment variable: a name has no `=`, and neither name nor value holds a zero byte",
                name.escape_debug()
            )));
        }
        environment_size::check_variable(name, value).map_err(Status::invalid_argument)?;
    }
    Ok(())
}

/// As the client checks names of deployed objects.
pub(crate) fn is_object_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

fn vault_status(error: &VaultError) -> Status {
    Status::failed_precondition(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_no_process_could_be_given_is_refused() {
        assert!(check_variables(&variables(&[("A", "b=c")])).is_ok());
        for bad in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            assert!(check_variables(&variables(&[bad])).is_err(), "{bad:?}");
        }
        assert!(check_variables(&variables(&[("A", &"x".repeat(MAX_BYTES))])).is_err());
        let half = "x".repeat(MAX_BYTES / 2 - 3);
        assert!(check_variables(&variables(&[("A", &half), ("B", &half)])).is_ok());
        let refused = check_variables(&variables(&[("A", "1"), ("MODEL", &half)])).unwrap_err();
        assert!(refused.message().contains("`MODEL`"), "{refused}");
    }
}
