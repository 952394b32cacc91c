//! Calls of the last server that nobody may wait for any more.
//!
//! A call that its caller waits for is on disk once it has lasted a second, and so it is there after a restart. Its caller
//! may not be: it has gone while no server ran, or it was an input in a container that ended with the last server and
//! runs again, with calls of its own. Running such a call would do everything it does once more, for nobody. So
//! it waits until its caller is heard: by the heartbeat of its app, or by a request that names the call. What was not
//! heard within [`HEARD_WITHIN`] ends without having run again.
//!
//! Calls that their callers may walk away from, and those of apps that live without a client, go on at once. The calls wait
//! here and not in the state machine: to that they are restored a little later.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calls::{CallSpec, FinishedOutput, Outcome, OutcomeStatus};
use metadata_store::{AppState, OutputRecord, StoredCall, Write};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use types::ids::{AppId, FunctionCallId};

use crate::apps::life;
use crate::owner::Owner;
use crate::shared::Shared;

/// As long as a client may be silent: it asks again within seconds when its connection breaks, and its app's heartbeat
/// comes every 15 s.
const HEARD_WITHIN: Duration = Duration::from_secs(60);
/// Inputs that are ended in one transaction.
const AT_ONCE: usize = 1_000;
/// A disk that does not take an end is asked again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

const APP_STOPPED: &str = "the function call was cancelled: its app was stopped";
const NOT_HEARD: &str =
    "the function call was cancelled: the server was restarted, and its caller was not heard from after that";

/// What becomes of a call that the last server left unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    AtOnce,
    /// When its caller is heard.
    WhenHeard {
        /// The heartbeat of the app says that the caller is there.
        by_heartbeat: bool,
    },
    /// Its app is over: it ends.
    Never,
}

/// Decides it for a call to a function of an app in this state; `None`: the app is not known any more.
pub fn decide_return(app: Option<AppState>, call: &CallSpec) -> Return {
    match app.filter(|state| life::runs(*state)) {
        None => Return::Never,
        Some(_) if call.durable => Return::AtOnce,
        // Its caller was in a container, which ended with the server.
        Some(_) if call.parent_input.is_some() => Return::WhenHeard { by_heartbeat: false },
        Some(AppState::Ephemeral | AppState::Initializing) => Return::WhenHeard { by_heartbeat: true },
        Some(_) => Return::AtOnce,
    }
}

struct Waiting {
    call: StoredCall,
    owner: Arc<Owner>,
    by_heartbeat: bool,
}

#[derive(Default)]
pub struct Unheard {
    /// False for a server whose callers have all been heard: then nobody takes the lock.
    any: AtomicBool,
    calls: Mutex<HashMap<FunctionCallId, Waiting>>,
    /// Some have ended on disk.
    ended: Notify,
}

impl Unheard {
    pub fn add(&self, call: StoredCall, owner: Arc<Owner>, by_heartbeat: bool) {
        let id = call.record.spec.id.clone();
        self.calls.lock().insert(id, Waiting { call, owner, by_heartbeat });
        self.any.store(true, Ordering::Release);
    }

    /// Whoever names a call wants it.
    pub fn hear_call(&self, shared: &Arc<Shared>, call: &FunctionCallId) {
        self.hear(shared, |calls| calls.remove(call).into_iter().collect());
    }

    pub fn hear_app(&self, shared: &Arc<Shared>, app: &AppId) {
        let is_heard = |waiting: &Waiting| waiting.by_heartbeat && waiting.owner.app.id == *app;
        self.hear(shared, |calls| calls.extract_if(|_, waiting| is_heard(waiting)).map(|(_, w)| w).collect());
    }

    /// These go on. Under the lock, so that who looks for one finds it here or there.
    fn hear(
        &self,
        shared: &Arc<Shared>,
        take_heard: impl FnOnce(&mut HashMap<FunctionCallId, Waiting>) -> Vec<Waiting>,
    ) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut calls = self.calls.lock();
        let mut too_late = Vec::new();
        for Waiting { call, owner, .. } in take_heard(&mut calls) {
            too_late.extend(shared.restore_call(&owner, call));
            owner.wake(shared);
        }
        self.any.store(!calls.is_empty(), Ordering::Release);
        drop(calls);
        shared.end_stored(too_late, APP_STOPPED);
    }

    /// The app was stopped: so are these.
    pub fn end_app(&self, shared: &Arc<Shared>, app: &AppId) {
        self.end(shared, APP_STOPPED, |waiting| waiting.owner.app.id == *app);
    }

    fn end(&self, shared: &Arc<Shared>, why: &'static str, is_over: impl Fn(&Waiting) -> bool) {
        let mut calls = self.calls.lock();
        let ended: Vec<StoredCall> =
            calls.extract_if(|_, waiting| is_over(waiting)).map(|(_, waiting)| waiting.call).collect();
        self.any.store(!calls.is_empty(), Ordering::Release);
        drop(calls);
        shared.end_stored(ended, why);
    }

    /// The next end on disk of what did not go on.
    pub fn ended(&self) -> Notified<'_> {
        self.ended.notified()
    }
}

impl Shared {
    /// The function of a call that is in memory. Whoever names a call of the last server has it go on.
    pub fn call_owner(self: &Arc<Self>, call: &FunctionCallId) -> Option<Arc<Owner>> {
        let known = || self.calls.get(call).map(|owner| owner.clone());
        known().or_else(|| {
            self.unheard.hear_call(self, call);
            known()
        })
    }

    /// Takes up what the last server left unfinished.
    pub fn restore_calls(self: &Arc<Self>, calls: Vec<StoredCall>) {
        let mut over = Vec::new();
        for call in calls {
            let app = self.apps.get(&call.record.app).map(|app| app.state());
            let owner = self.owners.get(&call.record.function).map(|owner| owner.clone());
            match (decide_return(app, &call.record.spec), owner) {
                (Return::Never, _) => over.push(call),
                (Return::AtOnce, Some(owner)) => over.extend(self.restore_call(&owner, call)),
                (Return::WhenHeard { by_heartbeat }, Some(owner)) => self.unheard.add(call, owner, by_heartbeat),
                // Its definition cannot be read now; another version of the server may.
                (_, None) => {
                    tracing::warn!(call = %call.record.spec.id, "a function call waits for a function that is not there")
                }
            }
        }
        self.end_stored(over, APP_STOPPED);
        tokio::spawn(give_up_unheard(self.clone()));
    }

    /// Answers with the call if its app was stopped meanwhile, see [`Owner::begin_call`].
    fn restore_call(self: &Arc<Self>, owner: &Arc<Owner>, call: StoredCall) -> Option<StoredCall> {
        let id = call.record.spec.id.clone();
        self.calls.insert(id.clone(), owner.clone());
        let mut call = Some(call);
        owner.apply(self, |calls, now, _| {
            if let Some(call) = call.take_if(|_| owner.app.is_running()) {
                calls.restore(call.restored(), now);
            }
        });
        if call.is_some() {
            self.calls.remove(&id);
        }
        call
    }

    /// Ends calls that are on disk only. Results that they have stay.
    fn end_stored(self: &Arc<Self>, calls: Vec<StoredCall>, why: &'static str) {
        if calls.is_empty() {
            return;
        }
        tracing::info!(calls = calls.len(), why, "function calls of the last server do not go on");
        let shared = self.clone();
        tokio::spawn(async move {
            let writes: Vec<Write> = calls.into_iter().flat_map(|call| ends(call, why)).collect();
            for some in writes.chunks(AT_ONCE) {
                while let Err(error) = shared.store.write(some.to_vec()).await {
                    tracing::error!(%error, "could not record the end of function calls");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                shared.unheard.ended.notify_waiters();
            }
        });
    }
}

async fn give_up_unheard(shared: Arc<Shared>) {
    tokio::time::sleep(HEARD_WITHIN).await;
    shared.unheard.end(&shared, NOT_HEARD, |_| true);
}

/// An end for each input that has none.
fn ends(call: StoredCall, why: &str) -> Vec<Write> {
    let id = call.record.spec.id;
    let output = |input: calls::NewInput| {
        let outcome = Outcome::of(OutcomeStatus::Terminated, why);
        let output = FinishedOutput { input: input.id, idx: input.idx, task: None, outcome };
        Write::Output(OutputRecord { call: id.clone(), output })
    };
    let mut writes: Vec<Write> = call.pending.into_iter().map(output).collect();
    writes.push(Write::FinishInputs(id.clone()));
    writes
}

#[cfg(test)]
mod tests {
    use calls::CallKind;
    use client_protocol::wire;
    use types::ids::InputId;

    use super::*;
    use crate::testing::{IMAGE, Site, eventually};

    fn spec(durable: bool, parent_input: Option<InputId>) -> CallSpec {
        let id = FunctionCallId::random();
        CallSpec { id, kind: CallKind::Unary, durable, parent_input, created_at: 0, invocation_type: 0 }
    }

    /// A server on whose disk an ephemeral app has a call that somebody waits for.
    async fn restarted() -> (Site, AppId, FunctionCallId) {
        let site = Site::start().await;
        let app = site.app(wire::AppState::Ephemeral).await;
        let function = site.publish(&app, wire::AppState::Ephemeral, IMAGE).await.unwrap();
        let call = site.call(&function, true).await.unwrap();
        let site = site.restart().await;
        (site, app.id.clone(), call)
    }

    /// Looks for a while whether what should not run does.
    async fn give_time() {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    #[tokio::test]
    async fn a_call_of_the_last_server_goes_on_when_its_apps_client_is_heard() {
        let (site, app, _) = restarted().await;
        give_time().await;
        assert_eq!(site.started(), 0, "nobody was heard yet");
        site.api.app_heartbeat(app.as_str()).unwrap();
        eventually("a container", async || site.started() == 1).await;
    }

    #[tokio::test]
    async fn a_call_of_the_last_server_goes_on_when_its_outputs_are_asked_for() {
        let (site, _, call) = restarted().await;
        give_time().await;
        assert_eq!(site.started(), 0, "nobody was heard yet");
        assert_eq!(site.outputs(&call, 0.0).await.num_unfinished_inputs, 1);
        eventually("a container", async || site.started() == 1).await;
    }

    #[tokio::test]
    async fn a_call_of_the_last_server_ends_when_nobody_is_heard() {
        let (site, app, call) = restarted().await;
        give_time().await;
        tokio::time::pause();
        tokio::time::advance(HEARD_WITHIN).await;
        tokio::time::resume();
        eventually("the end of every input", async || site.pending().await == 0).await;
        site.api.app_heartbeat(app.as_str()).unwrap();
        let answer = site.outputs(&call, 55.0).await;
        let result = answer.outputs[0].result.as_ref().unwrap();
        assert!(result.exception.contains("was not heard"), "{}", result.exception);
        give_time().await;
        assert_eq!(site.started(), 0);
    }

    #[tokio::test]
    async fn a_spawned_call_of_the_last_server_goes_on_at_once() {
        let site = Site::start().await;
        let app = site.app(wire::AppState::Ephemeral).await;
        let function = site.publish(&app, wire::AppState::Ephemeral, IMAGE).await.unwrap();
        site.call(&function, false).await.unwrap();
        let site = site.restart().await;
        eventually("a container", async || site.started() == 1).await;
    }

    #[tokio::test]
    async fn unheard_calls_end_with_their_app() {
        let (site, app, call) = restarted().await;
        site.api.app_stop(app.as_str()).await.unwrap();
        let answer = site.outputs(&call, 55.0).await;
        let result = answer.outputs[0].result.as_ref().unwrap();
        assert!(result.exception.contains("its app was stopped"), "{}", result.exception);
        assert_eq!(site.started(), 0);
    }

    #[test]
    fn a_waited_for_call_returns_with_its_caller_and_every_other_at_once() {
        let (waited_for, spawned) = (spec(false, None), spec(true, None));
        let when_heard = Return::WhenHeard { by_heartbeat: true };
        for state in [AppState::Initializing, AppState::Ephemeral] {
            assert_eq!(decide_return(Some(state), &waited_for), when_heard);
            assert_eq!(decide_return(Some(state), &spawned), Return::AtOnce);
        }
        for state in [AppState::Detached, AppState::DetachedDisconnected, AppState::Deployed] {
            assert_eq!(decide_return(Some(state), &waited_for), Return::AtOnce);
            assert_eq!(decide_return(Some(state), &spawned), Return::AtOnce);
        }
    }

    #[test]
    fn what_a_container_waited_for_needs_more_than_a_heartbeat() {
        let called = spec(false, Some(InputId::random()));
        for state in [AppState::Ephemeral, AppState::Detached, AppState::Deployed] {
            assert_eq!(decide_return(Some(state), &called), Return::WhenHeard { by_heartbeat: false });
        }
        assert_eq!(decide_return(Some(AppState::Deployed), &spec(true, Some(InputId::random()))), Return::AtOnce);
    }

    #[test]
    fn nothing_returns_to_an_app_that_is_over() {
        for durable in [false, true] {
            for state in [None, Some(AppState::Stopping), Some(AppState::Stopped)] {
                assert_eq!(decide_return(state, &spec(durable, None)), Return::Never);
            }
        }
    }
}
