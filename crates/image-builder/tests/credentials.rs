//! Private registries: who may have an image, and what is said to those who may not.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use dorian_image_builder::{BuildRequest, RegistryAuth, RegistryAuthKind, RegistryConfig};
use support::fake_ecr::{FakeEcr, KEY_ID, SECRET_KEY, SESSION};
use support::fake_registry::{FakeRegistry, Faults};
use support::image::TestImage;
use support::real_registry::{Login, RealRegistry};
use support::{Machine, request};

static PERSON: Login = Login {
    user: "somebody",
    password: "open sesame",
    hash: "$2b$05$/NN3BrADB6g0xeUUOGFXsOMVw3Dh3fLh3tgRv/YH24z6y7UWfv/0y",
};
static AMAZON: Login = Login {
    user: "AWS",
    password: "a password for hours",
    hash: "$2b$05$/NN3BrADB6g0xeUUOGFXsOJUtIIDCgd1EApd3C1WqjB2fAoF40WxK",
};
static GOOGLE: Login = Login {
    user: "_json_key",
    password: r#"{"type": "service_account", "private_key": "KEY\nx\n"}"#,
    hash: "$2b$05$/NN3BrADB6g0xeUUOGFXsOZYkSlz73vsO3YvHYEly2uNbKjkfTWje",
};

/// As the server makes it of a secret.
fn secret(kind: RegistryAuthKind, variables: &[(&str, &str)]) -> Option<RegistryAuth> {
    let variables: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    RegistryAuth::from_secret(kind, &variables).unwrap()
}

fn login(user: &str, password: &str) -> Option<RegistryAuth> {
    secret(RegistryAuthKind::Static, &[("REGISTRY_USERNAME", user), ("REGISTRY_PASSWORD", password)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_password_wants_it() {
    let registry = RealRegistry::start(Some(&PERSON));
    registry.push("private/image", &TestImage::small());
    let Some(machine) = Machine::new() else { return };
    let text = format!("FROM {}/private/image:single\nRUN true", registry.host());
    let refused = machine.dockerfile(&text).await.error();
    assert!(refused.contains("`REGISTRY_USERNAME` and `REGISTRY_PASSWORD`"), "{refused}");
    let with = |registry_credentials| machine.build(BuildRequest { registry_credentials, ..request(&text) });
    let refused = with(login(PERSON.user, "wrong")).await.error();
    assert!(refused.contains("with the credentials given"), "{refused}");
    with(login(PERSON.user, PERSON.password)).await.ok();
    // Having it on disk gives nobody the right to it.
    machine.dockerfile(&text).await.error();
    with(login(PERSON.user, "wrong")).await.error();
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_where_the_registry_says() {
    let registry = FakeRegistry::start(&TestImage::small(), Faults::default());
    registry.faults().wants_token.store(true, Ordering::SeqCst);
    let Some(machine) = Machine::new() else { return };
    let text = format!("FROM {}\nRUN true", registry.image("index"));
    let refused = machine.dockerfile(&text).await.error();
    assert!(refused.contains("only to those it knows"), "{refused}");
    let with = |registry_credentials| machine.build(BuildRequest { registry_credentials, ..request(&text) });
    let refused = with(login("user", "wrong")).await.error();
    assert!(refused.contains("with the credentials given"), "{refused}");
    with(login("user", "secret")).await.ok();
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_key_of_amazons_becomes_the_registrys_password() {
    let registry = RealRegistry::start(Some(&AMAZON));
    registry.push("some/image", &TestImage::small());
    let amazon = FakeEcr::start(AMAZON.user, AMAZON.password);
    let config = RegistryConfig { ecr_endpoint: Some(amazon.url()), ..RegistryConfig::default() };
    let Some(machine) = Machine::with(|builder| builder.registries = config) else { return };
    let text = format!("FROM {}/some/image:single\nRUN true", registry.host());
    let with = |key: &str, session: &str| {
        let variables = [
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", key),
            ("AWS_SESSION_TOKEN", session),
            ("AWS_REGION", "eu-test-1"),
        ];
        let registry_credentials = secret(RegistryAuthKind::Aws, &variables);
        machine.build(BuildRequest { registry_credentials, ..request(&text) })
    };
    let refused = with("another key", "").await.error();
    let expected = "gives no registry password for access key `AKIATEST`: the signature does not match \
                    (`InvalidSignatureException`)";
    assert!(refused.contains(expected), "{refused}");
    assert!(!refused.contains("another key"), "{refused}");
    with(SECRET_KEY, "another session").await.error();
    assert_eq!(amazon.refusals(), ["the signature does not match", "the security token is not valid"]);
    with(SECRET_KEY, "").await.ok();
    with(SECRET_KEY, SESSION).await.ok();
    assert_eq!(amazon.refusals().len(), 2);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amazon_out_of_reach_is_said() {
    let registry = RealRegistry::start(Some(&AMAZON));
    registry.push("some/image", &TestImage::small());
    let config = RegistryConfig { ecr_endpoint: Some("http://127.0.0.1:1".to_owned()), ..RegistryConfig::default() };
    let Some(machine) = Machine::with(|builder| builder.registries = config) else { return };
    let variables = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_REGION", "eu-test-1")];
    let registry_credentials = secret(RegistryAuthKind::Aws, &variables);
    let text = format!("FROM {}/some/image:single\nRUN true", registry.host());
    let refused = machine.build(BuildRequest { registry_credentials, ..request(&text) }).await.error();
    assert!(refused.contains("`127.0.0.1:1` cannot be reached"), "{refused}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_of_googles_is_the_registrys_password() {
    let registry = RealRegistry::start(Some(&GOOGLE));
    registry.push("project/image", &TestImage::small());
    let Some(machine) = Machine::new() else { return };
    let text = format!("FROM {}/project/image:index\nRUN true", registry.host());
    let with = |json: &str| {
        let registry_credentials = secret(RegistryAuthKind::Gcp, &[("SERVICE_ACCOUNT_JSON", json)]);
        machine.build(BuildRequest { registry_credentials, ..request(&text) })
    };
    let refused = with("{\"type\": \"another\"}").await.error();
    assert!(refused.contains("with the credentials given"), "{refused}");
    with(GOOGLE.password).await.ok();
    machine.leave_nothing().await;
}
