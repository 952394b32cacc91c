//! Queues: partitions of items, first in, first out.

use std::time::Duration;

use bytes::Bytes;
use client_protocol::wire;
use metadata_store::ObjectRecord;
use queues::{DEFAULT_TTL_MS, MAX_ITEMS, MAX_PARTITION_KEY, MAX_TTL_MS, Refusal};
use tonic::{Request, Response, Status};
use types::ids::random_base62;
use types::objects::ObjectKind;

use crate::answer_limit;
use crate::caller::Caller;
use crate::clock::{patience, seconds};
use crate::queues::{GetRequest, Looked, OpenQueue, PutRequest, QueueError};
use crate::rpc::Api;
use crate::rpc::dicts::{contents_status, too_large};
use crate::rpc::objects::{ObjectRequest, creation_info};

/// Clients wait at most 50 s for an item and then ask again.
const MAX_WAIT: Duration = Duration::from_secs(60);

impl Api {
    pub(crate) async fn queue_get_or_create(
        &self,
        request: Request<wire::QueueGetOrCreateRequest>,
    ) -> Result<Response<wire::QueueGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let creation = request.object_creation_type();
        let wanted = ObjectRequest {
            kind: ObjectKind::Queue,
            name: request.deployment_name,
            environment: request.environment_name,
            creation,
            app: String::new(),
            version: 0,
        };
        let (queue, _) = self.object_get_or_create(&caller, wanted).await?;
        let metadata = Some(metadata(&queue));
        Ok(Response::new(wire::QueueGetOrCreateResponse { queue_id: queue.id.clone(), metadata }))
    }

    pub(crate) fn queue_get_by_id(&self, id: &str) -> Result<Response<wire::QueueGetByIdResponse>, Status> {
        let queue = self.object(ObjectKind::Queue, id)?;
        let metadata = Some(metadata(&queue));
        Ok(Response::new(wire::QueueGetByIdResponse { queue_id: queue.id.clone(), metadata }))
    }

    pub(crate) async fn queue_list(
        &self,
        request: Request<wire::QueueListRequest>,
    ) -> Result<Response<wire::QueueListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (records, environment) =
            self.object_list(&caller, ObjectKind::Queue, &request.environment_name, request.pagination)?;
        let most = if request.total_size_limit > 0 { request.total_size_limit } else { i32::MAX };
        let mut queues = Vec::with_capacity(records.len());
        for record in records {
            let open = self.shared.queues.open(&record.id).await.map_err(|e| queue_status(&e, &record.id))?;
            let (partitions, items) = open.sizes();
            queues.push(wire::queue_list_response::QueueInfo {
                name: record.name.clone().unwrap_or_default(),
                created_at: seconds(record.created_at_ms),
                num_partitions: to_i32(partitions),
                total_size: to_i32(items).min(most),
                queue_id: record.id.clone(),
                metadata: Some(metadata(&record)),
            });
        }
        Ok(Response::new(wire::QueueListResponse { queues, environment_name: environment.name }))
    }

    async fn queue(&self, id: &str) -> Result<std::sync::Arc<OpenQueue>, Status> {
        let record = self.object(ObjectKind::Queue, id)?;
        self.shared.queues.open(&record.id).await.map_err(|e| queue_status(&e, id))
    }

    pub(crate) async fn queue_put(&self, request: Request<wire::QueuePutRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let key = self.stable_suffix(&caller, "QueuePut");
        let request = request.into_inner();
        let queue = self.queue(&request.queue_id).await?;
        let partition = partition_key(request.partition_key)?;
        let ttl_ms = ttl_ms(request.partition_ttl_seconds)?;
        if request.values.is_empty() {
            return Ok(Response::new(()));
        }
        let is_repeated = caller.is_repeated;
        let put = queue.put(PutRequest { key, is_repeated, partition, values: request.values, ttl_ms }).await;
        put.map_err(|e| queue_status(&e, &request.queue_id)).map(Response::new)
    }

    pub(crate) async fn queue_get(
        &self,
        request: Request<wire::QueueGetRequest>,
    ) -> Result<Response<wire::QueueGetResponse>, Status> {
        let caller = Caller::of(&request)?;
        let key = self.stable_suffix(&caller, "QueueGet").unwrap_or_else(|| random_base62(22));
        let request = request.into_inner();
        let queue = self.queue(&request.queue_id).await?;
        if request.n_values < 1 {
            let text = format!("a get takes one value or more, not {}", request.n_values);
            return Err(Status::invalid_argument(text));
        }
        let get = GetRequest {
            key,
            is_repeated: caller.is_repeated,
            partition: partition_key(request.partition_key)?,
            // A partition holds no more than this.
            wanted: (request.n_values as usize).min(MAX_ITEMS),
            patience: patience(request.timeout, MAX_WAIT),
        };
        let values = queue.get(get).await.map_err(|e| queue_status(&e, &request.queue_id))?;
        Ok(Response::new(wire::QueueGetResponse { values }))
    }

    pub(crate) async fn queue_next_items(
        &self,
        request: wire::QueueNextItemsRequest,
    ) -> Result<Response<wire::QueueNextItemsResponse>, Status> {
        let queue = self.queue(&request.queue_id).await?;
        let after = match request.last_entry_id.as_str() {
            "" => 0,
            id => id.parse().map_err(|_| Status::invalid_argument(format!("`{id}` is not the id of an entry")))?,
        };
        let patience = patience(request.item_poll_timeout, MAX_WAIT);
        let found = queue.look(&partition_key(request.partition_key)?, after, patience).await;
        let item = |(position, value): (u64, Bytes)| wire::QueueItem { value, entry_id: position.to_string() };
        let Looked { values, room } = found.map_err(|e| queue_status(&e, &request.queue_id))?;
        let items = values.into_iter().map(item).collect();
        Ok(answer_limit::respond(wire::QueueNextItemsResponse { items }, room))
    }

    pub(crate) async fn queue_len(
        &self,
        request: &wire::QueueLenRequest,
    ) -> Result<Response<wire::QueueLenResponse>, Status> {
        let queue = self.queue(&request.queue_id).await?;
        let partition = partition_key(request.partition_key.clone())?;
        let len = queue.len(Some(partition.as_ref()).filter(|_| !request.total));
        Ok(Response::new(wire::QueueLenResponse { len: to_i32(len) }))
    }

    pub(crate) async fn queue_clear(&self, request: wire::QueueClearRequest) -> Result<Response<()>, Status> {
        let queue = self.queue(&request.queue_id).await?;
        let partition = partition_key(request.partition_key)?;
        if request.all_partitions && !partition.is_empty() {
            return Err(Status::invalid_argument("either one partition is cleared or all are; leave one of them out"));
        }
        let cleared = queue.clear(Some(partition).filter(|_| !request.all_partitions)).await;
        cleared.map_err(|e| queue_status(&e, &request.queue_id)).map(Response::new)
    }
}

/// Empty is the default partition.
fn partition_key(key: Bytes) -> Result<Bytes, Status> {
    if key.len() > MAX_PARTITION_KEY {
        let (limit, size) = (MAX_PARTITION_KEY, key.len());
        return Err(Status::invalid_argument(format!("a partition's key has 1 to {limit} bytes, not {size}")));
    }
    Ok(key)
}

/// Zero is what a client sends that says nothing.
fn ttl_ms(seconds: i32) -> Result<u64, Status> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(DEFAULT_TTL_MS),
        Ok(seconds) if seconds * 1000 <= MAX_TTL_MS => Ok(seconds * 1000),
        _ => Err(Status::invalid_argument(format!(
            "a partition lasts for 1 to {} seconds after its last put, not {seconds}",
            MAX_TTL_MS / 1000
        ))),
    }
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn metadata(queue: &ObjectRecord) -> wire::QueueMetadata {
    wire::QueueMetadata { name: queue.name.clone().unwrap_or_default(), creation_info: Some(creation_info(queue)) }
}

fn queue_status(error: &QueueError, id: &str) -> Status {
    match error {
        QueueError::Refused(refusal @ (Refusal::ItemTooLarge { .. } | Refusal::PutTooLarge { .. })) => {
            too_large(&refusal.to_string())
        }
        // Clients take this for "full", and try again for as long as they were told to.
        QueueError::Refused(refusal) => Status::resource_exhausted(refusal.to_string()),
        QueueError::Store(error) => contents_status(error),
        QueueError::Gone => Status::not_found(format!("Queue with ID '{id}' not found; it was deleted meanwhile")),
        QueueError::Replaced => Status::aborted(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_lasts_a_day_unless_told_and_a_week_at_most() {
        assert_eq!(ttl_ms(0).unwrap(), DEFAULT_TTL_MS);
        assert_eq!(ttl_ms(10).unwrap(), 10_000);
        assert_eq!(ttl_ms(604_800).unwrap(), MAX_TTL_MS);
        assert!(ttl_ms(604_801).is_err() && ttl_ms(-1).is_err());
    }

    #[test]
    fn only_what_may_pass_is_told_as_full() {
        let of = |refusal: Refusal| queue_status(&QueueError::Refused(refusal), "qu-1");
        assert_eq!(of(Refusal::QueueFull).code(), tonic::Code::ResourceExhausted);
        let large = of(Refusal::ItemTooLarge { bytes: 1 << 21 });
        assert!(large.code() == tonic::Code::InvalidArgument && large.message().contains("status = '413'"));
    }
}
