//! Queues: the shells around their state machines. What a put, a get and a look mean is decided in the crate `queues`; here
//! decisions get the time, effects go to the disk, and callers wait.
//!
//! A queue is loaded when it is first asked for. Each has one small lock, which is never held across an await. Jobs for the
//! disk are handed over while it is held, so that the disk sees them in the order of the decisions; the writer reports back
//! under it, also in that order.

mod callers;
mod house;
#[cfg(test)]
mod tests;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use calls::Millis;
use contents_store::{ContentsError, ContentsStore, Job};
use dashmap::DashMap;
use parking_lot::Mutex;
use queues::{Effect, GetId, Item, LookId, Queue, Refusal, Stored, Taking};
use tokio::sync::{OnceCell, oneshot};

pub use callers::{GetRequest, Looked, PutRequest};
pub use values::{Held, HeldBytes};

use crate::clock::wall_ms;

/// Why a request of a queue has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] ContentsError),
    #[error("the queue was deleted")]
    Gone,
    /// The same caller asks again on another connection: nobody hears this.
    #[error("the request was repeated, and its repetition is answered")]
    Replaced,
}

/// A value in memory, or nothing when it is on disk only.
type Value = Option<Held>;
type Answer = Result<Delivery, QueueError>;

/// All queues that were asked for since the server began.
pub struct Queues {
    store: ContentsStore,
    held: Arc<HeldBytes>,
    open: DashMap<String, Arc<OnceCell<Arc<OpenQueue>>>>,
}

impl Queues {
    pub fn new(store: ContentsStore) -> Self {
        Self { store, held: Arc::default(), open: DashMap::new() }
    }

    /// The queue of this id, which must exist.
    pub async fn open(&self, id: &str) -> Result<Arc<OpenQueue>, QueueError> {
        let cell = self.open.entry(id.to_owned()).or_default().clone();
        let queue = cell.get_or_try_init(|| async {
            let stored = self.store.load_queue(id).await?.into_iter().map(|item| Stored {
                partition: item.partition,
                expires_at: item.expires_at_ms,
                item: Item { position: item.position, bytes: item.bytes, value: None },
            });
            let state = State { queue: Queue::restored(stored), ..State::default() };
            let (store, held) = (self.store.clone(), self.held.clone());
            Ok::<_, QueueError>(Arc::new(OpenQueue { id: id.to_owned(), store, held, state: Mutex::new(state) }))
        });
        queue.await.cloned()
    }

    /// The queue is deleted: whoever waits for it learns so.
    pub fn close(&self, id: &str) {
        let cell = self.open.remove(id).map(|(_, cell)| cell);
        if let Some(queue) = cell.as_ref().and_then(|cell| cell.get()) {
            queue.close();
        }
    }

    fn all(&self) -> Vec<Arc<OpenQueue>> {
        self.open.iter().filter_map(|cell| cell.get().cloned()).collect()
    }
}

pub struct OpenQueue {
    id: String,
    store: ContentsStore,
    held: Arc<HeldBytes>,
    /// Held for one decision and the handing over of its effects.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: Queue<Value>,
    /// Gets that are not answered yet.
    answers: HashMap<GetId, oneshot::Sender<Answer>>,
    looks: HashMap<LookId, oneshot::Sender<()>>,
    next_id: u64,
    is_gone: bool,
}

/// What a get took, on its way to the caller. When the caller is not there any more, it goes back.
pub struct Delivery {
    queue: Arc<OpenQueue>,
    get: GetId,
    items: Vec<Item<Value>>,
}

impl OpenQueue {
    /// Decides something and hands the effects over, behind the jobs that come with the decision.
    fn act<T>(
        self: &Arc<Self>,
        decide: impl FnOnce(&mut State, Millis, &mut Vec<Effect<Value>>, &mut Vec<Job>) -> T,
    ) -> T {
        let (mut effects, mut jobs, mut told) = (Vec::new(), Vec::new(), Vec::new());
        let mut state = self.state.lock();
        let result = decide(&mut state, wall_ms(), &mut effects, &mut jobs);
        for effect in effects {
            self.perform(&mut state, effect, &mut jobs, &mut told);
        }
        self.store.send(jobs);
        drop(state);
        // Without the lock: an answer that nobody takes comes back through it.
        for (sender, answer) in told {
            drop(sender.map(|sender: oneshot::Sender<Answer>| sender.send(answer)));
        }
        result
    }

    fn perform(
        self: &Arc<Self>,
        state: &mut State,
        effect: Effect<Value>,
        jobs: &mut Vec<Job>,
        told: &mut Vec<(Option<oneshot::Sender<Answer>>, Answer)>,
    ) {
        match effect {
            Effect::Take { taking, key, positions } => {
                let queue = self.clone();
                let done = move |result| queue.on_take_written(taking, result);
                jobs.push(Job::take(&self.store, &self.id, &key, positions, wall_ms(), done));
            }
            Effect::Untake { key } => jobs.push(Job::untake(&self.store, &key)),
            Effect::Forget { partition, through } => {
                jobs.push(Job::forget_items(&self.id, Some(&partition), through, |result| {
                    if let Err(error) = result {
                        // They are found again when the queue is next loaded, and have expired then, too.
                        tracing::error!(%error, "expired items of a queue were not deleted");
                    }
                }));
            }
            Effect::Answer { get, items } => {
                let delivery = Delivery { queue: self.clone(), get, items };
                told.push((state.answers.remove(&get), Ok(delivery)));
            }
            // Said by whoever knows what failed.
            Effect::Fail { .. } => {}
            Effect::Wake(look) => drop(state.looks.remove(&look).map(|news| news.send(()))),
        }
    }

    /// On the writer's thread.
    fn on_take_written(self: &Arc<Self>, taking: Taking, result: Result<(), ContentsError>) {
        let failed = self.act(|state, now, effects, _| match result {
            Ok(()) => {
                state.queue.on_take_stored(taking, effects);
                None
            }
            Err(error) => {
                state.queue.on_take_failed(taking, now, effects);
                let has_failed = effects.iter().any(|effect| matches!(effect, Effect::Fail { .. }));
                let sender = state.answers.remove(&taking.get).filter(|_| has_failed);
                sender.map(|sender| (sender, error))
            }
        });
        if let Some((sender, error)) = failed {
            // The caller may have gone meanwhile.
            drop(sender.send(Err(error.into())));
        }
    }

    fn close(self: &Arc<Self>) {
        let waiting = self.act(|state, _, _, _| {
            state.is_gone = true;
            state.queue = Queue::default();
            state.looks.clear();
            std::mem::take(&mut state.answers)
        });
        for sender in waiting.into_values() {
            // The caller may have gone meanwhile.
            drop(sender.send(Err(QueueError::Gone)));
        }
    }

    /// Items in a partition, or in all.
    pub fn len(self: &Arc<Self>, partition: Option<&[u8]>) -> usize {
        match partition {
            Some(partition) => self.state.lock().queue.len(partition, wall_ms()),
            None => self.sizes().1,
        }
    }

    /// Partitions that hold items, and how many items that are.
    pub fn sizes(self: &Arc<Self>) -> (usize, usize) {
        self.act(|state, now, effects, _| {
            state.queue.expire(now, effects);
            (state.queue.partitions(), state.queue.total())
        })
    }
}

impl State {
    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
