//! Items that generators yield, on their way from a container to whoever reads them.
//!
//! A window and not a store. A runner sends its items in requests, one after the other, and has no answer to one before there
//! is room for it: so a generator goes as fast as it is read, and what it yields in all does not matter.
//!
//! What was read has to be known before it can be let go. A reader says so only when it asks: every client asks for what
//! comes after the last item that it has, and after a broken connection it asks for that again. So an answer ends after
//! [`STREAM_BYTES`]; all clients then ask anew, by which they acknowledge, and go on. What a reader has not asked beyond may
//! be asked for again, and is kept.
//!
//! All generators share one budget. Each may hold as much as is still free beside it: one alone gets half, and
//! there is always room for another. Whoever is being read may hold a little in any case, so that unread items of some calls
//! never stop others.
//!
//! Rejected: to refuse items when there is no room (the runner takes that for the end of the generator), and to write them
//! to the disk (one that nobody reads would fill it).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use calls::Millis;
use client_protocol::wire::DataChunk;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use types::ids::FunctionCallId;

/// Of all generators together.
const BUDGET_BYTES: usize = 1 << 30;
/// What one that is being read may hold however full the budget is: what a client puts into one request.
const FLOOR_BYTES: usize = 16 << 20;
/// An answer to a reader ends after so much. Asking again costs a round trip, which is little beside the time for this much.
const STREAM_BYTES: usize = 8 << 20;
/// Or a reader could be waiting for items, and the runner for its word.
const _: () = assert!(STREAM_BYTES < FLOOR_BYTES);
/// Items are handed on in pages of so much, and one at least.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ITEMS: usize = 64;
/// What an item costs beside its bytes.
const ITEM_COST: usize = 128;
/// Nobody reads the items of a generator that has no room for more, and its caller has not been heard for this long: it is
/// not coming back, and the container is needed elsewhere.
const CALLER_GONE_MS: Millis = calls::SILENT_CALLER_MS;

#[derive(Default)]
pub struct Generators {
    by_call: DashMap<FunctionCallId, Arc<Items>>,
    budget: Arc<Budget>,
}

/// What all generators hold.
#[derive(Default)]
struct Budget {
    held: AtomicUsize,
    freed: Notify,
}

/// The items of one call.
pub struct Items {
    state: Mutex<State>,
    news: Notify,
    budget: Arc<Budget>,
}

struct State {
    /// Those with the indices up to `next`.
    items: VecDeque<DataChunk>,
    /// The index that is due; the first is 1.
    next: u64,
    held: usize,
    /// The highest index that a reader has acknowledged, and that any was sent.
    acknowledged: u64,
    sent: u64,
    readers: usize,
    /// A request waits for room.
    waits: bool,
    /// The call has left memory: readers and runners end.
    gone: bool,
}

/// Why items were not taken or are not there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ItemError {
    #[error("the generator skipped an index: {got} came where {expected} was due")]
    Gap { expected: u64, got: u64 },
    #[error("the call is over, nobody wants more items of it")]
    Over,
    #[error("nobody has read the generator's items or asked for its result for {} minutes; its call was cancelled", CALLER_GONE_MS / 60_000)]
    CallerGone,
    #[error("the items up to {up_to} were read and are not kept; a generator's items are read once")]
    Read { up_to: u64 },
}

/// How much there is, for [`decide_put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub held: usize,
    /// By all generators, this one included.
    pub held_by_all: usize,
    pub readers: usize,
}

impl Window {
    /// Whether more is taken.
    fn has_room(&self) -> bool {
        let free = BUDGET_BYTES.saturating_sub(self.held_by_all);
        self.held < free || (self.held < FLOOR_BYTES && self.readers > 0)
    }
}

/// What becomes of a runner's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutDecision {
    Take,
    Wait,
    /// The call is to be cancelled.
    GiveUp,
}

/// `silent_for`: how long the caller has not asked for anything; `None` while it does. `spawned`: another may come for the
/// items at any time, so the generator waits as long as its `timeout=` lets it.
pub fn decide_put(window: &Window, silent_for: Option<Millis>, spawned: bool) -> PutDecision {
    match window.has_room() {
        true => PutDecision::Take,
        false if !spawned && silent_for.is_some_and(|silent_for| silent_for >= CALLER_GONE_MS) => PutDecision::GiveUp,
        false => PutDecision::Wait,
    }
}

impl Generators {
    /// To be asked for under the lock of the function, and for a call that is there: it goes with the call.
    pub fn of(&self, call: &FunctionCallId) -> Arc<Items> {
        self.by_call.entry(call.clone()).or_insert_with(|| Arc::new(Items::new(&self.budget))).clone()
    }

    /// The items of a call that has yielded or is read.
    pub fn find(&self, call: &FunctionCallId) -> Option<Arc<Items>> {
        self.by_call.get(call).map(|c| c.clone())
    }

    pub fn forget(&self, call: &FunctionCallId) {
        let Some((_, items)) = self.by_call.remove(call) else { return };
        let mut state = items.state.lock();
        state.gone = true;
        state.items = VecDeque::new();
        let held = std::mem::take(&mut state.held);
        drop(state);
        items.give_back(held);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_call.len()
    }

    pub fn shrink(&self) {
        if self.by_call.capacity() / 4 > self.by_call.len() {
            self.by_call.shrink_to_fit();
        }
    }
}

impl Items {
    fn new(budget: &Arc<Budget>) -> Self {
        let state = State {
            items: VecDeque::new(),
            next: 1,
            held: 0,
            acknowledged: 0,
            sent: 0,
            readers: 0,
            waits: false,
            gone: false,
        };
        Self { state: Mutex::new(state), news: Notify::new(), budget: budget.clone() }
    }

    /// Takes items, or hands them back when there is no room for them. Those that came before (a repeated request) are passed
    /// over.
    pub fn push(&self, items: Vec<DataChunk>) -> Result<Option<Vec<DataChunk>>, ItemError> {
        let mut state = self.state.lock();
        if state.gone {
            return Err(ItemError::Over);
        }
        let has_new = items.last().is_some_and(|item| item.index >= state.next);
        if has_new && !self.window_of(&state).has_room() {
            return Ok(Some(items));
        }
        for item in items {
            if item.index < state.next {
                continue;
            }
            if item.index > state.next {
                return Err(ItemError::Gap { expected: state.next, got: item.index });
            }
            state.next += 1;
            // After a restart of the server the generator yields again what its reader has.
            if item.index > state.acknowledged {
                let cost = cost(&item);
                state.held += cost;
                self.budget.held.fetch_add(cost, Ordering::Relaxed);
                state.items.push_back(item);
            }
        }
        drop(state);
        self.news.notify_waiters();
        Ok(None)
    }

    /// For the one request of a call that may wait without a place among the large ones: they would fill all of those. A runner
    /// that sends more before it was answered has to wait where everybody does.
    pub fn wait_aside(self: &Arc<Self>) -> Option<Aside> {
        let mut state = self.state.lock();
        let is_first = !std::mem::replace(&mut state.waits, true);
        is_first.then(|| Aside(self.clone()))
    }

    /// Wakes when something was yielded, sent or read here, and when others have given back room.
    pub fn news(&self) -> (Notified<'_>, Notified<'_>) {
        (self.news.notified(), self.budget.freed.notified())
    }

    pub fn window(&self) -> Window {
        self.window_of(&self.state.lock())
    }

    fn window_of(&self, state: &State) -> Window {
        Window { held: state.held, held_by_all: self.budget.held.load(Ordering::Relaxed), readers: state.readers }
    }

    /// A reader comes that has everything up to `index`.
    pub fn join(&self, index: u64) {
        let mut state = self.state.lock();
        state.readers += 1;
        state.acknowledged = state.acknowledged.max(index);
        let mut read = 0;
        while state.items.front().is_some_and(|item| item.index <= index) {
            read += state.items.pop_front().map_or(0, |item| cost(&item));
        }
        state.held -= read;
        drop(state);
        self.give_back(read);
    }

    pub fn leave(&self) {
        self.state.lock().readers -= 1;
    }

    fn give_back(&self, bytes: usize) {
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
        // Also for who has just come: that it is read lets a generator go on.
        self.news.notify_waiters();
        if bytes > 0 {
            self.budget.freed.notify_waiters();
        }
    }

    /// No reader was ever sent the last of them.
    pub fn has_unread(&self) -> bool {
        let state = self.state.lock();
        !state.gone && state.sent.max(state.acknowledged).saturating_add(1) < state.next
    }

    pub fn is_read(&self) -> bool {
        self.state.lock().readers > 0
    }

    /// Waits until a reader has been sent every item that is there. A generator that fails has yielded them before, and
    /// its caller must see them before the failure.
    pub async fn all_sent(&self) {
        loop {
            let news = self.news.notified();
            if !self.has_unread() {
                return;
            }
            news.await;
        }
    }

    /// Waits for items after `index`; none when the call has left memory.
    pub async fn after(&self, index: u64) -> Result<Vec<DataChunk>, ItemError> {
        loop {
            let news = self.news.notified();
            if let Some(page) = self.page_after(index)? {
                self.news.notify_waiters();
                return Ok(page);
            }
            news.await;
        }
    }

    fn page_after(&self, index: u64) -> Result<Option<Vec<DataChunk>>, ItemError> {
        let mut state = self.state.lock();
        if state.gone {
            return Ok(Some(Vec::new()));
        }
        let first = state.next - state.items.len() as u64;
        if index.saturating_add(1) < first {
            return Err(ItemError::Read { up_to: first - 1 });
        }
        let skip = usize::try_from(index.saturating_add(1) - first).unwrap_or(usize::MAX);
        let (mut page, mut bytes) = (Vec::new(), 0);
        for item in state.items.iter().skip(skip).take(PAGE_ITEMS) {
            bytes += cost(item);
            if bytes > PAGE_BYTES && !page.is_empty() {
                break;
            }
            page.push(item.clone());
        }
        let Some(last) = page.last() else { return Ok(None) };
        state.sent = state.sent.max(last.index);
        Ok(Some(page))
    }
}

/// See [`Items::wait_aside`].
pub struct Aside(Arc<Items>);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.state.lock().waits = false;
    }
}

/// Where one answer to a reader is.
pub struct Answer {
    pub index: u64,
    bytes: usize,
}

impl Answer {
    pub fn after(index: u64) -> Self {
        Self { index, bytes: 0 }
    }

    /// The reader is to ask again.
    pub fn is_full(&self) -> bool {
        self.bytes >= STREAM_BYTES
    }

    pub fn add(&mut self, page: &[DataChunk]) {
        self.bytes += page.iter().map(cost).sum::<usize>();
        self.index = page.last().map_or(self.index, |item| item.index);
    }
}

fn cost(item: &DataChunk) -> usize {
    prost::Message::encoded_len(item) + ITEM_COST
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use client_protocol::wire::data_chunk::DataOneof;

    use super::*;

    const MIB: usize = 1 << 20;

    fn item(index: u64) -> DataChunk {
        DataChunk { index, ..Default::default() }
    }

    /// Of a mebibyte, which is the same for all.
    fn large(index: u64) -> DataChunk {
        static ZEROS: [u8; MIB] = [0; MIB];
        DataChunk { index, data_oneof: Some(DataOneof::Data(Bytes::from_static(&ZEROS))), ..Default::default() }
    }

    fn new() -> (Generators, Arc<Items>, FunctionCallId) {
        let (generators, call) = (Generators::default(), FunctionCallId::random());
        let items = generators.of(&call);
        (generators, items, call)
    }

    fn decide(items: &Items) -> PutDecision {
        decide_put(&items.window(), None, false)
    }

    async fn indices_after(items: &Items, index: u64) -> Vec<u64> {
        items.after(index).await.unwrap().iter().map(|item| item.index).collect()
    }

    #[tokio::test]
    async fn a_repeated_item_is_delivered_once() {
        let (_, items, _) = new();
        items.push(vec![item(1), item(2)]).unwrap();
        items.push(vec![item(2), item(3)]).unwrap();
        assert_eq!(indices_after(&items, 0).await, [1, 2, 3]);
    }

    #[test]
    fn a_gap_is_refused() {
        let (_, items, _) = new();
        assert_eq!(items.push(vec![item(2)]), Err(ItemError::Gap { expected: 1, got: 2 }));
    }

    #[tokio::test]
    async fn a_generator_of_many_gigabytes_goes_through_a_small_window_as_it_is_read() {
        let (generators, items, _) = new();
        let (mut yielded, mut read, mut most) = (0, 0, 0);
        while read < 3_008 {
            while yielded < 3_008 && decide(&items) == PutDecision::Take {
                // As much as a client puts into one request.
                let request: Vec<DataChunk> = (yielded + 1..=yielded + 16).map(large).collect();
                yielded += 16;
                assert_eq!(items.push(request), Ok(None));
                most = most.max(generators.budget.held.load(Ordering::Relaxed));
            }
            // A reader asks, is answered until the answer is full, and asks again.
            items.join(read);
            let mut answer = Answer::after(read);
            while !answer.is_full() && answer.index < yielded {
                let page = items.after(answer.index).await.unwrap();
                assert_eq!(page[0].index, answer.index + 1);
                answer.add(&page);
            }
            items.leave();
            read = answer.index;
        }
        assert!(most < BUDGET_BYTES / 2 + 32 * MIB, "{most}");
        items.join(read);
        assert_eq!(generators.budget.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_was_not_acknowledged_may_be_asked_for_again_and_the_rest_is_gone() {
        let (_, items, _) = new();
        items.push((1..=5).map(item).collect()).unwrap();
        items.join(3);
        let indices = |from| items.page_after(from).map(|page| page.map(|page| page[0].index));
        assert_eq!((indices(3), indices(4)), (Ok(Some(4)), Ok(Some(5))));
        assert_eq!(indices(5), Ok(None));
        assert_eq!(indices(2), Err(ItemError::Read { up_to: 3 }));
    }

    #[test]
    fn after_a_restart_the_reader_goes_on_where_it_was() {
        let (generators, items, _) = new();
        items.join(3);
        items.push((1..=4).map(item).collect()).unwrap();
        assert_eq!(items.page_after(3).unwrap().unwrap(), [item(4)]);
        assert_eq!(generators.budget.held.load(Ordering::Relaxed), cost(&item(4)));
        items.join(u64::MAX);
        assert_eq!(items.page_after(u64::MAX), Ok(None));
    }

    #[test]
    fn unread_items_of_some_never_stop_who_is_read() {
        let (generators, _, _) = new();
        // Each fills what is left of the budget, until there is nearly nothing.
        for _ in 0..40 {
            let unread = generators.of(&FunctionCallId::random());
            for n in 0..64 {
                if decide(&unread) != PutDecision::Take {
                    break;
                }
                unread.push((n * 16 + 1..=n * 16 + 16).map(large).collect()).unwrap();
            }
        }
        let all = generators.budget.held.load(Ordering::Relaxed);
        assert!((BUDGET_BYTES..BUDGET_BYTES + 32 * MIB).contains(&all), "{all}");
        let (read, unread) = (generators.of(&FunctionCallId::random()), generators.of(&FunctionCallId::random()));
        read.join(0);
        assert_eq!((decide(&read), decide(&unread)), (PutDecision::Take, PutDecision::Wait));
    }

    #[test]
    fn items_without_room_are_handed_back_and_one_request_waits_aside() {
        let (_, items, _) = new();
        items.push((1..=600).map(large).collect()).unwrap();
        assert_eq!(decide(&items), PutDecision::Wait);
        // The same request again is no more.
        assert_eq!(items.push((1..=600).map(large).collect()), Ok(None));
        assert!(items.push(vec![item(601)]).unwrap().is_some());
        let aside = items.wait_aside();
        assert!(aside.is_some() && items.wait_aside().is_none());
        drop(aside);
        assert!(items.wait_aside().is_some());
        items.join(300);
        assert_eq!(items.push(vec![item(601)]), Ok(None));
    }

    #[test]
    fn a_generator_without_room_is_given_up_when_its_caller_is_gone_unless_it_was_spawned() {
        let full = Window { held: BUDGET_BYTES, held_by_all: BUDGET_BYTES, readers: 0 };
        assert_eq!(decide_put(&full, Some(CALLER_GONE_MS), false), PutDecision::GiveUp);
        assert_eq!(decide_put(&full, Some(CALLER_GONE_MS - 1), false), PutDecision::Wait);
        assert_eq!(decide_put(&full, None, false), PutDecision::Wait);
        assert_eq!(decide_put(&full, Some(100 * CALLER_GONE_MS), true), PutDecision::Wait);
        let empty = Window { held: 0, held_by_all: 0, readers: 0 };
        assert_eq!(decide_put(&empty, Some(100 * CALLER_GONE_MS), false), PutDecision::Take);
    }

    #[tokio::test]
    async fn a_call_that_leaves_takes_its_items_along_and_ends_who_reads_or_yields() {
        let (generators, items, call) = new();
        items.push((1..=4).map(large).collect()).unwrap();
        assert!(items.has_unread());
        generators.forget(&call);
        assert_eq!(generators.budget.held.load(Ordering::Relaxed), 0);
        assert_eq!(items.after(0).await, Ok(Vec::new()));
        assert_eq!(items.push(vec![item(5)]), Err(ItemError::Over));
        assert!(!items.has_unread() && generators.find(&call).is_none());
    }
}
