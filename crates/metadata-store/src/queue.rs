//! The way to the writer thread: in order, and bounded by the bytes that wait in it.
//!
//! The bound is a semaphore of weights in front of an unbounded channel, because inputs differ by a factor of ten
//! thousand in size: a bound on their number would either starve small ones or hold gigabytes of large ones.

use std::sync::Arc;
use std::sync::mpsc;

use futures::executor::block_on;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::StoreError;
use crate::records::Write;

/// What may wait for the disk: enough for a second of writing on an ordinary one.
const MAX_WAITING_KIB: u32 = 64 << 10;

pub(crate) type Answer = oneshot::Sender<Result<(), StoreError>>;

/// One caller's writes: all or none of them are stored.
pub(crate) struct Batch {
    pub writes: Vec<Write>,
    /// `None` when nobody waits.
    pub answer: Option<Answer>,
    /// Gives its weight back to the queue when the batch is done with.
    _weight: OwnedSemaphorePermit,
}

pub(crate) enum Job {
    Batch(Batch),
    Expire { before_ms: u64, answer: oneshot::Sender<Result<crate::Expired, StoreError>> },
    Close(oneshot::Sender<Result<(), StoreError>>),
}

pub(crate) struct Queue {
    jobs: Jobs,
    room: Arc<Semaphore>,
}

/// Who takes the jobs.
enum Jobs {
    Thread(mpsc::Sender<Job>),
    #[cfg(feature = "simulation")]
    Simulation(tokio::sync::mpsc::UnboundedSender<Job>),
}

impl Queue {
    #[cfg(feature = "simulation")]
    pub fn simulated() -> (Self, tokio::sync::mpsc::UnboundedReceiver<Job>) {
        let (jobs, receiver) = tokio::sync::mpsc::unbounded_channel();
        (Self { jobs: Jobs::Simulation(jobs), room: Arc::new(Semaphore::new(MAX_WAITING_KIB as usize)) }, receiver)
    }

    pub fn new() -> (Self, mpsc::Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel();
        (Self { jobs: Jobs::Thread(jobs), room: Arc::new(Semaphore::new(MAX_WAITING_KIB as usize)) }, receiver)
    }

    /// Waits for room without holding a thread.
    pub async fn send(&self, writes: Vec<Write>, answer: Answer) -> Result<(), StoreError> {
        let weight = self.room.clone().acquire_many_owned(weight_kib(&writes)).await;
        let batch = Batch { writes, answer: Some(answer), _weight: weight.map_err(|_| StoreError::Closed)? };
        self.send_job(Job::Batch(batch))
    }

    /// Waits for room on the calling thread: the writer is a thread of its own and makes room without this one. Letting
    /// go of the writes instead would lose them, and putting them elsewhere would lose their order.
    pub fn send_unanswered(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let weight = weight_kib(&writes);
        let weight = match self.room.clone().try_acquire_many_owned(weight) {
            Ok(weight) => weight,
            Err(_) => block_on(self.room.clone().acquire_many_owned(weight)).map_err(|_| StoreError::Closed)?,
        };
        self.send_job(Job::Batch(Batch { writes, answer: None, _weight: weight }))
    }

    pub fn send_job(&self, job: Job) -> Result<(), StoreError> {
        let sent = match &self.jobs {
            Jobs::Thread(jobs) => jobs.send(job).is_ok(),
            #[cfg(feature = "simulation")]
            Jobs::Simulation(jobs) => jobs.send(job).is_ok(),
        };
        if sent { Ok(()) } else { Err(StoreError::Closed) }
    }
}

/// A batch larger than the whole queue waits until it is alone in it.
fn weight_kib(writes: &[Write]) -> u32 {
    let bytes: usize = writes.iter().map(Write::weight).sum();
    (bytes as u64 / 1024 + 1).min(u64::from(MAX_WAITING_KIB)) as u32
}
