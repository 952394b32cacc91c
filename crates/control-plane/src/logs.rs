//! What an app's containers and builds print: a bounded, ordered buffer per app that followers read by position.
//!
//! Bounded twice, by entries and by bytes: what falls out at the old end is counted, and a follower that was too slow
//! is told how much it missed. A container that prints a million lines so costs memory for the newest part only, and
//! slows nobody.

use std::collections::VecDeque;

use calls::Millis;
use parking_lot::Mutex;
use tokio::sync::Notify;
use types::ids::{FunctionId, TaskId};
use worker_protocol::Descriptor;

/// Entries are at most a pipe's 64 KiB each; typical lines are far shorter.
const MAX_ENTRIES: usize = 20_000;
const MAX_BYTES: usize = 16 << 20;
/// Kept of an app that has stopped, until it leaves the lists.
const MAX_HISTORY_BYTES: usize = 1 << 20;
/// What one task may print in its life. The rest is dropped after a line that says so: a runaway loop must not push
/// every other task's lines out of the buffer.
pub const MAX_TASK_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub struct LogEntry {
    pub sequence: u64,
    pub at: Millis,
    pub task: Option<TaskId>,
    pub function: Option<FunctionId>,
    pub descriptor: Descriptor,
    pub text: String,
}

#[derive(Debug, Default)]
pub struct AppLog {
    buffer: Mutex<Buffer>,
    news: Notify,
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
    pub closed: bool,
}

impl AppLog {
    pub fn append(
        &self,
        at: Millis,
        task: Option<TaskId>,
        function: Option<FunctionId>,
        descriptor: Descriptor,
        text: String,
    ) {
        let mut buffer = self.buffer.lock();
        buffer.next += 1;
        buffer.bytes += text.len();
        let sequence = buffer.next;
        buffer.entries.push_back(LogEntry { sequence, at, task, function, descriptor, text });
        while buffer.entries.len() > MAX_ENTRIES || buffer.bytes > MAX_BYTES {
            let Some(oldest) = buffer.entries.pop_front() else { break };
            buffer.bytes -= oldest.text.len();
        }
        drop(buffer);
        self.news.notify_waiters();
    }

    /// Ends the log: followers get what is left and then the end.
    pub fn close(&self) {
        self.buffer.lock().closed = true;
        self.news.notify_waiters();
    }

    /// Keeps only the newest part: the app is over, and its log is history.
    pub fn shrink(&self) {
        let mut buffer = self.buffer.lock();
        while buffer.bytes > MAX_HISTORY_BYTES {
            let Some(oldest) = buffer.entries.pop_front() else { break };
            buffer.bytes -= oldest.text.len();
        }
        buffer.entries.shrink_to_fit();
    }

    /// Up to `limit` entries after `position`.
    pub fn after(&self, position: u64, limit: usize) -> LogPage {
        let buffer = self.buffer.lock();
        let first = buffer.entries.front().map_or(buffer.next + 1, |e| e.sequence);
        let skip = (position + 1).saturating_sub(first) as usize;
        let entries: Vec<LogEntry> = buffer.entries.iter().skip(skip).take(limit).cloned().collect();
        let complete = skip + entries.len() >= buffer.entries.len();
        LogPage { entries, missed: first.saturating_sub(position + 1), closed: buffer.closed && complete }
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
mod tests {
    use super::*;

    fn say(log: &AppLog, text: &str) {
        log.append(0, None, None, Descriptor::Stdout, text.to_owned());
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
    fn a_closed_log_ends_only_after_its_last_entry() {
        let log = AppLog::default();
        say(&log, "one");
        say(&log, "two");
        log.close();
        assert!(!log.after(0, 1).closed);
        assert!(log.after(1, 1).closed);
    }
}
