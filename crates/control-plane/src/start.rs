//! From a function's definition to what a worker needs to run it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use client_protocol::wire;
use image_builder::{BuiltImage, LogSink, LogStream};
use prost::Message;
use worker_protocol::{Descriptor, TaskSpec};

use crate::clock::wall_ms;
use crate::definition::Definition;
use crate::environment_size;
use crate::handles;
use crate::logs::Origin;
use crate::shared::Shared;
use crate::tasks::Task;

/// Paths that the worker promises inside a container.
const SOCKET: &str = "/__modal/api.sock";
const ARGUMENTS: &str = "/__modal/container-arguments";
const CA_BUNDLE: &str = "/__modal/ca-bundle.pem";

/// Without a limit of the function's own, a container may use this share of the machine's memory: enough not to
/// matter, and too little to take the machine down.
const MEMORY_CEILING_PERCENT: u64 = 90;

/// Everything a worker needs for a task.
///
/// # Errors
/// A sentence: what is missing, on which function.
pub async fn task_spec(shared: &Arc<Shared>, task: &Arc<Task>) -> Result<TaskSpec, String> {
    let owner = &task.owner;
    let definition = &task.definition;
    let image_id = definition.image.as_ref().ok_or_else(|| format!("function `{}` has no image", owner.tag))?;
    let image = shared.images.get(image_id).ok_or_else(|| format!("image `{image_id}` does not exist (any more)"))?;
    let built = image.wait_built().await?;
    let layers = layers(shared, task, definition, &built).await?;
    let buckets = crate::buckets::bucket_mounts(shared, definition)?;
    let shared_folders = crate::buckets::shared_folders(shared, definition).await?;
    let secrets = shared.secret_variables(&definition.secrets)?;
    let env = environment(shared, task, definition, &built, secrets);
    environment_size::check(env.iter().map(|(name, value)| (name.as_str(), value.as_str())), || {
        shared.secret_sizes(&definition.secrets)
    })?;
    let arguments = container_arguments(shared, task, definition);
    let (volumes, mounts) = shared.volume_specs(&definition.volumes).await?;
    *task.mounts.lock() = mounts;
    let resources = definition.resources();
    let mib = |mib: u32| u64::from(mib) << 20;
    let ceiling = shared.worker.capacity.memory_mib * MEMORY_CEILING_PERCENT / 100;
    Ok(TaskSpec {
        task: task.id.clone(),
        app: owner.app.id.clone(),
        function: owner.id.clone(),
        layers,
        argv: argv(definition, &built, &arguments),
        env: env.into(),
        cwd: built.config.workdir.clone().unwrap_or_else(|| "/root".to_owned()),
        container_arguments: arguments,
        memory_limit_bytes: Some(resources.memory_mib_max.map_or(ceiling << 20, mib)),
        // More than the machine has would outweigh what others ask for in the same words.
        cpu_request_milli: resources.milli_cpu.min(shared.worker.capacity.milli_cpu),
        cpu_limit_milli: resources.milli_cpu_max,
        disk_limit_bytes: resources.disk_mib.map(mib),
        block_network: definition.view.block_network,
        builds_image: owner.build.is_some(),
        buckets,
        shared_folders,
        volumes,
    })
}

/// Image, then the client's package, then the user's files: what comes later lies on top.
async fn layers(
    shared: &Arc<Shared>,
    task: &Task,
    definition: &Definition,
    built: &BuiltImage,
) -> Result<Vec<String>, String> {
    let mut layers: Vec<String> = built.layers.iter().map(ToString::to_string).collect();
    let mut files = Vec::new();
    for id in &definition.mounts {
        let mount = shared.mounts.get(id).ok_or_else(|| format!("mount `{id}` does not exist (any more)"))?;
        match mount.client_version() {
            Some(version) => layers.extend(client_layers(shared, task, version, built).await?),
            None => files.push(mount.layer(&shared.images.builder, &shared.blobs).await?),
        }
    }
    layers.extend(files);
    Ok(layers)
}

async fn client_layers(
    shared: &Arc<Shared>,
    task: &Task,
    version: &str,
    built: &BuiltImage,
) -> Result<Vec<String>, String> {
    let python = built.metadata.python_version_info.as_deref().and_then(python_minor).ok_or_else(|| {
        "the image has no `python` on its PATH; use a Python image, or `add_python=` with `from_registry`".to_owned()
    })?;
    let app = task.owner.app.clone();
    let origin = Origin { task: Some(task.id.clone()), ..task.owner.origin() };
    let sink = LogSink::new(move |line| {
        // What is done, not every line of what the installer says about it.
        if line.stream != LogStream::Builder {
            return;
        }
        let text = format!("[dorian] {}\n", line.text);
        app.log.append(wall_ms(), origin.clone(), Descriptor::System, text);
    });
    let made = shared.images.builder.ensure_client_layer(version, &python, &sink).await;
    let layers = made.map_err(|e| format!("could not provide the client package `modal` {version}: {e}"))?;
    Ok(layers.iter().map(ToString::to_string).collect())
}

/// `3.11` from `Python 3.11.2 (main, …)`.
fn python_minor(version_info: &str) -> Option<String> {
    let version = version_info.strip_prefix("Python ")?;
    let mut parts = version.split(['.', ' ']);
    let (major, minor) = (parts.next()?, parts.next()?);
    minor.bytes().all(|b| b.is_ascii_digit()).then(|| format!("{major}.{minor}"))
}

fn argv(definition: &Definition, built: &BuiltImage, arguments: &Bytes) -> Vec<String> {
    let mut argv = built.config.entrypoint.clone();
    argv.extend(["python", "-m", "modal._container_entrypoint"].map(str::to_owned));
    if definition.client.is_legacy_runner() {
        argv.push(base64::engine::general_purpose::STANDARD.encode(arguments));
    }
    argv
}

fn environment(
    shared: &Shared,
    task: &Task,
    definition: &Definition,
    built: &BuiltImage,
    secrets: BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = vec![
        ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("HOME".into(), "/root".into()),
        ("LANG".into(), "C.UTF-8".into()),
    ];
    env.extend(shared.config.host_env.iter().cloned());
    env.extend(built.config.env.iter().cloned());
    env.extend(secrets);
    let inherited = env.iter().rev().find(|(k, _)| k == "PYTHONPATH").map(|(_, v)| format!(":{v}"));
    let image = definition.image.as_ref().map(ToString::to_string).unwrap_or_default();
    env.extend(
        [
            ("PYTHONPATH", format!("/pkg:/root{}", inherited.unwrap_or_default())),
            ("MODAL_SERVER_URL", format!("unix://{SOCKET}")),
            ("MODAL_CONTAINER_ARGUMENTS_PATH", ARGUMENTS.to_owned()),
            ("MODAL_IS_REMOTE", "1".to_owned()),
            // Old runners know by this that they are one; nobody reads the value.
            ("MODAL_TASK_SECRET", "unused".to_owned()),
            ("MODAL_TASK_ID", task.id.to_string()),
            ("MODAL_IMAGE_ID", image),
            ("MODAL_ENVIRONMENT", shared.environment_name(&task.owner.app.environment)),
            ("MODAL_CLOUD_PROVIDER", "CLOUD_PROVIDER_AUTO".to_owned()),
            ("MODAL_REGION", "local".to_owned()),
            // The runner speaks to a socket; a proxy from the host must not come between.
            ("MODAL_DISABLE_API_PROXY", "1".to_owned()),
        ]
        .map(|(k, v)| (k.to_owned(), v)),
    );
    last_wins(env)
}

/// Variables of the host that make TLS work behind a proxy with its own certificate authority.
pub fn host_environment(variables: impl Iterator<Item = (String, String)>) -> (Vec<(String, String)>, Option<String>) {
    let mut bundle = None;
    let mut env = Vec::new();
    for (name, value) in variables {
        match name.as_str() {
            "SSL_CERT_FILE" | "REQUESTS_CA_BUNDLE" | "CURL_CA_BUNDLE" => {
                env.push((name, CA_BUNDLE.to_owned()));
                bundle = Some(value);
            }
            n if ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"].contains(&n.to_ascii_uppercase().as_str()) => {
                env.push((name, value));
            }
            _ => {}
        }
    }
    (env, bundle)
}

fn last_wins(env: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::with_capacity(env.len());
    for (name, value) in env {
        match kept.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => kept.push((name, value)),
        }
    }
    kept
}

fn container_arguments(shared: &Shared, task: &Task, definition: &Definition) -> Bytes {
    let owner = &task.owner;
    let arguments = wire::ContainerArguments {
        task_id: task.id.to_string(),
        function_id: owner.id.to_string(),
        app_id: owner.app.id.to_string(),
        function_def: Some(definition.raw.clone()),
        serialized_params: owner.variant.as_ref().map(|v| v.params.clone()).unwrap_or_default(),
        environment_name: shared.environment_name(&owner.app.environment),
        app_layout: Some(handles::app_layout(shared, &owner.app, Some(definition))),
        ..Default::default()
    };
    arguments.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_what_python_says_of_itself() {
        assert_eq!(python_minor("Python 3.11.2 (main, Apr 28 2025)"), Some("3.11".to_owned()));
        assert_eq!(python_minor("Python 3.13.5"), Some("3.13".to_owned()));
        assert_eq!(python_minor("pypy"), None);
    }

    #[test]
    fn host_certificates_are_named_by_their_place_in_the_container() {
        let host = [("SSL_CERT_FILE", "/etc/ca.pem"), ("https_proxy", "http://p:1"), ("EDITOR", "ed")];
        let (env, bundle) = host_environment(host.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        assert_eq!(bundle.as_deref(), Some("/etc/ca.pem"));
        assert_eq!(
            env,
            [("SSL_CERT_FILE".to_owned(), CA_BUNDLE.to_owned()), ("https_proxy".to_owned(), "http://p:1".to_owned())]
        );
    }
}
