//! What an app's containers and builds print: a bounded, ordered buffer per app that followers read by position.
//!
//! Bounded twice, by entries and by bytes: what falls out at the old end is counted, and a follower that was too slow
//! is told how much it missed. A container that prints a million lines so costs memory for the newest part only, and
//! slows nobody. Everything also goes to the disk (`keeper`), from where the past is read (`history`).

mod history;
mod keeper;
mod record;
mod retention;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use calls::Millis;
use parking_lot::Mutex;
use tokio::sync::Notify;
use types::ids::{AppId, FunctionCallId, FunctionId, InputId, TaskId};
use worker_protocol::Descriptor;

pub use history::{KeptRange, Newest, has_printed, visit_kept};
pub use keeper::LogKeeper;
pub use record::EntryView;
pub use retention::LogLimits;

/// Entries are at most a pipe's 64 KiB each; typical lines are far shorter.
const MAX_ENTRIES: usize = 20_000;
const MAX_BYTES: usize = 16 << 20;
/// What an entry costs beside its text: itself, and what it keeps of its ids. Of short lines that is the most.
const ENTRY_COST: usize = size_of::<LogEntry>() + 128;
/// Followers that take longer to read what is in memory have gone.
const QUIET_MS: Millis = 300_000;
/// What one task may print in its life. The rest is dropped after a line that says so: a runaway loop must not push
/// every other task's lines out of the buffer.
pub const MAX_TASK_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub sequence: u64,
    pub at: Millis,
    pub task: Option<TaskId>,
    pub function: Option<FunctionId>,
    /// Which variant of the function, if it is one.
    pub variant: Option<FunctionId>,
    /// Known when the container ran a single input.
    pub call: Option<FunctionCallId>,
    pub input: Option<InputId>,
    pub descriptor: Descriptor,
    pub text: String,
}

/// Where an entry comes from, as far as that is known.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    pub task: Option<TaskId>,
    /// As the user wrote it.
    pub function: Option<FunctionId>,
    pub variant: Option<FunctionId>,
    pub call: Option<(FunctionCallId, InputId)>,
}

impl LogEntry {
    pub fn view(&self) -> EntryView<'_> {
        EntryView {
            sequence: self.sequence,
            at: self.at,
            descriptor: self.descriptor,
            task: self.task.as_ref().map_or("", TaskId::as_str),
            function: self.function.as_ref().map_or("", FunctionId::as_str),
            variant: self.variant.as_ref().map_or("", FunctionId::as_str),
            call: self.call.as_ref().map_or("", FunctionCallId::as_str),
            input: self.input.as_ref().map_or("", InputId::as_str),
            text: &self.text,
        }
    }
}

#[derive(Default)]
pub struct AppLog {
    buffer: Mutex<Buffer>,
    news: Notify,
    keeper: Option<(Arc<LogKeeper>, AppId)>,
    /// Entries up to this sequence are on the disk only: those of an earlier server, and those put away.
    base: AtomicU64,
}

#[derive(Debug, Default)]
struct Buffer {
    entries: VecDeque<LogEntry>,
    bytes: usize,
    /// Sequence of the next entry; the first entry ever is 1.
    next: u64,
    /// No more entries will come.
    closed: bool,
}

/// What a follower gets.
#[derive(Debug)]
pub struct LogPage {
    pub entries: Vec<LogEntry>,
    /// Entries between the follower's position and the oldest one kept.
    pub missed: u64,
    /// There is more after these.
    pub more: bool,
    pub closed: bool,
}

impl AppLog {
    /// A log that is kept on disk too, and continues what is there.
    pub fn kept(keeper: &Arc<LogKeeper>, app: &AppId) -> Self {
        let base = keeper.base(app);
        let buffer = Mutex::new(Buffer { next: base, ..Buffer::default() });
        Self { buffer, news: Notify::new(), keeper: Some((keeper.clone(), app.clone())), base: base.into() }
    }

    pub fn append(&self, at: Millis, origin: Origin, descriptor: Descriptor, text: String) {
        let Origin { task, function, variant, call } = origin;
        let (call, input) = call.unzip();
        let mut buffer = self.buffer.lock();
        buffer.next += 1;
        buffer.bytes += text.len() + ENTRY_COST;
        let sequence = buffer.next;
        let entry = LogEntry { sequence, at, task, function, variant, call, input, descriptor, text };
        // Under the buffer's lock, so that the file has the same order.
        if let Some((keeper, app)) = &self.keeper {
            keeper.put(app, &entry.view());
        }
        buffer.entries.push_back(entry);
        while buffer.entries.len() > MAX_ENTRIES || buffer.bytes > MAX_BYTES {
            let Some(oldest) = buffer.entries.pop_front() else { break };
            buffer.bytes -= oldest.text.len() + ENTRY_COST;
        }
        drop(buffer);
        self.news.notify_waiters();
    }

    /// Ends the log: followers get what is left and then the end.
    pub fn close(&self) {
        self.buffer.lock().closed = true;
        self.news.notify_waiters();
    }

    /// Leaves to the disk what is in memory: the app is over, and its log is history. After the keeper was flushed.
    pub fn put_away(&self) {
        if self.keeper.is_none() {
            return;
        }
        let left = self.leave(&mut self.buffer.lock());
        drop(left);
    }

    /// The entries, to be dropped when the buffer is not locked any more.
    fn leave(&self, buffer: &mut Buffer) -> VecDeque<LogEntry> {
        self.base.store(buffer.next, Ordering::Relaxed);
        buffer.bytes = 0;
        std::mem::take(&mut buffer.entries)
    }

    /// As `put_away`, of an app that goes on and has printed nothing for a while.
    /// Short lines cost far more than their letters, so a server with many apps would hold hundreds of megabytes.
    pub fn put_away_if_quiet(&self, now: Millis) {
        if self.keeper.is_none() {
            return;
        }
        let mut buffer = self.buffer.lock();
        let newest = buffer.entries.back().map(|entry| entry.at);
        if newest.is_some_and(|at| at.saturating_add(QUIET_MS) <= now) {
            let left = self.leave(&mut buffer);
            drop(buffer);
            drop(left);
        }
    }

    /// The newest entries that are wanted, and the sequence before which only the disk has some.
    pub fn newest(&self, limit: usize, max_bytes: usize, wanted: impl Fn(&EntryView<'_>) -> bool) -> (Newest, u64) {
        let buffer = self.buffer.lock();
        let first = buffer.entries.front().map_or(buffer.next + 1, |e| e.sequence);
        let matching = buffer.entries.iter().rev().filter(|entry| wanted(&entry.view())).cloned();
        (Newest::of(matching, limit, max_bytes), first)
    }

    /// Shows every entry in memory, and returns the sequence before which only the disk has some.
    pub fn visit(&self, mut look: impl FnMut(&EntryView<'_>)) -> u64 {
        let buffer = self.buffer.lock();
        buffer.entries.iter().for_each(|entry| look(&entry.view()));
        buffer.entries.front().map_or(buffer.next + 1, |e| e.sequence)
    }

    /// Entries up to this sequence are on the disk only.
    pub fn base(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }

    /// The sequence of the newest entry.
    pub fn last(&self) -> u64 {
        self.buffer.lock().next
    }

    /// Up to `limit` entries after `position`.
    pub fn after(&self, position: u64, limit: usize) -> LogPage {
        let buffer = self.buffer.lock();
        let first = buffer.entries.front().map_or(buffer.next + 1, |e| e.sequence);
        let skip = (position + 1).saturating_sub(first) as usize;
        let entries: Vec<LogEntry> = buffer.entries.iter().skip(skip).take(limit).cloned().collect();
        let complete = skip + entries.len() >= buffer.entries.len();
        let missed = first.saturating_sub(position + 1);
        LogPage { entries, missed, more: !complete, closed: buffer.closed && complete }
    }

    /// As `after`; but of a log that has ended, at most the last `last_bytes` are given and the rest counts as missed.
    pub fn after_or_end(&self, position: u64, limit: usize, last_bytes: usize) -> LogPage {
        let from = {
            let buffer = self.buffer.lock();
            let mut left = last_bytes;
            let wanted = |e: &&LogEntry| {
                let fits = left >= e.text.len();
                left = left.saturating_sub(e.text.len());
                fits && e.sequence > position
            };
            let oldest = buffer.entries.iter().rev().take_while(wanted).last().map(|e| e.sequence - 1);
            if buffer.closed { oldest.unwrap_or(position).max(position) } else { position }
        };
        let page = self.after(from, limit);
        LogPage { missed: page.missed + (from - position), ..page }
    }

    /// Waits for the end of the log, at most for `patience`.
    pub async fn wait_closed(&self, patience: Duration) {
        let closed = async {
            loop {
                let news = self.news.notified();
                if self.buffer.lock().closed {
                    return;
                }
                news.await;
            }
        };
        let _ = tokio::time::timeout(patience, closed).await;
    }

    /// Waits until there is something after `position`, or the log is closed.
    pub async fn wait_after(&self, position: u64) {
        loop {
            let news = self.news.notified();
            {
                let buffer = self.buffer.lock();
                if buffer.next > position || buffer.closed {
                    return;
                }
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod buffer_tests {
    use super::*;

    fn say(log: &AppLog, text: &str) {
        log.append(0, Origin::default(), Descriptor::Stdout, text.to_owned());
    }

    #[test]
    fn a_follower_resumes_strictly_after_its_position() {
        let log = AppLog::default();
        say(&log, "one");
        say(&log, "two");
        let page = log.after(1, 10);
        assert_eq!(page.entries.iter().map(|e| e.text.as_str()).collect::<Vec<_>>(), ["two"]);
        assert_eq!((page.missed, page.closed), (0, false));
        log.close();
        assert!(log.after(2, 10).closed);
    }

    #[test]
    fn a_slow_follower_is_told_what_it_missed() {
        let log = AppLog::default();
        for _ in 0..MAX_ENTRIES + 5 {
            say(&log, "line");
        }
        let page = log.after(0, 3);
        assert_eq!(page.missed, 5);
        assert_eq!(page.entries[0].sequence, 6);
        assert!(!page.closed);
    }

    #[test]
    fn what_is_kept_in_memory_is_bounded_with_all_that_it_costs() {
        let log = AppLog::default();
        for _ in 0..MAX_ENTRIES {
            say(&log, &"x".repeat(1_000));
        }
        let buffer = log.buffer.lock();
        let texts: usize = buffer.entries.iter().map(|entry| entry.text.len()).sum();
        assert!(texts + buffer.entries.len() * size_of::<LogEntry>() <= MAX_BYTES);
        assert!(buffer.entries.len() > MAX_ENTRIES / 2);
    }

    #[test]
    fn the_rest_of_an_ended_log_is_cut_to_its_end() {
        let log = AppLog::default();
        for _ in 0..100 {
            say(&log, "0123456789");
        }
        assert_eq!(log.after_or_end(0, 1000, 50).entries.len(), 100);
        log.close();
        let page = log.after_or_end(10, 1000, 50);
        assert_eq!((page.entries.len(), page.missed, page.closed), (5, 85, true));
        assert_eq!(log.after_or_end(98, 1000, 50).missed, 0);
    }

    #[test]
    fn a_closed_log_ends_only_after_its_last_entry() {
        let log = AppLog::default();
        say(&log, "one");
        say(&log, "two");
        log.close();
        assert!(!log.after(0, 1).closed);
        assert!(log.after(1, 1).closed);
    }
}
