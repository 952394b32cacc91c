//! What the server says about a function to those who call it. Made from the stored definition each time, because
//! the caller may be of another version than the one that defined it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client_protocol::{Passthrough, wire};
use types::ids::{ClassId, FunctionId};
use types::objects::ObjectKind;

use crate::apps::App;
use crate::definition::Definition;
use crate::owner::Owner;
use crate::shared::Shared;

/// Handle metadata before the definition is known: what a precreated function answers with.
pub fn precreated(request: &wire::FunctionPrecreateRequest, function_id: &str) -> wire::FunctionHandleMetadata {
    let own = [request.use_function_id.as_str(), function_id].into_iter().find(|id| !id.is_empty()).unwrap_or_default();
    let methods = request.method_definitions.iter();
    let methods = methods.map(|(name, method)| (name.clone(), method_metadata(name, method, function_id)));
    wire::FunctionHandleMetadata {
        function_name: request.function_name.clone(),
        function_type: request.function_type,
        is_method: !request.use_method_name.is_empty(),
        use_method_name: request.use_method_name.clone(),
        method_handle_metadata: methods.collect(),
        function_schema: request.function_schema.clone(),
        supported_input_formats: request.supported_input_formats.clone(),
        supported_output_formats: request.supported_output_formats.clone(),
        app_id: request.app_id.clone(),
        use_function_id: own.to_owned(),
        ..Default::default()
    }
}

/// The handle of a function with its live definition.
pub fn metadata(shared: &Shared, owner: &Owner) -> wire::FunctionHandleMetadata {
    metadata_with(shared, owner, &owner.definition())
}

/// The handle of a function as it is with `definition`, be that alive or not.
pub fn metadata_with(shared: &Shared, owner: &Owner, definition: &Definition) -> wire::FunctionHandleMetadata {
    let view = &definition.view;
    let work_is_done_by = match view.use_function_id.as_str() {
        "" => owner.id.to_string(),
        service => service.to_owned(),
    };
    wire::FunctionHandleMetadata {
        function_name: owner.tag.clone(),
        function_type: view.function_type,
        is_method: view.is_method,
        use_method_name: view.use_method_name.clone(),
        definition_id: definition.id.to_string(),
        class_parameter_info: view.class_parameter_info.clone(),
        function_schema: view.function_schema.clone(),
        supported_input_formats: input_formats(&view.supported_input_formats, definition.refusals.is_total()),
        supported_output_formats: view.supported_output_formats.clone(),
        app_id: owner.app.id.to_string(),
        use_function_id: work_is_done_by,
        method_handle_metadata: methods_of(shared, owner, definition).into_iter().collect(),
        base_function_id: owner.variant.as_ref().map(|v| v.base.to_string()).unwrap_or_default(),
        ..Default::default()
    }
}

/// A client that is told that a web endpoint takes requests only fails to make one of its arguments, and says nothing of
/// what is wrong. It falls back to pickles, and then its call is refused here.
fn input_formats(defined: &[i32], is_refused: bool) -> Vec<i32> {
    if is_refused { Vec::new() } else { defined.to_vec() }
}

/// The handles of a class's methods, by name; of any other function there are none. Calls go to the class's service
/// function (`owner`, or the variant that it is), with the method's name.
fn methods_of(
    shared: &Shared,
    owner: &Owner,
    definition: &Definition,
) -> BTreeMap<String, wire::FunctionHandleMetadata> {
    let view = &definition.view;
    if !view.is_class {
        return BTreeMap::new();
    }
    let with_the_rest = |mut metadata: wire::FunctionHandleMetadata| {
        metadata.definition_id = definition.id.to_string();
        metadata.class_parameter_info = view.class_parameter_info.clone();
        let is_refused = definition.refusal(&metadata.use_method_name).is_some();
        metadata.supported_input_formats = input_formats(&metadata.supported_input_formats, is_refused);
        metadata.app_id = owner.app.id.to_string();
        metadata
    };
    let said = view.method_definitions.iter();
    let mut methods: BTreeMap<String, wire::FunctionHandleMetadata> = said
        .map(|(name, method)| (name.clone(), with_the_rest(method_metadata(name, method, owner.id.as_str()))))
        .collect();
    if methods.is_empty() {
        // Old clients define a placeholder function for each method instead.
        for (_, placeholder) in placeholders(shared, owner) {
            let view = &placeholder.definition().view;
            let method = wire::MethodDefinition {
                function_name: placeholder.tag.clone(),
                function_type: view.function_type,
                ..Default::default()
            };
            let metadata = method_metadata(&view.use_method_name, &method, owner.id.as_str());
            methods.insert(view.use_method_name.clone(), with_the_rest(metadata));
        }
    }
    methods
}

fn method_metadata(name: &str, method: &wire::MethodDefinition, service: &str) -> wire::FunctionHandleMetadata {
    wire::FunctionHandleMetadata {
        function_name: method.function_name.clone(),
        function_type: method.function_type,
        web_url: method.web_url.clone(),
        is_method: true,
        use_method_name: name.to_owned(),
        use_function_id: service.to_owned(),
        function_schema: method.function_schema.clone(),
        supported_input_formats: method.supported_input_formats.clone(),
        supported_output_formats: method.supported_output_formats.clone(),
        ..Default::default()
    }
}

/// The functions that stand for the methods of a class in an old client's app, by method.
fn placeholders(shared: &Shared, service: &Owner) -> BTreeMap<String, Arc<Owner>> {
    let service_id = service.base_id();
    let mut found = BTreeMap::new();
    for owner in shared.owners_of(&service.app.id) {
        let definition = owner.definition();
        if owner.is_published() && definition.view.use_function_id == service_id.as_str() {
            found.insert(definition.view.use_method_name.clone(), owner);
        }
    }
    found
}

/// The handle of a class. Current clients read the service function's instead; the oldest know only this.
pub fn class_metadata(shared: &Shared, app: &App, class: &str) -> wire::ClassHandleMetadata {
    let service = app.function_ids().get(&format!("{class}.*")).cloned();
    let Some(service) = service.and_then(|id| shared.owners.get(&id).map(|o| o.clone())) else {
        return wire::ClassHandleMetadata::default();
    };
    let placeholders = placeholders(shared, &service);
    let method = |(name, metadata): (String, wire::FunctionHandleMetadata)| wire::ClassMethod {
        function_id: placeholders.get(&name).map_or(&service.id, |p| &p.id).to_string(),
        function_name: name,
        function_handle_metadata: Some(metadata),
    };
    wire::ClassHandleMetadata {
        methods: methods_of(shared, &service, &service.definition()).into_iter().map(method).collect(),
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
        is_class: view.is_class,
        class_parameter_info: view.class_parameter_info.clone(),
        is_method: view.is_method,
        use_function_id: view.use_function_id.clone(),
        use_method_name: view.use_method_name.clone(),
        method_definitions: view.method_definitions.clone(),
        method_definitions_set: view.method_definitions_set,
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

/// Every function and class of an app, and every object that `definition` depends on: the runner hydrates from this, and a
/// missing object is an error there.
pub fn app_layout(shared: &Shared, app: &App, definition: Option<&Definition>) -> wire::AppLayout {
    let mut layout = wire::AppLayout::default();
    for owner in shared.owners_of(&app.id).into_iter().filter(|o| o.is_of_layout() && o.is_published()) {
        layout.function_ids.insert(owner.tag.clone(), owner.id.to_string());
        layout.objects.push(function_object(shared, &owner));
    }
    for (class, id) in app.record().class_ids {
        layout.objects.push(class_object(shared, app, &class, &id));
        layout.class_ids.insert(class, id.into());
    }
    for dependency in definition.iter().flat_map(|d| &d.view.object_dependencies) {
        let id = dependency.object_id.clone();
        if layout.objects.iter().all(|o| o.object_id != id) {
            layout.objects.push(dependency_object(shared, id));
        }
    }
    layout
}

pub fn function_object(shared: &Shared, owner: &Owner) -> wire::Object {
    let handle = wire::object::HandleMetadataOneof::FunctionHandleMetadata(metadata(shared, owner));
    wire::Object { object_id: owner.id.to_string(), handle_metadata_oneof: Some(handle) }
}

pub fn class_object(shared: &Shared, app: &App, class: &str, id: &ClassId) -> wire::Object {
    let handle = wire::object::HandleMetadataOneof::ClassHandleMetadata(class_metadata(shared, app, class));
    wire::Object { object_id: id.to_string(), handle_metadata_oneof: Some(handle) }
}

fn dependency_object(shared: &Shared, object_id: String) -> wire::Object {
    let owner = FunctionId::parse(&object_id).and_then(|id| shared.owners.get(&id).map(|o| o.clone()));
    if let Some(owner) = owner {
        return function_object(shared, &owner);
    }
    if let Some(volume) = shared.objects.get(ObjectKind::Volume, &object_id) {
        let handle = wire::object::HandleMetadataOneof::VolumeMetadata(crate::rpc::volumes::metadata(&volume));
        return wire::Object { object_id, handle_metadata_oneof: Some(handle) };
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
