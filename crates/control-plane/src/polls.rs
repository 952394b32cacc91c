//! Containers' requests for inputs, while they wait.
//!
//! A request waits both here and in the state machine, or in neither: the owner changes the two under one lock. Rejected:
//! telling from the reply's channel alone whether a request still waits. Its sender is gone either way, so a request that had
//! waited in vain looked answered and stayed in the state machine, which then handed inputs to it.

use std::collections::HashMap;
use std::time::Duration;

use calls::Assignment;
use tokio::sync::oneshot;

/// What a container's request for inputs is answered with.
#[derive(Debug)]
pub enum PollReply {
    Inputs(Vec<Assignment>),
    /// Finish what runs and exit.
    Leave,
}

/// The requests of one function's containers, by number.
#[derive(Debug, Default)]
pub struct Polls {
    waiting: HashMap<u64, oneshot::Sender<PollReply>>,
    last: u64,
}

impl Polls {
    pub fn open(&mut self) -> (u64, oneshot::Receiver<PollReply>) {
        let (sender, receiver) = oneshot::channel();
        self.last += 1;
        self.waiting.insert(self.last, sender);
        (self.last, receiver)
    }

    /// False when the request does not wait any more.
    pub fn answer(&mut self, number: u64, reply: PollReply) -> bool {
        self.waiting.remove(&number).is_some_and(|sender| sender.send(reply).is_ok())
    }

    /// The request waits no longer. False when it was answered before.
    pub fn close(&mut self, number: u64) -> bool {
        self.waiting.remove(&number).is_some()
    }
}

/// Who a waiting request is registered with.
pub trait PollKeeper {
    /// The request is not to be answered any more, if it was not before.
    fn withdraw(&self, number: u64);
    /// These were the answer, and nobody was there to take it.
    fn give_back(&self, inputs: Vec<Assignment>);
}

/// A container's waiting request. When it is dropped (the connection broke), what was assigned and not sent goes back.
pub struct PendingPoll<K: PollKeeper> {
    pub keeper: K,
    pub number: u64,
    pub receiver: oneshot::Receiver<PollReply>,
}

impl<K: PollKeeper> PendingPoll<K> {
    /// The reply, or `None` after `patience`.
    pub async fn reply(mut self, patience: Duration) -> Option<PollReply> {
        match tokio::time::timeout(patience, &mut self.receiver).await {
            Ok(reply) => reply.ok(),
            Err(_) => {
                self.keeper.withdraw(self.number);
                // It may have come at the last moment.
                self.receiver.try_recv().ok()
            }
        }
    }
}

impl<K: PollKeeper> Drop for PendingPoll<K> {
    fn drop(&mut self) {
        self.keeper.withdraw(self.number);
        if let Ok(PollReply::Inputs(inputs)) = self.receiver.try_recv() {
            self.keeper.give_back(inputs);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use calls::{CallKind, CallSpec, Effect, FunctionCalls, NewInput, Payload, Policy};
    use parking_lot::Mutex;
    use types::ids::{FunctionCallId, InputId, TaskId};

    use super::*;

    /// An owner without what is around it.
    struct Keeper {
        calls: FunctionCalls,
        polls: Polls,
        told_to_leave: usize,
    }

    #[derive(Clone)]
    struct Registered(Arc<Mutex<Keeper>>);

    impl Registered {
        fn new(policy: Policy) -> Self {
            Self(Arc::new(Mutex::new(Keeper {
                calls: FunctionCalls::new(policy),
                polls: Polls::default(),
                told_to_leave: 0,
            })))
        }

        fn apply(&self, event: impl FnOnce(&mut Keeper, &mut Vec<Effect>)) {
            let (keeper, mut effects) = (&mut *self.0.lock(), Vec::new());
            event(keeper, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Deliver { poll, inputs, .. } => {
                        assert!(keeper.polls.answer(poll, PollReply::Inputs(inputs)), "an answer to nobody");
                    }
                    Effect::Drain { poll, .. } => {
                        keeper.told_to_leave += usize::from(keeper.polls.answer(poll, PollReply::Leave));
                    }
                    _ => {}
                }
            }
        }

        fn poll(&self) -> PendingPoll<Self> {
            let mut pending = None;
            self.apply(|keeper, effects| {
                let (number, receiver) = keeper.polls.open();
                pending = Some(PendingPoll { keeper: self.clone(), number, receiver });
                keeper.calls.poll(&task(), number, 1, 0, effects);
            });
            pending.unwrap()
        }

        fn add_input(&self) {
            let input = NewInput {
                id: InputId::parse("in-1").unwrap(),
                idx: 0,
                payload: Payload::Inline(Bytes::new()),
                data_format: 1,
                method_name: String::new(),
            };
            let id = FunctionCallId::parse("fc-1").unwrap();
            self.apply(|keeper, effects| {
                let spec = CallSpec {
                    id: id.clone(),
                    kind: CallKind::Unary,
                    durable: false,
                    parent_input: None,
                    created_at: 0,
                    invocation_type: 1,
                };
                keeper.calls.create_call(spec, 0);
                keeper.calls.add_inputs(&id, vec![input], false, 0, effects);
            });
        }

        fn waiting(&self) -> usize {
            self.0.lock().polls.waiting.len()
        }
    }

    impl PollKeeper for Registered {
        fn withdraw(&self, number: u64) {
            let keeper = &mut *self.0.lock();
            if keeper.polls.close(number) {
                keeper.calls.cancel_poll(&task(), number);
            }
        }

        fn give_back(&self, inputs: Vec<Assignment>) {
            let attempts: Vec<_> = inputs.into_iter().map(|input| (input.input, input.attempt)).collect();
            self.apply(|keeper, effects| keeper.calls.on_undelivered(&task(), &attempts, 0, effects));
        }
    }

    fn task() -> TaskId {
        TaskId::parse("ta-1").unwrap()
    }

    const PATIENCE: Duration = Duration::from_secs(50);

    #[tokio::test(start_paused = true)]
    async fn a_container_that_was_idle_for_long_gets_the_next_input() {
        for single_use in [false, true] {
            let registered = Registered::new(Policy { single_use, ..Policy::default() });
            for _ in 0..3 {
                assert!(registered.poll().reply(PATIENCE).await.is_none());
            }
            let pending = registered.poll();
            assert_eq!(registered.waiting(), 1);
            registered.add_input();
            let reply = pending.reply(PATIENCE).await;
            assert!(matches!(&reply, Some(PollReply::Inputs(inputs)) if inputs.len() == 1), "{reply:?}");
            assert_eq!((registered.waiting(), registered.0.lock().told_to_leave), (0, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_broke_is_not_answered_and_one_that_was_answered_gives_its_inputs_back() {
        let registered = Registered::new(Policy::default());
        drop(registered.poll());
        let broken = registered.poll();
        registered.add_input();
        drop(broken);
        assert_eq!((registered.waiting(), registered.0.lock().calls.load().ready), (0, 1));
        let reply = registered.poll().reply(PATIENCE).await;
        assert!(matches!(reply, Some(PollReply::Inputs(_))), "{reply:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_at_the_end_of_the_patience_is_taken() {
        let registered = Registered::new(Policy { single_use: true, ..Policy::default() });
        let pending = registered.poll();
        let (reply, ()) = tokio::join!(pending.reply(PATIENCE), async {
            tokio::time::sleep(PATIENCE).await;
            registered.add_input();
        });
        let again = match reply {
            Some(_) => reply,
            None => registered.poll().reply(PATIENCE).await,
        };
        assert!(matches!(&again, Some(PollReply::Inputs(_))), "{again:?}");
    }
}
