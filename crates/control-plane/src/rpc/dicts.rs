//! Dicts: keys and values of bytes. What a key is to its program is not known here; equal bytes are equal keys.

use std::pin::Pin;

use bytes::Bytes;
use client_protocol::wire;
use contents_store::{ContentsError, Found};
use futures::{Stream, TryStreamExt, stream};
use metadata_store::ObjectRecord;
use tonic::{Request, Response, Status};
use types::objects::ObjectKind;

use crate::answer_limit::{self, AnswerRoom};
use crate::caller::Caller;
use crate::clock::{seconds, wall_ms};
use crate::rpc::Api;
use crate::rpc::objects::{ObjectRequest, creation_info};

pub type EntryStream = Pin<Box<dyn Stream<Item = Result<wire::DictEntry, Status>> + Send>>;

/// Of the client's guide, as is the next: a key with its value.
const MAX_ENTRY_BYTES: usize = 100 << 20;
const MAX_ENTRIES_AT_ONCE: usize = 10_000;
/// Keys are in an index; one that is larger than this is a value.
const MAX_KEY_BYTES: usize = 256 << 10;
/// Of the client's documentation: counting more than this is not promised.
const MAX_LEN: usize = 100_000;
/// What is read of a dict at once when it is listed: a slow reader holds this much and no transaction.
const PAGE: (usize, usize) = (1_000, 4 << 20);

impl Api {
    pub(crate) async fn dict_get_or_create(
        &self,
        request: Request<wire::DictGetOrCreateRequest>,
    ) -> Result<Response<wire::DictGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let creation = request.object_creation_type();
        let wanted = ObjectRequest {
            kind: ObjectKind::Dict,
            name: request.deployment_name,
            environment: request.environment_name,
            creation,
            app: String::new(),
            version: 0,
        };
        check_entries(&request.data)?;
        let (dict, made) = self.object_get_or_create(&caller, wanted).await?;
        // Entries to begin with, from clients before 1.5; a dict that was there keeps what it has. The same request made it
        // before if the id follows from the request.
        let suffix = self.stable_suffix(&caller, ObjectKind::Dict.class());
        let is_of_request = made || suffix.is_some_and(|suffix| dict.id.ends_with(&suffix));
        if is_of_request && !request.data.is_empty() {
            let updated = self.shared.contents.dict_update(&dict.id, entries(request.data), !made, None, wall_ms());
            updated.await.map_err(|e| contents_status(&e))?;
        }
        let metadata = Some(metadata(&dict));
        Ok(Response::new(wire::DictGetOrCreateResponse { dict_id: dict.id.clone(), metadata }))
    }

    pub(crate) fn dict_get_by_id(&self, id: &str) -> Result<Response<wire::DictGetByIdResponse>, Status> {
        let dict = self.object(ObjectKind::Dict, id)?;
        let metadata = Some(metadata(&dict));
        Ok(Response::new(wire::DictGetByIdResponse { dict_id: dict.id.clone(), metadata }))
    }

    pub(crate) fn dict_list(
        &self,
        request: Request<wire::DictListRequest>,
    ) -> Result<Response<wire::DictListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (dicts, environment) =
            self.object_list(&caller, ObjectKind::Dict, &request.environment_name, request.pagination)?;
        let info = |dict: &ObjectRecord| wire::dict_list_response::DictInfo {
            name: dict.name.clone().unwrap_or_default(),
            created_at: seconds(dict.created_at_ms),
            dict_id: dict.id.clone(),
            metadata: Some(metadata(dict)),
        };
        let dicts = dicts.iter().map(|dict| info(dict)).collect();
        Ok(Response::new(wire::DictListResponse { dicts, environment_name: environment.name }))
    }

    pub(crate) async fn dict_clear(&self, id: &str) -> Result<Response<()>, Status> {
        let dict = self.object(ObjectKind::Dict, id)?;
        self.shared.contents.dict_clear(&dict.id).await.map_err(|e| contents_status(&e))?;
        Ok(Response::new(()))
    }

    pub(crate) async fn dict_get(
        &self,
        request: wire::DictGetRequest,
    ) -> Result<Response<wire::DictGetResponse>, Status> {
        let dict = self.object(ObjectKind::Dict, &request.dict_id)?;
        let contents = &self.shared.contents;
        let read = |at_most| contents.dict_get(&dict.id, request.key.clone(), at_most, wall_ms());
        let (value, room) = value_with_room(read).await?;
        Ok(answer_limit::respond(wire::DictGetResponse { found: value.is_some(), value }, room))
    }

    pub(crate) async fn dict_contains(
        &self,
        request: wire::DictContainsRequest,
    ) -> Result<Response<wire::DictContainsResponse>, Status> {
        let dict = self.object(ObjectKind::Dict, &request.dict_id)?;
        let found = self.shared.contents.dict_contains(&dict.id, request.key, wall_ms()).await;
        Ok(Response::new(wire::DictContainsResponse { found: found.map_err(|e| contents_status(&e))? }))
    }

    pub(crate) async fn dict_len(&self, id: &str) -> Result<Response<wire::DictLenResponse>, Status> {
        let dict = self.object(ObjectKind::Dict, id)?;
        let len = self.shared.contents.dict_len(&dict.id, MAX_LEN, wall_ms()).await.map_err(|e| contents_status(&e))?;
        Ok(Response::new(wire::DictLenResponse { len: len as i32 }))
    }

    pub(crate) async fn dict_update(
        &self,
        request: Request<wire::DictUpdateRequest>,
    ) -> Result<Response<wire::DictUpdateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let key = self.stable_suffix(&caller, "DictUpdate");
        let request = request.into_inner();
        let dict = self.object(ObjectKind::Dict, &request.dict_id)?;
        check_entries(&request.updates)?;
        if request.if_not_exists && request.updates.len() != 1 {
            return Err(Status::invalid_argument(format!(
                "an entry is put unless it exists one at a time, not {} at once: `created` could not say which",
                request.updates.len()
            )));
        }
        let entries = entries(request.updates);
        let updated = self.shared.contents.dict_update(&dict.id, entries, request.if_not_exists, key, wall_ms()).await;
        let created = updated.map_err(|e| contents_status(&e))?.created;
        Ok(Response::new(wire::DictUpdateResponse { created }))
    }

    pub(crate) async fn dict_pop(
        &self,
        request: Request<wire::DictPopRequest>,
    ) -> Result<Response<wire::DictPopResponse>, Status> {
        let caller = Caller::of(&request)?;
        let key = self.stable_suffix(&caller, "DictPop");
        let request = request.into_inner();
        let dict = self.object(ObjectKind::Dict, &request.dict_id)?;
        let contents = &self.shared.contents;
        let pop = |at_most| contents.dict_pop(&dict.id, request.key.clone(), at_most, key.clone(), wall_ms());
        let (value, room) = value_with_room(pop).await?;
        Ok(answer_limit::respond(wire::DictPopResponse { found: value.is_some(), value }, room))
    }

    /// Entries as they are when their page is read: one that is set meanwhile may be in it or not.
    pub(crate) fn dict_contents(&self, request: &wire::DictContentsRequest) -> Result<Response<EntryStream>, Status> {
        let dict = self.object(ObjectKind::Dict, &request.dict_id)?;
        let (keys, values) = (request.keys, request.values);
        let contents = self.shared.contents.clone();
        let pages = stream::try_unfold(Some(None::<Bytes>), move |from| {
            let (contents, dict) = (contents.clone(), dict.clone());
            async move {
                let Some(after) = from else { return Ok(None) };
                let page = contents.dict_page(&dict.id, after, PAGE, values, wall_ms()).await;
                let page = page.map_err(|e| contents_status(&e))?;
                let next = page.last().map(|(key, _)| Some(key.clone()));
                let entry = move |(key, value)| {
                    Ok::<_, Status>(wire::DictEntry { key: if keys { key } else { Bytes::new() }, value })
                };
                Ok::<_, Status>(next.map(|next| (stream::iter(page.into_iter().map(entry)), Some(next))))
            }
        });
        Ok(Response::new(Box::pin(pages.try_flatten())))
    }
}

/// A value, read by somebody who is told how large it may be: a large one is not read before there is room for its answer.
async fn value_with_room<R: Future<Output = Result<Option<Found>, ContentsError>>>(
    read: impl Fn(usize) -> R,
) -> Result<(Option<Bytes>, Option<AnswerRoom>), Status> {
    let (mut at_most, mut room) = (answer_limit::SMALL, None);
    loop {
        match read(at_most).await.map_err(|e| contents_status(&e))? {
            None => return Ok((None, None)),
            Some(Found::Value(value)) => return Ok((Some(value), room)),
            Some(Found::Larger { bytes }) => {
                // It was replaced by a larger one. Two that held some room and waited for more could wait for each other.
                drop(room.take());
                room = answer_limit::room_for(bytes).await;
                at_most = bytes;
            }
        }
    }
}

fn check_entries(entries: &[wire::DictEntry]) -> Result<(), Status> {
    if entries.len() > MAX_ENTRIES_AT_ONCE {
        return Err(too_large(&format!(
            "one update sets up to {MAX_ENTRIES_AT_ONCE} entries, not {}; update in parts",
            entries.len()
        )));
    }
    for entry in entries {
        if entry.key.len() > MAX_KEY_BYTES {
            let (limit, size) = (MAX_KEY_BYTES >> 10, entry.key.len().div_ceil(1 << 10));
            return Err(too_large(&format!("a key has up to {limit} KiB, not {size} KiB; use a digest of it")));
        }
        let size = entry.key.len() + entry.value.len();
        if size > MAX_ENTRY_BYTES {
            let (limit, size) = (MAX_ENTRY_BYTES >> 20, size.div_ceil(1 << 20));
            let text = format!("an entry has up to {limit} MiB, not {size} MiB; keep large data in a volume");
            return Err(too_large(&text));
        }
    }
    Ok(())
}

/// Clients know a request that is too large by the quoted words.
pub(crate) fn too_large(text: &str) -> Status {
    Status::invalid_argument(format!("{text} (status = '413')"))
}

fn entries(entries: Vec<wire::DictEntry>) -> Vec<(Bytes, Bytes)> {
    entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

fn metadata(dict: &ObjectRecord) -> wire::DictMetadata {
    wire::DictMetadata { name: dict.name.clone().unwrap_or_default(), creation_info: Some(creation_info(dict)) }
}

/// What a failing store means for the caller: a full disk will not go away by asking again at once.
pub(crate) fn contents_status(error: &ContentsError) -> Status {
    tracing::error!(%error, "the store of dicts and queues failed");
    match error {
        ContentsError::NoSpace(_) => Status::failed_precondition(error.to_string()),
        ContentsError::Closed => Status::unavailable(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: usize, value: usize) -> wire::DictEntry {
        wire::DictEntry { key: vec![0; key].into(), value: vec![0; value].into() }
    }

    #[tokio::test]
    async fn a_large_value_is_read_when_there_is_room_and_again_if_it_has_grown() {
        let (asked, sizes) = (std::cell::RefCell::new(Vec::new()), [3 << 20, 5 << 20, 5 << 20]);
        let read = async |at_most: usize| {
            let bytes = sizes[asked.borrow().len()];
            asked.borrow_mut().push(at_most);
            let is_larger = bytes > at_most;
            Ok(Some(if is_larger { Found::Larger { bytes } } else { Found::Value(vec![0; bytes].into()) }))
        };
        let (value, room) = value_with_room(read).await.unwrap();
        assert!(value.unwrap().len() == 5 << 20 && room.is_some());
        assert_eq!(*asked.borrow(), [answer_limit::SMALL, 3 << 20, 5 << 20]);
        let small = async |_| Ok(Some(Found::Value(Bytes::from_static(b"small"))));
        let (value, room) = value_with_room(small).await.unwrap();
        assert!(value.unwrap() == "small" && room.is_none());
    }

    #[test]
    fn what_is_too_large_is_refused_in_the_words_that_clients_look_for() {
        assert!(check_entries(&[entry(MAX_KEY_BYTES, 10)]).is_ok());
        assert!(check_entries(&vec![entry(1, 1); MAX_ENTRIES_AT_ONCE]).is_ok());
        for bad in [
            vec![entry(MAX_KEY_BYTES + 1, 0)],
            vec![entry(1, MAX_ENTRY_BYTES)],
            vec![entry(1, 1); MAX_ENTRIES_AT_ONCE + 1],
        ] {
            let status = check_entries(&bad).unwrap_err();
            assert!(status.message().contains("status = '413'"), "{status}");
        }
    }
}
