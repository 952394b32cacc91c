//! Taking up where the last server left off.

use std::sync::Arc;

use client_protocol::Passthrough;
use image_builder::BuiltImage;
use metadata_store::{EnvironmentRecord, FunctionRecord, StoreError, Write};
use types::errors::with_causes;
use types::ids::EnvironmentId;
use types::objects::ObjectKind;

use crate::apps::{App, life};
use crate::caller::ClientVersion;
use crate::clock::{steady_ms, unique_wall_ms, wall_ms};
use crate::definition::Definition;
use crate::logs::AppLog;
use crate::owner::Owner;
use crate::rpc::environments::DEFAULT_ENVIRONMENT;
use crate::shared::{STOPPED_APPS_LISTED_MS, Shared};

/// Records of stopped apps go a day after the last results of theirs have expired.
const APPS_KEPT_MS: u64 = 8 * 24 * 3_600_000;

/// Loads everything. Clients of apps that were running have a heartbeat's patience to come back; durable inputs
/// that were running start over, since their containers died with the last server.
pub async fn restore(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let state = shared.store.load().await?;
    for environment in state.environments {
        shared.environments.write().insert(environment.name.clone(), environment);
    }
    ensure_default_environment(shared).await?;
    for image in state.images {
        match serde_json::from_str::<BuiltImage>(&image.built_json) {
            Ok(built) if shared.images.builder.has_layers(&built) => {
                shared.images.restore(image, built);
            }
            Ok(_) => tracing::warn!(image = %image.id, "an image lost layers and will be built again when asked for"),
            Err(error) => tracing::warn!(image = %image.id, %error, "an image's record cannot be read"),
        }
    }
    for revision in state.image_revisions {
        shared.images.names.insert(revision);
    }
    for secret in state.secrets {
        shared.secrets.insert(secret);
    }
    for object in state.objects {
        shared.objects.insert(object, steady_ms());
    }
    for mount in state.mounts {
        shared.mounts.insert(mount);
    }
    for app in state.apps {
        let stopped_for = app.stopped_at_ms.map_or(0, |at| wall_ms().saturating_sub(at));
        if stopped_for > APPS_KEPT_MS {
            shared.store.write_later(vec![Write::DeleteApp(app.id)]);
            continue;
        }
        if stopped_for > STOPPED_APPS_LISTED_MS {
            continue;
        }
        // An app that was stopping has nothing left that runs. What it still waits for ends below.
        let mut app = app;
        if life::after_restart(app.state) != app.state {
            app.state = life::after_restart(app.state);
            app.stopped_at_ms = Some(wall_ms());
            shared.store.write_later(vec![Write::App(app.clone())]);
        }
        let log = AppLog::kept(&shared.logs, &app.id);
        let app = Arc::new(App::new(app, log, steady_ms()));
        if !app.is_running() {
            app.log.close();
        }
        shared.apps.insert(app.id.clone(), app);
    }
    shared.forget_logs();
    let volumes = shared.objects.all(|object| object.kind == ObjectKind::Volume);
    let known = volumes.iter().map(|volume| volume.id.clone()).collect();
    if let Err(error) = shared.volumes.with(move |store| store.retain(&known)).await {
        tracing::warn!(error = with_causes(&error), "files of deleted volumes could not be removed");
    }
    // What belonged to an app that ended while no server was there to see it.
    let has_ended = |app: &_| !shared.apps.get(app).is_some_and(|app| app.is_running());
    shared.forget_objects(|object| object.app.as_ref().is_some_and(has_ended));
    shared.sweep_shared_files();
    for function in state.functions {
        restore_function(shared, function);
    }
    for variant in &state.variants {
        shared.restore_variant(variant).await;
    }
    shared.restore_calls(state.calls);
    shared.restore_schedules(state.schedules);
    for owner in shared.owners.iter() {
        owner.wake(shared);
    }
    Ok(())
}

async fn ensure_default_environment(shared: &Shared) -> Result<(), StoreError> {
    if shared.environments.read().contains_key(DEFAULT_ENVIRONMENT) {
        return Ok(());
    }
    let record = EnvironmentRecord {
        id: EnvironmentId::random(),
        name: DEFAULT_ENVIRONMENT.to_owned(),
        created_at_ms: unique_wall_ms(),
    };
    shared.store.write(vec![Write::Environment(record.clone())]).await?;
    shared.environments.write().insert(record.name.clone(), record);
    Ok(())
}

fn restore_function(shared: &Arc<Shared>, record: FunctionRecord) {
    let Some(app) = shared.apps.get(&record.app).map(|a| a.clone()).filter(|a| a.is_running()) else { return };
    let raw = Passthrough::from_bytes(&record.definition);
    match Definition::new(record.definition_id, raw, ClientVersion::parse(&record.client_version)) {
        Ok(definition) => {
            let published = app.function_ids().values().any(|id| *id == record.id);
            let owner = Owner::new(record.id.clone(), record.tag, app, Arc::new(definition), record.created_at_ms);
            owner.set_published(published);
            // What waits for it is not given up for one start that fails now.
            owner.presume_proven();
            shared.owners.insert(record.id, Arc::new(owner));
        }
        Err(error) => tracing::warn!(function = %record.id, error = error.message(), "a function cannot be restored"),
    }
}
