//! A caller: makes one call, feeds it, collects its outputs, perhaps cancels it; repeats what got no answer.
//!
//! It does the three things at once, each in a lane of its own with at most one request under way.

use std::collections::BTreeMap;

use bytes::Bytes;
use calls::{CallKind, CallSpec, FinishedOutput, Millis, NewInput, PageRequest, Payload};
use types::ids::{FunctionCallId, InputId};

use crate::scenario::CallerPlan;
use crate::server::{Reply, Request};

pub(crate) const FEED: usize = 0;
pub(crate) const COLLECT: usize = 1;
pub(crate) const CANCEL: usize = 2;

/// Inputs per request.
const BATCH: usize = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Waiting,
    GotEverything,
    /// Its call was gone, which only a call that is not durable may be.
    LearntThatItIsGone,
}

#[derive(Debug)]
pub(crate) struct Caller {
    number: usize,
    pub(crate) plan: CallerPlan,
    pub(crate) fate: Fate,
    /// Requests that were answered, by lane: the number of the one under way.
    pub(crate) steps: [usize; 3],
    fed: usize,
    pub(crate) created: bool,
    feeding_done: bool,
    /// The first page that was surely made after the last input was fed: only from then on "nothing is unfinished"
    /// means the end.
    conclusive_step: usize,
    pub(crate) cancelling: bool,
    forgetting: bool,
    cursor: usize,
    got: BTreeMap<i32, FinishedOutput>,
}

impl Caller {
    pub(crate) fn new(number: usize, plan: CallerPlan) -> Self {
        Self {
            number,
            plan,
            fate: Fate::Waiting,
            steps: [0; 3],
            fed: 0,
            created: false,
            feeding_done: false,
            conclusive_step: usize::MAX,
            cancelling: false,
            forgetting: false,
            cursor: 0,
            got: BTreeMap::new(),
        }
    }

    pub(crate) fn call(&self) -> FunctionCallId {
        FunctionCallId::parse(&format!("fc-{}", self.number)).expect("letters and digits")
    }

    fn input(&self, n: usize) -> NewInput {
        NewInput {
            id: InputId::parse(&format!("in-{}x{n:03}", self.number)).expect("letters and digits"),
            idx: n as i32,
            payload: Payload::Inline(Bytes::from(vec![1; n])),
            data_format: 1,
            method_name: if self.number.is_multiple_of(2) { "even" } else { "odd" }.to_owned(),
        }
    }

    fn next_inputs(&self) -> Vec<NewInput> {
        (self.fed..self.plan.inputs.min(self.fed + BATCH)).map(|n| self.input(n)).collect()
    }

    /// The request that a lane should have under way; `None` when it has nothing to do (yet).
    pub(crate) fn request(&self, lane: usize, now: Millis) -> Option<Request> {
        let call = self.call();
        if self.fate != Fate::Waiting {
            return None;
        }
        match lane {
            FEED if !self.created => {
                let (kind, durable) = (self.plan.kind, self.plan.durable);
                let spec =
                    CallSpec { id: call, kind, durable, parent_input: None, created_at: now, invocation_type: 1 };
                Some(Request::Create(spec, self.next_inputs()))
            }
            FEED if self.fed < self.plan.inputs => Some(Request::Put(call, self.next_inputs())),
            FEED if !self.feeding_done => Some(Request::FinishInputs(call)),
            COLLECT if self.created && self.forgetting => Some(Request::Forget(call)),
            COLLECT if self.created => {
                Some(Request::Collect(call, PageRequest { after: self.cursor, range: None, limit: self.plan.page }))
            }
            CANCEL if self.created && self.cancelling => Some(Request::Cancel(call)),
            _ => None,
        }
    }

    /// Takes the answer to a lane's request. Answers with the inputs that were accepted by it, and how long to wait
    /// before the next request.
    pub(crate) fn on_reply(&mut self, lane: usize, reply: Reply) -> (Vec<InputId>, Millis) {
        self.steps[lane] += 1;
        match (lane, reply) {
            (_, Reply::Busy) => return (Vec::new(), 1_000),
            // It let the call go itself in the meantime.
            (CANCEL, Reply::Gone) if self.forgetting => self.cancelling = false,
            (_, Reply::Gone) => {
                assert!(!self.plan.durable, "`{}` is durable, and gone", self.call());
                self.fate = Fate::LearntThatItIsGone;
            }
            (FEED, Reply::Done) if self.fed < self.plan.inputs || !self.created => {
                let accepted: Vec<InputId> = self.next_inputs().into_iter().map(|i| i.id).collect();
                self.fed += accepted.len();
                self.created = true;
                if self.plan.kind == CallKind::Unary {
                    self.end_feeding();
                }
                return (accepted, 0);
            }
            (FEED, Reply::Done) => self.end_feeding(),
            (CANCEL, Reply::Done) => self.cancelling = false,
            (COLLECT, Reply::Done) => self.fate = Fate::GotEverything,
            (COLLECT, Reply::Page(page)) => return (Vec::new(), self.on_page(page)),
            (lane, reply) => panic!("lane {lane} got {reply:?}"),
        }
        (Vec::new(), 0)
    }

    fn end_feeding(&mut self) {
        self.feeding_done = true;
        self.conclusive_step = self.steps[COLLECT] + 1;
    }

    fn on_page(&mut self, page: calls::OutputPage) -> Millis {
        let last = page.outputs.len() < self.plan.page && page.unfinished == 0;
        self.cursor = page.next;
        for output in page.outputs {
            let twice = self.got.insert(output.idx, output);
            assert!(twice.is_none(), "`{}` was told an output twice", self.call());
        }
        // The step was counted up already.
        if self.steps[COLLECT] > self.conclusive_step && last {
            assert_eq!(self.got.len(), self.plan.inputs, "outputs of `{}` are missing", self.call());
            if self.plan.durable {
                self.fate = Fate::GotEverything;
            }
            self.forgetting = true;
        }
        // All that was fed so far is finished: there may be news when more was fed.
        if page.unfinished == 0 { 200 } else { 0 }
    }
}
