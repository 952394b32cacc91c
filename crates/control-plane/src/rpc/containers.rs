//! What the runner inside a container asks and reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use calls::{Assignment, OutcomeStatus, decide_concurrency};
use client_protocol::wire;
use tonic::{Request, Response, Status};
use types::ids::{InputId, TaskId};

use crate::caller::Caller;
use crate::clock::seconds;
use crate::convert;
use crate::polls::PollReply;
use crate::rpc::Api;
use crate::tasks::Task;

/// A request for inputs is answered empty after this; the runner asks again at once.
const POLL_PATIENCE: Duration = Duration::from_secs(50);
/// Held so long, a heartbeat is still answered within the 15 s that the runner allows.
const HEARTBEAT_HOLD: Duration = Duration::from_secs(12);

impl Api {
    /// The task behind the connection.
    fn task<T>(&self, request: &Request<T>) -> Result<(Caller, Arc<Task>), Status> {
        let caller = Caller::of(request)?;
        let id = caller.task()?.clone();
        let task = self.shared.tasks.get(&id);
        let task = task.ok_or_else(|| Status::failed_precondition(format!("task `{id}` is not running any more")))?;
        Ok((caller, task))
    }

    pub(crate) async fn container_heartbeat(
        &self,
        request: Request<wire::ContainerHeartbeatRequest>,
    ) -> Result<Response<wire::ContainerHeartbeatResponse>, Status> {
        let (_, task) = self.task(&request)?;
        let cancelled = task.cancellations.next(HEARTBEAT_HOLD).await;
        let event = (!cancelled.is_empty()).then(|| wire::CancelInputEvent {
            input_ids: cancelled.into_iter().map(String::from).collect(),
            ..Default::default()
        });
        Ok(Response::new(wire::ContainerHeartbeatResponse { cancel_input_event: event }))
    }

    pub(crate) async fn function_get_inputs(
        &self,
        request: Request<wire::FunctionGetInputsRequest>,
    ) -> Result<Response<wire::FunctionGetInputsResponse>, Status> {
        let (_, task) = self.task(&request)?;
        // One input per request is what all runners but batched ones ask for.
        let max = request.get_ref().batch_max_size.clamp(1, task.definition.batch_max());
        let pending = task.owner.poll(&self.shared, &task.id, max as usize);
        let inputs = match pending.reply(POLL_PATIENCE).await {
            None => Vec::new(),
            Some(PollReply::Leave) => vec![wire::FunctionGetInputsItem { kill_switch: true, ..Default::default() }],
            Some(PollReply::Inputs(inputs)) => {
                inputs.into_iter().map(|input| input_item(input, task.owner.build.is_some())).collect()
            }
        };
        Ok(Response::new(wire::FunctionGetInputsResponse { inputs, rate_limit_sleep_duration: 0.0 }))
    }

    /// A runner whose user gave a range asks every few seconds; `set_local_input_concurrency` ends that.
    pub(crate) fn dynamic_concurrency(
        &self,
        request: &Request<wire::FunctionGetDynamicConcurrencyRequest>,
    ) -> Result<Response<wire::FunctionGetDynamicConcurrencyResponse>, Status> {
        let (_, task) = self.task(request)?;
        let wire::FunctionGetDynamicConcurrencyRequest { target_concurrency, max_concurrency, .. } = *request.get_ref();
        let (_, containers) = task.owner.count_tasks();
        let load = task.owner.read(calls::FunctionCalls::load);
        let concurrency = decide_concurrency(target_concurrency, max_concurrency, &load, containers);
        Ok(Response::new(wire::FunctionGetDynamicConcurrencyResponse { concurrency }))
    }

    pub(crate) fn function_put_outputs(
        &self,
        request: Request<wire::FunctionPutOutputsRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, task) = self.task(&request)?;
        for item in request.into_inner().outputs {
            let input = InputId::parse(&item.input_id)
                .ok_or_else(|| Status::invalid_argument(format!("`{}` is not an input id", item.input_id)))?;
            let result = item.result.unwrap_or_default();
            let times = (item.input_started_at, item.output_created_at);
            let outcome = convert::outcome(result, item.data_format, times)?;
            if outcome.status == OutcomeStatus::Failure {
                self.shared.say_hint(&task, &outcome);
            }
            let attempt = (!caller.version.is_legacy_runner()).then_some(item.retry_count);
            let taken = task.owner.apply(&self.shared, |calls, now, effects| {
                calls.on_output(&task.id, &input, attempt, outcome, now, effects)
            });
            if !taken {
                tracing::debug!(%input, task = %task.id, "an output came for an attempt that is over");
            }
        }
        Ok(Response::new(()))
    }

    /// The runner failed outside of any input: import, hydration, hooks.
    pub(crate) fn task_result(&self, request: Request<wire::TaskResultRequest>) -> Result<Response<()>, Status> {
        let (_, task) = self.task(&request)?;
        let result = request.into_inner().result.unwrap_or_default();
        let mut outcome = convert::outcome(result, wire::DataFormat::Pickle as i32, (0.0, 0.0))?;
        if outcome.status == OutcomeStatus::Success {
            return Ok(Response::new(()));
        }
        // The exception travels like that of an input, so that the caller gets it with type and traceback.
        outcome.status = OutcomeStatus::Failure;
        // The first counts: what follows, like an exit hook that fails as well, follows from it.
        task.reported.lock().get_or_insert(outcome);
        Ok(Response::new(()))
    }

    pub(crate) fn container_stop(&self, request: &wire::ContainerStopRequest) -> Result<Response<()>, Status> {
        let id = &request.task_id;
        let task = TaskId::parse(id).and_then(|id| self.shared.tasks.get(&id));
        let task = task.ok_or_else(|| {
            Status::not_found(format!("container `{id}` is not running; `modal container list` shows those that are"))
        })?;
        task.owner.drain_task(&self.shared, &task.id);
        if !request.graceful {
            let grace_ms = task.owner.stop_grace_ms();
            self.shared.stop_task(&task.id, grace_ms, "the container was stopped by the user".to_owned());
        }
        Ok(Response::new(()))
    }

    pub(crate) async fn task_info(&self, id: &str) -> Result<Response<wire::TaskGetInfoResponse>, Status> {
        let Some(task) = TaskId::parse(id).and_then(|id| self.shared.tasks.get(&id)) else {
            let ended = self.ended_task(id).await?;
            let info = wire::TaskInfo {
                id: id.to_owned(),
                started_at: seconds(ended.started_at),
                finished_at: seconds(ended.finished_at),
                enqueued_at: seconds(ended.enqueued_at),
            };
            return Ok(Response::new(wire::TaskGetInfoResponse { app_id: ended.app.to_string(), info: Some(info) }));
        };
        let info = wire::TaskInfo {
            id: task.id.to_string(),
            started_at: seconds(task.started_at.load(Ordering::Relaxed)),
            enqueued_at: seconds(task.enqueued_at),
            ..Default::default()
        };
        Ok(Response::new(wire::TaskGetInfoResponse { app_id: task.owner.app.id.to_string(), info: Some(info) }))
    }

    pub(crate) fn task_list(
        &self,
        request: Request<wire::TaskListRequest>,
    ) -> Result<Response<wire::TaskListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        let mut tasks: BTreeMap<TaskId, wire::TaskStats> = BTreeMap::new();
        for task in self.shared.tasks.all() {
            let app = &task.owner.app;
            if app.environment != environment.id || (!request.app_id.is_empty() && app.id.as_str() != request.app_id) {
                continue;
            }
            let record = app.record();
            let started_at = task.started_at.load(Ordering::Relaxed);
            tasks.insert(
                task.id.clone(),
                wire::TaskStats {
                    task_id: task.id.to_string(),
                    app_id: app.id.to_string(),
                    app_description: record.name.unwrap_or(record.description),
                    started_at: seconds(started_at),
                    enqueued_at: seconds(task.enqueued_at),
                },
            );
        }
        Ok(Response::new(wire::TaskListResponse { tasks: tasks.into_values().rev().collect() }))
    }
}

/// `is_final`: the runner runs it and leaves.
fn input_item(assignment: Assignment, is_final: bool) -> wire::FunctionGetInputsItem {
    let input = wire::FunctionInput {
        args_oneof: Some(convert::args(assignment.payload)),
        data_format: assignment.data_format,
        method_name: (!assignment.method_name.is_empty()).then_some(assignment.method_name),
        final_input: is_final,
    };
    wire::FunctionGetInputsItem {
        input_id: assignment.input.into(),
        input: Some(input),
        function_call_id: assignment.call.into(),
        function_call_invocation_type: assignment.invocation_type,
        retry_count: assignment.attempt,
        function_map_idx: Some(assignment.idx),
        ..Default::default()
    }
}
