//! Variants of functions: found by id, loaded with the calls that need them, gone with their base or their app.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use bytes::Bytes;
use common::{app, call, environment, function};
use dorian_metadata_store::{FunctionRecord, MetadataStore, VariantRecord, Write};
use types::ids::FunctionId;

async fn store_with_a_function() -> (tempfile::TempDir, MetadataStore, FunctionRecord) {
    let folder = tempfile::tempdir().unwrap();
    let store = MetadataStore::open(&folder.path().join("dorian.db")).unwrap();
    let environment = environment("main");
    let app = app(&environment.id);
    let function = function(&app.id);
    let writes = vec![Write::Environment(environment), Write::App(app), Write::Function(function.clone())];
    store.write(writes).await.unwrap();
    (folder, store, function)
}

fn variant(base: &FunctionRecord, last_used_ms: u64) -> VariantRecord {
    VariantRecord {
        id: FunctionId::random(),
        base: base.id.clone(),
        app: base.app.clone(),
        params: Bytes::from_static(b"\x80params"),
        options: Bytes::new(),
        created_at_ms: 3,
        last_used_ms,
    }
}

#[tokio::test]
async fn a_variant_is_found_as_it_was_and_loaded_only_when_a_call_names_it() {
    let (_folder, store, base) = store_with_a_function().await;
    let (called, uncalled) = (variant(&base, 5), variant(&base, 6));
    let call = call(&base.app, &called.id, 9);
    let writes = vec![Write::Variant(called.clone()), Write::Variant(uncalled.clone()), Write::Call(call)];
    store.write(writes).await.unwrap();
    assert_eq!(store.variant(&uncalled.id).await.unwrap(), Some(uncalled));
    assert_eq!(store.load().await.unwrap().variants, [called]);
}

#[tokio::test]
async fn long_unused_variants_expire_unless_a_call_names_them() {
    let (_folder, store, base) = store_with_a_function().await;
    let (called, touched, idle) = (variant(&base, 5), variant(&base, 5), variant(&base, 5));
    let writes = vec![
        Write::Variant(called.clone()),
        Write::Variant(touched.clone()),
        Write::Variant(idle.clone()),
        Write::Call(call(&base.app, &called.id, 9)),
        Write::TouchVariant(touched.id.clone(), 50),
        Write::ExpireVariants(10),
    ];
    store.write(writes).await.unwrap();
    assert_eq!(store.variant(&idle.id).await.unwrap(), None);
    assert!(store.variant(&called.id).await.unwrap().is_some());
    assert_eq!(store.variant(&touched.id).await.unwrap().map(|v| v.last_used_ms), Some(50));
}

#[tokio::test]
async fn a_variant_goes_with_its_base_and_takes_its_calls() {
    let (_folder, store, base) = store_with_a_function().await;
    let variant = variant(&base, 5);
    let call = call(&base.app, &variant.id, 9);
    store.write(vec![Write::Variant(variant.clone()), Write::Call(call.clone())]).await.unwrap();
    store.write(vec![Write::DeleteFunction(base.id)]).await.unwrap();
    assert_eq!(store.variant(&variant.id).await.unwrap(), None);
    assert!(store.call(&call.spec.id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_variant_goes_with_its_app() {
    let (_folder, store, base) = store_with_a_function().await;
    let variant = variant(&base, 5);
    store.write(vec![Write::Variant(variant.clone()), Write::DeleteApp(base.app)]).await.unwrap();
    assert_eq!(store.variant(&variant.id).await.unwrap(), None);
}
