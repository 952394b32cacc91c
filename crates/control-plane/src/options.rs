//! Options of a variant (`with_options`, `with_concurrency`, `with_batching`) and how they change a definition.
//!
//! A variant's definition is made of its base's raw bytes, field by field, so that what the deploying client said and we
//! do not know still reaches the container.

use client_protocol::{Passthrough, wire};
use prost::DecodeError;
use tonic::Status;

/// Numbers of the fields of `Function` that options set. (The tests hold them against the messages.)
const SECRET_IDS: u32 = 10;
const RETRY_POLICY: u32 = 18;
const CONCURRENCY_LIMIT: u32 = 19;
const TIMEOUT_SECS: u32 = 21;
const TASK_IDLE_TIMEOUT_SECS: u32 = 25;
const WARM_POOL_SIZE: u32 = 27;
const VOLUME_MOUNTS: u32 = 33;
const MAX_CONCURRENT_INPUTS: u32 = 34;
const SCHEDULER_PLACEMENT: u32 = 50;
const CLOUD_BUCKET_MOUNTS: u32 = 51;
const BATCH_MAX_SIZE: u32 = 60;
const BATCH_LINGER_MS: u32 = 61;
const TARGET_CONCURRENT_INPUTS: u32 = 64;
const BUFFER_CONTAINERS: u32 = 69;
const CLOUD_PROVIDER_STR: u32 = 77;
const ROUTING_REGION: u32 = 93;

/// The same options in one form, however a client wrote them: what changes nothing is not there.
#[must_use]
pub fn normalised(mut options: wire::FunctionOptions) -> wire::FunctionOptions {
    if let Some(resources) = &mut options.resources
        && resources.gpu_config == Some(wire::GpuConfig::default())
    {
        resources.gpu_config = None;
    }
    options.resources = options.resources.filter(|r| *r != wire::Resources::default());
    options.pinned_app_version = options.pinned_app_version.filter(|version| *version != 0);
    if !options.replace_secret_ids {
        options.secret_ids.clear();
    }
    if !options.replace_volume_mounts {
        options.volume_mounts.clear();
    }
    if !options.replace_cloud_bucket_mounts {
        options.cloud_bucket_mounts.clear();
    }
    options
}

/// The version of its app that a variant is of, whatever is deployed later; `None` for one that follows its base.
#[must_use]
pub fn pinned_version(options: &wire::FunctionOptions) -> Option<u32> {
    options.pinned_app_version.and_then(|version| u32::try_from(version).ok()).filter(|version| *version > 0)
}

/// Options that no variant can be made of.
///
/// # Errors
/// `INVALID_ARGUMENT` when they contradict themselves, `UNIMPLEMENTED` when they would be accepted and ignored.
pub fn check_options(options: &wire::FunctionOptions) -> Result<(), Status> {
    if !options.mount_ids.is_empty() {
        return Err(Status::unimplemented("options of a function cannot replace its mounts"));
    }
    if let Some(version) = options.pinned_app_version.filter(|version| *version < 0) {
        return Err(Status::invalid_argument(format!(
            "`version={version}` is no version of an app: they count from 1"
        )));
    }
    if let (Some(target), Some(max)) = (options.target_concurrent_inputs, options.max_concurrent_inputs)
        && target > max
    {
        return Err(Status::invalid_argument(format!(
            "`target_inputs={target}` is more than `max_inputs={max}` allows; the target must not be above the maximum"
        )));
    }
    if options.retry_policy.is_some_and(|policy| policy.backoff_coefficient < 0.0) {
        return Err(Status::invalid_argument("the back-off coefficient of `retries` is negative"));
    }
    Ok(())
}

/// The definition `base` with `options`.
///
/// Everything that is set wins, of the resources each by itself. The number of containers that are kept warm is a
/// promise about the base's pool: a variant makes it only when its options say so, since whoever uses a hundred sets of
/// parameters did not ask for a hundred idle containers.
///
/// # Errors
/// When `base` is no message.
pub fn with_options(
    base: &Passthrough<wire::Function>,
    options: &wire::FunctionOptions,
) -> Result<Passthrough<wire::Function>, DecodeError> {
    let mut function = base.clone();
    let old = base.view()?;
    let mut gone = vec![WARM_POOL_SIZE];
    let mut with = wire::Function { warm_pool_size: options.warm_pool_size.unwrap_or(0), ..Default::default() };
    let mut scaling = wire::AutoscalerSettings { min_containers: Some(with.warm_pool_size), ..Default::default() };
    let mut number = |field: u32, value: Option<u32>, slot: &mut u32| {
        if let Some(value) = value {
            gone.push(field);
            *slot = value;
        }
    };
    number(TIMEOUT_SECS, options.timeout_secs, &mut with.timeout_secs);
    number(CONCURRENCY_LIMIT, options.concurrency_limit, &mut with.concurrency_limit);
    number(TASK_IDLE_TIMEOUT_SECS, options.task_idle_timeout_secs, &mut with.task_idle_timeout_secs);
    number(BUFFER_CONTAINERS, options.buffer_containers, &mut with.experimental_buffer_containers);
    number(BATCH_MAX_SIZE, options.batch_max_size, &mut with.batch_max_size);
    if let Some((max, target)) = concurrency(&old, options) {
        number(MAX_CONCURRENT_INPUTS, Some(max), &mut with.max_concurrent_inputs);
        number(TARGET_CONCURRENT_INPUTS, Some(target), &mut with.target_concurrent_inputs);
    }
    scaling.max_containers = options.concurrency_limit;
    scaling.scaledown_window = options.task_idle_timeout_secs;
    scaling.buffer_containers = options.buffer_containers;
    if let Some(linger) = options.batch_linger_ms {
        gone.push(BATCH_LINGER_MS);
        with.batch_linger_ms = linger;
    }
    if options.retry_policy.is_some() {
        gone.push(RETRY_POLICY);
        with.retry_policy = options.retry_policy;
    }
    if options.scheduler_placement.is_some() {
        gone.push(SCHEDULER_PLACEMENT);
        with.scheduler_placement = options.scheduler_placement.clone();
    }
    if let Some(cloud) = &options.cloud_provider_str {
        gone.push(CLOUD_PROVIDER_STR);
        with.cloud_provider_str = cloud.clone();
    }
    if let Some(region) = &options.routing_region {
        gone.push(ROUTING_REGION);
        with.routing_region = region.clone();
    }
    if options.replace_secret_ids {
        gone.push(SECRET_IDS);
        with.secret_ids = options.secret_ids.clone();
    }
    if options.replace_volume_mounts {
        gone.push(VOLUME_MOUNTS);
        with.volume_mounts = options.volume_mounts.clone();
    }
    if options.replace_cloud_bucket_mounts {
        gone.push(CLOUD_BUCKET_MOUNTS);
        with.cloud_bucket_mounts = options.cloud_bucket_mounts.clone();
    }
    // Message fields whose parts are merged: these are only added to.
    with.resources = options.resources.clone();
    with.autoscaler_settings = Some(scaling);
    function.replace(&gone, &with)?;
    Ok(function)
}

/// (max, target) inputs at once, when options say anything of them. Old clients have one number for both.
fn concurrency(base: &wire::Function, options: &wire::FunctionOptions) -> Option<(u32, u32)> {
    let max = options.max_concurrent_inputs.or(options.target_concurrent_inputs)?;
    let target = options.target_concurrent_inputs.unwrap_or(base.target_concurrent_inputs);
    Some((max, target.min(max)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use prost::encoding::{WireType, encode_key, encode_varint};

    use super::*;

    fn base() -> wire::Function {
        wire::Function {
            module_name: "m".into(),
            function_name: "Model.*".into(),
            secret_ids: vec!["st-a".into(), "st-b".into()],
            timeout_secs: 60,
            warm_pool_size: 3,
            concurrency_limit: 9,
            max_concurrent_inputs: 8,
            target_concurrent_inputs: 4,
            resources: Some(wire::Resources { milli_cpu: 500, memory_mb: 256, ..Default::default() }),
            retry_policy: Some(wire::FunctionRetryPolicy { retries: 5, max_delay_ms: 9, ..Default::default() }),
            autoscaler_settings: Some(wire::AutoscalerSettings {
                min_containers: Some(3),
                max_containers: Some(9),
                scaleup_window: Some(2),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn apply(options: &wire::FunctionOptions) -> wire::Function {
        with_options(&Passthrough::from_message(&base()), options).unwrap().view().unwrap()
    }

    #[test]
    fn without_options_only_the_warm_containers_are_gone() {
        let mut expected = wire::Function { warm_pool_size: 0, ..base() };
        expected.autoscaler_settings.as_mut().unwrap().min_containers = Some(0);
        assert_eq!(apply(&wire::FunctionOptions::default()), expected);
    }

    #[test]
    fn resources_are_merged_one_by_one_and_zero_means_unchanged() {
        let resources =
            wire::Resources { memory_mb: 512, gpu_config: Some(wire::GpuConfig::default()), ..Default::default() };
        let got = apply(&wire::FunctionOptions { resources: Some(resources), ..Default::default() });
        let got = got.resources.unwrap();
        assert_eq!((got.milli_cpu, got.memory_mb), (500, 512));
    }

    #[test]
    fn numbers_replace_also_when_they_are_zero_and_the_retry_policy_as_a_whole() {
        let options = wire::FunctionOptions {
            timeout_secs: Some(7),
            concurrency_limit: Some(0),
            retry_policy: Some(wire::FunctionRetryPolicy { retries: 0, initial_delay_ms: 1, ..Default::default() }),
            ..Default::default()
        };
        let got = apply(&options);
        let scaling = got.autoscaler_settings.unwrap();
        assert_eq!((got.timeout_secs, got.concurrency_limit), (7, 0));
        assert_eq!((scaling.max_containers, scaling.scaleup_window), (Some(0), Some(2)));
        assert_eq!(got.retry_policy, options.retry_policy);
    }

    #[test]
    fn secrets_are_replaced_only_when_the_options_say_so() {
        let options = wire::FunctionOptions { secret_ids: vec!["st-c".into()], ..Default::default() };
        assert_eq!(apply(&normalised(options.clone())).secret_ids, base().secret_ids);
        let options = wire::FunctionOptions { replace_secret_ids: true, ..options };
        assert_eq!(apply(&normalised(options)).secret_ids, ["st-c"]);
    }

    #[test]
    fn the_old_single_number_of_concurrency_is_both_and_a_target_never_exceeds_its_maximum() {
        let of = |max, target| {
            let options = wire::FunctionOptions {
                max_concurrent_inputs: max,
                target_concurrent_inputs: target,
                ..Default::default()
            };
            let got = apply(&options);
            (got.max_concurrent_inputs, got.target_concurrent_inputs)
        };
        assert_eq!(of(None, Some(6)), (6, 6));
        assert_eq!(of(Some(2), None), (2, 2));
        assert_eq!(of(Some(20), Some(10)), (20, 10));
        assert_eq!(of(None, None), (8, 4));
    }

    #[test]
    fn the_same_options_written_in_two_ways_are_the_same() {
        let empty = wire::FunctionOptions {
            resources: Some(wire::Resources { gpu_config: Some(wire::GpuConfig::default()), ..Default::default() }),
            secret_ids: vec!["st-a".into()],
            pinned_app_version: Some(0),
            ..Default::default()
        };
        assert_eq!(normalised(empty), wire::FunctionOptions::default());
    }

    #[test]
    fn a_target_above_its_maximum_is_refused() {
        let options = wire::FunctionOptions {
            max_concurrent_inputs: Some(2),
            target_concurrent_inputs: Some(3),
            ..Default::default()
        };
        assert!(check_options(&options).unwrap_err().message().contains("target_inputs=3"));
    }

    prop_compose! {
        fn any_options()(
            numbers in proptest::collection::vec(proptest::option::of(0u32..50), 9),
            retries in proptest::option::of(0u32..5),
            secrets in proptest::option::of(proptest::collection::vec("st-[a-z]{3}", 0..3)),
            cpu in proptest::option::of(0u32..4000),
            linger in proptest::option::of(0u64..1000),
            cloud in proptest::option::of("[a-z]{0,4}"),
        ) -> wire::FunctionOptions {
            wire::FunctionOptions {
                timeout_secs: numbers[0],
                concurrency_limit: numbers[1],
                task_idle_timeout_secs: numbers[2],
                warm_pool_size: numbers[3],
                buffer_containers: numbers[4],
                max_concurrent_inputs: numbers[5],
                target_concurrent_inputs: numbers[6],
                batch_max_size: numbers[7],
                batch_linger_ms: linger,
                retry_policy: retries.map(|retries| wire::FunctionRetryPolicy { retries, ..Default::default() }),
                replace_secret_ids: secrets.is_some(),
                secret_ids: secrets.unwrap_or_default(),
                resources: cpu.map(|milli_cpu| wire::Resources { milli_cpu, ..Default::default() }),
                cloud_provider_str: cloud.clone(),
                routing_region: cloud,
                ..Default::default()
            }
        }
    }

    proptest! {
        /// The field numbers above are those of the fields that they are used for: what options set, the view shows.
        #[test]
        fn what_options_set_is_seen_and_all_else_stays(options in any_options()) {
            let options = normalised(options);
            let mut raw = base().encode_to_vec();
            encode_key(9999, WireType::LengthDelimited, &mut raw);
            encode_varint(3, &mut raw);
            raw.extend_from_slice(b"new");
            let merged = with_options(&Passthrough::from_bytes(&raw), &options).unwrap();
            prop_assert!(merged.to_bytes().windows(3).any(|w| w == b"new"), "an unknown field is lost");
            let (old, new) = (base(), merged.view().unwrap());
            let set = |option: Option<u32>, old: u32| option.unwrap_or(old);
            prop_assert_eq!(&new.module_name, &old.module_name);
            prop_assert_eq!(new.timeout_secs, set(options.timeout_secs, old.timeout_secs));
            prop_assert_eq!(new.concurrency_limit, set(options.concurrency_limit, old.concurrency_limit));
            prop_assert_eq!(new.task_idle_timeout_secs, options.task_idle_timeout_secs.unwrap_or(0));
            prop_assert_eq!(new.experimental_buffer_containers, options.buffer_containers.unwrap_or(0));
            prop_assert_eq!(new.warm_pool_size, options.warm_pool_size.unwrap_or(0));
            prop_assert_eq!(new.batch_max_size, options.batch_max_size.unwrap_or(0));
            prop_assert_eq!(new.batch_linger_ms, options.batch_linger_ms.unwrap_or(0));
            prop_assert_eq!(new.retry_policy, options.retry_policy.or(old.retry_policy));
            prop_assert_eq!(&new.cloud_provider_str, &options.cloud_provider_str.clone().unwrap_or_default());
            prop_assert_eq!(&new.routing_region, &options.routing_region.clone().unwrap_or_default());
            let secrets = if options.replace_secret_ids { options.secret_ids.clone() } else { old.secret_ids };
            prop_assert_eq!(new.secret_ids, secrets);
            prop_assert!(new.target_concurrent_inputs <= new.max_concurrent_inputs);
            // The base comes again, and the same options make the same of it.
            let again = with_options(&Passthrough::from_bytes(&raw), &options).unwrap();
            prop_assert_eq!(merged.to_bytes(), again.to_bytes());
        }
    }
}
