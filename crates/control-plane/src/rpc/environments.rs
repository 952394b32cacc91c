//! Environments: namespaces of apps. There is always `main`, the default.

use client_protocol::wire;
use metadata_store::{EnvironmentRecord, Write};
use tonic::{Request, Response, Status};
use types::ids::EnvironmentId;

use crate::caller::{Caller, Principal};
use crate::clock::{seconds, unique_wall_ms};
use crate::rpc::{Api, store_status};
use crate::shared::Shared;

pub const DEFAULT_ENVIRONMENT: &str = "main";

impl Shared {
    pub fn environment_name(&self, id: &EnvironmentId) -> String {
        let environments = self.environments.read();
        environments.values().find(|e| e.id == *id).map_or_else(String::new, |e| e.name.clone())
    }
}

impl Api {
    /// The environment that a request names; an empty name is the caller's own, for a container its app's.
    pub(crate) fn environment(&self, caller: &Caller, name: &str) -> Result<EnvironmentRecord, Status> {
        let environments = self.shared.environments.read();
        if let (true, Principal::Container(task)) = (name.is_empty(), &caller.principal) {
            let id = self.shared.tasks.get(task).map(|t| t.owner.app.environment.clone());
            if let Some(found) = environments.values().find(|e| Some(&e.id) == id.as_ref()) {
                return Ok(found.clone());
            }
        }
        let name = if name.is_empty() { DEFAULT_ENVIRONMENT } else { name };
        environments.get(name).cloned().ok_or_else(|| {
            Status::not_found(format!(
                "environment `{name}` does not exist; create it with `modal environment create {name}`"
            ))
        })
    }

    pub(crate) async fn environment_get_or_create(
        &self,
        request: Request<wire::EnvironmentGetOrCreateRequest>,
    ) -> Result<Response<wire::EnvironmentGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let creation = request.object_creation_type();
        let name = request.deployment_name;
        let known = self.environment(&caller, &name);
        let environment = match (known, creation) {
            (Ok(_), wire::ObjectCreationType::CreateFailIfExists) => {
                return Err(Status::already_exists(format!("environment `{name}` exists already")));
            }
            (Ok(environment), _) => environment,
            (Err(error), wire::ObjectCreationType::Unspecified) => return Err(error),
            (Err(_), _) => self.create_environment(&name).await?,
        };
        let settings = wire::EnvironmentSettings {
            image_builder_version: caller.version.image_builder_version().to_owned(),
            webhook_suffix: String::new(),
        };
        let metadata =
            wire::EnvironmentMetadata { name: environment.name, settings: Some(settings), ..Default::default() };
        let environment_id = environment.id.into();
        Ok(Response::new(wire::EnvironmentGetOrCreateResponse { environment_id, metadata: Some(metadata) }))
    }

    pub(crate) async fn create_environment(&self, name: &str) -> Result<EnvironmentRecord, Status> {
        if !is_environment_name(name) {
            return Err(Status::invalid_argument(format!(
                "`{name}` cannot name an environment: use up to 64 letters, digits, `-`, `_`, beginning with a letter or digit"
            )));
        }
        let record =
            EnvironmentRecord { id: EnvironmentId::random(), name: name.to_owned(), created_at_ms: unique_wall_ms() };
        if self.shared.environments.read().contains_key(name) {
            return Err(Status::already_exists(format!("environment `{name}` exists already")));
        }
        self.shared.store.write(vec![Write::Environment(record.clone())]).await.map_err(|e| store_status(&e))?;
        self.shared.environments.write().insert(name.to_owned(), record.clone());
        Ok(record)
    }

    pub(crate) async fn delete_environment(&self, name: &str) -> Result<Response<()>, Status> {
        if name == DEFAULT_ENVIRONMENT {
            return Err(Status::failed_precondition("the default environment cannot be deleted"));
        }
        let missing = || Status::not_found(format!("environment `{name}` does not exist"));
        let record = self.shared.environments.read().get(name).cloned().ok_or_else(missing)?;
        let apps: Vec<_> = self.shared.apps.iter().filter(|a| a.environment == record.id).map(|a| a.clone()).collect();
        for app in apps {
            self.shared.clone().stop_app(app, "its environment was deleted").await.map_err(|e| store_status(&e))?;
        }
        let id = record.id.clone();
        self.shared.store.write(vec![Write::DeleteEnvironment(record.id)]).await.map_err(|e| store_status(&e))?;
        self.shared.environments.write().remove(name);
        self.shared.forget_objects(|object| object.environment == id);
        Ok(Response::new(()))
    }

    pub(crate) async fn update_environment(
        &self,
        request: wire::EnvironmentUpdateRequest,
    ) -> Result<Response<wire::EnvironmentListItem>, Status> {
        if request.web_suffix.is_some() {
            return Err(Status::unimplemented("web suffixes of environments are not served yet"));
        }
        let current = request.current_name;
        let missing = || Status::not_found(format!("environment `{current}` does not exist"));
        let mut record = self.shared.environments.read().get(&current).cloned().ok_or_else(missing)?;
        if let Some(name) = request.name.filter(|n| *n != current) {
            if current == DEFAULT_ENVIRONMENT || !is_environment_name(&name) {
                return Err(Status::invalid_argument(format!("environment `{current}` cannot be renamed to `{name}`")));
            }
            if self.shared.environments.read().contains_key(&name) {
                return Err(Status::already_exists(format!("environment `{name}` exists already")));
            }
            record.name = name.clone();
            self.shared.store.write(vec![Write::Environment(record.clone())]).await.map_err(|e| store_status(&e))?;
            let mut environments = self.shared.environments.write();
            environments.remove(&current);
            environments.insert(name, record.clone());
        }
        Ok(Response::new(list_item(&record)))
    }

    pub(crate) fn list_environments(&self) -> wire::EnvironmentListResponse {
        wire::EnvironmentListResponse { items: self.shared.environments.read().values().map(list_item).collect() }
    }
}

fn list_item(record: &EnvironmentRecord) -> wire::EnvironmentListItem {
    wire::EnvironmentListItem {
        name: record.name.clone(),
        created_at: seconds(record.created_at_ms),
        default: record.name == DEFAULT_ENVIRONMENT,
        environment_id: record.id.to_string(),
        ..Default::default()
    }
}

/// The rule that the client applies to names before it sends them.
fn is_environment_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let all = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    first && all && name.len() <= 64 && !name.starts_with("en-")
}
