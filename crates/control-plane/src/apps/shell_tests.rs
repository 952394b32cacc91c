//! Stops against publications and calls, with a real store.

use std::time::Duration;

use client_protocol::wire;
use metadata_store::{AppRecord, AppState, Write};

use crate::images::Origin;
use crate::testing::{IMAGE, Site, eventually};

/// Lets others come to where they wait for the disk. If it is too short, a test sees an easier order and passes.
async fn give_time() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn a_stop_that_the_disk_refuses_is_refused() {
    let site = Site::start().await;
    let app = site.app(wire::AppState::Ephemeral).await;
    let function = site.publish(&app, wire::AppState::Ephemeral, IMAGE).await.unwrap();
    site.shared().store.close().await.unwrap();
    assert!(site.api.app_stop(app.id.as_str()).await.is_err());
    assert_eq!(app.state(), AppState::Ephemeral);
    assert!(site.call(&function, true).await.is_ok());
}

#[tokio::test]
async fn a_client_whose_leave_the_disk_refuses_counts_as_silent() {
    let site = Site::start().await;
    let app = site.app(wire::AppState::Ephemeral).await;
    site.shared().store.close().await.unwrap();
    let leave = wire::AppClientDisconnectRequest { app_id: app.id.to_string(), ..Default::default() };
    assert!(site.api.app_client_disconnect(&leave).await.is_err());
    assert!(app.is_abandoned(crate::clock::steady_ms()));
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_publication_leaves_the_app_stopped() {
    let site = Site::start().await;
    let app = site.app(wire::AppState::Initializing).await;
    site.publish(&app, wire::AppState::Deployed, IMAGE).await.unwrap();
    let disk = site.hold_the_disk();
    let publishes = async {
        let functions = app.function_ids().into_iter().map(|(tag, id)| (tag, id.to_string())).collect();
        let publish = wire::AppPublishRequest {
            app_id: app.id.to_string(),
            name: "test".to_owned(),
            app_state: wire::AppState::Deployed as i32,
            function_ids: functions,
            ..Default::default()
        };
        site.api.app_publish(crate::testing::request(publish)).await.map(drop)
    };
    let stops = async {
        give_time().await;
        site.api.app_stop(app.id.as_str()).await.map(drop)
    };
    let releases = async {
        give_time().await;
        give_time().await;
        drop(disk);
    };
    let (published, stopped, ()) = tokio::join!(publishes, stops, releases);
    assert!(stopped.is_ok(), "{stopped:?}");
    assert!(published.is_ok(), "it came first: {published:?}");
    let stored = async || {
        let apps = site.shared().store.load().await.unwrap().apps;
        apps.into_iter().find(|record| record.id == app.id).unwrap().state
    };
    eventually("the app's end", async || app.state() == AppState::Stopped).await;
    eventually("the record of its end", async || stored().await == AppState::Stopped).await;
    assert!(site.publish(&app, wire::AppState::Deployed, IMAGE).await.is_err());
}

#[tokio::test]
async fn a_spawn_that_a_stop_overtakes_is_refused_or_ended() {
    let site = Site::start().await;
    let app = site.app(wire::AppState::Initializing).await;
    let function = site.publish(&app, wire::AppState::Deployed, IMAGE).await.unwrap();
    let disk = site.hold_the_disk();
    let spawns = site.call(&function, false);
    let stops = async {
        give_time().await;
        site.api.app_stop(app.id.as_str()).await.map(drop)
    };
    let releases = async {
        give_time().await;
        give_time().await;
        drop(disk);
    };
    let (spawned, stopped, ()) = tokio::join!(spawns, stops, releases);
    assert!(stopped.is_ok(), "{stopped:?}");
    eventually("the end of every input", async || site.pending().await == 0).await;
    if let Ok(call) = spawned {
        assert_eq!(site.outputs(&call, 0.0).await.num_unfinished_inputs, 0);
    }
    assert!(site.call(&function, true).await.is_err());
    assert!(site.call(&function, false).await.is_err());
    assert_eq!(site.pending().await, 0);
}

#[tokio::test]
async fn what_a_stop_began_is_finished_by_the_next_server() {
    let site = Site::start().await;
    let app = site.app(wire::AppState::Initializing).await;
    let function = site.publish(&app, wire::AppState::Deployed, IMAGE).await.unwrap();
    let call = site.call(&function, false).await.unwrap();
    // As it is when the server is killed between the record of the stop and the end of the inputs.
    let record = AppRecord { state: AppState::Stopping, ..app.record() };
    site.shared().store.write(vec![Write::App(record)]).await.unwrap();
    let site = site.restart().await;
    let answer = site.outputs(&call, 55.0).await;
    assert_eq!((answer.outputs.len(), answer.num_unfinished_inputs), (1, 0));
    let result = answer.outputs[0].result.as_ref().unwrap();
    assert_eq!(result.status(), wire::generic_result::GenericStatus::Terminated);
    assert!(result.exception.contains("its app was stopped"), "{}", result.exception);
    assert_eq!(site.find_app(&app.id).state(), AppState::Stopped);
    assert_eq!(site.started(), 0);
}

#[tokio::test]
async fn an_app_is_stopped_whose_image_is_still_made() {
    let site = Site::start().await;
    let image = site.shared().images.begin_apart("2025.06", Origin::default());
    let app = site.app(wire::AppState::Ephemeral).await;
    let function = site.publish(&app, wire::AppState::Ephemeral, image.id.as_str()).await.unwrap();
    site.call(&function, true).await.unwrap();
    eventually("a task", async || !site.shared().tasks_of(&app.id).is_empty()).await;
    site.api.app_stop(app.id.as_str()).await.unwrap();
    eventually("the app's end", async || app.state() == AppState::Stopped).await;
    assert!(image.is_running());
    assert_eq!(site.started(), 0);
}
