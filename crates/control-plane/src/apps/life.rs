//! What may happen to an app, and what it is then.
//!
//! Stopping, publishing and taking calls are events of one state machine. Those that change the state are carried out one
//! at a time for each app ([`App::turn`](super::App::turn)): [`decide`] on the state as it is, write what was decided, and
//! make it so only when the disk has it. So of a stop and a publication at once the second sees what the first has done,
//! and what the disk refuses has not happened.
//!
//! Taking a call needs no turn. It looks at the state under the lock of its function, and a stop closes the functions after
//! the state has changed: a call is either refused, or there to be ended. Rejected: looking before the call is written
//! only. A stop in the time of that write would leave a call behind that nobody ends.

use metadata_store::AppState;

/// Something that changes an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// No more calls are taken, and those that are there end.
    Stop,
    /// Its last container has ended after a stop.
    Ended,
    /// Its client has gone, and it goes on until its last call has ended.
    RunOut,
    /// A version is published, which may move the app to another state.
    Publish(Option<AppState>),
    /// What is said of it changes: its tags.
    Describe,
}

/// The event is too late, or means nothing to an app in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an app that is {0:?} takes no such change")]
pub struct Refused(pub AppState);

/// The state after an event.
///
/// # Errors
/// When the event does not happen. An app that was stopped never runs again.
pub fn decide(state: AppState, event: Event) -> Result<AppState, Refused> {
    match (state, event) {
        (state, Event::Describe) => Ok(state),
        (AppState::Stopping, Event::Ended) => Ok(AppState::Stopped),
        (state, _) if !runs(state) => Err(Refused(state)),
        (_, Event::Stop) => Ok(AppState::Stopping),
        (AppState::Detached, Event::RunOut) => Ok(AppState::DetachedDisconnected),
        (state, Event::Publish(to)) => Ok(to.unwrap_or(state)),
        (state, Event::RunOut | Event::Ended) => Err(Refused(state)),
    }
}

/// Functions of an app in this state take calls.
pub fn runs(state: AppState) -> bool {
    !matches!(state, AppState::Stopping | AppState::Stopped)
}

/// What an app is when the server starts that was in this state when the last one ended. What it still had to do as it was
/// stopped is for the new server to do.
pub fn after_restart(state: AppState) -> AppState {
    if state == AppState::Stopping { AppState::Stopped } else { state }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// An app, its calls and the disk, as the shell moves them.
    struct World {
        memory: AppState,
        disk: AppState,
        /// The change whose write is on its way.
        turn: Option<AppState>,
        /// Calls that are on disk without a result.
        pending: BTreeSet<u32>,
        /// Calls that the functions know.
        known: BTreeSet<u32>,
        next: u32,
        /// Calls that were written, and of which it is not decided yet whether they are taken.
        undecided: Vec<u32>,
        /// A stop has changed the state and not yet closed the functions.
        is_closing: bool,
        was_stopped: bool,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin(Event),
        Written(bool),
        Close,
        /// A call is written.
        Spawn,
        /// The oldest of them is taken or refused.
        Take,
        Kill,
    }

    impl World {
        fn new(state: AppState) -> Self {
            Self {
                memory: state,
                disk: state,
                turn: None,
                pending: BTreeSet::new(),
                known: BTreeSet::new(),
                next: 0,
                undecided: Vec::new(),
                is_closing: false,
                was_stopped: false,
            }
        }

        fn step(&mut self, step: &Step) {
            match step {
                Step::Begin(event) if self.turn.is_none() => self.turn = decide(self.memory, *event).ok(),
                Step::Written(true) => {
                    let Some(state) = self.turn.take() else { return };
                    self.is_closing |= runs(self.memory) && !runs(state);
                    (self.memory, self.disk) = (state, state);
                }
                Step::Written(false) => self.turn = None,
                Step::Close if self.is_closing => {
                    for call in std::mem::take(&mut self.known) {
                        self.pending.remove(&call);
                    }
                    self.is_closing = false;
                }
                Step::Spawn if runs(self.memory) => {
                    self.pending.insert(self.next);
                    self.undecided.push(self.next);
                    self.next += 1;
                }
                Step::Take if !self.undecided.is_empty() => {
                    let call = self.undecided.remove(0);
                    if runs(self.memory) {
                        self.known.insert(call);
                    } else {
                        self.pending.remove(&call);
                    }
                }
                Step::Kill => {
                    // The write may have reached the disk before that.
                    if let Some(state) = self.turn.take().filter(|_| self.next.is_multiple_of(2)) {
                        self.disk = state;
                    }
                    self.disk = after_restart(self.disk);
                    self.memory = self.disk;
                    self.undecided.clear();
                    self.is_closing = false;
                    if runs(self.memory) {
                        self.known = self.pending.clone();
                    } else {
                        self.pending.clear();
                        self.known.clear();
                    }
                }
                _ => {}
            }
            self.was_stopped |= !runs(self.memory);
        }

        fn check(&self) {
            assert_eq!(self.memory, self.disk, "what is so is on disk");
            assert!(!self.was_stopped || !runs(self.memory), "an app that was stopped runs again");
            if !runs(self.memory) && !self.is_closing && self.undecided.is_empty() {
                assert!(self.pending.is_empty(), "an input of a stopped app waits for ever");
                assert!(self.known.is_empty(), "a call was taken after the app was closed");
            }
        }
    }

    fn states() -> impl Strategy<Value = AppState> {
        prop::sample::select(vec![AppState::Initializing, AppState::Ephemeral, AppState::Detached, AppState::Deployed])
    }

    fn events() -> impl Strategy<Value = Event> {
        let published = prop::option::of(states()).prop_map(Event::Publish);
        let others = prop::sample::select(vec![Event::Stop, Event::Ended, Event::RunOut, Event::Describe]);
        prop_oneof![published, others]
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => events().prop_map(Step::Begin),
            4 => any::<bool>().prop_map(Step::Written),
            2 => Just(Step::Close),
            3 => Just(Step::Spawn),
            3 => Just(Step::Take),
            1 => Just(Step::Kill),
        ]
    }

    proptest! {
        #[test]
        fn a_stopped_app_stays_stopped_and_keeps_no_call(
            state in states(),
            steps in prop::collection::vec(steps(), 0..60),
        ) {
            let mut world = World::new(state);
            for step in &steps {
                world.step(step);
                world.check();
            }
        }

        #[test]
        fn only_the_end_of_its_containers_follows_a_stop(state in states(), event in events()) {
            let stopping = decide(state, Event::Stop).unwrap();
            prop_assert_eq!(stopping, AppState::Stopping);
            let after = decide(stopping, event);
            let wanted = match event {
                Event::Ended => Ok(AppState::Stopped),
                Event::Describe => Ok(AppState::Stopping),
                _ => Err(Refused(AppState::Stopping)),
            };
            prop_assert_eq!(after, wanted);
        }
    }

    #[test]
    fn a_detached_app_whose_client_is_gone_runs_out_and_no_other_does() {
        assert_eq!(decide(AppState::Detached, Event::RunOut), Ok(AppState::DetachedDisconnected));
        for other in [AppState::Ephemeral, AppState::Deployed, AppState::DetachedDisconnected] {
            assert_eq!(decide(other, Event::RunOut), Err(Refused(other)));
        }
    }
}
