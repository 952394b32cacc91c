//! What callers of a queue do: put, get, look, clear; and what happens when they go away in the middle of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use calls::Millis;
use contents_store::{ContentsError, ItemRow, Job};
use queues::{GetId, Got, Item, LookId, MAX_OPEN_GETS, NewGet, Position, Refusal};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Delivery, OpenQueue, QueueError, Value};
use crate::answer_limit::{self, AnswerRoom};

/// What one look answers at most: items, and bytes unless the first has more.
const LOOK: (usize, usize) = (200, 16 << 20);

pub struct PutRequest {
    /// The same for all tries of a request; without one, each is new.
    pub key: Option<String>,
    /// There was a try before.
    pub is_repeated: bool,
    pub partition: Bytes,
    pub values: Vec<Bytes>,
    pub ttl_ms: Millis,
}

pub struct GetRequest {
    pub key: String,
    pub is_repeated: bool,
    pub partition: Bytes,
    pub wanted: usize,
    /// Zero does not wait.
    pub patience: Duration,
}

/// What a look found: values with their positions, and what they have taken of the room for large answers.
#[derive(Debug)]
pub struct Looked {
    pub values: Vec<(Position, Bytes)>,
    pub room: Option<AnswerRoom>,
}

impl OpenQueue {
    /// Returns when the values are on disk.
    pub async fn put(self: &Arc<Self>, request: PutRequest) -> Result<(), QueueError> {
        let PutRequest { key, is_repeated, partition, values, ttl_ms } = request;
        if let Some(key) = key.as_ref().filter(|_| is_repeated)
            && self.store.has_happened(key.clone()).await?
        {
            return Ok(());
        }
        let room = self.store.room(values.iter().map(Bytes::len).sum()).await?;
        // Before the lock: copying megabytes takes a while.
        let kept = values.iter().map(|value| (value.len(), self.held.keep(value))).collect();
        let (told, stored) = oneshot::channel();
        self.act(|state, now, effects, jobs| {
            if state.is_gone {
                return Err(QueueError::Gone);
            }
            let first = self.store.positions(values.len() as u64);
            let rows = (first..).zip(&values).map(|(position, value)| ItemRow { position, value: value.clone() });
            let rows = rows.collect();
            let positions = state.queue.put(&partition, kept, first, ttl_ms, now, effects)?;
            let queue = self.clone();
            let of = partition.clone();
            let done = move |result: Result<(), _>| {
                queue.act(|state, _, effects, _| match &result {
                    Ok(()) => state.queue.on_put_stored(&of, *positions.end(), effects),
                    Err(_) => state.queue.on_put_failed(&of, &positions, effects),
                });
                // The caller may have gone; its values are there all the same.
                drop(told.send(result));
            };
            let names = (self.id.as_str(), partition.as_ref());
            jobs.push(Job::add_items(room, names, rows, now.saturating_add(ttl_ms), (key, now), done));
            Ok(())
        })?;
        Ok(stored.await.map_err(|_| ContentsError::Closed)??)
    }

    /// The next values, as many as there are up to the wanted number; waits for the first. Nothing when none came in time.
    ///
    /// They do not wait for room for their answer, as a look does: what is taken must be with its caller soon, or go back.
    pub async fn get(self: &Arc<Self>, request: GetRequest) -> Result<Vec<Bytes>, QueueError> {
        let GetRequest { key, is_repeated, partition, wanted, patience } = request;
        if is_repeated {
            self.leave_earlier(&key);
            if let Some(values) = self.taken_before(&key).await? {
                return Ok(values);
            }
        }
        let (answer, mut answered) = oneshot::channel();
        let (id, got) = self.act(|state, now, effects, _| {
            if state.is_gone {
                return Err(QueueError::Gone);
            }
            let id = GetId(state.new_id());
            let waits = !patience.is_zero();
            let new = NewGet { id, key: key.into(), partition: partition.to_vec(), wanted, waits };
            let got = state.queue.get(new, now, effects)?;
            if got != Got::Nothing {
                state.answers.insert(id, answer);
            }
            Ok((id, got))
        })?;
        // Dropped with this request when the caller goes away.
        let _open = OpenGet { queue: self.clone(), id };
        let answer = match got {
            Got::Nothing => return Ok(Vec::new()),
            Got::Items => answered.await,
            Got::Waits => match timeout(patience, &mut answered).await {
                Ok(answer) => answer,
                Err(_) if self.act(|state, _, _, _| state.queue.stop_waiting(id)) => return Ok(Vec::new()),
                // It has taken something at the last moment.
                Err(_) => answered.await,
            },
        };
        answer.map_err(|_| QueueError::Replaced)??.into_values().await
    }

    /// A try of the same request that its caller has lost gets nothing more.
    fn leave_earlier(self: &Arc<Self>, key: &str) {
        self.act(|state, now, effects, _| {
            if let Some(id) = state.queue.open_get(key) {
                state.queue.leave(id, now, effects);
                state.answers.remove(&id);
            }
        });
    }

    /// What an earlier try of the same request took.
    async fn taken_before(&self, key: &str) -> Result<Option<Vec<Bytes>>, QueueError> {
        let Some(positions) = self.store.taken_by(key.to_owned()).await? else { return Ok(None) };
        let values: Vec<Bytes> = self.store.item_values(positions).await?.into_iter().flatten().collect();
        Ok(Some(values).filter(|values| !values.is_empty()))
    }

    /// Values behind a position with their positions, which stay where they are; waits for the first.
    pub async fn look(
        self: &Arc<Self>,
        partition: &Bytes,
        mut after: Position,
        patience: Duration,
    ) -> Result<Looked, QueueError> {
        let deadline = Instant::now() + patience;
        loop {
            let (news, told) = oneshot::channel();
            let (found, bytes, look) = self.act(|state, now, _, _| {
                if state.is_gone {
                    return Err(QueueError::Gone);
                }
                if state.looks.len() >= MAX_OPEN_GETS {
                    return Err(Refusal::TooManyGets.into());
                }
                let found = state.queue.look(partition, after, LOOK, now);
                let bytes: usize = found.iter().map(|item| item.bytes).sum();
                // While it waits for room it keeps nothing that somebody may take: it would not be counted then.
                let kept = |item| in_memory(item).filter(|_| bytes <= answer_limit::SMALL);
                let found: Vec<_> = found.into_iter().map(|item| (item.position, kept(item))).collect();
                let look = LookId(state.new_id());
                if found.is_empty() {
                    state.queue.wait_to_look(look, partition);
                    state.looks.insert(look, news);
                }
                Ok((found, bytes, look))
            })?;
            let _open = OpenLook { queue: self, look, partition };
            let last = found.last().map(|(position, _)| *position);
            let room = answer_limit::room_for(bytes).await;
            let values = self.with_values(found).await?;
            let is_over = match last {
                // Gone between the look and the reading.
                Some(last) if values.is_empty() => {
                    after = last;
                    Instant::now() >= deadline
                }
                Some(_) => true,
                None => timeout_at(deadline, told).await.is_err(),
            };
            if is_over {
                return Ok(Looked { values, room });
            }
        }
    }

    /// Reads what is not in memory; leaves out what is gone.
    async fn with_values(&self, found: Vec<(Position, Option<Bytes>)>) -> Result<Vec<(Position, Bytes)>, QueueError> {
        let missing: Vec<Position> = found.iter().filter(|(_, value)| value.is_none()).map(|(at, _)| *at).collect();
        if missing.is_empty() {
            return Ok(found.into_iter().filter_map(|(position, value)| Some((position, value?))).collect());
        }
        let mut read = self.store.item_values(missing).await?.into_iter();
        let mut value = |value: Option<Bytes>| value.or_else(|| read.next().flatten());
        Ok(found.into_iter().filter_map(|(position, kept)| Some((position, value(kept)?))).collect())
    }

    /// Takes away what is in a partition, or in all, when this is called.
    pub async fn clear(self: &Arc<Self>, partition: Option<Bytes>) -> Result<(), QueueError> {
        let (told, cleared) = oneshot::channel();
        self.act(|_, _, _, jobs| {
            // Under the lock: what was put before has a smaller position, what comes later a greater one.
            let through = self.store.positions(0).saturating_sub(1);
            let (queue, of) = (self.clone(), partition.clone());
            let done = move |result: Result<(), _>| {
                if result.is_ok() {
                    queue.act(|state, _, _, _| state.queue.on_cleared(of.as_deref(), through));
                }
                // The caller may have gone; its queue is clear all the same.
                drop(told.send(result));
            };
            jobs.push(Job::forget_items(&self.id, partition.as_deref(), through, done));
        });
        Ok(cleared.await.map_err(|_| ContentsError::Closed)??)
    }
}

fn in_memory(item: &Item<Value>) -> Option<Bytes> {
    item.value.as_ref().map(|held| held.bytes.clone())
}

impl Delivery {
    /// The values; from here on they are the caller's.
    async fn into_values(mut self) -> Result<Vec<Bytes>, QueueError> {
        let found = self.items.iter().map(|item| (item.position, in_memory(item))).collect();
        let values = self.queue.with_values(found).await?;
        self.items.clear();
        self.queue.act(|state, _, _, _| state.queue.on_delivered(self.get));
        Ok(values.into_iter().map(|(_, value)| value).collect())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let items = std::mem::take(&mut self.items);
        if !items.is_empty() {
            self.queue.act(|state, now, effects, _| state.queue.on_undelivered(self.get, items, now, effects));
        }
    }
}

/// A get whose caller is there.
struct OpenGet {
    queue: Arc<OpenQueue>,
    id: GetId,
}

impl Drop for OpenGet {
    fn drop(&mut self) {
        self.queue.act(|state, now, effects, _| {
            state.queue.leave(self.id, now, effects);
            state.answers.remove(&self.id);
        });
    }
}

struct OpenLook<'a> {
    queue: &'a Arc<OpenQueue>,
    look: LookId,
    partition: &'a Bytes,
}

impl Drop for OpenLook<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        if state.looks.remove(&self.look).is_some() {
            state.queue.stop_looking(self.look, self.partition);
        }
    }
}
