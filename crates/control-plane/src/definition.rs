//! A function's definition: the bytes as the client sent them, and what the platform reads out of them.

use std::sync::Arc;

use bytes::Bytes;
use calls::{Policy, RetryPolicy};
use client_protocol::Passthrough;
use client_protocol::wire;
use scheduler::schedule::{Period, Schedule};
use tonic::Status;
use types::ids::{DefinitionId, ImageId, MountId, SecretId};

use crate::caller::ClientVersion;
use crate::refusals::{Refusals, decide_refusals};
use crate::scaling::{self, Scaling};
use crate::volumes::VolumeUse;

/// From here on the runner frees no slot before the server has the outputs of what ran in it.
const FIRST_TO_REPORT_CANCELLATIONS: ClientVersion = ClientVersion(0, 73, 0);

/// The client's documented defaults where a definition leaves a field at zero.
const DEFAULT_TIMEOUT_SECS: u32 = 300;
const MIN_STARTUP_TIMEOUT_MS: u64 = 30_000;
/// Calls that are over within a second are the many; those that last longer are worth a wait for the disk.
const DURABLE_AFTER_MS: u64 = 1_000;
const DEFAULT_MILLI_CPU: u32 = 125;
const DEFAULT_MEMORY_MIB: u32 = 128;

#[derive(Debug, Clone)]
pub struct Definition {
    pub id: DefinitionId,
    pub raw: Passthrough<wire::Function>,
    pub view: wire::Function,
    /// The client that defined it; containers run this version.
    pub client: ClientVersion,
    pub image: Option<ImageId>,
    pub mounts: Vec<MountId>,
    /// Later ones win.
    pub secrets: Vec<SecretId>,
    pub volumes: Vec<VolumeUse>,
    /// When it runs by itself, once it is deployed.
    pub schedule: Option<Arc<Schedule>>,
    /// What of it is not served yet.
    pub refusals: Refusals,
}

impl Definition {
    /// # Errors
    /// `INVALID_ARGUMENT` when the bytes are no definition, contradict themselves or name objects of the wrong kind. What
    /// is not served yet is no error here; see [`crate::refusals`].
    pub fn new(id: DefinitionId, raw: Passthrough<wire::Function>, client: ClientVersion) -> Result<Self, Status> {
        let view = raw.view().map_err(|e| Status::invalid_argument(format!("malformed function definition: {e}")))?;
        crate::buckets::check(&view)?;
        scaling::validate(&view)?;
        let bad = |what: &str, id: &str| Status::invalid_argument(format!("`{id}` is not the id of {what}"));
        let image = match view.image_id.as_str() {
            "" => None,
            id => Some(ImageId::parse(id).ok_or_else(|| bad("an image", id))?),
        };
        let mounts: Result<Vec<MountId>, Status> =
            view.mount_ids.iter().map(|id| MountId::parse(id).ok_or_else(|| bad("a mount", id))).collect();
        let secrets: Result<Vec<SecretId>, Status> =
            view.secret_ids.iter().map(|id| SecretId::parse(id).ok_or_else(|| bad("a secret", id))).collect();
        let volumes = view.volume_mounts.iter().map(VolumeUse::of).collect::<Result<_, _>>()?;
        let schedule = schedule(&view)?;
        let refusals = decide_refusals(&view);
        Ok(Self { id, raw, image, mounts: mounts?, secrets: secrets?, volumes, schedule, refusals, view, client })
    }

    /// Whether its containers need the secret.
    pub fn uses_secret(&self, id: &SecretId) -> bool {
        let of_buckets = self.view.cloud_bucket_mounts.iter().any(|mount| mount.credentials_secret_id == id.as_str());
        of_buckets || self.secrets.contains(id)
    }

    pub fn bytes(&self) -> Bytes {
        self.raw.to_bytes()
    }

    pub fn timeout_ms(&self) -> u64 {
        u64::from(non_zero(self.view.timeout_secs).unwrap_or(DEFAULT_TIMEOUT_SECS)) * 1000
    }

    /// Current clients send the timeout of inputs here when the user gave none for starting. Two seconds, say, are
    /// meant for an input then, and too little for an interpreter on a busy machine: hence the minimum. What differs
    /// from the inputs' timeout is the user's word.
    pub fn startup_timeout_ms(&self) -> u64 {
        match non_zero(self.view.startup_timeout_secs).map(|s| u64::from(s) * 1000) {
            Some(chosen) if chosen != self.timeout_ms() => chosen,
            _ => self.timeout_ms().max(MIN_STARTUP_TIMEOUT_MS),
        }
    }

    pub fn policy(&self) -> Policy {
        let retry = self.view.retry_policy.as_ref().map_or(RetryPolicy::default(), |p| RetryPolicy {
            retries: p.retries,
            initial_delay_ms: u64::from(p.initial_delay_ms),
            backoff_coefficient: p.backoff_coefficient,
            max_delay_ms: u64::from(p.max_delay_ms),
        });
        let generator = self.view.function_type() == wire::function::FunctionType::Generator;
        // A generator's items may have reached the caller: running it again would repeat them.
        let retry =
            if generator || self.view.is_builder_function { RetryPolicy { retries: 0, ..retry } } else { retry };
        let batch_max = self.batch_max() as usize;
        Policy {
            retry,
            timeout_ms: self.timeout_ms(),
            slots_per_container: self.max_concurrency() as usize * batch_max,
            batch_max,
            batch_linger_ms: if batch_max > 1 { self.view.batch_linger_ms } else { 0 },
            // What makes an image is made again by who waits for it.
            durable_after_ms: (!self.view.is_builder_function).then_some(DURABLE_AFTER_MS),
            reports_cancellations: self.client >= FIRST_TO_REPORT_CANCELLATIONS,
            single_use: self.view.single_use_containers || self.view.max_inputs == 1,
            ..Policy::default()
        }
    }

    /// Why a call of it, or of a method of the class, is refused: a sentence; `None` when it is served.
    pub fn refusal(&self, method: &str) -> Option<String> {
        self.refusals.of_call(&self.view, method)
    }

    /// # Errors
    /// `UNIMPLEMENTED`, which clients do not try again, for what is not served yet.
    pub fn check_served(&self, method: &str) -> Result<(), Status> {
        self.refusal(method).map_or(Ok(()), |sentence| Err(Status::unimplemented(sentence)))
    }

    pub fn scaling(&self) -> Scaling {
        Scaling::of(&self.view)
    }

    pub fn max_concurrency(&self) -> u32 {
        self.view.max_concurrent_inputs.max(1)
    }

    /// What a container of it sets aside.
    pub fn request(&self) -> scheduler::Resources {
        let Resources { milli_cpu, memory_mib, disk_mib, .. } = self.resources();
        scheduler::Resources {
            milli_cpu: u64::from(milli_cpu),
            memory_mib: u64::from(memory_mib),
            disk_mib: u64::from(disk_mib.unwrap_or(0)),
            gpus: 0,
        }
    }

    /// Inputs that one run of the user's code takes together; 1 without batches.
    pub fn batch_max(&self) -> u32 {
        scaling::batch_max(&self.view)
    }

    pub fn resources(&self) -> Resources {
        let r = self.view.resources.clone().unwrap_or_default();
        Resources {
            milli_cpu: non_zero(r.milli_cpu).unwrap_or(DEFAULT_MILLI_CPU),
            milli_cpu_max: non_zero(r.milli_cpu_max),
            memory_mib: non_zero(r.memory_mb).unwrap_or(DEFAULT_MEMORY_MIB),
            memory_mib_max: non_zero(r.memory_mb_max),
            disk_mib: non_zero(r.ephemeral_disk_mb),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: u32,
    pub milli_cpu_max: Option<u32>,
    pub memory_mib: u32,
    pub memory_mib_max: Option<u32>,
    pub disk_mib: Option<u32>,
}

fn schedule(f: &wire::Function) -> Result<Option<Arc<Schedule>>, Status> {
    use wire::schedule::ScheduleOneof;
    let given = match f.schedule.as_ref().and_then(|schedule| schedule.schedule_oneof.as_ref()) {
        None => return Ok(None),
        Some(ScheduleOneof::Cron(cron)) => Schedule::cron(&cron.cron_string, &cron.timezone),
        Some(ScheduleOneof::Period(p)) => Schedule::period(Period {
            years: p.years,
            months: p.months,
            weeks: p.weeks,
            days: p.days,
            hours: p.hours,
            minutes: p.minutes,
            seconds: p.seconds,
        }),
    };
    let refused =
        |error| Status::invalid_argument(format!("the schedule of function `{}` cannot run: {error}", f.function_name));
    Ok(Some(Arc::new(given.map_err(refused)?)))
}

fn non_zero(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn define(function: &wire::Function) -> Result<Definition, Status> {
        Definition::new(DefinitionId::random(), Passthrough::from_message(function), ClientVersion(1, 6, 4))
    }

    #[test]
    fn an_unset_timeout_is_five_minutes_and_start_up_takes_the_same() {
        let definition = define(&wire::Function::default()).unwrap();
        assert_eq!((definition.timeout_ms(), definition.startup_timeout_ms()), (300_000, 300_000));
    }

    #[test]
    fn a_short_timeout_of_inputs_is_none_of_starting_but_a_chosen_one_is() {
        let of = |timeout_secs, startup_timeout_secs| {
            define(&wire::Function { timeout_secs, startup_timeout_secs, ..Default::default() })
                .unwrap()
                .startup_timeout_ms()
        };
        assert_eq!((of(2, 0), of(2, 2), of(2, 5), of(300, 5)), (30_000, 30_000, 5_000, 5_000));
    }

    #[test]
    fn what_is_not_served_yet_is_defined_and_what_is_wrong_with_it_is_still_an_error() {
        let gpu_config = Some(wire::GpuConfig { count: 1, ..Default::default() });
        let gpu = wire::Function {
            resources: Some(wire::Resources { gpu_config, ..Default::default() }),
            ..Default::default()
        };
        assert!(define(&gpu).unwrap().refusal("").unwrap().contains("gpu="));
        let contradicting = wire::Function { warm_pool_size: 6, concurrency_limit: 5, ..gpu };
        assert_eq!(define(&contradicting).unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn a_schedule_is_read_and_one_that_cannot_run_is_refused_with_function_and_reason() {
        use wire::schedule::{Cron, ScheduleOneof};
        let function = |cron_string: &str| wire::Function {
            function_name: "nightly".to_owned(),
            schedule: Some(wire::Schedule {
                schedule_oneof: Some(ScheduleOneof::Cron(Cron {
                    cron_string: cron_string.to_owned(),
                    timezone: String::new(),
                })),
            }),
            ..Default::default()
        };
        let schedule = define(&function("0 3 * * *")).unwrap().schedule.unwrap();
        assert_eq!(schedule.to_string(), "cron `0 3 * * *` in UTC");
        let error = define(&function("0 0 30 2 *")).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.message().contains("`nightly`") && error.message().contains("never fires"), "{error}");
    }

    #[test]
    fn generators_are_never_run_again() {
        let retry = wire::FunctionRetryPolicy { retries: 3, ..Default::default() };
        let function = wire::Function {
            function_type: wire::function::FunctionType::Generator as i32,
            retry_policy: Some(retry),
            ..Default::default()
        };
        assert_eq!(define(&function).unwrap().policy().retry.retries, 0);
    }

    #[test]
    fn a_batch_counts_as_its_inputs_for_the_autoscaler() {
        let function = wire::Function { batch_max_size: 8, batch_linger_ms: 250, ..Default::default() };
        let definition = define(&function).unwrap();
        let policy = definition.policy();
        assert_eq!((policy.batch_max, policy.batch_linger_ms, policy.slots_per_container), (8, 250, 8));
        assert_eq!(definition.scaling().concurrency, 8);
    }
}
