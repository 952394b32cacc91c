//! Apps from creation to their end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client_protocol::wire;
use metadata_store::{AppRecord, AppState, EnvironmentRecord, Write};
use tonic::{Request, Response, Status};
use types::ids::{AppId, EnvironmentId};

use crate::apps::ending::NotChanged;
use crate::apps::life::Event;
use crate::apps::{App, Leaving};
use crate::caller::Caller;
use crate::clock::{seconds, steady_ms, unique_wall_ms, wall_ms};
use crate::handles;
use crate::logs::AppLog;
use crate::near_matches::{did_you_mean, near_matches};
use crate::owner::Owner;
use crate::rpc::{Api, store_status};
use crate::shared::STOPPED_APPS_LISTED_MS;

impl Api {
    pub(crate) async fn app_create(
        &self,
        request: Request<wire::AppCreateRequest>,
    ) -> Result<Response<wire::AppCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = self.stable_suffix(&caller, "AppCreate").and_then(|s| AppId::parse(&format!("ap-{s}")));
        let id = id.unwrap_or_else(AppId::random);
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        if !self.shared.apps.contains_key(&id) {
            let state = match request.app_state() {
                wire::AppState::Detached => AppState::Detached,
                wire::AppState::Initializing => AppState::Initializing,
                _ => AppState::Ephemeral,
            };
            let record = AppRecord {
                description: request.description,
                tags: request.tags.into_iter().collect(),
                client_version: caller.version.to_string(),
                ..new_record(id.clone(), environment.id, state)
            };
            self.create_app(record).await?;
        }
        let page = format!("http://{}/apps/{id}", caller.authority);
        Ok(Response::new(wire::AppCreateResponse {
            app_id: id.into(),
            app_logs_url: format!("{page}/logs"),
            app_page_url: page,
        }))
    }

    async fn create_app(&self, record: AppRecord) -> Result<Arc<App>, Status> {
        self.shared.store.write(vec![Write::App(record.clone())]).await.map_err(|e| store_status(&e))?;
        let log = AppLog::kept(&self.shared.logs, &record.id);
        let app = Arc::new(App::new(record, log, steady_ms()));
        self.shared.apps.insert(app.id.clone(), app.clone());
        Ok(app)
    }

    pub(crate) fn app_heartbeat(&self, id: &str) -> Result<Response<()>, Status> {
        let app = self.app(id)?;
        app.heartbeat(steady_ms());
        self.shared.unheard.hear_app(&self.shared, &app.id);
        Ok(Response::new(()))
    }

    pub(crate) async fn app_client_disconnect(
        &self,
        request: &wire::AppClientDisconnectRequest,
    ) -> Result<Response<()>, Status> {
        use wire::AppDisconnectReason as Reason;
        let app = self.app(&request.app_id)?;
        let leaving = match request.reason() {
            Reason::KeyboardInterrupt => Leaving::Interrupted,
            Reason::DeploymentException => Leaving::DeploymentFailed,
            Reason::LocalException | Reason::RemoteException => Leaving::Failed,
            Reason::EntrypointCompleted | Reason::Unspecified => Leaving::Completed,
        };
        self.shared.clone().depart(app, leaving).await.map_err(|e| store_status(&e))?;
        Ok(Response::new(()))
    }

    pub(crate) async fn app_stop(&self, id: &str) -> Result<Response<()>, Status> {
        let app = self.app(id)?;
        self.shared.clone().stop_app(app, "stopped by the user").await.map_err(|e| store_status(&e))?;
        Ok(Response::new(()))
    }

    /// The running deployment with this name.
    pub(crate) fn deployed_app(&self, environment: &EnvironmentId, name: &str) -> Option<Arc<App>> {
        self.deployed_apps(environment, name).into_iter().next()
    }

    /// While one takes over the name of another there are two.
    pub(crate) fn deployed_apps(&self, environment: &EnvironmentId, name: &str) -> Vec<Arc<App>> {
        self.apps_named(environment, name).into_iter().filter(|app| app.state() == AppState::Deployed).collect()
    }

    fn apps_named(&self, environment: &EnvironmentId, name: &str) -> Vec<Arc<App>> {
        let mine = |app: &App| app.environment == *environment && app.record().name.as_deref() == Some(name);
        self.shared.apps.iter().filter(|a| mine(a)).map(|a| a.clone()).collect()
    }

    pub(crate) fn app_get_by_deployment_name(
        &self,
        request: Request<wire::AppGetByDeploymentNameRequest>,
    ) -> Result<Response<wire::AppGetByDeploymentNameResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        let app = self.deployed_app(&environment.id, &request.name);
        let previous = match &app {
            Some(_) => None,
            None => {
                let named = self.apps_named(&environment.id, &request.name);
                named.into_iter().max_by_key(|app| app.record().stopped_at_ms)
            }
        };
        let id = |app: &Option<Arc<App>>| app.as_ref().map(|a| a.id.to_string()).unwrap_or_default();
        Ok(Response::new(wire::AppGetByDeploymentNameResponse {
            app_id: id(&app),
            previous_app_id: id(&previous),
            environment_name: environment.name,
            lifecycle: app.or(previous).map(|a| lifecycle(&a.record())),
        }))
    }

    pub(crate) async fn app_get_or_create(
        &self,
        request: Request<wire::AppGetOrCreateRequest>,
    ) -> Result<Response<wire::AppGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        let name = request.app_name.clone();
        let must_exist = request.object_creation_type() == wire::ObjectCreationType::Unspecified;
        let known = match AppId::parse(&name) {
            Some(_) => Some(self.app(&name)?),
            None if must_exist => Some(self.named_app(&environment, &name)?),
            None => self.deployed_app(&environment.id, &name),
        };
        let app = match known {
            Some(app) => app,
            None => {
                let record = AppRecord {
                    description: name.clone(),
                    name: Some(name),
                    deployed_at_ms: Some(wall_ms()),
                    client_version: caller.version.to_string(),
                    ..new_record(AppId::random(), environment.id, AppState::Deployed)
                };
                self.create_app(record).await?
            }
        };
        let metadata = self.app_metadata(&app);
        Ok(Response::new(wire::AppGetOrCreateResponse { app_id: app.id.to_string(), handle_metadata: Some(metadata) }))
    }

    fn app_metadata(&self, app: &App) -> wire::AppHandleMetadata {
        let record = app.record();
        wire::AppHandleMetadata {
            app_id: app.id.to_string(),
            environment_name: self.shared.environment_name(&app.environment),
            lifecycle: Some(lifecycle(&record)),
            functions: record.function_ids.iter().map(|(tag, id)| (tag.clone(), id.to_string())).collect(),
            description: record.description,
            ..Default::default()
        }
    }

    pub(crate) fn app_get_info(&self, id: &str) -> Result<Response<wire::AppGetInfoResponse>, Status> {
        use wire::app_get_info_response::FunctionInfoSummary;
        let app = self.app(id)?;
        let mut function_info_summaries = HashMap::new();
        for id in app.function_ids().values() {
            let Some(owner) = self.shared.owners.get(id).map(|o| o.clone()) else { continue };
            let view = &owner.definition().view;
            let gpu = view.resources.as_ref().and_then(|r| r.gpu_config.clone()).filter(|gpu| gpu.count > 0);
            let summary = FunctionInfoSummary {
                gpu_config: gpu.into_iter().collect(),
                schedule: view.schedule.clone(),
                ..Default::default()
            };
            function_info_summaries.insert(id.to_string(), summary);
        }
        let info = Some(self.app_metadata(&app));
        Ok(Response::new(wire::AppGetInfoResponse { info, function_info_summaries }))
    }

    /// Names near one that was not found, for the client's hint.
    pub(crate) fn object_suggest(
        &self,
        request: Request<wire::ObjectSuggestRequest>,
    ) -> Result<Response<wire::ObjectSuggestResponse>, Status> {
        use wire::object_suggest_request::ObjectSuggestKind as Kind;
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
        let apps = self.deployed_names(&environment.id);
        let (app, function) = request.query.split_once('/').unwrap_or(("", &request.query));
        let near_apps = |wanted: &str| near_matches(wanted, apps.keys().map(String::as_str));
        let suggestions: Vec<wire::ObjectSuggestion> = match request.kind() {
            Kind::App => {
                let suggestion =
                    |name: &str| wire::ObjectSuggestion { object_name: name.to_owned(), ..Default::default() };
                near_apps(&request.query).into_iter().map(suggestion).collect()
            }
            Kind::Function => {
                let looked_at: Vec<&str> = match app {
                    "" => apps.keys().map(String::as_str).collect(),
                    app if apps.contains_key(app) => vec![app],
                    app => near_apps(app),
                };
                let of_app = |name: &str| {
                    let functions = apps.get(name).map(|app| app.function_ids()).unwrap_or_default();
                    let near = near_matches(function, functions.keys().map(String::as_str));
                    let suggestion = |found: &str| wire::ObjectSuggestion {
                        app_name: name.to_owned(),
                        object_name: found.to_owned(),
                    };
                    near.into_iter().map(suggestion).collect::<Vec<_>>()
                };
                looked_at.into_iter().flat_map(of_app).collect()
            }
            Kind::Server | Kind::Unspecified => Vec::new(),
        };
        let suggestions = suggestions.into_iter().take(limit).collect();
        Ok(Response::new(wire::ObjectSuggestResponse { suggestions }))
    }

    /// The deployed apps of an environment by name.
    fn deployed_names(&self, environment: &EnvironmentId) -> BTreeMap<String, Arc<App>> {
        let deployed = |app: &App| app.environment == *environment && app.state() == AppState::Deployed;
        let apps = self.shared.apps.iter().filter(|a| deployed(a)).map(|a| a.clone());
        apps.filter_map(|app| Some((app.record().name?, app))).collect()
    }

    /// The app that is deployed under a name.
    ///
    /// # Errors
    /// `NOT_FOUND` with the names that are near.
    pub(crate) fn named_app(&self, environment: &EnvironmentRecord, name: &str) -> Result<Arc<App>, Status> {
        self.deployed_app(&environment.id, name).ok_or_else(|| {
            let apps = self.deployed_names(&environment.id);
            let meant = did_you_mean(name, apps.keys().map(String::as_str));
            Status::not_found(format!("no app `{name}` is deployed in environment `{}`{meant}", environment.name))
        })
    }

    pub(crate) fn app_get_lifecycle(&self, id: &str) -> Result<Response<wire::AppGetLifecycleResponse>, Status> {
        let lifecycle = lifecycle(&self.app(id)?.record());
        Ok(Response::new(wire::AppGetLifecycleResponse { lifecycle: Some(lifecycle) }))
    }

    pub(crate) fn app_list(
        &self,
        request: Request<wire::AppListRequest>,
    ) -> Result<Response<wire::AppListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let environment = self.environment(&caller, &request.get_ref().environment_name)?;
        let now = wall_ms();
        let mut apps: Vec<_> = self
            .shared
            .apps
            .iter()
            .filter(|a| a.environment == environment.id)
            .filter(|a| a.record().stopped_at_ms.is_none_or(|at| at + STOPPED_APPS_LISTED_MS > now))
            .map(|a| self.list_item(&a))
            .collect();
        apps.sort_by(|a, b| b.created_at.total_cmp(&a.created_at));
        Ok(Response::new(wire::AppListResponse { apps }))
    }

    fn list_item(&self, app: &App) -> wire::app_list_response::AppListItem {
        let record = app.record();
        wire::app_list_response::AppListItem {
            app_id: app.id.to_string(),
            description: record.name.clone().unwrap_or(record.description),
            state: wire_state(record.state) as i32,
            created_at: seconds(record.created_at_ms),
            stopped_at: record.stopped_at_ms.map_or(0.0, seconds),
            n_running_tasks: self.shared.tasks_of(&app.id).len() as i32,
            name: record.name.unwrap_or_default(),
            // Field 11 is a number in the oldest clients; nobody reads it here.
            metadata: None,
        }
    }

    pub(crate) fn app_get_layout(&self, id: &str) -> Result<Response<wire::AppGetLayoutResponse>, Status> {
        let app = self.app(id)?;
        let mut layout = handles::app_layout(&self.shared, &app, None);
        let published = app.function_ids();
        layout.function_ids.retain(|tag, _| published.contains_key(tag));
        Ok(Response::new(wire::AppGetLayoutResponse { app_layout: Some(layout) }))
    }

    /// The old clients' layout: a list, in which what has no name is a dependency of something.
    pub(crate) fn app_get_objects(
        &self,
        request: &wire::AppGetObjectsRequest,
    ) -> Result<Response<wire::AppGetObjectsResponse>, Status> {
        let app = self.app(&request.app_id)?;
        let mut items: Vec<wire::AppGetObjectsItem> = Vec::new();
        let functions: Vec<Arc<Owner>> =
            self.shared.owners_of(&app.id).into_iter().filter(|o| o.is_of_layout()).collect();
        for owner in &functions {
            let object = Some(handles::function_object(&self.shared, owner));
            items.push(wire::AppGetObjectsItem { tag: owner.tag.clone(), object });
        }
        for (class, id) in app.record().class_ids {
            let object = Some(handles::class_object(&self.shared, &app, &class, &id));
            items.push(wire::AppGetObjectsItem { tag: class, object });
        }
        if request.include_unindexed {
            let mut seen = std::collections::BTreeSet::new();
            for owner in functions {
                let layout = handles::app_layout(&self.shared, &app, Some(&owner.definition()));
                for object in layout.objects {
                    let is_named = object.object_id.starts_with("fu-") || object.object_id.starts_with("cs-");
                    if !is_named && seen.insert(object.object_id.clone()) {
                        items.push(wire::AppGetObjectsItem { tag: String::new(), object: Some(object) });
                    }
                }
            }
        }
        Ok(Response::new(wire::AppGetObjectsResponse { items }))
    }

    pub(crate) async fn app_set_tags(&self, request: wire::AppSetTagsRequest) -> Result<Response<()>, Status> {
        let app = self.app(&request.app_id)?;
        let tags = request.tags.into_iter().collect();
        match self.shared.change_app(&app, Event::Describe, |record| record.tags = tags).await {
            Ok(()) => Ok(Response::new(())),
            Err(NotChanged::Store(error)) => Err(store_status(&error)),
            Err(NotChanged::Refused(why)) => Err(Status::failed_precondition(why.to_string())),
        }
    }

    pub(crate) fn app_get_tags(&self, id: &str) -> Result<Response<wire::AppGetTagsResponse>, Status> {
        let tags = self.app(id)?.record().tags.into_iter().collect();
        Ok(Response::new(wire::AppGetTagsResponse { tags }))
    }
}

pub(crate) fn new_record(id: AppId, environment: EnvironmentId, state: AppState) -> AppRecord {
    AppRecord {
        id,
        environment,
        name: None,
        description: String::new(),
        state,
        created_at_ms: unique_wall_ms(),
        deployed_at_ms: None,
        stopped_at_ms: None,
        tags: BTreeMap::new(),
        function_ids: BTreeMap::new(),
        class_ids: BTreeMap::new(),
        client_version: String::new(),
        version: 0,
    }
}

fn wire_state(state: AppState) -> wire::AppState {
    match state {
        AppState::Initializing => wire::AppState::Initializing,
        AppState::Ephemeral => wire::AppState::Ephemeral,
        AppState::Detached => wire::AppState::Detached,
        AppState::DetachedDisconnected => wire::AppState::DetachedDisconnected,
        AppState::Deployed => wire::AppState::Deployed,
        AppState::Stopping => wire::AppState::Stopping,
        AppState::Stopped => wire::AppState::Stopped,
    }
}

fn lifecycle(record: &AppRecord) -> wire::AppLifecycle {
    wire::AppLifecycle {
        app_state: wire_state(record.state) as i32,
        created_at: seconds(record.created_at_ms),
        deployed_at: record.deployed_at_ms.map_or(0.0, seconds),
        stopped_at: record.stopped_at_ms.map_or(0.0, seconds),
        version: record.version as i32,
        ..Default::default()
    }
}
