//! The same layer asked for twice at once is made once, and both askers see all of its log.
//!
//! The work belongs to nobody in particular: it runs as a loop of its own, and is stopped when the last asker has gone.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::BuildError;
use crate::logs::LogSink;
use crate::request::BuildLog;

type Outcome<V> = Option<Result<V, BuildError>>;

pub(crate) struct OnceMap<K, V> {
    flights: Arc<Mutex<HashMap<K, Arc<Flight<V>>>>>,
}

struct Flight<V> {
    logs: Mutex<Logs>,
    outcome: watch::Receiver<Outcome<V>>,
    /// How many askers wait; the one that brings it to zero stops the work.
    askers: Mutex<usize>,
    work: Mutex<Option<tokio::task::AbortHandle>>,
}

#[derive(Default)]
struct Logs {
    history: Vec<BuildLog>,
    sinks: Vec<LogSink>,
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> OnceMap<K, V> {
    pub fn new() -> Self {
        Self { flights: Arc::default() }
    }

    /// Joins the work for `key`, or starts it with `make`, which is given the sink to log to.
    pub async fn run<F>(&self, key: K, sink: &LogSink, make: impl FnOnce(LogSink) -> F) -> Result<V, BuildError>
    where
        F: Future<Output = Result<V, BuildError>> + Send + 'static,
    {
        let flight = {
            let mut flights = self.flights.lock();
            match flights.get(&key) {
                Some(flight) => {
                    *flight.askers.lock() += 1;
                    flight.clone()
                }
                None => {
                    let (sender, outcome) = watch::channel(None);
                    let flight = Arc::new(Flight {
                        logs: Mutex::default(),
                        outcome,
                        askers: Mutex::new(1),
                        work: Mutex::new(None),
                    });
                    flights.insert(key.clone(), flight.clone());
                    self.start(key.clone(), &flight, sender, make);
                    flight
                }
            }
        };
        {
            let mut logs = flight.logs.lock();
            logs.history.iter().for_each(|log| sink.send(log.clone()));
            logs.sinks.push(sink.clone());
        }
        let _asker = Asker { flights: &self.flights, key, flight: &flight };
        let mut outcome = flight.outcome.clone();
        let done = outcome.wait_for(Option::is_some).await.map(|value| value.clone());
        done.ok().flatten().unwrap_or(Err(BuildError::Abandoned))
    }

    fn start<F>(
        &self,
        key: K,
        flight: &Arc<Flight<V>>,
        sender: watch::Sender<Outcome<V>>,
        make: impl FnOnce(LogSink) -> F,
    ) where
        F: Future<Output = Result<V, BuildError>> + Send + 'static,
    {
        let weak = Arc::downgrade(flight);
        let sink = LogSink::new(move |log| {
            let Some(flight) = weak.upgrade() else { return };
            let mut logs = flight.logs.lock();
            logs.sinks.iter().for_each(|sink| sink.send(log.clone()));
            logs.history.push(log);
        });
        let work = make(sink);
        let flights = self.flights.clone();
        let this = Arc::downgrade(flight);
        let handle = tokio::spawn(async move {
            let outcome = work.await;
            let mut flights = flights.lock();
            if flights.get(&key).is_some_and(|current| Arc::downgrade(current).ptr_eq(&this)) {
                flights.remove(&key);
            }
            drop(flights);
            sender.send_replace(Some(outcome));
        });
        *flight.work.lock() = Some(handle.abort_handle());
    }
}

/// Counts one asker down when it stops waiting, for whatever reason.
struct Asker<'a, K: Eq + Hash, V> {
    flights: &'a Mutex<HashMap<K, Arc<Flight<V>>>>,
    key: K,
    flight: &'a Arc<Flight<V>>,
}

impl<K: Eq + Hash, V> Drop for Asker<'_, K, V> {
    fn drop(&mut self) {
        // The map's lock is taken first, as in `run`, so that nobody joins a flight that is being stopped.
        let mut flights = self.flights.lock();
        let mut askers = self.flight.askers.lock();
        *askers -= 1;
        if *askers > 0 {
            return;
        }
        if flights.get(&self.key).is_some_and(|current| Arc::ptr_eq(current, self.flight)) {
            flights.remove(&self.key);
        }
        if let Some(work) = self.flight.work.lock().take() {
            work.abort();
        }
    }
}

/// One lock per key, gone when nobody holds it.
pub(crate) struct KeyedLock<K> {
    locks: Mutex<HashMap<K, std::sync::Weak<tokio::sync::Mutex<()>>>>,
}

impl<K: Eq + Hash> KeyedLock<K> {
    pub fn new() -> Self {
        Self { locks: Mutex::default() }
    }

    pub async fn lock(&self, key: K) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(&key).and_then(std::sync::Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn recorder() -> (LogSink, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        (LogSink::new(move |log| kept.lock().push(log.text)), lines)
    }

    #[tokio::test]
    async fn two_askers_share_one_run_and_both_see_the_whole_log() {
        let map: OnceMap<u8, u32> = OnceMap::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let ask = |sink: LogSink| {
            let runs = runs.clone();
            let map = &map;
            async move {
                map.run(1, &sink, |logs| async move {
                    logs.say("first");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    logs.say("second");
                    runs.fetch_add(1, Ordering::SeqCst);
                    Ok(7)
                })
                .await
            }
        };
        let ((a, a_lines), (b, b_lines)) = (recorder(), recorder());
        let late = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ask(b).await
        };
        let (first, second) = tokio::join!(ask(a), late);
        assert_eq!((first.unwrap(), second.unwrap()), (7, 7));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(*a_lines.lock(), ["first", "second"]);
        assert_eq!(*b_lines.lock(), ["first", "second"]);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_stopped() {
        let map: OnceMap<u8, ()> = OnceMap::new();
        let finished = Arc::new(AtomicUsize::new(0));
        let counter = finished.clone();
        let sink = LogSink::discard();
        let ask = map.run(1, &sink, |_| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(10), ask).await.is_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(finished.load(Ordering::SeqCst), 0);
        map.run(1, &LogSink::discard(), |_| async { Ok(()) }).await.unwrap();
    }
}
