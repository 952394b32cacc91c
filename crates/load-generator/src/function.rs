//! Defines the one function that is called, by the calls with which a client deploys an app.

use anyhow::{Context, Result};
use client_protocol::{Passthrough, wire};

use crate::connection::Client;
use crate::server::IMAGE;

/// Longer than any measurement: containers that are kept from asking are not late.
const PATIENCE_SECS: u32 = 24 * 3600;

/// Returns the function's id. Its containers start at once, and there are always so many of them.
pub async fn deploy(client: &mut Client, containers: usize, slots: usize) -> Result<String> {
    let create = wire::AppCreateRequest { description: "load".to_owned(), ..Default::default() };
    let app_id = client.app_create(create).await?.into_inner().app_id;
    let count = Some(u32::try_from(containers)?);
    let scaling = wire::AutoscalerSettings { min_containers: count, max_containers: count, ..Default::default() };
    let function = wire::Function {
        module_name: "load".to_owned(),
        function_name: "no_op".to_owned(),
        image_id: IMAGE.to_owned(),
        function_type: wire::function::FunctionType::Function as i32,
        definition_type: wire::function::DefinitionType::File as i32,
        autoscaler_settings: Some(scaling),
        max_concurrent_inputs: u32::try_from(slots)?,
        timeout_secs: PATIENCE_SECS,
        startup_timeout_secs: PATIENCE_SECS,
        ..Default::default()
    };
    let create = wire::FunctionCreateRequest {
        function: Some(Passthrough::from_message(&function)),
        app_id: app_id.clone(),
        ..Default::default()
    };
    let created = client.function_create(create).await.context("cannot define the function")?.into_inner();
    let function_id = created.function_id;
    let publish = wire::AppPublishRequest {
        app_id,
        name: "load".to_owned(),
        app_state: wire::AppState::Deployed as i32,
        function_ids: [("no_op".to_owned(), function_id.clone())].into(),
        ..Default::default()
    };
    client.app_publish(publish).await?;
    Ok(function_id)
}
