//! Defining functions and finding them.

use std::sync::Arc;

use client_protocol::wire;
use metadata_store::{DefinitionRecord, DeploymentRecord, FunctionRecord, Write};
use tonic::{Request, Response, Status};
use types::ids::{DefinitionId, FunctionId};
use types::objects::ObjectKind;

use crate::apps::App;
use crate::caller::{Caller, ClientVersion};
use crate::clock::{steady_ms, wall_ms};
use crate::definition::Definition;
use crate::handles;
use crate::near_matches::did_you_mean;
use crate::options::check_options;
use crate::owner::Owner;
use crate::rpc::{Api, derive_suffix, store_status};
use crate::scaling::Scaling;
use crate::warnings::{shows_warnings, warnings};

impl Api {
    /// Ids must be there before functions are pickled. The id follows from app and name, so that nothing is stored
    /// and a repeated request gets the same.
    pub(crate) fn function_precreate(
        &self,
        request: &wire::FunctionPrecreateRequest,
    ) -> Result<Response<wire::FunctionPrecreateResponse>, Status> {
        let app = self.app(&request.app_id)?;
        let function_id = match request.existing_function_id.as_str() {
            "" => self.function_id(&app, &request.function_name).to_string(),
            existing => existing.to_owned(),
        };
        let metadata = handles::precreated(request, &function_id);
        Ok(Response::new(wire::FunctionPrecreateResponse { function_id, handle_metadata: Some(metadata) }))
    }

    fn function_id(&self, app: &App, tag: &str) -> FunctionId {
        let suffix = derive_suffix(&self.shared.config.salt, &["function", app.id.as_str(), tag]);
        FunctionId::parse(&format!("fu-{suffix}")).unwrap_or_else(FunctionId::random)
    }

    /// The function that an old client defines for a method of a class, whose service function does not know its methods.
    pub(crate) fn placeholder(&self, service: &Owner, definition: &Definition, method: &str) -> Option<Arc<Owner>> {
        if !definition.view.is_class || !definition.view.method_definitions.is_empty() || method.is_empty() {
            return None;
        }
        let id = self.function_id(&service.app, &format!("{}.{method}", service.tag.trim_end_matches(".*")));
        self.shared.owners.get(&id).map(|owner| owner.clone())
    }

    pub(crate) async fn function_create(
        &self,
        request: Request<wire::FunctionCreateRequest>,
    ) -> Result<Response<wire::FunctionCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let app = self.app(&request.app_id)?;
        self.shared.check_running(&app)?;
        let raw = match (request.function, request.function_data) {
            (Some(function), _) => function,
            (None, Some(data)) => handles::preferred(data)
                .ok_or_else(|| Status::invalid_argument("the function data names no function"))?,
            (None, None) => return Err(Status::invalid_argument("the request has no function")),
        };
        let raw = match request.schedule {
            // Old clients send it beside the definition.
            Some(schedule) => {
                let mut raw = raw;
                raw.append(&wire::Function { schedule: Some(schedule), ..Default::default() });
                raw
            }
            None => raw,
        };
        let definition = Arc::new(Definition::new(DefinitionId::random(), raw, caller.version)?);
        self.check_objects(&definition)?;
        let tag = definition.view.function_name.clone();
        if definition.view.is_builder_function {
            // Its image is needed at once.
            definition.check_served("")?;
            // It is known for as long as builds use it, under an id of its own: a function of the app may have the same name.
            let id = FunctionId::random();
            let owner = Arc::new(Owner::new(id.clone(), tag, app, definition.clone(), steady_ms()));
            self.shared.owners.insert(id, owner.clone());
            self.shared.still_wanted(&owner)?;
            return Ok(Response::new(self.created(&owner, &definition, caller.version)));
        }
        let id = match request.existing_function_id.as_str() {
            "" => self.function_id(&app, &tag),
            id => {
                FunctionId::parse(id).ok_or_else(|| Status::invalid_argument(format!("`{id}` is not a function id")))?
            }
        };
        let now = wall_ms();
        let draft = DefinitionRecord {
            id: definition.id.clone(),
            function: id.clone(),
            app: app.id.clone(),
            definition: definition.bytes(),
            client_version: caller.version.to_string(),
            created_at_ms: now,
        };
        let known = self.shared.owners.get(&id).map(|o| o.clone());
        let mut writes = vec![Write::Definition(draft)];
        let owner = match known {
            Some(owner) if owner.app.id != app.id => {
                return Err(Status::invalid_argument(format!("function `{id}` belongs to another app")));
            }
            Some(owner) => owner,
            None => {
                let owner = Arc::new(Owner::new(id.clone(), tag, app.clone(), definition.clone(), now));
                owner.set_published(false);
                writes.push(Write::Function(function_record(&owner, &definition)));
                owner
            }
        };
        self.shared.store.write(writes).await.map_err(|e| store_status(&e))?;
        app.drafts.add(id.clone(), definition.clone(), now);
        let owner = self.shared.owners.entry(id).or_insert(owner).clone();
        self.shared.still_wanted(&owner)?;
        Ok(Response::new(self.created(&owner, &definition, caller.version)))
    }

    /// Objects that a definition names must be there, and a machine big enough: otherwise the first container would
    /// find out.
    pub(crate) fn check_objects(&self, definition: &Definition) -> Result<(), Status> {
        let missing = |what: &str, id: String| Err(Status::not_found(format!("{what} `{id}` does not exist")));
        if let Some(image) = definition.image.as_ref().filter(|id| self.shared.images.get(id).is_none()) {
            return missing("image", image.to_string());
        }
        if let Some(secret) = definition.secrets.iter().find(|id| self.shared.secrets.get(id).is_none()) {
            return missing("secret", secret.to_string());
        }
        // A machine with GPUs has more memory as well: what never runs here need not fit.
        let never_runs = definition.refusals.is_total();
        if let (false, Err(sentence)) = (never_runs, self.shared.capacity.could_ever_fit(definition.request())) {
            let name = &definition.view.function_name;
            return Err(Status::invalid_argument(format!("function `{name}` cannot run here: {sentence}")));
        }
        for usage in &definition.volumes {
            self.object(ObjectKind::Volume, usage.volume.as_str())?;
        }
        match definition.mounts.iter().find(|id| self.shared.mounts.get(id).is_none()) {
            Some(mount) => missing("mount", mount.to_string()),
            None => Ok(()),
        }
    }

    fn created(&self, owner: &Owner, definition: &Definition, client: ClientVersion) -> wire::FunctionCreateResponse {
        let warnings = warnings(definition, self.shared.capacity.milli_cpu());
        if !shows_warnings(client) {
            owner.say_warnings(&warnings);
        }
        wire::FunctionCreateResponse {
            function_id: owner.id.to_string(),
            function: Some(definition.raw.clone()),
            handle_metadata: Some(handles::metadata_with(&self.shared, owner, definition)),
            function_data: Some(handles::function_data(definition)),
            server_warnings: warnings,
            ..Default::default()
        }
    }

    pub(crate) async fn function_get(
        &self,
        request: Request<wire::FunctionGetRequest>,
    ) -> Result<Response<wire::FunctionGetResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        let (app, tag) = (&request.app_name, &request.object_tag);
        let found = self.named_app(&environment, app)?;
        if request.app_version != 0 {
            return self.function_get_pinned(&found, tag, request.app_version).await;
        }
        let functions = found.function_ids();
        let live = |tag: &str| self.shared.owners.get(functions.get(tag)?).map(|o| o.clone());
        let (owner, metadata) = match live(tag) {
            Some(owner) => {
                let metadata = handles::metadata(&self.shared, &owner);
                (owner, metadata)
            }
            // The oldest clients look a method up as a function.
            None => tag
                .rsplit_once('.')
                .and_then(|(class, method)| {
                    let service = live(&format!("{class}.*"))?;
                    let metadata = handles::metadata(&self.shared, &service).method_handle_metadata.remove(method)?;
                    Some((service, metadata))
                })
                .ok_or_else(|| no_function(&found, tag))?,
        };
        Ok(Response::new(wire::FunctionGetResponse {
            function_id: owner.id.to_string(),
            handle_metadata: Some(metadata),
            function: Some(handles::function_data(&owner.definition())),
            ..Default::default()
        }))
    }

    /// `from_name(version=)`: a variant that stays with its version, for a class its service function.
    async fn function_get_pinned(
        &self,
        app: &App,
        tag: &str,
        version: i32,
    ) -> Result<Response<wire::FunctionGetResponse>, Status> {
        let options = wire::FunctionOptions { pinned_app_version: Some(version), ..Default::default() };
        check_options(&options)?;
        let record = self.shared.version_of(app, version.unsigned_abs()).await?;
        let base = record.function_ids.get(tag).ok_or_else(|| not_in_version(app, &record, tag))?;
        let base = self.owner(base.as_str())?;
        let owner = self.bound(&base, bytes::Bytes::new(), options).await?;
        Ok(Response::new(wire::FunctionGetResponse {
            function_id: owner.id.to_string(),
            handle_metadata: Some(handles::metadata(&self.shared, &owner)),
            function: Some(handles::function_data(&owner.definition())),
            ..Default::default()
        }))
    }

    pub(crate) fn function_get_by_id(&self, id: &str) -> Result<Response<wire::FunctionGetByIdResponse>, Status> {
        let owner = self.owner(id)?;
        Ok(Response::new(wire::FunctionGetByIdResponse {
            function: Some(handles::function_data(&owner.definition())),
            handle_metadata: Some(handles::metadata(&self.shared, &owner)),
        }))
    }

    pub(crate) fn function_get_serialized(
        &self,
        id: &str,
    ) -> Result<Response<wire::FunctionGetSerializedResponse>, Status> {
        let definition = self.owner(id)?.definition();
        Ok(Response::new(wire::FunctionGetSerializedResponse {
            function_serialized: definition.view.function_serialized.clone(),
            class_serialized: definition.view.class_serialized.clone(),
        }))
    }

    pub(crate) fn function_stats(&self, id: &str) -> Result<Response<wire::FunctionStats>, Status> {
        let owner = self.owner(id)?;
        let load = owner.read(calls::FunctionCalls::load);
        let (total, active) = owner.count_tasks();
        Ok(Response::new(wire::FunctionStats {
            backlog: (load.ready + load.delayed) as u32,
            num_active_tasks: active as u32,
            num_total_tasks: total as u32,
            num_running_inputs: load.running as u32,
            input_headroom: (active as u32 * owner.definition().max_concurrency()).saturating_sub(load.running as u32),
        }))
    }

    pub(crate) fn scheduling_params(
        &self,
        id: &str,
    ) -> Result<Response<wire::FunctionGetSchedulingParamsResponse>, Status> {
        let owner = self.owner(id)?;
        let autoscaler_configuration = wire::AutoscalerConfiguration {
            settings: Some(owner.scaling().to_wire()),
            static_settings: Some(owner.definition().scaling().to_wire()),
            override_settings: owner.scaling_override().map(Scaling::to_wire),
        };
        let reply =
            wire::FunctionGetSchedulingParamsResponse { autoscaler_configuration: Some(autoscaler_configuration) };
        Ok(Response::new(reply))
    }

    pub(crate) fn update_scheduling(
        &self,
        request: wire::FunctionUpdateSchedulingParamsRequest,
    ) -> Result<Response<wire::FunctionUpdateSchedulingParamsResponse>, Status> {
        let owner = self.owner(&request.function_id)?;
        // `keep_warm` of older clients sends nothing but the number, which may be 0.
        let wanted = request.settings.unwrap_or(wire::AutoscalerSettings {
            min_containers: Some(request.warm_pool_size_override),
            ..Default::default()
        });
        let scaling = owner.update_scaling(&self.shared, |now| now.with(&wanted)).map_err(|sentence| {
            Status::invalid_argument(format!("the settings of function `{}` were not changed: {sentence}", owner.tag))
        })?;
        let reply = wire::FunctionUpdateSchedulingParamsResponse { current_settings: Some(scaling.to_wire()) };
        Ok(Response::new(reply))
    }
}

/// How the store has a function with this definition live.
pub(crate) fn function_record(owner: &Owner, definition: &Definition) -> FunctionRecord {
    FunctionRecord {
        id: owner.id.clone(),
        app: owner.app.id.clone(),
        tag: owner.tag.clone(),
        definition_id: definition.id.clone(),
        definition: definition.bytes(),
        client_version: definition.client.to_string(),
        created_at_ms: owner.created_at,
    }
}

fn not_in_version(app: &App, version: &DeploymentRecord, tag: &str) -> Status {
    let (name, number) = (app.shown_name(), version.version);
    let known: Vec<&str> = version.function_ids.keys().map(|tag| tag.trim_end_matches(".*")).collect();
    let tag = tag.trim_end_matches(".*");
    let meant = did_you_mean(tag, known.iter().copied());
    Status::not_found(format!("version v{number} of app `{name}` has no `{tag}`; it has: {}{meant}", known.join(", ")))
}

fn no_function(app: &App, tag: &str) -> Status {
    let record = app.record();
    let name = record.name.unwrap_or(record.description);
    if record.class_ids.contains_key(tag) {
        return Status::not_found(format!("`{tag}` of app `{name}` is a class: look it up with `modal.Cls.from_name`"));
    }
    let known: Vec<String> = record.function_ids.into_keys().filter(|tag| !tag.ends_with(".*")).collect();
    let listed = if known.is_empty() { "it has none".to_owned() } else { format!("it has: {}", known.join(", ")) };
    let meant = did_you_mean(tag, known.iter().map(String::as_str));
    Status::not_found(format!("app `{name}` has no function `{tag}`; {listed}{meant}"))
}
