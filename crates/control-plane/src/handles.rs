//! What the server says about a function to those who call it. Made from the stored definition each time, because
//! the caller may be of another version than the one that defined it.

use client_protocol::{Passthrough, wire};
use types::ids::FunctionId;

use crate::apps::App;
use crate::definition::Definition;
use crate::owner::Owner;
use crate::shared::Shared;

/// Handle metadata before the definition is known: what a precreated function answers with.
pub fn precreated(request: &wire::FunctionPrecreateRequest, function_id: &str) -> wire::FunctionHandleMetadata {
    wire::FunctionHandleMetadata {
        function_name: request.function_name.clone(),
        function_type: request.function_type,
        use_method_name: request.use_method_name.clone(),
        function_schema: request.function_schema.clone(),
        supported_input_formats: request.supported_input_formats.clone(),
        supported_output_formats: request.supported_output_formats.clone(),
        app_id: request.app_id.clone(),
        use_function_id: function_id.to_owned(),
        ..Default::default()
    }
}

pub fn metadata(owner: &Owner) -> wire::FunctionHandleMetadata {
    metadata_with(owner, &owner.definition())
}

/// As `metadata`, with a definition that is not live yet.
pub fn metadata_with(owner: &Owner, definition: &Definition) -> wire::FunctionHandleMetadata {
    let view = &definition.view;
    wire::FunctionHandleMetadata {
        function_name: owner.tag.clone(),
        function_type: view.function_type,
        is_method: view.is_method,
        use_method_name: view.use_method_name.clone(),
        definition_id: definition.id.to_string(),
        class_parameter_info: view.class_parameter_info.clone(),
        function_schema: view.function_schema.clone(),
        supported_input_formats: view.supported_input_formats.clone(),
        supported_output_formats: view.supported_output_formats.clone(),
        app_id: owner.app.id.to_string(),
        use_function_id: owner.id.to_string(),
        ..Default::default()
    }
}

/// The form in which current clients expect a definition back; they insist on one ranked function at least.
pub fn function_data(definition: &Definition) -> wire::FunctionData {
    let view = &definition.view;
    let ranked = wire::function_data::RankedFunction { rank: 0, function: Some(definition.raw.clone()) };
    wire::FunctionData {
        module_name: view.module_name.clone(),
        function_name: view.function_name.clone(),
        function_type: view.function_type,
        timeout_secs: view.timeout_secs,
        schedule: view.schedule.clone(),
        autoscaler_settings: view.autoscaler_settings,
        function_schema: view.function_schema.clone(),
        startup_timeout_secs: view.startup_timeout_secs,
        supported_input_formats: view.supported_input_formats.clone(),
        supported_output_formats: view.supported_output_formats.clone(),
        implementation_name: view.implementation_name.clone(),
        warm_pool_size: view.warm_pool_size,
        concurrency_limit: view.concurrency_limit,
        task_idle_timeout_secs: view.task_idle_timeout_secs,
        ranked_functions: vec![ranked],
        ..Default::default()
    }
}

/// A definition that came ranked (`gpu=[…]`): the most preferred one.
pub fn preferred(data: wire::FunctionData) -> Option<Passthrough<wire::Function>> {
    data.ranked_functions.into_iter().min_by_key(|r| r.rank)?.function
}

/// Every function of an app, and every object that `definition` depends on: the runner hydrates from this, and a
/// missing object is an error there.
pub fn app_layout(shared: &Shared, app: &App, definition: Option<&Definition>) -> wire::AppLayout {
    let mut layout = wire::AppLayout::default();
    for owner in shared.owners_of(&app.id).into_iter().filter(|o| o.build.is_none() && o.is_published()) {
        layout.function_ids.insert(owner.tag.clone(), owner.id.to_string());
        layout.objects.push(function_object(&owner));
    }
    for dependency in definition.iter().flat_map(|d| &d.view.object_dependencies) {
        let id = dependency.object_id.clone();
        if layout.objects.iter().all(|o| o.object_id != id) {
            layout.objects.push(dependency_object(shared, id));
        }
    }
    layout
}

pub fn function_object(owner: &Owner) -> wire::Object {
    let handle = wire::object::HandleMetadataOneof::FunctionHandleMetadata(metadata(owner));
    wire::Object { object_id: owner.id.to_string(), handle_metadata_oneof: Some(handle) }
}

fn dependency_object(shared: &Shared, object_id: String) -> wire::Object {
    let owner = FunctionId::parse(&object_id).and_then(|id| shared.owners.get(&id).map(|o| o.clone()));
    if let Some(owner) = owner {
        return function_object(&owner);
    }
    let mount = types::ids::MountId::parse(&object_id).and_then(|id| shared.mounts.get(&id));
    let handle = mount.map(|mount| {
        let digest = mount.record.content_digest.clone();
        wire::object::HandleMetadataOneof::MountHandleMetadata(wire::MountHandleMetadata {
            content_checksum_sha256_hex: digest,
        })
    });
    wire::Object { object_id, handle_metadata_oneof: handle }
}
