//! What is stored comes back as it was, and goes when it is deleted.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use bytes::Bytes;
use calls::{Outcome, OutcomeStatus, PageRequest, Payload, ReportedStage};
use common::{any_call, app, call, environment, function, input, inputs, output, result_of, small_input};
use dorian_metadata_store::{
    AppState, DefinitionRecord, DeploymentRecord, ImageRecord, ImageRevisionRecord, MetadataStore, MountFileRecord,
    MountRecord, ScheduleRecord, ScheduledRun, SecretRecord, StoreError, StoredCall, Write,
};
use types::ids::{
    AppId, BlobId, DefinitionId, FunctionCallId, FunctionId, ImageId, ImageRevisionId, MountId, SecretId, TaskId,
};

fn store() -> (tempfile::TempDir, MetadataStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    (folder, store)
}

#[tokio::test]
async fn every_kind_of_record_comes_back_after_a_restart_as_it_was() {
    let (folder, store) = store();
    let environment = environment("main");
    let app = app(&environment.id);
    let function = function(&app.id);
    let image = ImageRecord {
        id: ImageId::random(),
        key: "k".to_owned(),
        built_json: "{}".to_owned(),
        builder_version: "2025.06".to_owned(),
        created_at_ms: 6,
        finished_at_ms: 7,
        last_used_ms: 7,
        bases: vec![ImageId::random()],
        build_task: Some(TaskId::at(1)),
        app: Some(app.id.clone()),
    };
    let revision = ImageRevisionRecord {
        id: ImageRevisionId::random(),
        environment: environment.id.clone(),
        tag: "name:v1".to_owned(),
        image: image.id.clone(),
        created_at_ms: 3,
    };
    let secret = SecretRecord {
        id: SecretId::random(),
        environment: environment.id.clone(),
        name: Some("huggingface".to_owned()),
        app: None,
        keys: vec!["TOKEN".to_owned()],
        sealed: Bytes::from_static(&[0, 255]),
        created_at_ms: 4,
        last_used_ms: Some(5),
    };
    let file = MountFileRecord { path: "/root/a b.py".to_owned(), sha256: "00".to_owned(), mode: 0o644, size: 1 << 40 };
    let mount = MountRecord {
        id: MountId::random(),
        name: None,
        content_digest: "d".to_owned(),
        files: vec![file],
        created_at_ms: 8,
    };
    let call = call(&app.id, &function.id, 9);
    let pending =
        vec![small_input(0), input(1, Payload::Blob(BlobId::random())), input(2, Payload::Inline(Bytes::new()))];
    let done = small_input(3);
    let mut failed = result_of(&done);
    failed.outcome = Outcome {
        status: OutcomeStatus::Failure,
        data: Some(Payload::Blob(BlobId::random())),
        data_format: 2,
        exception: "ValueError('x')".to_owned(),
        traceback: "Traceback …".to_owned(),
        serialized_traceback: Bytes::from_static(b"\x80\x04"),
        traceback_line_cache: Bytes::from_static(b"\x01"),
        started_at: 1.5,
        created_at: 0.0,
    };
    let id = call.spec.id.clone();
    store
        .write(vec![
            Write::Environment(environment.clone()),
            Write::App(app.clone()),
            Write::Function(function.clone()),
            Write::Image(image.clone()),
            Write::ImageRevision(revision.clone()),
            Write::Secret(secret.clone()),
            Write::Mount(mount.clone()),
            Write::Call(call.clone()),
            inputs(&id, &pending),
            inputs(&id, &[done]),
            output(&id, failed.clone()),
        ])
        .await
        .unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.write(vec![]).await, Err(StoreError::Closed)));

    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded.environments, [environment]);
    assert_eq!(loaded.apps, std::slice::from_ref(&app));
    assert_eq!(loaded.functions, [function]);
    assert_eq!(loaded.images, [image]);
    assert_eq!(loaded.image_revisions, [revision]);
    assert_eq!(loaded.secrets, [secret]);
    assert_eq!(loaded.mounts, [mount]);
    let stored = StoredCall { record: call.clone(), pending, finished: vec![failed] };
    assert_eq!(loaded.calls, std::slice::from_ref(&stored));
    assert_eq!(store.call(&id).await.unwrap(), Some(stored));
    assert_eq!(store.calls_of_app(&app.id).await.unwrap(), [call]);
    assert_eq!(store.blobs_in_use().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_record_written_again_replaces_the_old_one() {
    let (_folder, store) = store();
    let environment = environment("main");
    let mut app = app(&environment.id);
    store.write(vec![Write::Environment(environment), Write::App(app.clone())]).await.unwrap();
    app.state = AppState::Deployed;
    app.deployed_at_ms = Some(10);
    store.write(vec![Write::App(app.clone())]).await.unwrap();
    assert_eq!(store.load().await.unwrap().apps, [app]);
}

#[tokio::test]
async fn an_image_built_again_under_its_key_leaves_the_old_id_known_and_is_loaded_last() {
    let (_folder, store) = store();
    let old = ImageRecord {
        id: ImageId::random(),
        key: "k".to_owned(),
        built_json: "{}".to_owned(),
        builder_version: "2025.06".to_owned(),
        created_at_ms: 1,
        finished_at_ms: 1,
        last_used_ms: 1,
        bases: Vec::new(),
        build_task: None,
        app: None,
    };
    let new = ImageRecord { id: ImageId::random(), created_at_ms: 2, ..old.clone() };
    store.write(vec![Write::Image(new.clone()), Write::Image(old.clone())]).await.unwrap();
    store.write(vec![Write::TouchImage(old.id.clone(), 9)]).await.unwrap();
    assert_eq!(store.load().await.unwrap().images, [ImageRecord { last_used_ms: 9, ..old }, new]);
}

#[tokio::test]
async fn deleting_an_environment_deletes_all_that_is_in_it_and_nothing_else() {
    let (_folder, store) = store();
    let mut kept = None;
    for name in ["doomed", "kept"] {
        let environment = environment(name);
        let app = app(&environment.id);
        let function = function(&app.id);
        let call = call(&app.id, &function.id, 1);
        let id = call.spec.id.clone();
        let (waiting, done) = (small_input(0), small_input(1));
        let writes = vec![
            Write::Environment(environment.clone()),
            Write::App(app),
            Write::Function(function),
            Write::Call(call),
            inputs(&id, &[waiting, done.clone()]),
            output(&id, result_of(&done)),
        ];
        store.write(writes).await.unwrap();
        if name == "kept" {
            kept = Some((environment, id));
        } else {
            store.write(vec![Write::DeleteEnvironment(environment.id)]).await.unwrap();
            assert_eq!(store.load().await.unwrap(), Default::default());
            assert_eq!(store.call(&id).await.unwrap(), None);
        }
    }
    let (environment, id) = kept.unwrap();
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded.environments, [environment]);
    assert_eq!((loaded.apps.len(), loaded.functions.len(), loaded.calls.len()), (1, 1, 1));
    let call = store.call(&id).await.unwrap().unwrap();
    assert_eq!((call.pending.len(), call.finished.len()), (1, 1));
}

#[tokio::test]
async fn a_finished_call_is_not_loaded_but_can_be_asked_for_with_its_outputs_in_order() {
    let (_folder, store) = store();
    let call = any_call(1);
    let id = call.spec.id.clone();
    let all: Vec<_> = (0..10).map(small_input).collect();
    store.write(vec![Write::Call(call), inputs(&id, &all)]).await.unwrap();
    let order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7];
    for idx in order {
        store.write_later(vec![output(&id, result_of(&all[idx]))]);
    }
    store.write(vec![Write::FinishInputs(id.clone())]).await.unwrap();
    assert_eq!(store.load().await.unwrap().calls, []);
    let stored = store.call(&id).await.unwrap().unwrap();
    assert!(stored.record.inputs_complete && stored.pending.is_empty());
    assert_eq!(stored.finished.iter().map(|output| output.idx).collect::<Vec<_>>(), order.map(|idx| idx as i32));
    let page = store.outputs(&id, 2, 3).await.unwrap();
    assert_eq!(page.iter().map(|output| output.idx).collect::<Vec<_>>(), [4, 0, 5]);
    let one = PageRequest { after: 0, range: Some((4, 5)), limit: 1 };
    let page = store.page(&id, one).await.unwrap().unwrap();
    assert_eq!((page.outputs[0].idx, page.outputs.len(), page.next, page.unfinished), (4, 1, 1, 0));
    assert_eq!(store.call(&FunctionCallId::random()).await.unwrap(), None);
}

#[tokio::test]
async fn the_first_output_of_an_input_stays_and_the_input_does_not_come_back() {
    let (_folder, store) = store();
    let call = any_call(1);
    let id = call.spec.id.clone();
    let input = small_input(0);
    let first = result_of(&input);
    let mut second = first.clone();
    second.outcome = Outcome::of(OutcomeStatus::Terminated, "too late");
    store.write(vec![Write::Call(call), inputs(&id, std::slice::from_ref(&input))]).await.unwrap();
    store.write(vec![output(&id, first.clone())]).await.unwrap();
    store.write(vec![output(&id, second), inputs(&id, std::slice::from_ref(&input))]).await.unwrap();
    let stored = store.call(&id).await.unwrap().unwrap();
    assert_eq!((stored.pending, stored.finished), (vec![], vec![first]));
}

#[tokio::test]
async fn inputs_of_an_unknown_call_fail_and_outputs_of_a_deleted_one_are_left_out() {
    let (_folder, store) = store();
    let call = any_call(1);
    let id = call.spec.id.clone();
    let input = small_input(0);
    let refused = store.write(vec![inputs(&id, std::slice::from_ref(&input))]).await;
    assert!(matches!(refused, Err(StoreError::NoSuchCall(_))));
    store.write(vec![Write::Call(call), Write::DeleteCall(id.clone())]).await.unwrap();
    store.write(vec![output(&id, result_of(&input))]).await.unwrap();
    assert!(store.outputs(&id, 0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn expiry_takes_old_calls_that_wait_for_nothing_and_names_their_blobs() {
    let (_folder, store) = store();
    let blob = BlobId::random();
    let mut writes = Vec::new();
    // More than one transaction's worth.
    for _ in 0..450 {
        let call = any_call(1_000);
        let id = call.spec.id.clone();
        let input = small_input(0);
        let mut output_of = result_of(&input);
        output_of.outcome.data = Some(Payload::Blob(blob.clone()));
        writes.extend([Write::Call(call), inputs(&id, &[input]), output(&id, output_of)]);
    }
    let waiting = any_call(1_000);
    let waiting_id = waiting.spec.id.clone();
    writes.extend([Write::Call(waiting), inputs(&waiting_id, &[small_input(0)])]);
    store.write(writes).await.unwrap();

    let untouched = store.expire_calls(2_000).await.unwrap();
    assert_eq!(untouched.calls, 0, "their outputs were written just now");
    let expired = store.expire_calls(i64::MAX as u64).await.unwrap();
    assert_eq!((expired.calls, expired.blobs.len()), (450, 450));
    assert_eq!(store.load().await.unwrap().calls.len(), 1, "what waits is never taken");
}

#[tokio::test]
async fn of_many_versions_the_newest_stay_with_the_definitions_they_name() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let (_folder, store) = store();
    let environment = environment("main");
    let app = app(&environment.id);
    let function = function(&app.id);
    store
        .write(vec![Write::Environment(environment), Write::App(app.clone()), Write::Function(function.clone())])
        .await
        .unwrap();
    let mut definitions = Vec::new();
    for version in 1..=102_u32 {
        let definition = DefinitionRecord {
            id: DefinitionId::random(),
            function: function.id.clone(),
            app: app.id.clone(),
            definition: Bytes::from_static(b"code"),
            client_version: "1.6.4".to_owned(),
            created_at_ms: u64::from(version),
        };
        definitions.push(definition.id.clone());
        let deployment = DeploymentRecord {
            app: app.id.clone(),
            version,
            deployed_at_ms: 2 * DAY_MS + u64::from(version),
            client_version: "1.6.4".to_owned(),
            tag: format!("t{version}"),
            rollback_version: (version == 102).then_some(5),
            staged: version == 101,
            commit_info: Bytes::from_static(b"commit"),
            function_ids: [("f".to_owned(), function.id.clone())].into(),
            class_ids: Default::default(),
            definition_ids: [(function.id.clone(), definition.id.clone())].into(),
        };
        store.write(vec![Write::Definition(definition), Write::Deployment(deployment)]).await.unwrap();
    }
    let versions = store.deployments(&app.id).await.unwrap();
    assert_eq!(versions.iter().map(|v| v.version).collect::<Vec<_>>(), (3..=102).collect::<Vec<_>>());
    let last = versions.last().unwrap();
    assert_eq!((last.rollback_version, last.staged, last.tag.as_str()), (Some(5), false, "t102"));
    assert_eq!(last.definition_ids[&function.id], definitions[101]);
    let kept: Vec<DefinitionId> = store.definitions(&app.id).await.unwrap().into_iter().map(|d| d.id).collect();
    assert_eq!(kept.len(), 100);
    assert!(!kept.contains(&definitions[0]) && kept.contains(&definitions[2]));
    store.write(vec![Write::DeleteApp(app.id.clone())]).await.unwrap();
    assert_eq!(store.deployments(&app.id).await.unwrap(), []);
    assert_eq!(store.definitions(&app.id).await.unwrap(), []);
}

#[tokio::test]
async fn a_scheduled_run_is_stored_with_its_call_or_not_at_all() {
    let (folder, store) = store();
    let environment = environment("main");
    let (app, other) = (app(&environment.id), app(&environment.id));
    let function = function(&app.id);
    let schedule = |function: &types::ids::FunctionId, app: &types::ids::AppId| ScheduleRecord {
        function: function.clone(),
        app: app.clone(),
        schedule: "every 1 day".to_owned(),
        anchor_ms: 5,
        next_run_ms: Some(10),
        last_run_ms: None,
        last_call: None,
    };
    let before = schedule(&function.id, &app.id);
    let gone = schedule(&types::ids::FunctionId::random(), &other.id);
    let run = |call: &FunctionCallId| ScheduledRun {
        function: function.id.clone(),
        schedule: before.schedule.clone(),
        anchor_ms: 5,
        at_ms: 11,
        next_run_ms: Some(20),
        call: call.clone(),
    };
    let writes = vec![Write::App(other.clone()), Write::Schedule(before.clone()), Write::Schedule(gone)];
    store.write(writes).await.unwrap();
    // Inputs of a call that was never stored fail the whole of it.
    let stray = FunctionCallId::random();
    let failed = vec![Write::ScheduledRun(run(&stray)), inputs(&stray, &[small_input(0)])];
    assert!(store.write(failed).await.is_err());
    let call = call(&app.id, &function.id, 11);
    let of_another = ScheduledRun { anchor_ms: 6, next_run_ms: None, ..run(&call.spec.id) };
    store.write(vec![Write::DeleteApp(other.id), Write::ScheduledRun(of_another)]).await.unwrap();
    assert_eq!(store.load().await.unwrap().schedules, std::slice::from_ref(&before));

    store.write(vec![Write::Call(call.clone()), Write::ScheduledRun(run(&call.spec.id))]).await.unwrap();
    store.close().await.unwrap();
    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    let after =
        ScheduleRecord { next_run_ms: Some(20), last_run_ms: Some(11), last_call: Some(call.spec.id), ..before };
    assert_eq!(store.load().await.unwrap().schedules, [after]);
    store.write(vec![Write::DeleteSchedule(function.id)]).await.unwrap();
    assert!(store.load().await.unwrap().schedules.is_empty());
}

#[tokio::test]
async fn a_functions_inputs_are_reported_newest_call_first_within_a_time() {
    let (_folder, store) = store();
    let (app, function) = (AppId::random(), FunctionId::random());
    let mut calls = Vec::new();
    for created_at in [1_000, 2_000, 3_000] {
        let record = call(&app, &function, created_at);
        let input = small_input(0);
        store
            .write(vec![Write::Call(record.clone()), inputs(&record.spec.id, std::slice::from_ref(&input))])
            .await
            .unwrap();
        if created_at != 3_000 {
            store.write(vec![output(&record.spec.id, result_of(&input))]).await.unwrap();
        }
        calls.push(record.spec.id);
    }
    let other = any_call(2_000);
    store.write(vec![Write::Call(other.clone()), inputs(&other.spec.id, &[small_input(0)])]).await.unwrap();
    let report = async |since, until, limit| {
        let inputs = store.report((&app, &function), (since, until), limit).await.unwrap();
        inputs.into_iter().map(|input| (input.call, input.stage)).collect::<Vec<_>>()
    };
    let done = ReportedStage::Finished(OutcomeStatus::Success);
    let of = |n: usize, stage| (calls[n].clone(), stage);
    assert_eq!(report(0, u64::MAX, 9).await, [of(1, done), of(0, done), of(2, ReportedStage::Pending)]);
    assert_eq!(report(0, u64::MAX, 1).await, [of(1, done), of(2, ReportedStage::Pending)]);
    assert_eq!(report(500, 1_500, 9).await, [of(0, done)]);
}
