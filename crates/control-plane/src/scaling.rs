//! What the autoscaler may do for a function: read from a definition in the old and the new spellings, changed at run
//! time, and refused where it contradicts itself. `validate` is the one place that says what is possible; definitions,
//! updates and variants all go through it.

use client_protocol::wire;
use scheduler::AutoscalerSettings;
use tonic::Status;
use types::words::counted;

/// The client's own limit of `max_batch_size=`.
const MAX_BATCH: u32 = 1_000;
const DEFAULT_SCALEDOWN_SECS: u32 = 60;
/// Shorter windows would stop containers between two calls of a loop; the client's documented minimum.
const MIN_SCALEDOWN_SECS: u32 = 2;
/// A container that should stay longer is what `min_containers` is for.
const MAX_WINDOW_SECS: u32 = 24 * 3600;
/// More containers of one function than this are a slip of the finger.
const MAX_KEPT: u32 = 10_000;

/// What the autoscaler may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    pub min: u32,
    pub max: Option<u32>,
    pub buffer: u32,
    pub scaleup_ms: u64,
    pub scaledown_ms: u64,
    pub concurrency: u32,
}

impl Scaling {
    /// As a definition says, in the new spelling or, where that is missing, the old one.
    pub fn of(function: &wire::Function) -> Self {
        let settings = function.autoscaler_settings.unwrap_or_default();
        let max = settings.max_containers.unwrap_or(function.concurrency_limit);
        let scaledown = settings.scaledown_window.or(non_zero(function.task_idle_timeout_secs));
        Self {
            min: settings.min_containers.unwrap_or(function.warm_pool_size),
            // What makes an image runs once, in one container.
            max: if function.is_builder_function { Some(1) } else { non_zero(max) },
            buffer: settings.buffer_containers.unwrap_or(function.experimental_buffer_containers),
            scaleup_ms: millis(settings.scaleup_window.unwrap_or(0)),
            scaledown_ms: millis(scaledown.unwrap_or(DEFAULT_SCALEDOWN_SECS)),
            concurrency: non_zero(function.target_concurrent_inputs)
                .unwrap_or(function.max_concurrent_inputs.max(1))
                .saturating_mul(batch_max(function)),
        }
    }

    /// With the fields that `wanted` has; a maximum of 0 takes the limit away.
    pub fn with(self, wanted: &wire::AutoscalerSettings) -> Self {
        Self {
            min: wanted.min_containers.unwrap_or(self.min),
            max: wanted.max_containers.map_or(self.max, non_zero),
            buffer: wanted.buffer_containers.unwrap_or(self.buffer),
            scaleup_ms: wanted.scaleup_window.map_or(self.scaleup_ms, millis),
            scaledown_ms: wanted.scaledown_window.map_or(self.scaledown_ms, millis),
            concurrency: self.concurrency,
        }
    }

    /// # Errors
    /// A sentence for the user when the limits contradict each other or are out of range.
    pub fn validate(&self) -> Result<(), String> {
        if let Some(max) = self.max.filter(|max| *max < self.min) {
            return Err(format!(
                "`min_containers` is {}, more than `max_containers`, which is {max}; raise one or lower the other",
                self.min
            ));
        }
        for (name, kept) in [("min_containers", self.min), ("buffer_containers", self.buffer)] {
            if kept > MAX_KEPT {
                return Err(format!("`{name}` is {kept}; at most {MAX_KEPT} containers can be kept"));
            }
        }
        let window = self.scaledown_ms / 1000;
        if !(u64::from(MIN_SCALEDOWN_SECS)..=u64::from(MAX_WINDOW_SECS)).contains(&window) {
            return Err(format!(
                "`scaledown_window` is {}; it must be between {MIN_SCALEDOWN_SECS} and {MAX_WINDOW_SECS}",
                counted(window, "second")
            ));
        }
        if self.scaleup_ms > millis(MAX_WINDOW_SECS) {
            return Err(format!(
                "`scaleup_window` is {}; it must be at most {MAX_WINDOW_SECS}",
                counted(self.scaleup_ms / 1000, "second")
            ));
        }
        Ok(())
    }

    /// As the client shows it: a maximum of 0 is none.
    pub fn to_wire(self) -> wire::AutoscalerSettings {
        wire::AutoscalerSettings {
            min_containers: Some(self.min),
            max_containers: Some(self.max.unwrap_or(0)),
            buffer_containers: Some(self.buffer),
            scaleup_window: Some((self.scaleup_ms / 1000) as u32),
            scaledown_window: Some((self.scaledown_ms / 1000) as u32),
            ..Default::default()
        }
    }

    pub fn settings(&self) -> AutoscalerSettings {
        AutoscalerSettings {
            min_containers: self.min,
            max_containers: self.max,
            buffer_containers: self.buffer,
            scaleup_window_ms: self.scaleup_ms,
            scaledown_window_ms: self.scaledown_ms,
            concurrency: self.concurrency,
        }
    }
}

/// Inputs that one run of the user's code takes together; 1 without batches.
pub fn batch_max(function: &wire::Function) -> u32 {
    function.batch_max_size.clamp(1, MAX_BATCH)
}

/// What a definition may say of scaling.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the function, when its limits contradict each other or are out of range.
pub fn validate(function: &wire::Function) -> Result<(), Status> {
    let (target, most) = (function.target_concurrent_inputs, function.max_concurrent_inputs);
    let concurrency = if most > 0 && target > most {
        Err(format!("`target_inputs` is {target}, more than `max_inputs`, which is {most}"))
    } else {
        Ok(())
    };
    concurrency
        .and_then(|()| Scaling::of(function).validate())
        .map_err(|sentence| Status::invalid_argument(format!("function `{}`: {sentence}", function.function_name)))
}

fn non_zero(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}

fn millis(seconds: u32) -> u64 {
    u64::from(seconds) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(min: Option<u32>, max: Option<u32>, window: Option<u32>) -> wire::AutoscalerSettings {
        wire::AutoscalerSettings {
            min_containers: min,
            max_containers: max,
            scaledown_window: window,
            ..Default::default()
        }
    }

    fn refusal(function: &wire::Function) -> String {
        let status = validate(function).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        status.message().to_owned()
    }

    #[test]
    fn legacy_scaling_fields_count_where_the_new_ones_are_missing() {
        let old = wire::Function {
            warm_pool_size: 2,
            concurrency_limit: 5,
            task_idle_timeout_secs: 7,
            experimental_buffer_containers: 1,
            ..Default::default()
        };
        let scaling = Scaling::of(&old);
        assert_eq!((scaling.min, scaling.max, scaling.buffer, scaling.scaledown_ms), (2, Some(5), 1, 7_000));
        let both = wire::Function { autoscaler_settings: Some(settings(Some(0), Some(9), Some(3))), ..old };
        let scaling = Scaling::of(&both);
        assert_eq!((scaling.min, scaling.max, scaling.scaledown_ms), (0, Some(9), 3_000));
        assert_eq!(Scaling::of(&wire::Function::default()).scaledown_ms, 60_000);
    }

    #[test]
    fn an_update_changes_only_what_it_names_and_a_maximum_of_zero_is_none() {
        let before = Scaling::of(&wire::Function { warm_pool_size: 2, concurrency_limit: 5, ..Default::default() });
        let after = before.with(&settings(None, None, Some(1_800)));
        assert_eq!(after, Scaling { scaledown_ms: 1_800_000, ..before });
        assert_eq!(before.with(&settings(Some(1), Some(0), None)), Scaling { min: 1, max: None, ..before });
        assert_eq!(before.with(&settings(Some(1), Some(0), None)).to_wire().max_containers, Some(0));
    }

    #[test]
    fn a_minimum_above_the_maximum_is_refused_in_either_spelling() {
        let old = wire::Function {
            function_name: "work".into(),
            warm_pool_size: 6,
            concurrency_limit: 5,
            ..Default::default()
        };
        let wanted = "function `work`: `min_containers` is 6, more than `max_containers`, which is 5; raise one or \
                      lower the other";
        assert_eq!(refusal(&old), wanted);
        let new = wire::Function {
            function_name: "work".into(),
            autoscaler_settings: Some(settings(Some(6), Some(5), None)),
            ..Default::default()
        };
        assert_eq!(refusal(&new), wanted);
    }

    #[test]
    fn windows_from_two_seconds_to_a_day_are_accepted_and_others_refused() {
        let with = |window| wire::Function {
            autoscaler_settings: Some(settings(None, None, Some(window))),
            ..Default::default()
        };
        for window in [2, 60, 1_200, 86_400] {
            assert!(validate(&with(window)).is_ok());
        }
        for window in [0, 1, 86_401, u32::MAX] {
            assert!(refusal(&with(window)).contains("must be between 2 and 86400"));
        }
    }

    #[test]
    fn more_containers_than_anybody_means_are_refused() {
        let function = wire::Function { warm_pool_size: u32::MAX, ..Default::default() };
        assert!(refusal(&function).contains("at most 10000 containers can be kept"));
    }

    #[test]
    fn a_target_above_the_most_inputs_is_refused() {
        let function = wire::Function { target_concurrent_inputs: 9, max_concurrent_inputs: 4, ..Default::default() };
        assert!(refusal(&function).contains("`target_inputs` is 9, more than `max_inputs`, which is 4"));
    }
}
