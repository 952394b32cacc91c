//! Classes, and functions with parameters or options of their own.
//!
//! A class is a name in its app's layout: what runs is its service function, `Name.*`, whose definition says which
//! methods there are. So a class has an id and no record.

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use client_protocol::wire;
use tonic::{Request, Response, Status};
use types::ids::{ClassId, FunctionId};

use crate::caller::Caller;
use crate::handles;
use crate::near_matches::did_you_mean;
use crate::options::{check_options, normalised};
use crate::owner::Owner;
use crate::parameters::check_parameters;
use crate::rpc::{Api, store_status};
use crate::variants::variant_definition;

/// Parameters are part of an id and of every container's start; a model's weights are none.
const MAX_PARAMETER_BYTES: usize = 1 << 20;

impl Api {
    /// The request does not name the class; its name comes with the app's layout.
    pub(crate) fn class_create(
        &self,
        request: Request<wire::ClassCreateRequest>,
    ) -> Result<Response<wire::ClassCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let suffix = self.stable_suffix(&caller, "ClassCreate");
        let request = request.into_inner();
        self.app(&request.app_id)?;
        let id = match request.existing_class_id.as_str() {
            "" => suffix.and_then(|s| ClassId::parse(&format!("cs-{s}"))).unwrap_or_else(ClassId::random),
            id => ClassId::parse(id).ok_or_else(|| Status::invalid_argument(format!("`{id}` is not a class id")))?,
        };
        // The oldest clients list the methods, with what they were told of each, and expect them back.
        let metadata = wire::ClassHandleMetadata { methods: request.methods, ..Default::default() };
        Ok(Response::new(wire::ClassCreateResponse { class_id: id.into(), handle_metadata: Some(metadata) }))
    }

    pub(crate) fn class_get(
        &self,
        request: Request<wire::ClassGetRequest>,
    ) -> Result<Response<wire::ClassGetResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        let (app, class) = (&request.app_name, &request.object_tag);
        let found = self.named_app(&environment, app)?;
        let classes = found.record().class_ids;
        let id = classes.get(class).ok_or_else(|| {
            let known = match classes.keys().cloned().collect::<Vec<_>>() {
                names if names.is_empty() => "it has no class".to_owned(),
                names => format!("it has: {}", names.join(", ")),
            };
            let meant = did_you_mean(class, classes.keys().map(String::as_str));
            Status::not_found(format!("app `{app}` has no class `{class}`; {known}{meant}"))
        })?;
        Ok(Response::new(wire::ClassGetResponse {
            class_id: id.to_string(),
            handle_metadata: Some(handles::class_metadata(&self.shared, &found, class)),
            ..Default::default()
        }))
    }

    pub(crate) async fn function_bind_params(
        &self,
        request: wire::FunctionBindParamsRequest,
    ) -> Result<Response<wire::FunctionBindParamsResponse>, Status> {
        let named = self.callable(&request.function_id).await?;
        let (base, pinned) = self.base_to_bind(named)?;
        if !base.app.is_running() {
            return Err(Status::failed_precondition(format!("app `{}` is stopped", base.app.id)));
        }
        let params = request.serialized_params;
        if params.len() > MAX_PARAMETER_BYTES {
            return Err(Status::invalid_argument(format!(
                "the parameters of `{}` have {} bytes; more than {MAX_PARAMETER_BYTES} are not taken: pass large \
                 values as arguments of a method",
                base.tag,
                params.len()
            )));
        }
        let mut options = request.function_options.unwrap_or_default();
        options.pinned_app_version = options.pinned_app_version.or(pinned);
        let owner = self.bound(&base, params, normalised(options)).await?;
        Ok(Response::new(wire::FunctionBindParamsResponse {
            bound_function_id: owner.id.to_string(),
            handle_metadata: Some(handles::metadata(&self.shared, &owner)),
        }))
    }

    /// What parameters and options are bound to: a function, or one that is nothing but pinned to a version (returned with
    /// the function itself).
    fn base_to_bind(&self, named: Arc<Owner>) -> Result<(Arc<Owner>, Option<i32>), Status> {
        let Some(variant) = named.variant.as_ref().filter(|_| named.build.is_none()) else {
            return if named.build.is_none() { Ok((named, None)) } else { Err(bound_already(&named)) };
        };
        let only_pinned =
            wire::FunctionOptions { pinned_app_version: variant.options.pinned_app_version, ..Default::default() };
        if !variant.is_pinned() || !variant.params.is_empty() || variant.options != only_pinned {
            return Err(bound_already(&named));
        }
        Ok((self.owner(variant.base.as_str())?, only_pinned.pinned_app_version))
    }

    /// `base` with these parameters and (normalised) options.
    pub(crate) async fn bound(
        &self,
        base: &Arc<Owner>,
        params: Bytes,
        options: wire::FunctionOptions,
    ) -> Result<Arc<Owner>, Status> {
        check_options(&options)?;
        let below = self.shared.definition_below(base, &options).await?;
        if let Some(info) = below.view.class_parameter_info.as_ref().filter(|_| !is_only_pinned(&params, &options)) {
            check_parameters(&base.tag, info, &params).map_err(|e| Status::invalid_argument(e.to_string()))?;
        }
        if params.is_empty() && options == wire::FunctionOptions::default() {
            return Ok(base.clone());
        }
        let definition = variant_definition(&below, &options)?;
        if !is_only_pinned(&params, &options) {
            definition.check_served("")?;
        }
        self.check_objects(&definition)?;
        self.shared.ensure_variant(base, definition, params, options).await
    }

    /// Those in use, all at once: the busiest `limit` of them, or without a limit all, newest first.
    pub(crate) async fn function_list_variants(
        &self,
        request: wire::FunctionListVariantsRequest,
    ) -> Result<Response<wire::FunctionListVariantsResponse>, Status> {
        let owner = self.callable(&request.function_id).await?;
        let mut variants = self.shared.variants_of(owner.base_id());
        variants.sort_by_key(|v| (Reverse(v.created_at), v.id.clone()));
        let is_ranked = request.limit > 0;
        if is_ranked {
            variants.sort_by_key(|v| Reverse(v.task_ids().len()));
            variants.truncate(request.limit as usize);
        }
        let info = |owner: &Owner| {
            let variant = owner.variant.as_ref()?;
            Some(wire::FunctionVariantInfo {
                function_id: owner.id.to_string(),
                serialized_params: variant.params.clone(),
                function_options: Some(variant.options.clone()),
            })
        };
        Ok(Response::new(wire::FunctionListVariantsResponse {
            infos: variants.iter().filter_map(|v| info(v)).collect(),
            next_cursor: None,
            ordered_by_task_count: is_ranked,
        }))
    }

    /// The function of this id; a variant that was put away comes back.
    pub(crate) async fn found(&self, id: &str) -> Result<Arc<Owner>, Status> {
        let parsed =
            FunctionId::parse(id).ok_or_else(|| Status::invalid_argument(format!("`{id}` is not a function id")))?;
        let found = self.shared.find_owner(&parsed).await.map_err(|e| store_status(&e))?;
        found.ok_or_else(|| {
            Status::not_found(format!("function `{id}` does not exist; its app may have been stopped meanwhile"))
        })
    }

    /// The function that does the work of `id`: for an old client's placeholder of a method that is its class's
    /// service function.
    pub(crate) async fn callable(&self, id: &str) -> Result<Arc<Owner>, Status> {
        self.service_of(self.found(id).await?)
    }

    /// The same of a function that is at hand.
    pub(crate) fn service_of(&self, owner: Arc<Owner>) -> Result<Arc<Owner>, Status> {
        match owner.definition().view.use_function_id.as_str() {
            "" => Ok(owner),
            service => self.owner(service),
        }
    }
}

fn is_only_pinned(params: &Bytes, options: &wire::FunctionOptions) -> bool {
    let pin = wire::FunctionOptions { pinned_app_version: options.pinned_app_version, ..Default::default() };
    params.is_empty() && *options == pin && options.pinned_app_version.is_some()
}

fn bound_already(function: &Owner) -> Status {
    Status::invalid_argument(format!(
        "function `{}` has parameters or options already; set all of them on `{}` itself",
        function.id, function.tag
    ))
}

/// Refuses a call of a method that is not there: a container would find out with an error of its own making. (Handles
/// that were looked up before a deployment know what it took away.)
///
/// # Errors
/// `INVALID_ARGUMENT`, with the methods that there are.
pub fn check_method(function: &wire::Function, method: &str) -> Result<(), Status> {
    let known = &function.method_definitions;
    // Old clients define no methods here.
    if !function.is_class || known.is_empty() || known.contains_key(method) {
        return Ok(());
    }
    let class = function.function_name.trim_end_matches(".*");
    let mut names: Vec<&str> = known.keys().map(String::as_str).collect();
    names.sort_unstable();
    let meant = did_you_mean(method, names.iter().copied());
    let listed = names.join(", ");
    Err(Status::invalid_argument(format!("class `{class}` has no method `{method}`; it has: {listed}{meant}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_is_not_there_is_refused_with_those_that_are() {
        let methods = ["train", "predict"].map(|name| (name.to_owned(), wire::MethodDefinition::default()));
        let class = wire::Function {
            function_name: "Model.*".into(),
            is_class: true,
            method_definitions: methods.into_iter().collect(),
            ..Default::default()
        };
        assert!(check_method(&class, "train").is_ok());
        assert!(check_method(&wire::Function::default(), "").is_ok());
        assert_eq!(
            check_method(&class, "trian").unwrap_err().message(),
            "class `Model` has no method `trian`; it has: predict, train; did you mean `train`?"
        );
    }
}
