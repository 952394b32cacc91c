//! Callers and their requests on the way.

use super::{Event, LONG_POLL_MS, PATIENCE_MS, World};
use crate::caller::{CANCEL, COLLECT, Fate};
use crate::server::{Address, Reply, Request};

impl World {
    pub(super) fn caller_acts(&mut self, caller: usize, lane: usize) {
        let Some(request) = self.callers[caller].request(lane, self.now) else { return };
        let address = Address { caller, lane, step: self.callers[caller].steps[lane] };
        let patience = if matches!(request, Request::Collect(..)) {
            self.after(LONG_POLL_MS, Event::CollectEnds(self.epoch, address));
            LONG_POLL_MS + PATIENCE_MS
        } else {
            PATIENCE_MS
        };
        // A server that is down is noticed at once, a lost message after a while.
        if self.server.is_some() {
            self.send(Event::Request(address, request));
            self.after(patience, Event::CallerRepeats(address));
        } else {
            self.after(500, Event::CallerRepeats(address));
        }
    }

    pub(super) fn caller_hears(&mut self, address: Address, reply: Reply) {
        let Address { caller: number, lane, step } = address;
        let caller = &mut self.callers[number];
        if caller.steps[lane] != step || caller.fate != Fate::Waiting {
            return;
        }
        if let Reply::Page(page) = &reply {
            page.outputs.iter().for_each(|output| self.ledger.on_seen(output));
        }
        let was_created = caller.created;
        let (accepted, pause) = caller.on_reply(lane, reply);
        let created = caller.created && !was_created;
        if caller.plan.durable {
            self.ledger.promised.extend(accepted);
        }
        self.after(pause, Event::CallerActs { caller: number, lane });
        if created {
            self.after(0, Event::CallerActs { caller: number, lane: COLLECT });
            self.after(0, Event::CallerActs { caller: number, lane: CANCEL });
        }
    }
}
