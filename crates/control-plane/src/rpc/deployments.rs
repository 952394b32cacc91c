//! Publishing: what an app's names mean from now on, and going back to what they meant.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client_protocol::{Passthrough, wire};
use metadata_store::{AppRecord, AppState, DefinitionRecord, DeploymentRecord, Write};
use prost::Message;
use tonic::{Request, Response, Status};
use types::ids::{ClassId, DefinitionId, FunctionId};
use worker_protocol::Descriptor;

use crate::apps::life::{self, Event};
use crate::apps::{App, Published};
use crate::caller::{Caller, ClientVersion};
use crate::clock::{seconds, steady_ms, unique_wall_ms, wall_ms};
use crate::definition::Definition;
use crate::deployments::{promotion_target, rollback_target};
use crate::logs::Origin;
use crate::owner::Owner;
use crate::refusals::publication_warning;
use crate::rpc::functions::function_record;
use crate::rpc::{Api, store_status};

/// What is to be published.
#[derive(Default)]
struct Publication {
    function_ids: BTreeMap<String, FunctionId>,
    class_ids: BTreeMap<String, ClassId>,
    /// Functions that are not named here get what was made last for them, or keep what they have.
    definition_ids: BTreeMap<FunctionId, DefinitionId>,
    /// The state that the app goes to, if it changes.
    state: Option<AppState>,
    name: Option<String>,
    tags: BTreeMap<String, String>,
    client_version: String,
    tag: String,
    rollback_version: Option<u32>,
    commit_info: bytes::Bytes,
    staged: bool,
}

impl Publication {
    /// A former version, once more.
    fn again(version: &DeploymentRecord, client: ClientVersion) -> Self {
        Self {
            function_ids: version.function_ids.clone(),
            class_ids: version.class_ids.clone(),
            definition_ids: version.definition_ids.clone(),
            client_version: client.to_string(),
            commit_info: version.commit_info.clone(),
            ..Self::default()
        }
    }

    /// All that the store gets of it. `record` is the app's as it was; `version` is the number of a deployment.
    fn writes(&self, mut record: AppRecord, live: &Live, deployed_at_ms: u64, version: Option<u32>) -> Vec<Write> {
        let deployment = version.map(|version| DeploymentRecord {
            app: record.id.clone(),
            version,
            deployed_at_ms,
            client_version: self.client_version.clone(),
            tag: self.tag.clone(),
            rollback_version: self.rollback_version,
            staged: self.staged,
            commit_info: self.commit_info.clone(),
            function_ids: self.function_ids.clone(),
            class_ids: self.class_ids.clone(),
            definition_ids: live.iter().map(|(owner, d)| (owner.id.clone(), d.id.clone())).collect(),
        });
        let mut writes: Vec<Write> = deployment.into_iter().map(Write::Deployment).collect();
        if !self.staged {
            self.change(&mut record, deployed_at_ms, version);
            writes.extend(live.iter().map(|(owner, d)| Write::Function(function_record(owner, d))));
            writes.push(Write::App(record));
        }
        writes
    }

    fn change(&self, record: &mut AppRecord, deployed_at_ms: u64, version: Option<u32>) {
        record.function_ids = self.function_ids.clone();
        record.class_ids = self.class_ids.clone();
        record.client_version = self.client_version.clone();
        if !self.tags.is_empty() {
            record.tags = self.tags.clone();
        }
        if let Some(state) = self.state {
            record.state = state;
        }
        if let Some(name) = &self.name {
            record.name = Some(name.clone());
        }
        if let Some(version) = version {
            record.deployed_at_ms = Some(deployed_at_ms);
            record.version = version;
        }
    }
}

/// Functions with the definitions to run.
type Live = Vec<(Arc<Owner>, Arc<Definition>)>;

impl Api {
    pub(crate) async fn app_publish(
        &self,
        request: Request<wire::AppPublishRequest>,
    ) -> Result<Response<wire::AppPublishResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let app = self.app(&request.app_id)?;
        let deployed = request.app_state() == wire::AppState::Deployed;
        let publication = Publication {
            function_ids: self.layout_functions(&app, &request.function_ids)?,
            class_ids: parse_class_ids(&request.class_ids)?,
            definition_ids: parse_definition_ids(&request.definition_ids)?,
            state: published_state(request.app_state()),
            name: deployed.then(|| request.name.clone()),
            tags: request.tags.into_iter().collect(),
            client_version: caller.version.to_string(),
            tag: request.deployment_tag,
            rollback_version: None,
            commit_info: request.commit_info.map_or(Vec::new(), |info| info.encode_to_vec()).into(),
            staged: request.staged,
        };
        let published = self.publish(&caller, &app, publication).await?;
        Ok(Response::new(wire::AppPublishResponse {
            url: page(&caller, &app),
            server_warnings: warnings(&published),
            deployed_at: seconds(published.at),
        }))
    }

    /// The old clients' publishing: names to ids, and the state the app goes to. For a deployment that is only the
    /// first half; see [`Api::app_deploy`].
    pub(crate) async fn app_set_objects(
        &self,
        request: Request<wire::AppSetObjectsRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let app = self.app(&request.app_id)?;
        let state = published_state(request.new_app_state());
        let of_kind = |prefix: &str| -> HashMap<String, String> {
            let objects = request.indexed_object_ids.iter().filter(|(_, id)| id.starts_with(prefix));
            objects.map(|(tag, id)| (tag.clone(), id.clone())).collect()
        };
        let publication = Publication {
            function_ids: self.layout_functions(&app, &of_kind("fu-"))?,
            class_ids: parse_class_ids(&of_kind("cs-"))?,
            state,
            client_version: caller.version.to_string(),
            ..Publication::default()
        };
        if state.is_none() && matches!(app.state(), AppState::Initializing | AppState::Deployed) {
            *app.named.lock() = Some((publication.function_ids, publication.class_ids));
            return Ok(Response::new(()));
        }
        let published = self.publish(&caller, &app, publication).await?;
        warn_in_log(&app, &published);
        Ok(Response::new(()))
    }

    pub(crate) async fn app_deploy(
        &self,
        request: Request<wire::AppDeployRequest>,
    ) -> Result<Response<wire::AppDeployResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let app = self.app(&request.app_id)?;
        let named = app.named.lock().take();
        let (function_ids, class_ids) = named.unwrap_or_else(|| {
            let record = app.record();
            (record.function_ids, record.class_ids)
        });
        let publication = Publication {
            function_ids,
            class_ids,
            state: Some(AppState::Deployed),
            name: Some(request.name),
            client_version: caller.version.to_string(),
            tag: request.tag,
            ..Publication::default()
        };
        let published = self.publish(&caller, &app, publication).await?;
        warn_in_log(&app, &published);
        Ok(Response::new(wire::AppDeployResponse { url: page(&caller, &app) }))
    }

    pub(crate) async fn app_rollback(
        &self,
        request: Request<wire::AppRollbackRequest>,
    ) -> Result<Response<wire::AppRollbackResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (app, history) = self.deployed_with_history(&request.app_id).await?;
        let target = rollback_target(&history, app.record().version, request.version);
        let target = target.map_err(|why| refused(&app, "roll back", &why))?;
        let rollback_version = Some(target.version);
        let publication = Publication { rollback_version, ..Publication::again(target, caller.version) };
        let published = self.publish(&caller, &app, publication).await?;
        Ok(Response::new(wire::AppRollbackResponse {
            url: page(&caller, &app),
            server_warnings: warnings(&published),
            deployed_at: seconds(published.at),
        }))
    }

    /// The same version in fresh containers.
    pub(crate) async fn app_rollover(
        &self,
        request: Request<wire::AppRolloverRequest>,
    ) -> Result<Response<wire::AppRolloverResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (app, history) = self.deployed_with_history(&request.get_ref().app_id).await?;
        let live = app.record().version;
        let target = history.iter().find(|version| version.version == live);
        let target = target.ok_or_else(|| refused(&app, "roll over", "it was deployed before versions were kept"))?;
        let publication = Publication { tag: target.tag.clone(), ..Publication::again(target, caller.version) };
        let published = self.publish(&caller, &app, publication).await?;
        Ok(Response::new(wire::AppRolloverResponse {
            url: page(&caller, &app),
            server_warnings: warnings(&published),
            deployed_at: seconds(published.at),
        }))
    }

    pub(crate) async fn app_promote(
        &self,
        request: Request<wire::AppPromoteRequest>,
    ) -> Result<Response<wire::AppPromoteResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (app, history) = self.deployed_with_history(&request.app_id).await?;
        let target = promotion_target(&history, request.version).map_err(|why| refused(&app, "promote", &why))?;
        let publication = Publication {
            tag: target.tag.clone(),
            rollback_version: Some(target.version),
            ..Publication::again(target, caller.version)
        };
        let published = self.publish(&caller, &app, publication).await?;
        Ok(Response::new(wire::AppPromoteResponse {
            url: page(&caller, &app),
            server_warnings: warnings(&published),
            deployed_at: seconds(published.at),
        }))
    }

    pub(crate) async fn app_deployment_history(
        &self,
        id: &str,
    ) -> Result<Response<wire::AppDeploymentHistoryResponse>, Status> {
        let app = self.app(id)?;
        let live = app.record().version;
        let history = self.shared.store.deployments(&app.id).await.map_err(|e| store_status(&e))?;
        let definitions = self.stored_definitions(&app).await?;
        let can_return = |version: &DeploymentRecord| {
            version.version != live
                && !version.staged
                && version.definition_ids.values().all(|id| {
                    let definition = definitions.get(id).and_then(|record| restored_definition(record).ok());
                    definition.is_some_and(|definition| self.check_objects(&definition).is_ok())
                })
        };
        let item = |version: &DeploymentRecord| wire::AppDeploymentHistory {
            app_id: app.id.to_string(),
            version: version.version,
            client_version: version.client_version.clone(),
            deployed_at: seconds(version.deployed_at_ms),
            deployed_by: crate::rpc::WORKSPACE.to_owned(),
            tag: version.tag.clone(),
            rollback_version: version.rollback_version.unwrap_or(0),
            rollback_allowed: can_return(version),
            commit_info: commit_info(version),
            deployment_type: deployment_type(version, &history) as i32,
            ..Default::default()
        };
        let app_deployment_histories = history.iter().map(item).collect();
        let reply = wire::AppDeploymentHistoryResponse { app_deployment_histories, production_app_version: live };
        Ok(Response::new(reply))
    }

    /// Publishes all of it or nothing, also when the client has gone: what the store has is also in force.
    async fn publish(&self, caller: &Caller, app: &Arc<App>, publication: Publication) -> Result<Published, Status> {
        let (api, caller, app) = (self.clone(), caller.clone(), app.clone());
        let published = tokio::spawn(async move { api.publish_in_turn(&caller, &app, publication).await });
        published.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
    }

    async fn publish_in_turn(
        &self,
        caller: &Caller,
        app: &Arc<App>,
        publication: Publication,
    ) -> Result<Published, Status> {
        // First the one, then the other: whoever stops an app waits for its turn only.
        let _alone = self.shared.publishing.lock().await;
        let _turn = app.turn().await;
        if let (Some(key), Some((last, published))) = (&caller.idempotency_key, &*app.last_publication.lock())
            && key == last
        {
            return Ok(published.clone());
        }
        let state = life::decide(app.state(), Event::Publish(publication.state))
            .map_err(|_| refused(app, "deploy", "it was stopped meanwhile; deploy it again, as a new one"))?;
        let live = self.resolve(app, &publication).await?;
        let deployed_at = unique_wall_ms();
        let warning = publication_warning(live.iter().map(|(_, d)| (&d.refusals, &d.view)));
        let published = Published { at: deployed_at, warning };
        let deploys = state == AppState::Deployed;
        let version = if deploys { Some(self.next_version(app).await?) } else { None };
        let replaced = match &publication.name {
            Some(name) if deploys && !publication.staged => self.others_deployed_as(app, name),
            _ => Vec::new(),
        };
        let mut turns = Vec::with_capacity(replaced.len());
        for other in &replaced {
            turns.push(other.turn().await);
        }
        let stops = |other: &&Arc<App>| life::decide(other.state(), Event::Stop).is_ok();
        let stopped: Vec<Arc<App>> = replaced.iter().filter(stops).cloned().collect();
        let mut writes = publication.writes(app.record(), &live, deployed_at, version);
        writes.extend(stopped.iter().map(|other| {
            // The name has one owner also for a server that is killed right after this.
            Write::App(AppRecord { state: AppState::Stopping, ..other.record() })
        }));
        self.shared.store.write(writes).await.map_err(|e| store_status(&e))?;
        if let Some(key) = &caller.idempotency_key {
            *app.last_publication.lock() = Some((key.clone(), published.clone()));
        }
        if publication.staged {
            return Ok(published);
        }
        for other in stopped {
            other.update(|record| record.state = AppState::Stopping);
            self.shared.clone().end_app(other, "another app was deployed under its name");
        }
        drop(turns);
        app.update(|record| publication.change(record, deployed_at, version));
        for (owner, _) in &live {
            self.shared.owners.entry(owner.id.clone()).or_insert(owner.clone());
        }
        self.shared.switch_app(app, live);
        self.shared.on_published(app);
        Ok(published)
    }

    /// The functions of a publication with the definitions to run.
    ///
    /// # Errors
    /// When a definition, or an object that it needs, is gone.
    async fn resolve(&self, app: &Arc<App>, publication: &Publication) -> Result<Live, Status> {
        let mut live = Vec::with_capacity(publication.function_ids.len());
        for (tag, function) in &publication.function_ids {
            let known = self.shared.owners.get(function).map(|o| o.clone());
            let definition = match publication.definition_ids.get(function) {
                Some(id) => self.find_definition(app, function, id).await?,
                None => {
                    let made_last = app.drafts.newest(function).map(|draft| draft.definition);
                    made_last.or_else(|| known.as_ref().map(|owner| owner.definition()))
                }
            };
            let definition = definition.ok_or_else(|| {
                refused(app, "deploy", &format!("the definition of `{tag}` is gone; deploy the code again"))
            })?;
            self.check_objects(&definition).map_err(|missing| {
                let why =
                    format!("`{tag}` needs what is not there any more: {}; deploy the code again", missing.message());
                refused(app, "deploy", &why)
            })?;
            let owner = known.unwrap_or_else(|| {
                Arc::new(Owner::new(function.clone(), tag.clone(), app.clone(), definition.clone(), steady_ms()))
            });
            live.push((owner, definition));
        }
        Ok(live)
    }

    /// A definition of this function that lives, was made for a version to come, or belongs to one that was.
    async fn find_definition(
        &self,
        app: &App,
        function: &FunctionId,
        id: &DefinitionId,
    ) -> Result<Option<Arc<Definition>>, Status> {
        let live = self.shared.owners.get(function).map(|owner| owner.definition()).filter(|d| d.id == *id);
        let draft = || app.drafts.get(id).filter(|draft| draft.function == *function).map(|draft| draft.definition);
        if let Some(definition) = live.or_else(draft) {
            return Ok(Some(definition));
        }
        let stored = self.shared.store.definition(id).await.map_err(|e| store_status(&e))?;
        stored.filter(|record| record.function == *function).map(|r| restored_definition(&r).map(Arc::new)).transpose()
    }

    async fn stored_definitions(&self, app: &App) -> Result<HashMap<DefinitionId, DefinitionRecord>, Status> {
        let records = self.shared.store.definitions(&app.id).await.map_err(|e| store_status(&e))?;
        Ok(records.into_iter().map(|record| (record.id.clone(), record)).collect())
    }

    /// Staged versions count as well.
    async fn next_version(&self, app: &App) -> Result<u32, Status> {
        let history = self.shared.store.deployments(&app.id).await.map_err(|e| store_status(&e))?;
        Ok(history.last().map_or(0, |last| last.version).max(app.record().version) + 1)
    }

    async fn deployed_with_history(&self, id: &str) -> Result<(Arc<App>, Vec<DeploymentRecord>), Status> {
        let app = self.app(id)?;
        if app.state() != AppState::Deployed {
            return Err(Status::failed_precondition(format!("app `{id}` is not deployed")));
        }
        let history = self.shared.store.deployments(&app.id).await.map_err(|e| store_status(&e))?;
        Ok((app, history))
    }

    /// Other apps that hold the name now: one was stopped and created anew. They give way.
    fn others_deployed_as(&self, app: &App, name: &str) -> Vec<Arc<App>> {
        let mut others = self.deployed_apps(&app.environment, name);
        others.retain(|other| other.id != app.id);
        others
    }

    fn layout_functions(
        &self,
        app: &App,
        ids: &HashMap<String, String>,
    ) -> Result<BTreeMap<String, FunctionId>, Status> {
        let mut layout = BTreeMap::new();
        for (tag, id) in ids {
            let owner = self.owner(id)?;
            if owner.app.id != app.id {
                return Err(Status::invalid_argument(format!("function `{id}` belongs to another app")));
            }
            layout.insert(tag.clone(), owner.id.clone());
        }
        Ok(layout)
    }
}

fn page(caller: &Caller, app: &App) -> String {
    format!("http://{}/apps/{}", caller.authority, app.id)
}

fn warnings(published: &Published) -> Vec<wire::Warning> {
    let kind = wire::warning::WarningType::FunctionConfiguration as i32;
    published.warning.iter().map(|text| wire::Warning { r#type: kind, message: text.clone() }).collect()
}

/// The replies to old clients have no place for warnings.
fn warn_in_log(app: &App, published: &Published) {
    if let Some(text) = &published.warning {
        app.log.append(wall_ms(), Origin::default(), Descriptor::System, format!("[dorian] {text}\n"));
    }
}

fn refused(app: &App, doing: &str, why: &str) -> Status {
    let record = app.record();
    let name = record.name.unwrap_or(record.description);
    Status::failed_precondition(format!("cannot {doing} app `{name}` ({}): {why}", app.id))
}

pub(crate) fn restored_definition(record: &DefinitionRecord) -> Result<Definition, Status> {
    let raw = Passthrough::from_bytes(&record.definition);
    Definition::new(record.id.clone(), raw, ClientVersion::parse(&record.client_version))
}

/// `None` keeps the state.
fn published_state(state: wire::AppState) -> Option<AppState> {
    match state {
        wire::AppState::Deployed => Some(AppState::Deployed),
        wire::AppState::Detached => Some(AppState::Detached),
        wire::AppState::Ephemeral => Some(AppState::Ephemeral),
        _ => None,
    }
}

fn commit_info(version: &DeploymentRecord) -> Option<wire::CommitInfo> {
    if version.commit_info.is_empty() {
        return None;
    }
    wire::CommitInfo::decode(version.commit_info.clone()).ok()
}

fn deployment_type(version: &DeploymentRecord, history: &[DeploymentRecord]) -> wire::DeploymentType {
    use wire::DeploymentType as Type;
    let before = history.iter().rev().find(|v| v.version < version.version && !v.staged);
    let source = version.rollback_version.and_then(|number| history.iter().find(|v| v.version == number));
    match source {
        _ if version.staged => Type::Staged,
        Some(source) if source.staged => Type::Promotion,
        _ if version.rollback_version.is_some() => Type::Rollback,
        _ if before.is_some_and(|before| before.definition_ids == version.definition_ids) => Type::Rollover,
        _ => Type::Standard,
    }
}

fn parse_class_ids(ids: &HashMap<String, String>) -> Result<BTreeMap<String, ClassId>, Status> {
    let parse = |(tag, id): (&String, &String)| {
        let id = ClassId::parse(id).ok_or_else(|| Status::invalid_argument(format!("`{id}` is not a class id")))?;
        Ok((tag.clone(), id))
    };
    ids.iter().map(parse).collect()
}

fn parse_definition_ids(ids: &HashMap<String, String>) -> Result<BTreeMap<FunctionId, DefinitionId>, Status> {
    let parse = |(function, definition): (&String, &String)| {
        let bad = |what: &str, id: &str| Status::invalid_argument(format!("`{id}` is not {what}"));
        let function = FunctionId::parse(function).ok_or_else(|| bad("a function id", function))?;
        let definition = DefinitionId::parse(definition).ok_or_else(|| bad("a definition id", definition))?;
        Ok((function, definition))
    };
    ids.iter().filter(|(_, definition)| !definition.is_empty()).map(parse).collect()
}
