//! What generators yield: from the runner that sends it to the reader that asks for it. Who holds how much is decided in
//! `crate::generators`.

use std::sync::Arc;
use std::time::Duration;

use client_protocol::wire;
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use types::ids::FunctionCallId;
use wire::function_call_get_data_request::CallInfo as GetInfo;
use wire::function_call_put_data_request::CallInfo as PutInfo;

use crate::clock::steady_ms;
use crate::generators::{Answer, ItemError, Items, PutDecision, decide_put};
use crate::message_limit::Hold;
use crate::owner::{Asking, Owner};
use crate::rpc::Api;
use crate::rpc::calls::{parse_call, unknown_call};

pub type ItemStream = std::pin::Pin<Box<dyn Stream<Item = Result<wire::DataChunk, Status>> + Send>>;

/// A runner that waits is woken by its reader; this often it is looked whether there is still a caller.
const LOOK_FOR_CALLER: Duration = Duration::from_secs(30);

impl Api {
    /// Answered when there was room for the items. The runner goes on until its own buffer is full, and waits. As long as it is
    /// not stopped there is no reason to send it away: its input has a timeout.
    pub(crate) async fn put_data_out(
        &self,
        request: Request<wire::FunctionCallPutDataRequest>,
    ) -> Result<Response<()>, Status> {
        let hold = request.extensions().get::<Hold>().cloned();
        let request = request.into_inner();
        let Some(PutInfo::FunctionCallId(id)) = &request.call_info else { return Err(no_call()) };
        let call = parse_call(id)?;
        let owner = self.owner_of_call(&call)?;
        let (items, spawned) = self.items_of(&owner, &call)?;
        let watcher = owner.watcher(&call);
        let (mut given, mut aside) = (request.data_chunks, None);
        loop {
            let ((own, others), call_news) = (items.news(), watcher.notified());
            tokio::pin!(own, others, call_news);
            // From here on nothing falls between the look and the wait.
            own.as_mut().enable();
            others.as_mut().enable();
            call_news.as_mut().enable();
            given = match items.push(given).map_err(item_status)? {
                None => {
                    note_unread(&self.shared, &owner, &call, &items);
                    return Ok(Response::new(()));
                }
                Some(given) => given,
            };
            if aside.is_none() {
                aside = items.wait_aside();
                aside.iter().zip(&hold).for_each(|(_, hold)| hold.release());
            }
            let (silent_since, is_over) = owner.read(|calls| (calls.silent_since(&call), calls.is_finished(&call)));
            if is_over {
                return Err(item_status(ItemError::Over));
            }
            let silent_for = silent_since.map(|since| steady_ms().saturating_sub(since));
            match decide_put(&items.window(), silent_for, spawned) {
                PutDecision::Take => continue,
                PutDecision::Wait => {}
                PutDecision::GiveUp => {
                    owner.apply(&self.shared, |calls, now, effects| calls.cancel_call(&call, now, effects));
                    return Err(item_status(ItemError::CallerGone));
                }
            }
            tokio::select! {
                () = own => {}
                () = others => {}
                () = call_news => {}
                () = tokio::time::sleep(LOOK_FOR_CALLER) => {}
            }
        }
    }

    pub(crate) fn get_data_out(&self, request: &wire::FunctionCallGetDataRequest) -> Result<ItemStream, Status> {
        let Some(GetInfo::FunctionCallId(id)) = &request.call_info else { return Err(no_call()) };
        let call = parse_call(id)?;
        let owner = self.owner_of_call(&call)?;
        let (asking, _) = owner.ask(&self.shared, &call).ok_or_else(|| unknown_call(&call))?;
        let (items, _) = self.items_of(&owner, &call)?;
        items.join(request.last_index);
        let reader = Reader { api: self.clone(), owner, call, items, _asking: asking };
        note_unread(&reader.api.shared, &reader.owner, &reader.call, &reader.items);
        let answer = Some(Answer::after(request.last_index));
        let pages = futures::stream::unfold((reader, answer), |(reader, answer)| async move {
            let mut answer = answer.filter(|answer| !answer.is_full())?;
            match reader.items.after(answer.index).await {
                Ok(page) if page.is_empty() => None,
                Ok(page) => {
                    answer.add(&page);
                    let page = page.into_iter().map(Ok).collect::<Vec<_>>();
                    Some((futures::stream::iter(page), (reader, Some(answer))))
                }
                Err(error) => Some((futures::stream::iter(vec![Err(item_status(error))]), (reader, None))),
            }
        });
        Ok(Box::pin(pages.flatten()))
    }

    /// The items of a call, and whether it was spawned.
    fn items_of(&self, owner: &Owner, call: &FunctionCallId) -> Result<(Arc<Items>, bool), Status> {
        let found = owner.read(|calls| {
            let spec = calls.call_spec(call)?;
            Some((self.shared.generators.of(call), spec.durable))
        });
        found.ok_or_else(|| unknown_call(call))
    }
}

/// Somebody who is being answered with items.
struct Reader {
    api: Api,
    owner: Arc<Owner>,
    call: FunctionCallId,
    items: Arc<Items>,
    _asking: Asking,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.items.leave();
        note_unread(&self.api.shared, &self.owner, &self.call, &self.items);
    }
}

/// Looked at under the lock of the function, so that the last word is the latest.
fn note_unread(shared: &Arc<crate::shared::Shared>, owner: &Arc<Owner>, call: &FunctionCallId, items: &Items) {
    owner.apply(shared, |calls, _, _| calls.set_unread_items(call, items.has_unread()));
}

fn item_status(error: ItemError) -> Status {
    Status::failed_precondition(error.to_string())
}

fn no_call() -> Status {
    Status::invalid_argument("the request names no function call")
}
