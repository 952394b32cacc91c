//! Requests of callers. Those of durable calls are answered when the disk has them.

use std::collections::BTreeSet;

use calls::{Accepted, CallSpec, Millis, NewInput, OnDisk, PageRequest};
use types::ids::FunctionCallId;

use super::{Address, AfterWrite, Out, Reply, Request, Server};
use crate::disk::Write;

impl Server {
    pub(crate) fn on_request(&mut self, request: Request, to: Address, now: Millis, out: &mut Vec<Out>) {
        match request {
            Request::Create(spec, inputs) => self.create(spec, inputs, to, now, out),
            Request::Put(call, inputs) => match self.is_on_disk(&call) {
                None => out.push(Out::Reply(to, Reply::Gone)),
                Some(false) => self.put(&call, inputs, false, to, now, out),
                Some(true) if !self.has_room(&inputs) => out.push(Out::Reply(to, Reply::Busy)),
                Some(true) => {
                    let write = Write::Inputs(call.clone(), inputs.clone());
                    self.write(write, AfterWrite::Put(call, inputs, to), out);
                }
            },
            Request::FinishInputs(call) => match self.is_on_disk(&call) {
                None => out.push(Out::Reply(to, Reply::Gone)),
                Some(false) => self.finish_inputs(&call, to, now, out),
                Some(true) => self.write(Write::FinishInputs(call.clone()), AfterWrite::FinishInputs(call, to), out),
            },
            Request::Collect(call, page) => self.collect(call, page, to, out),
            Request::Cancel(call) => match self.is_on_disk(&call) {
                None => out.push(Out::Reply(to, Reply::Gone)),
                Some(false) => self.cancel(&call, to, now, out),
                Some(true) => self.write(Write::Cancel(call.clone()), AfterWrite::Cancel(call, to), out),
            },
            Request::Forget(call) => {
                self.calls.on_collected(&call);
                let on_disk = self.calls.leaves_a_record(&call);
                self.apply(now, out, |calls, effects| calls.forget_call(&call, now, effects));
                if on_disk {
                    self.write(Write::Delete(call), AfterWrite::Nothing, out);
                }
                out.push(Out::Reply(to, Reply::Done));
            }
        }
    }

    pub(super) fn create(
        &mut self,
        spec: CallSpec,
        inputs: Vec<NewInput>,
        to: Address,
        now: Millis,
        out: &mut Vec<Out>,
    ) {
        if self.calls.call_spec(&spec.id).is_some() {
            out.push(Out::Reply(to, Reply::Done));
        } else if !self.has_room(&inputs) {
            out.push(Out::Reply(to, Reply::Busy));
        } else if spec.durable {
            let write = Write::Call(spec.clone(), inputs.clone());
            self.write(write, AfterWrite::Create(spec, inputs, to), out);
        } else {
            let id = spec.id.clone();
            self.calls.create_call(spec, now);
            self.put(&id, inputs, false, to, now, out);
        }
    }

    /// What comes to such a call goes to the disk first; the disk does everything in order.
    fn is_on_disk(&self, call: &FunctionCallId) -> Option<bool> {
        self.calls.on_disk(call).map(|on_disk| on_disk != OnDisk::No)
    }

    pub(super) fn has_room(&self, inputs: &[NewInput]) -> bool {
        self.calls.has_room(inputs.len(), inputs.iter().map(|i| i.payload.resident_bytes()).sum())
    }

    pub(super) fn put(
        &mut self,
        call: &FunctionCallId,
        inputs: Vec<NewInput>,
        written: bool,
        to: Address,
        now: Millis,
        out: &mut Vec<Out>,
    ) {
        let accepted = self.apply(now, out, |calls, effects| calls.add_inputs(call, inputs, written, now, effects));
        let reply = match accepted {
            Accepted::Yes => Reply::Done,
            Accepted::QueueFull => Reply::Busy,
            Accepted::WriteFirst => panic!("`{call}` went to the disk in between"),
            Accepted::NoSuchCall => Reply::Gone,
        };
        out.push(Out::Reply(to, reply));
    }

    pub(super) fn finish_inputs(&mut self, call: &FunctionCallId, to: Address, now: Millis, out: &mut Vec<Out>) {
        self.apply(now, out, |calls, _| calls.finish_inputs(call));
        // A map without inputs is finished by that.
        self.answer_waiters(&BTreeSet::from([call.clone()]), out);
        out.push(Out::Reply(to, Reply::Done));
    }

    pub(super) fn cancel(&mut self, call: &FunctionCallId, to: Address, now: Millis, out: &mut Vec<Out>) {
        self.apply(now, out, |calls, effects| calls.cancel_call(call, now, effects));
        out.push(Out::Reply(to, Reply::Done));
    }

    pub(super) fn collect(&mut self, call: FunctionCallId, request: PageRequest, to: Address, out: &mut Vec<Out>) {
        match self.calls.outputs(&call, request) {
            None => out.push(Out::Reply(to, Reply::Gone)),
            Some(page) if page.outputs.is_empty() && page.unfinished > 0 => self.waiters.push((to, call, request)),
            Some(page) => out.push(Out::Reply(to, Reply::Page(page))),
        }
    }

    pub(super) fn answer_waiters(&mut self, news: &BTreeSet<FunctionCallId>, out: &mut Vec<Out>) {
        if news.is_empty() {
            return;
        }
        let (woken, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(_, call, _)| news.contains(call));
        self.waiters = still;
        for (to, call, request) in woken {
            self.collect(call, request, to, out);
        }
    }

    /// A caller's patience is over: it is answered with what there is, which must be nothing, or its wake-up was
    /// forgotten.
    pub(crate) fn on_collect_timeout(&mut self, to: Address, out: &mut Vec<Out>) {
        let Some(n) = self.waiters.iter().position(|(address, ..)| *address == to) else { return };
        let (_, call, request) = self.waiters.swap_remove(n);
        let page = self.calls.outputs(&call, request);
        let nothing = page.as_ref().is_some_and(|p| p.outputs.is_empty() && p.unfinished > 0);
        assert!(nothing, "nobody said that `{call}` has news");
        out.extend(page.map(|page| Out::Reply(to, Reply::Page(page))));
    }

    pub(crate) fn on_written(&mut self, now: Millis, out: &mut Vec<Out>) {
        let Some(after) = self.after_writes.pop_front() else { return };
        match after {
            AfterWrite::Create(spec, inputs, to) => {
                let id = spec.id.clone();
                self.calls.create_call(spec, now);
                self.put(&id, inputs, true, to, now, out);
            }
            AfterWrite::Put(call, inputs, to) => self.put(&call, inputs, true, to, now, out),
            AfterWrite::FinishInputs(call, to) => self.finish_inputs(&call, to, now, out),
            AfterWrite::Cancel(call, to) => self.cancel(&call, to, now, out),
            AfterWrite::CallRecorded(call) => {
                self.apply(now, out, |calls, effects| calls.on_call_recorded(&call, effects));
            }
            AfterWrite::Nothing => {}
            AfterWrite::Recorded(input) => self.apply(now, out, |calls, effects| calls.on_recorded(&input, effects)),
        }
    }
}
