//! Cloud bucket mounts and network file systems in a function's definition.

use std::collections::BTreeMap;
use std::sync::Arc;

use client_protocol::wire;
use tonic::Status;
use types::errors::with_causes;
use types::ids::{SecretId, SharedVolumeId};
use types::objects::ObjectKind;
use types::variables::Variables;
use wire::cloud_bucket_mount::{BucketType, MetadataTtlOneof, MetadataTtlType};
use worker_protocol::{BucketMount, SharedFolder};

use crate::definition::Definition;
use crate::shared::Shared;

/// As long as Mountpoint believes what it heard of a file: a program that looks at a file in several ways asks once.
const DEFAULT_TTL_MS: u64 = 1_000;
/// For files that never change: longer than any container lives.
const INDEFINITE_TTL_MS: u64 = 10 * 365 * 24 * 3_600_000;
/// The longest key, in bytes.
const MAX_KEY: usize = 1_024;

/// What a mount needs of its secret, and what the store's own clients call it.
const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const OPTIONAL: [&str; 3] = ["AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"];
/// Google's names for the same pair.
const GOOGLES: [(&str, &str); 2] = [("GOOGLE_ACCESS_KEY_ID", ACCESS_KEY), ("GOOGLE_ACCESS_KEY_SECRET", SECRET_KEY)];

/// # Errors
/// `INVALID_ARGUMENT` for mounts that cannot be.
pub fn check(function: &wire::Function) -> Result<(), Status> {
    let buckets = function.cloud_bucket_mounts.iter().map(|mount| mount.mount_path.as_str());
    let ours = buckets.chain(function.shared_volume_mounts.iter().map(|mount| mount.mount_path.as_str()));
    let mut taken: Vec<&str> = function.volume_mounts.iter().map(|mount| mount.mount_path.as_str()).collect();
    for place in ours {
        let end = place.trim_end_matches('/');
        if !place.starts_with('/') || end.is_empty() || place.split('/').any(|part| part == "..") {
            return Err(refused(place, "is no absolute path of a folder in the container"));
        }
        if taken.iter().any(|other| other.trim_end_matches('/') == end) {
            return Err(refused(place, "is the place of two mounts"));
        }
        taken.push(place);
    }
    function.cloud_bucket_mounts.iter().try_for_each(check_bucket)?;
    for mount in &function.shared_volume_mounts {
        if SharedVolumeId::parse(&mount.shared_volume_id).is_none() {
            return Err(refused(&mount.mount_path, "names no network file system"));
        }
    }
    Ok(())
}

fn check_bucket(mount: &wire::CloudBucketMount) -> Result<(), Status> {
    let bad = |why: &str| Err(refused(&mount.mount_path, why));
    if mount.bucket_name.is_empty() || mount.bucket_name.contains('/') {
        return bad("has a `bucket_name` that no bucket can have; parts of a bucket are chosen by `key_prefix`");
    }
    if !mount.credentials_secret_id.is_empty() && SecretId::parse(&mount.credentials_secret_id).is_none() {
        return bad("names no secret");
    }
    if mount.requester_pays && mount.credentials_secret_id.is_empty() {
        return bad("has `requester_pays=True` and no `secret=` that says who pays");
    }
    let endpoint = mount.bucket_endpoint_url.as_deref().unwrap_or_default();
    if !endpoint.is_empty() && !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
        return bad("has a `bucket_endpoint_url` that does not begin with `https://` or `http://`");
    }
    let prefix = mount.key_prefix.as_deref().unwrap_or_default();
    if !prefix.is_empty() && !prefix.ends_with('/') {
        return bad("has a `key_prefix` that does not end in `/`");
    }
    // Such a segment would lead a URL's path elsewhere.
    if prefix.split('/').any(|segment| segment == "." || segment == "..") || prefix.len() >= MAX_KEY {
        return bad("has a `key_prefix` that no key can begin with");
    }
    Ok(())
}

fn refused(place: &str, why: &str) -> Status {
    Status::invalid_argument(format!("the mount on `{place}` {why}"))
}

/// What a worker needs to mount the function's buckets.
///
/// # Errors
/// A sentence: which secret is missing, or what it lacks.
pub fn bucket_mounts(shared: &Shared, definition: &Definition) -> Result<Vec<BucketMount>, String> {
    let mounts = definition.view.cloud_bucket_mounts.iter();
    mounts.map(|mount| Ok(bucket_mount(mount, credentials(shared, mount)?))).collect()
}

fn bucket_mount(mount: &wire::CloudBucketMount, credentials: Variables) -> BucketMount {
    let metadata_ttl_ms = match mount.metadata_ttl_oneof {
        Some(MetadataTtlOneof::MetadataTtlSeconds(seconds)) => seconds.saturating_mul(1_000).min(INDEFINITE_TTL_MS),
        Some(MetadataTtlOneof::MetadataTtlType(kind)) if kind == MetadataTtlType::Indefinite as i32 => {
            INDEFINITE_TTL_MS
        }
        _ => DEFAULT_TTL_MS,
    };
    BucketMount {
        mount_path: mount.mount_path.clone(),
        bucket: mount.bucket_name.clone(),
        endpoint: mount.bucket_endpoint_url.clone().filter(|endpoint| !endpoint.is_empty()),
        prefix: mount.key_prefix.clone().unwrap_or_default(),
        credentials,
        read_only: mount.read_only,
        requester_pays: mount.requester_pays,
        force_path_style: mount.force_path_style,
        metadata_ttl_ms,
    }
}

fn credentials(shared: &Shared, mount: &wire::CloudBucketMount) -> Result<Variables, String> {
    let Some(id) = SecretId::parse(&mount.credentials_secret_id) else { return Ok(Variables::default()) };
    let variables = shared.secret_variables(&[id])?;
    choose(&variables, mount.bucket_type())
        .map_err(|why| format!("the `secret` of the mount on `{}` {why}", mount.mount_path))
}

/// Of all that is in a secret, what the mount needs.
fn choose(variables: &BTreeMap<String, String>, kind: BucketType) -> Result<Variables, String> {
    let get = |name: &str| variables.get(name).filter(|value| !value.is_empty());
    let mut chosen: Vec<(String, String)> = Vec::new();
    for (googles, amazons) in GOOGLES {
        let names = if kind == BucketType::Gcp { [googles, amazons] } else { [amazons, googles] };
        let value = names.iter().find_map(|name| get(name)).ok_or_else(|| {
            let pair =
                if kind == BucketType::Gcp { GOOGLES.map(|names| names.0) } else { GOOGLES.map(|names| names.1) };
            format!("has no `{}`; it needs `{}` and `{}`", names[0], pair[0], pair[1])
        })?;
        chosen.push((amazons.to_owned(), value.clone()));
    }
    chosen.extend(OPTIONAL.iter().filter_map(|name| Some(((*name).to_owned(), get(name)?.clone()))));
    // These stores have one region, whose name is part of a signature all the same.
    if kind == BucketType::R2 && get("AWS_REGION").is_none() && get("AWS_DEFAULT_REGION").is_none() {
        chosen.push(("AWS_REGION".to_owned(), "auto".to_owned()));
    }
    Ok(chosen.into())
}

/// The function's network file systems, whose folders are there afterwards.
///
/// # Errors
/// A sentence that names what is gone.
pub async fn shared_folders(shared: &Arc<Shared>, definition: &Definition) -> Result<Vec<SharedFolder>, String> {
    let mut folders = Vec::new();
    for mount in &definition.view.shared_volume_mounts {
        let id = SharedVolumeId::parse(&mount.shared_volume_id);
        let id = id.filter(|id| shared.objects.get(ObjectKind::SharedVolume, id.as_str()).is_some()).ok_or_else(|| {
            let (id, place) = (&mount.shared_volume_id, &mount.mount_path);
            format!("network file system `{id}` of the mount on `{place}` does not exist (any more); run or deploy again")
        })?;
        let (files, folder) = (shared.shared_files.clone(), id.clone());
        let made = tokio::task::spawn_blocking(move || files.ensure(folder.as_str())).await;
        made.map_err(|error| error.to_string())?.map_err(|error| format!("network file system `{id}`: {error}"))?;
        folders.push(SharedFolder { mount_path: mount.mount_path.clone(), shared_volume: id });
    }
    Ok(folders)
}

impl Shared {
    /// In the background. What a crash interrupts, the next start goes on with.
    pub fn remove_shared_files(&self, id: &str) {
        let (files, id) = (self.shared_files.clone(), id.to_owned());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = files.remove_all(&id) {
                tracing::warn!(id, error = with_causes(&error), "a deleted network file system is still on the disk");
            }
        });
    }

    pub fn sweep_shared_files(self: &Arc<Self>) {
        let shared = self.clone();
        let (files, known) =
            (shared.shared_files.clone(), move |id: &str| shared.objects.get(ObjectKind::SharedVolume, id).is_some());
        tokio::task::spawn_blocking(move || files.sweep(known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(change: impl FnOnce(&mut wire::CloudBucketMount)) -> wire::Function {
        let mut mount =
            wire::CloudBucketMount { bucket_name: "b".to_owned(), mount_path: "/b".to_owned(), ..Default::default() };
        change(&mut mount);
        wire::Function { cloud_bucket_mounts: vec![mount], ..Default::default() }
    }

    #[test]
    fn what_cannot_be_mounted_is_refused_with_its_place() {
        assert!(check(&bucket(|_| {})).is_ok());
        let refusals: [fn(&mut wire::CloudBucketMount); 8] = [
            |m| m.mount_path = "b".to_owned(),
            |m| m.mount_path = "/".to_owned(),
            |m| m.mount_path = "/a/../b".to_owned(),
            |m| m.bucket_name = "b/c".to_owned(),
            |m| m.bucket_endpoint_url = Some("minio:9000".to_owned()),
            |m| m.key_prefix = Some("a".to_owned()),
            |m| m.key_prefix = Some("../".to_owned()),
            |m| m.requester_pays = true,
        ];
        for change in refusals {
            let error = check(&bucket(change)).unwrap_err();
            assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn two_mounts_cannot_have_one_place() {
        let mut function = bucket(|_| {});
        let shared_volume_id = "sv-1".to_owned();
        let mount = wire::SharedVolumeMount { mount_path: "/b/".to_owned(), shared_volume_id, ..Default::default() };
        function.shared_volume_mounts.push(mount);
        assert!(check(&function).unwrap_err().message().contains("two mounts"));
    }

    #[test]
    fn a_mount_gets_its_keys_and_nothing_else_of_its_secret() {
        let of = |pairs: &[(&str, &str)], kind| {
            let variables = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            choose(&variables, kind).map(|chosen| chosen.0)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let aws = [(ACCESS_KEY, "a"), (SECRET_KEY, "s"), ("OTHER", "x"), ("AWS_REGION", "r")];
        let expected = vec![pair(ACCESS_KEY, "a"), pair(SECRET_KEY, "s"), pair("AWS_REGION", "r")];
        assert_eq!(of(&aws, BucketType::S3), Ok(expected));
        let google = [("GOOGLE_ACCESS_KEY_ID", "a"), ("GOOGLE_ACCESS_KEY_SECRET", "s")];
        assert_eq!(of(&google, BucketType::Gcp), Ok(vec![pair(ACCESS_KEY, "a"), pair(SECRET_KEY, "s")]));
        assert!(of(&[(ACCESS_KEY, "a")], BucketType::S3).unwrap_err().contains("AWS_SECRET_ACCESS_KEY"));
        assert!(of(&[], BucketType::Gcp).unwrap_err().contains("GOOGLE_ACCESS_KEY_ID"));
        assert_eq!(of(&aws[..2], BucketType::R2).unwrap()[2], pair("AWS_REGION", "auto"));
    }

    #[test]
    fn the_time_of_validity_is_the_wires_or_a_second() {
        let of = |ttl| {
            bucket_mount(
                &wire::CloudBucketMount { metadata_ttl_oneof: ttl, ..Default::default() },
                Variables::default(),
            )
            .metadata_ttl_ms
        };
        assert_eq!(of(None), 1_000);
        assert_eq!(of(Some(MetadataTtlOneof::MetadataTtlSeconds(7))), 7_000);
        assert_eq!(of(Some(MetadataTtlOneof::MetadataTtlType(MetadataTtlType::Minimal as i32))), 1_000);
        assert_eq!(of(Some(MetadataTtlOneof::MetadataTtlType(MetadataTtlType::Indefinite as i32))), INDEFINITE_TTL_MS);
    }
}
