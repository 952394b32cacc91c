//! Listings of files, which clients read while they are made.
//!
//! Each is a walk over the disk on a thread that may block, and waits there while its client reads slowly. Everything else
//! that blocks needs the same threads, and there are a few hundred of them for all. So only some listings go on at once,
//! and one whose client has stopped to read is ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Well below the number of threads that may block (512), and more than a disk serves well at once.
const AT_ONCE: usize = 32;
/// How long a listing waits for others to end. Most take milliseconds.
const TURN: Duration = Duration::from_secs(30);
/// How long one message of a listing waits for the client.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Listings {
    places: Arc<Semaphore>,
    turn: Duration,
    patience: Duration,
}

impl Default for Listings {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), turn: TURN, patience: PATIENCE }
    }
}

impl Listings {
    /// The right to list, once another has ended if need be.
    pub async fn place(&self) -> Result<Place, Status> {
        match tokio::time::timeout(self.turn, self.places.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place { _permit: permit, patience: self.patience }),
            Ok(Err(_)) => Err(Status::unavailable("the server is being stopped")),
            Err(_) => Err(Status::resource_exhausted(format!(
                "the server lists files for as many clients at once as it can, and none of them was done within {} s; \
                 try again later",
                self.turn.as_secs()
            ))),
        }
    }
}

/// Given back when it is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    patience: Duration,
}

impl Place {
    /// Begins a walk on a thread that may block. `ahead`: messages that may wait for the client.
    pub fn list<T: Send + 'static>(
        self,
        ahead: usize,
        walk: impl FnOnce(&mut Outlet<T>) -> Result<(), Status> + Send + 'static,
    ) -> ReceiverStream<Result<T, Status>> {
        let (messages, listing) = mpsc::channel(ahead + 1);
        // The last word has its room from the beginning: a listing that breaks off must not look like a whole one.
        let last_word = messages.clone().try_reserve_owned();
        let mut outlet = Outlet { messages, runtime: Handle::current(), patience: self.patience, stalled: false };
        tokio::task::spawn_blocking(move || {
            let _place = self;
            let walked = walk(&mut outlet);
            let ended = if outlet.stalled { Err(outlet.stalled_status()) } else { walked };
            if let (Err(status), Ok(last_word)) = (ended, last_word) {
                last_word.send(Err(status));
            }
        });
        ReceiverStream::new(listing)
    }
}

/// Where a listing's messages go.
pub struct Outlet<T> {
    messages: mpsc::Sender<Result<T, Status>>,
    runtime: Handle,
    patience: Duration,
    stalled: bool,
}

impl<T> Outlet<T> {
    /// Waits for the client. False when nobody reads any more, and the walk should end.
    pub fn send(&mut self, message: T) -> bool {
        if self.stalled {
            return false;
        }
        let message = match self.messages.try_send(Ok(message)) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(message)) => message,
        };
        // The timer is made inside: it belongs to the runtime.
        let sent =
            self.runtime.block_on(async { tokio::time::timeout(self.patience, self.messages.send(message)).await });
        self.stalled = sent.is_err();
        matches!(sent, Ok(Ok(())))
    }

    fn stalled_status(&self) -> Status {
        let seconds = self.patience.as_secs();
        Status::aborted(format!("the listing was not read for {seconds} s, so it has ended; list again"))
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3600);

    fn listings(places: usize, turn: Duration, patience: Duration) -> Listings {
        Listings { places: Arc::new(Semaphore::new(places)), turn, patience }
    }

    fn endless(place: Place) -> ReceiverStream<Result<u64, Status>> {
        place.list(2, |outlet| {
            let mut next = 0..;
            while next.next().is_some_and(|number| outlet.send(number)) {}
            Ok(())
        })
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_all_of_a_listing_and_the_error_that_ended_it() {
        let listings = listings(1, NEVER, NEVER);
        let listing = listings.place().await.unwrap().list(2, |outlet| {
            assert!((0..1000).all(|number| outlet.send(number)));
            Err(Status::data_loss("broken"))
        });
        let all: Vec<_> = listing.collect().await;
        assert_eq!(all.len(), 1001);
        assert!(all[..1000].iter().zip(0..).all(|(got, number)| *got.as_ref().unwrap() == number));
        assert_eq!(all[1000].as_ref().unwrap_err().code(), Code::DataLoss);
    }

    #[tokio::test]
    async fn a_listing_that_nobody_reads_ends_gives_its_place_back_and_does_not_look_whole() {
        let listings = listings(1, NEVER, SOON);
        let unread = endless(listings.place().await.unwrap());
        listings.place().await.unwrap();
        let all: Vec<_> = unread.collect().await;
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(all[2].as_ref().unwrap_err().code(), Code::Aborted);
    }

    #[tokio::test]
    async fn a_listing_ends_when_its_client_leaves() {
        let listings = listings(1, NEVER, NEVER);
        drop(endless(listings.place().await.unwrap()));
        listings.place().await.unwrap();
    }

    #[tokio::test]
    async fn a_listing_without_a_place_is_refused_after_a_while() {
        let listings = listings(1, SOON, NEVER);
        let first = endless(listings.place().await.unwrap());
        let refused = listings.place().await.err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        drop(first);
    }

    #[test]
    fn listings_that_nobody_reads_leave_threads_to_everything_else() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(3).build();
        runtime.unwrap().block_on(async {
            let listings = listings(2, SOON, NEVER);
            let mut unread = Vec::new();
            for _ in 0..6 {
                unread.extend(listings.place().await.map(endless));
            }
            assert_eq!(unread.len(), 2);
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        });
    }
}
