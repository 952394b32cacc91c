//! Function calls: inputs in, outputs out.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use calls::{Accepted, CallKind, CallSpec, FunctionCalls, NewInput, OnDisk, OutcomeStatus, OutputPage, PageRequest};
use client_protocol::wire;
use metadata_store::{InputRecord, StoreError, Write};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use types::ids::{FunctionCallId, InputId};

use crate::apps::App;
use crate::caller::Caller;
use crate::clock::{patience, wall_ms};
use crate::convert;
use crate::owner::{Begun, Owner};
use crate::recorder::new_call_writes;
use crate::rpc::classes::check_method;
use crate::rpc::{Api, derive_suffix, store_status};

/// The client waits at most 55 s for outputs and then asks again.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A generator's failure waits so long for its items to be read; nobody may be reading.
const ITEMS_FIRST: Duration = Duration::from_millis(500);
/// They then travel on another stream of the connection, and the client takes both as they come: a generator's failure
/// that overtook its last items would hide them. (After a success the client counts the items and waits.)
const ITEMS_AHEAD: Duration = Duration::from_millis(50);
/// Outputs per reply. With results of 2 MiB each a reply stays at the 100 MiB that clients take.
const OUTPUTS_PER_REPLY: usize = 48;
/// Inline arguments above the client's own limit of 2 MiB come from no client of ours.
const MAX_INLINE: usize = 4 << 20;
/// Positions in one call.
const MAX_INDEX: i32 = 10_000_000;
/// Unfinished inputs that a map's client keeps sending against.
const MAX_OUTSTANDING: u32 = 1_000;
/// A call with its inputs' bytes is answered with this back-off when the queue is full.
const QUEUE_RETRY_SECS: f32 = 1.0;

impl Api {
    pub(crate) async fn function_map(
        &self,
        request: Request<wire::FunctionMapRequest>,
    ) -> Result<Response<wire::FunctionMapResponse>, Status> {
        let caller = Caller::of(&request)?;
        let suffix = self.stable_suffix(&caller, "FunctionMap");
        let request = request.into_inner();
        let called = self.found(&request.function_id).await?;
        let owner = self.service_of(called.clone())?;
        if !owner.app.is_running() {
            return Err(app_stopped(&owner.app));
        }
        if !owner.is_published() {
            let text =
                format!("function `{}` is not in the version of its app that is live; look it up again", owner.tag);
            return Err(Status::failed_precondition(text));
        }
        let id = suffix.and_then(|s| FunctionCallId::parse(&format!("fc-{s}"))).unwrap_or_else(FunctionCallId::random);
        let spec = call_spec(&request, id.clone());
        let inputs = self.new_inputs(&id, request.pipelined_inputs)?;
        self.check_methods(&owner, &inputs)?;
        // An old client may call the placeholder of a method, which alone says that it is a web endpoint.
        called.definition().check_served("")?;
        owner.definition().check_served("")?;
        let reply = wire::FunctionMapResponse {
            function_call_id: id.to_string(),
            pipelined_inputs: self.receipts(&id, &inputs),
            retry_policy: owner.definition().view.retry_policy,
            function_call_jwt: self.ticket(&id, None),
            max_inputs_outstanding: MAX_OUTSTANDING,
            sync_client_retries_enabled: false,
        };
        // What is repeated may be over already, and then only the store knows it.
        let made_before = match caller.is_repeated {
            true => self.shared.was_made_before(&id).await.map_err(|e| store_status(&e))?,
            false => self.call_owner(&id).is_some(),
        };
        if made_before {
            return Ok(Response::new(reply));
        }
        self.refuse_if_full(&owner, &inputs)?;
        let begun = match spec.durable {
            true => self.write_and_begin(&owner, spec, inputs).await?,
            false => owner.begin_call(&self.shared, spec, inputs, false),
        };
        match begun {
            Begun::Yes => Ok(Response::new(reply)),
            Begun::QueueFull => Err(queue_full(&owner)),
            Begun::AppStopped => Err(app_stopped(&owner.app)),
        }
    }

    /// Goes on when the client has gone: what the store has is also here.
    async fn write_and_begin(
        &self,
        owner: &Arc<Owner>,
        spec: CallSpec,
        inputs: Vec<NewInput>,
    ) -> Result<Begun, Status> {
        let (shared, owner) = (self.shared.clone(), owner.clone());
        let begun = tokio::spawn(async move {
            shared.store.write(new_call_writes(&owner, &spec, &inputs)).await?;
            Ok(owner.begin_call(&shared, spec, inputs, true))
        });
        begun.await.unwrap_or(Err(StoreError::Closed)).map_err(|e| store_status(&e))
    }

    fn check_methods(&self, owner: &Owner, inputs: &[NewInput]) -> Result<(), Status> {
        let definition = owner.definition();
        inputs.iter().try_for_each(|input| {
            let method = &input.method_name;
            check_method(&definition.view, method)?;
            definition.check_served(method)?;
            self.placeholder(owner, &definition, method).map_or(Ok(()), |method| method.definition().check_served(""))
        })
    }

    /// Ids of inputs follow from call and position, so that a repeated request names the same inputs.
    fn new_inputs(
        &self,
        call: &FunctionCallId,
        items: Vec<wire::FunctionPutInputsItem>,
    ) -> Result<Vec<NewInput>, Status> {
        items.into_iter().map(|item| self.new_input(call, item)).collect()
    }

    fn new_input(&self, call: &FunctionCallId, item: wire::FunctionPutInputsItem) -> Result<NewInput, Status> {
        if !(0..MAX_INDEX).contains(&item.idx) {
            return Err(Status::invalid_argument(format!(
                "input index {} is out of range; one call takes up to {MAX_INDEX} inputs",
                item.idx
            )));
        }
        let input = item.input.unwrap_or_default();
        let payload = convert::payload(input.args_oneof)?;
        if payload.resident_bytes() > MAX_INLINE {
            return Err(Status::invalid_argument(format!(
                "input {} carries {} bytes inline; larger arguments than {MAX_INLINE} bytes go through a blob",
                item.idx,
                payload.resident_bytes()
            )));
        }
        Ok(NewInput {
            id: self.input_id(call, item.idx),
            idx: item.idx,
            payload,
            data_format: input.data_format,
            method_name: input.method_name.unwrap_or_default(),
        })
    }

    fn input_id(&self, call: &FunctionCallId, idx: i32) -> InputId {
        let suffix = derive_suffix("", &[call.as_str(), &idx.to_string()]);
        InputId::parse(&format!("in-{suffix}")).unwrap_or_else(InputId::random)
    }

    fn refuse_if_full(&self, owner: &Owner, inputs: &[NewInput]) -> Result<(), Status> {
        let bytes = inputs.iter().map(|i| i.payload.resident_bytes()).sum();
        if owner.read(|c| c.has_room(inputs.len(), bytes)) { Ok(()) } else { Err(queue_full(owner)) }
    }

    fn receipts(&self, call: &FunctionCallId, inputs: &[NewInput]) -> Vec<wire::FunctionPutInputsResponseItem> {
        let receipt = |input: &NewInput| wire::FunctionPutInputsResponseItem {
            idx: input.idx,
            input_id: input.id.to_string(),
            input_jwt: self.ticket(call, Some(input.idx)),
        };
        inputs.iter().map(receipt).collect()
    }

    /// Shaped like a JWT, since the client reads `idx` out of it. It grants nothing: the call is named beside it.
    fn ticket(&self, call: &FunctionCallId, idx: Option<i32>) -> String {
        let payload = match idx {
            Some(idx) => format!(r#"{{"idx":{idx},"call":"{call}"}}"#),
            None => format!(r#"{{"call":"{call}"}}"#),
        };
        // The header is `{"alg":"none"}`.
        format!("eyJhbGciOiJub25lIn0.{}.e30", URL_SAFE_NO_PAD.encode(payload))
    }

    pub(crate) async fn function_put_inputs(
        &self,
        request: wire::FunctionPutInputsRequest,
    ) -> Result<Response<wire::FunctionPutInputsResponse>, Status> {
        let call = parse_call(&request.function_call_id)?;
        let owner = self.open_call(&call).await?;
        // While this goes on, the call stays.
        let (_asking, _) = owner.ask(&self.shared, &call).ok_or_else(|| unknown_call(&call))?;
        let inputs = self.new_inputs(&call, request.inputs)?;
        self.check_methods(&owner, &inputs)?;
        let receipts = self.receipts(&call, &inputs);
        self.refuse_if_full(&owner, &inputs)?;
        let mut written = false;
        loop {
            if self.is_on_disk(&owner, &call).await && !written {
                self.shared.store.write(input_records(&call, &inputs)).await.map_err(|e| store_status(&e))?;
                written = true;
            }
            let add = |calls: &mut FunctionCalls, now, effects: &mut _| {
                calls.add_inputs(&call, inputs.clone(), written, now, effects)
            };
            match owner.apply(&self.shared, add) {
                Accepted::Yes => return Ok(Response::new(wire::FunctionPutInputsResponse { inputs: receipts })),
                Accepted::QueueFull => return Err(queue_full(&owner)),
                Accepted::NoSuchCall => return Err(unknown_call(&call)),
                // It went to the disk between the look and the act.
                Accepted::WriteFirst => {}
            }
        }
    }

    /// Whether the store has the call; waits while it is on its way there.
    async fn is_on_disk(&self, owner: &Owner, call: &FunctionCallId) -> bool {
        if owner.read(|c| c.on_disk(call)) == Some(OnDisk::No) {
            return false;
        }
        let watcher = owner.watcher(call);
        loop {
            let news = watcher.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            match owner.read(|c| c.on_disk(call)) {
                Some(OnDisk::Begun) => news.await,
                on_disk => return on_disk == Some(OnDisk::Yes),
            }
        }
    }

    pub(crate) async fn function_finish_inputs(
        &self,
        request: wire::FunctionFinishInputsRequest,
    ) -> Result<Response<()>, Status> {
        let call = parse_call(&request.function_call_id)?;
        let open = self.shared.open_call(&call).await.map_err(|e| store_status(&e))?;
        let Some(owner) = open else {
            // Over and put away: the request was a repetition.
            let stored = self.shared.store.call(&call).await.map_err(|e| store_status(&e))?;
            return stored.map(|_| Response::new(())).ok_or_else(|| unknown_call(&call));
        };
        owner.apply(&self.shared, |calls, _, _| calls.finish_inputs(&call));
        if self.is_on_disk(&owner, &call).await {
            self.shared.store.write(vec![Write::FinishInputs(call.clone())]).await.map_err(|e| store_status(&e))?;
        }
        Ok(Response::new(()))
    }

    /// The function of a call that takes inputs, brought back into memory if it had left.
    async fn open_call(&self, call: &FunctionCallId) -> Result<Arc<Owner>, Status> {
        let found = self.shared.open_call(call).await.map_err(|e| store_status(&e))?;
        found.ok_or_else(|| unknown_call(call))
    }

    pub(crate) fn owner_of_call(&self, call: &FunctionCallId) -> Result<Arc<Owner>, Status> {
        self.call_owner(call).ok_or_else(|| unknown_call(call))
    }

    /// See [`crate::shared::Shared::call_owner`].
    fn call_owner(&self, call: &FunctionCallId) -> Option<Arc<Owner>> {
        self.shared.call_owner(call)
    }

    pub(crate) async fn function_get_outputs(
        &self,
        request: wire::FunctionGetOutputsRequest,
    ) -> Result<Response<wire::FunctionGetOutputsResponse>, Status> {
        let call = parse_call(&request.function_call_id)?;
        let page = page_request(&request);
        let wait = patience(request.timeout, MAX_WAIT);
        let deadline = Instant::now() + wait;
        let Some(owner) = self.call_owner(&call) else {
            return self.stored_outputs(&call, page, deadline).await;
        };
        let Some((mut asking, watcher)) = owner.ask(&self.shared, &call) else {
            return self.stored_outputs(&call, page, deadline).await;
        };
        let mut gathered = false;
        let found = loop {
            let news = watcher.notified();
            tokio::pin!(news);
            // From here on a publication wakes us, so nothing falls between the look and the wait.
            news.as_mut().enable();
            match owner.read(|c| c.outputs(&call, page)) {
                None => return self.stored_outputs(&call, page, deadline).await,
                Some(found) if found.unfinished == 0 || wait.is_zero() => break found,
                Some(found) if !found.outputs.is_empty() => match watcher.gather_until(Instant::now()) {
                    Some(due) if !gathered && found.outputs.len() < page.limit => {
                        gathered = true;
                        tokio::time::sleep_until(due.min(deadline)).await;
                    }
                    _ => break found,
                },
                Some(found) => {
                    if tokio::time::timeout_at(deadline, news).await.is_err() {
                        break found;
                    }
                }
            }
        };
        watcher.on_answer(Instant::now());
        let failed = found.outputs.iter().any(|o| o.outcome.status != OutcomeStatus::Success);
        if let (true, Some(items)) = (failed, self.shared.generators.find(&call)) {
            // A slow reader has as long as the request waits.
            let until = if items.is_read() { deadline } else { Instant::now() };
            let _ = tokio::time::timeout_at(until.max(Instant::now() + ITEMS_FIRST), items.all_sent()).await;
            tokio::time::sleep(ITEMS_AHEAD).await;
        }
        asking.wants_no_more = request.clear_on_success && (found.unfinished == 0 || wait.is_zero());
        Ok(Response::new(outputs_reply(found)))
    }

    /// A durable call that is not in memory: its app was stopped, or the server restarted since. One that still waits for
    /// something is about to end; a client that is answered at once would ask again at once.
    async fn stored_outputs(
        &self,
        call: &FunctionCallId,
        page: PageRequest,
        deadline: Instant,
    ) -> Result<Response<wire::FunctionGetOutputsResponse>, Status> {
        loop {
            let ended = self.shared.unheard.ended();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let found = self.shared.store.page(call, page).await.map_err(|e| store_status(&e))?;
            let found = found.ok_or_else(|| unknown_call(call))?;
            let has_news = found.unfinished == 0 || !found.outputs.is_empty();
            if has_news || tokio::time::timeout_at(deadline, ended).await.is_err() {
                return Ok(Response::new(outputs_reply(found)));
            }
        }
    }

    pub(crate) async fn function_call_from_id(
        &self,
        id: &str,
    ) -> Result<Response<wire::FunctionCallFromIdResponse>, Status> {
        let call = parse_call(id)?;
        let owner = self.shared.calls.get(&call).map(|o| o.clone());
        let (inputs, app_id, function_id) = match owner {
            Some(owner) => {
                let inputs = owner.read(|c| c.input_count(&call)).unwrap_or(0);
                (inputs, owner.app.id.to_string(), owner.id.to_string())
            }
            None => {
                let stored = self.shared.store.call(&call).await.map_err(|e| store_status(&e))?;
                let stored = stored.ok_or_else(|| unknown_call(&call))?;
                let inputs = stored.pending.len() + stored.finished.len();
                (inputs, stored.record.app.to_string(), stored.record.function.to_string())
            }
        };
        Ok(Response::new(wire::FunctionCallFromIdResponse {
            function_call_id: call.to_string(),
            num_inputs: inputs as i32,
            metadata: Some(wire::FunctionCallHandleMetadata { app_id, function_id }),
        }))
    }

    pub(crate) async fn function_call_cancel(
        &self,
        request: wire::FunctionCallCancelRequest,
    ) -> Result<Response<()>, Status> {
        let call = parse_call(&request.function_call_id)?;
        let Some(owner) = self.call_owner(&call) else {
            // Over and put away: there is nothing left to cancel.
            let stored = self.shared.store.call(&call).await.map_err(|e| store_status(&e))?;
            return stored.map(|_| Response::new(())).ok_or_else(|| unknown_call(&call));
        };
        let tasks: Vec<_> =
            owner.read(|c| c.call_inputs(&call)).into_iter().filter(|i| i.1.is_none()).filter_map(|i| i.2).collect();
        owner.apply(&self.shared, |calls, now, effects| calls.cancel_call(&call, now, effects));
        if request.terminate_containers {
            for task in tasks {
                owner.drain_task(&self.shared, &task);
                self.shared.stop_task(&task, 0, format!("call `{call}` was cancelled with its containers"));
            }
        }
        // A durable call's end is acknowledged once it is on disk: a crash must not bring it back to life.
        let watcher = owner.watcher(&call);
        loop {
            let news = watcher.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if owner.read(|c| c.is_finished(&call) || matches!(c.on_disk(&call), None | Some(OnDisk::No))) {
                return Ok(Response::new(()));
            }
            news.await;
        }
    }

    pub(crate) fn function_call_graph(&self, id: &str) -> Result<Response<wire::FunctionGetCallGraphResponse>, Status> {
        let call = parse_call(id)?;
        self.owner_of_call(&call)?;
        let mut graph = wire::FunctionGetCallGraphResponse::default();
        let mut open = vec![call];
        while let Some(call) = open.pop() {
            let Ok(owner) = self.owner_of_call(&call) else { continue };
            let parent = owner.read(|c| c.call_spec(&call).and_then(|s| s.parent_input.clone()));
            graph.function_calls.push(wire::FunctionCallCallGraphInfo {
                function_call_id: call.to_string(),
                parent_input_id: parent.map(String::from).unwrap_or_default(),
                function_name: owner.tag.clone(),
                module_name: owner.definition().view.module_name.clone(),
            });
            for (input, status, task) in owner.read(|c| c.call_inputs(&call)) {
                open.extend(self.shared.children.of(&input));
                graph.inputs.push(wire::InputCallGraphInfo {
                    input_id: input.to_string(),
                    status: status.map_or(0, |s| convert::generic_status(s) as i32),
                    function_call_id: call.to_string(),
                    task_id: task.map(String::from).unwrap_or_default(),
                });
            }
        }
        Ok(Response::new(graph))
    }
}

fn call_spec(request: &wire::FunctionMapRequest, id: FunctionCallId) -> CallSpec {
    use wire::FunctionCallInvocationType as Invocation;
    let invocation = request.function_call_invocation_type();
    // A legacy client marks a map with no type at all.
    let kind = match request.function_call_type() {
        wire::FunctionCallType::Unary => CallKind::Unary,
        _ => CallKind::Map,
    };
    CallSpec {
        id,
        kind,
        durable: matches!(invocation, Invocation::Async | Invocation::AsyncLegacy),
        parent_input: InputId::parse(&request.parent_input_id),
        created_at: wall_ms(),
        invocation_type: invocation as i32,
    }
}

pub(crate) fn parse_call(id: &str) -> Result<FunctionCallId, Status> {
    FunctionCallId::parse(id).ok_or_else(|| {
        Status::invalid_argument(format!(
            "`{id}` is not the id of a function call; one is `fc-` and letters and digits, as `.object_id` of a spawned \
             call says"
        ))
    })
}

/// Letters and digits of an id of ours.
const ID_LENGTH: usize = 22;

pub(crate) fn unknown_call(call: &FunctionCallId) -> Status {
    if call.as_str().len() != FunctionCallId::PREFIX.len() + ID_LENGTH {
        return Status::not_found(format!("there is no function call `{call}`: no server makes ids of this length"));
    }
    Status::not_found(format!(
        "function call `{call}` is not known here: another server made it, its results have expired (they are kept for 7 \
         days), or this server was killed before the call had lasted a second (calls made with `.spawn()` survive that)"
    ))
}

fn app_stopped(app: &App) -> Status {
    Status::failed_precondition(format!("app `{}` is stopped", app.id))
}

/// A full queue passes: the trailer tells the client when to come back, and it does so by itself.
fn queue_full(owner: &Owner) -> Status {
    let policy = owner.read(|c| *c.policy());
    let message = format!(
        "function `{}` has too many inputs waiting (at most {} inputs or {} MiB of arguments)",
        owner.tag,
        policy.max_inputs,
        policy.max_input_bytes >> 20
    );
    crate::status::retry_later(tonic::Code::ResourceExhausted, message, QUEUE_RETRY_SECS)
}

fn input_records(call: &FunctionCallId, inputs: &[NewInput]) -> Vec<Write> {
    let record = |input: &NewInput| InputRecord { call: call.clone(), input: input.clone() };
    if inputs.is_empty() { Vec::new() } else { vec![Write::Inputs(inputs.iter().map(record).collect())] }
}

fn page_request(request: &wire::FunctionGetOutputsRequest) -> PageRequest {
    let after = request.last_entry_id.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let range = request.start_idx.map(|start| (start, request.end_idx.unwrap_or(start)));
    PageRequest { after, range, limit: OUTPUTS_PER_REPLY }
}

fn outputs_reply(page: OutputPage) -> wire::FunctionGetOutputsResponse {
    wire::FunctionGetOutputsResponse {
        outputs: page.outputs.into_iter().map(convert::output_item).collect(),
        last_entry_id: format!("{}-0", page.next),
        num_unfinished_inputs: page.unfinished as i32,
        ..Default::default()
    }
}
