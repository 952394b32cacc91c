//! What became of a function's inputs, for a person: the latest ones, those of a time, and one call in numbers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use calls::{InputReport, OutcomeStatus, ReportedStage};
use client_protocol::wire;
use prost_types::Timestamp;
use tonic::{Response, Status};
use types::ids::InputId;
use wire::function_call_fetch_request::QueryOneof;

use crate::clock::{milliseconds, seconds, wall_ms};
use crate::owner::Owner;
use crate::rpc::calls::{parse_call, unknown_call};
use crate::rpc::{Api, store_status};

/// Inputs in the answer to one question.
const MOST: usize = 20_000;
/// Buckets of one count; the client asks for fewer.
const MOST_BUCKETS: u64 = 10_000;

impl Api {
    pub(crate) async fn function_call_fetch(
        &self,
        request: wire::FunctionCallFetchRequest,
    ) -> Result<Response<wire::FunctionCallFetchResponse>, Status> {
        let owners = self.asked(&request.function_id, request.all_variants).await?;
        let reports = match request.query_oneof {
            None => return Err(Status::invalid_argument("the request says neither how many inputs nor of which time")),
            Some(QueryOneof::Tail(tail)) => {
                let count = (tail.count as usize).min(MOST);
                let mut reports = self.reports(&owners, (0, wall_ms()), count).await?;
                reports.reverse();
                reports.truncate(count);
                reports
            }
            Some(QueryOneof::Range(range)) => {
                let times = (range.since.map_or(0, milliseconds), range.until.map_or(u64::MAX, milliseconds));
                let mut reports = self.all_reports(&owners, times).await?;
                reports.truncate(if range.limit == 0 { MOST } else { range.limit as usize });
                reports
            }
        };
        let function_call_inputs = reports.into_iter().map(input_info).collect();
        Ok(Response::new(wire::FunctionCallFetchResponse { function_call_inputs }))
    }

    pub(crate) async fn function_call_count(
        &self,
        request: wire::FunctionCallCountRequest,
    ) -> Result<Response<wire::FunctionCallCountResponse>, Status> {
        use wire::function_call_count_response::InputBucket;
        let owners = self.asked(&request.function_id, request.all_variants).await?;
        let (since, until) =
            (request.since.map_or(0, milliseconds), request.until.map_or_else(wall_ms, milliseconds).min(wall_ms()));
        let width = u64::from(request.bucket_secs.max(1)) * 1000;
        if until.saturating_sub(since) / width > MOST_BUCKETS {
            let text = format!("a count has at most {MOST_BUCKETS} buckets; ask for a shorter time or longer buckets");
            return Err(Status::invalid_argument(text));
        }
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for report in self.all_reports(&owners, (since, until)).await? {
            *counts.entry(report.enqueued_at / width * width).or_default() += 1;
        }
        let bucket = |(start, count)| InputBucket { bucket_start_at: Some(timestamp(start)), count };
        Ok(Response::new(wire::FunctionCallCountResponse { buckets: counts.into_iter().map(bucket).collect() }))
    }

    /// How many inputs of a call are where.
    pub(crate) async fn function_call_get_info(
        &self,
        id: &str,
    ) -> Result<Response<wire::FunctionCallGetInfoResponse>, Status> {
        let call = parse_call(id)?;
        let owner = self.shared.calls.get(&call).map(|o| o.clone());
        let (created_at, stages): (u64, Vec<ReportedStage>) = match owner {
            Some(owner) => {
                let created = owner.read(|calls| calls.call_spec(&call).map_or(0, |spec| spec.created_at));
                (created, owner.read(|calls| calls.report_call(&call)).into_iter().map(|r| r.stage).collect())
            }
            None => {
                let stored = self.shared.store.call(&call).await.map_err(|e| store_status(&e))?;
                let stored = stored.ok_or_else(|| unknown_call(&call))?;
                let finished = stored.finished.iter().map(|o| ReportedStage::Finished(o.outcome.status));
                let pending = stored.pending.iter().map(|_| ReportedStage::Pending);
                (stored.record.spec.created_at, finished.chain(pending).collect())
            }
        };
        let count = |wanted: &dyn Fn(&ReportedStage) -> bool| {
            let total = stages.iter().filter(|stage| wanted(stage)).count() as i32;
            Some(wire::InputCategoryInfo { total })
        };
        let ended = |status: OutcomeStatus| count(&move |stage| *stage == ReportedStage::Finished(status));
        let info = wire::FunctionCallInfo {
            function_call_id: call.to_string(),
            created_at: seconds(created_at),
            scheduled_at: seconds(created_at),
            pending_inputs: count(&|stage| !matches!(stage, ReportedStage::Finished(_))),
            failed_inputs: count(&|stage| {
                use OutcomeStatus::{Failure, InitFailure, InternalFailure};
                matches!(stage, ReportedStage::Finished(Failure | InitFailure | InternalFailure))
            }),
            succeeded_inputs: ended(OutcomeStatus::Success),
            timeout_inputs: ended(OutcomeStatus::Timeout),
            cancelled_inputs: ended(OutcomeStatus::Terminated),
            total_inputs: stages.len() as i32,
            ..Default::default()
        };
        Ok(Response::new(wire::FunctionCallGetInfoResponse { info: Some(info) }))
    }

    /// The function that is asked after, and its variants if they are wanted.
    async fn asked(&self, id: &str, all_variants: bool) -> Result<Vec<Arc<Owner>>, Status> {
        let owner = self.found(id).await?;
        let mut owners = if all_variants { self.shared.variants_of(owner.base_id()) } else { Vec::new() };
        if !owners.iter().any(|other| other.id == owner.id) {
            owners.push(owner);
        }
        Ok(owners)
    }

    /// Every input of a time. More than an answer holds is refused: a part would look like the whole.
    async fn all_reports(&self, owners: &[Arc<Owner>], times: (u64, u64)) -> Result<Vec<InputReport>, Status> {
        let reports = self.reports(owners, times, MOST + 1).await?;
        if reports.len() > MOST {
            let text = format!("there are more than {MOST} inputs in this time; ask for a shorter one");
            return Err(Status::invalid_argument(text));
        }
        Ok(reports)
    }

    /// Inputs of calls made in a time, oldest first: what is in memory, and of durable calls what is in the store. At
    /// least `limit` of the newest calls, if there are so many.
    async fn reports(
        &self,
        owners: &[Arc<Owner>],
        times: (u64, u64),
        limit: usize,
    ) -> Result<Vec<InputReport>, Status> {
        let mut by_input: HashMap<InputId, InputReport> = HashMap::new();
        for owner in owners {
            let stored = self.shared.store.report((&owner.app.id, &owner.id), times, limit).await;
            let stored = stored.map_err(|e| store_status(&e))?;
            // What is in memory is newer.
            let reports = stored.into_iter().chain(owner.report_inputs(times, limit));
            by_input.extend(reports.map(|report| (report.input.clone(), report)));
        }
        let mut reports: Vec<InputReport> = by_input.into_values().collect();
        reports.sort_by(|a, b| (a.enqueued_at, &a.call, &a.input).cmp(&(b.enqueued_at, &b.call, &b.input)));
        Ok(reports)
    }
}

fn input_info(report: InputReport) -> wire::FunctionCallInputInfo {
    let took = report.ended_at - report.started_at;
    wire::FunctionCallInputInfo {
        enqueued_at: Some(timestamp(report.enqueued_at)),
        started_at: (report.started_at > 0.0).then(|| timestamp((report.started_at * 1000.0) as u64)),
        container_id: report.task.map(String::from),
        startup_time_seconds: None,
        execution_time_seconds: (report.started_at > 0.0 && took >= 0.0).then_some(took),
        status: wire_stage(report.stage) as i32,
        function_call_id: report.call.into(),
        service_method_name: None,
    }
}

fn wire_stage(stage: ReportedStage) -> wire::FunctionCallInputStatus {
    use wire::FunctionCallInputStatus as Wire;
    match stage {
        ReportedStage::Pending => Wire::Pending,
        ReportedStage::Running => Wire::Running,
        ReportedStage::Finished(OutcomeStatus::Success) => Wire::Success,
        ReportedStage::Finished(OutcomeStatus::Failure) => Wire::Failure,
        ReportedStage::Finished(OutcomeStatus::Timeout) => Wire::Timeout,
        ReportedStage::Finished(OutcomeStatus::Terminated) => Wire::Terminated,
        ReportedStage::Finished(OutcomeStatus::InitFailure) => Wire::InitFailure,
        ReportedStage::Finished(OutcomeStatus::InternalFailure) => Wire::InternalFailure,
    }
}

fn timestamp(at_ms: u64) -> Timestamp {
    Timestamp { seconds: (at_ms / 1000) as i64, nanos: (at_ms % 1000) as i32 * 1_000_000 }
}
