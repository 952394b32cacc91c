//! Following an app's output, and its recent history.

use std::sync::Arc;
use std::time::Duration;

use client_protocol::wire;
use futures::Stream;
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use types::ids::{FunctionId, TaskId};
use worker_protocol::Descriptor;

use crate::apps::App;
use crate::clock::{patience, seconds};
use crate::images::LogLine;
use crate::logs::LogEntry;
use crate::rpc::Api;

pub type LogStream = std::pin::Pin<Box<dyn Stream<Item = Result<wire::TaskLogsBatch, Status>> + Send>>;

/// Entries taken from the log at once.
const PAGE: usize = 1024;
/// Neighbouring pieces of one stream go out together up to this size: the client's cost is by message, not by byte.
const JOINED_BYTES: usize = 64 * 1024;
/// After the app has ended its client waits ten seconds for the rest of the output. More than this is not waited for.
const LAST_BYTES: usize = 1 << 20;
/// Longest that one stream stays open; the client opens the next one at once.
const MAX_FOLLOW: Duration = Duration::from_secs(60);
/// History is given in one reply of at most this many entries, the client's own limit.
const MAX_FETCH: usize = 20_000;

/// A client prints about a megabyte a second, and takes tens of megabytes from the line before it does. So a follower
/// gets a burst at once and then this much per second; what falls out of the log meanwhile is marked as cut.
const BURST_BYTES: f64 = (2 << 20) as f64;
const BYTES_PER_SECOND: f64 = (1 << 20) as f64;

/// How much a follower may be sent now.
struct Allowance {
    bytes: f64,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { bytes: BURST_BYTES, at: now }
    }

    /// Takes `bytes`, and says how long to wait before the next.
    fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        let refill = (now - self.at).as_secs_f64() * BYTES_PER_SECOND;
        self.bytes = (self.bytes + refill).min(BURST_BYTES) - bytes as f64;
        self.at = now;
        Duration::from_secs_f64((-self.bytes / BYTES_PER_SECOND).max(0.0))
    }
}

/// Which entries a request wants.
#[derive(Clone, Default)]
struct Filter {
    task: Option<TaskId>,
    function: Option<FunctionId>,
    descriptor: Option<Descriptor>,
    search: String,
    since_ms: u64,
    until_ms: u64,
}

/// How a request for the past narrows it, as the wire has it.
struct Narrowing<'a> {
    task_id: &'a str,
    function_id: &'a str,
    function_call_id: &'a str,
    sandbox_id: &'a str,
    source: wire::FileDescriptor,
    search_text: &'a str,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter {
    /// # Errors
    /// For an id that is none, and for what entries do not know of themselves: showing more than was asked for would
    /// look like an answer.
    fn new(wanted: Narrowing<'_>) -> Result<Self, Status> {
        if !wanted.function_call_id.is_empty() || !wanted.sandbox_id.is_empty() {
            let text = "logs of a single function call or sandbox are not served yet; ask for the function's or the container's";
            return Err(Status::unimplemented(text));
        }
        Ok(Self {
            task: optional_id(wanted.task_id, "container", TaskId::parse)?,
            function: optional_id(wanted.function_id, "function", FunctionId::parse)?,
            descriptor: descriptor(wanted.source),
            search: wanted.search_text.to_owned(),
            since_ms: wanted.since.map_or(0, milliseconds),
            until_ms: wanted.until.map_or(u64::MAX, milliseconds),
        })
    }

    fn accepts(&self, entry: &LogEntry) -> bool {
        self.task.as_ref().is_none_or(|t| entry.task.as_ref() == Some(t))
            && self.function.as_ref().is_none_or(|f| entry.function.as_ref() == Some(f))
            && self.descriptor.is_none_or(|d| entry.descriptor == d)
            && (self.search.is_empty() || entry.text.contains(&self.search))
            && entry.at >= self.since_ms
            && entry.at <= self.until_ms
    }
}

impl Api {
    pub(crate) fn app_get_logs(&self, request: wire::AppGetLogsRequest) -> Result<LogStream, Status> {
        let mut filter = Filter {
            function: optional_id(&request.function_id, "function", FunctionId::parse)?,
            descriptor: descriptor(request.file_descriptor()),
            search: request.search_text,
            until_ms: u64::MAX,
            ..Filter::default()
        };
        let app = if request.task_id.is_empty() {
            self.app(&request.app_id)?
        } else {
            let task = TaskId::parse(&request.task_id).and_then(|id| self.shared.tasks.get(&id));
            let gone = || Status::not_found(format!("container `{}` is not running", request.task_id));
            let task = task.ok_or_else(gone)?;
            filter.task = Some(task.id.clone());
            task.owner.app.clone()
        };
        let position = request.last_entry_id.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let patience = patience(request.timeout, MAX_FOLLOW);
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(follow(app, filter, position, patience, sender));
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    pub(crate) fn app_fetch_logs(
        &self,
        request: &wire::AppFetchLogsRequest,
    ) -> Result<wire::AppFetchLogsResponse, Status> {
        let filter = Filter::new(Narrowing {
            task_id: &request.task_id,
            function_id: &request.function_id,
            function_call_id: &request.function_call_id,
            sandbox_id: &request.sandbox_id,
            source: request.source(),
            search_text: &request.search_text,
            since: request.since,
            until: request.until,
        })?;
        let limit = if request.limit == 0 { MAX_FETCH } else { (request.limit as usize).min(MAX_FETCH) };
        let entries = self.logged(&request.app_id, &filter)?;
        let newest = entries.len().saturating_sub(limit);
        let batches = entries[newest..].iter().map(batch).collect();
        Ok(wire::AppFetchLogsResponse { batches })
    }

    pub(crate) fn app_count_logs(
        &self,
        request: &wire::AppCountLogsRequest,
    ) -> Result<wire::AppCountLogsResponse, Status> {
        use wire::app_count_logs_response::LogBucket;
        let filter = Filter::new(Narrowing {
            task_id: &request.task_id,
            function_id: &request.function_id,
            function_call_id: &request.function_call_id,
            sandbox_id: &request.sandbox_id,
            source: request.source(),
            search_text: &request.search_text,
            since: request.since,
            until: request.until,
        })?;
        let width = u64::from(request.bucket_secs.max(1));
        let mut buckets: std::collections::BTreeMap<u64, LogBucket> = std::collections::BTreeMap::new();
        for entry in self.logged(&request.app_id, &filter)? {
            let start = entry.at / 1000 / width * width;
            let bucket = buckets.entry(start).or_insert_with(|| LogBucket {
                bucket_start_at: Some(Timestamp { seconds: start as i64, nanos: 0 }),
                ..Default::default()
            });
            match entry.descriptor {
                Descriptor::Stdout => bucket.stdout_logs += 1,
                Descriptor::Stderr => bucket.stderr_logs += 1,
                Descriptor::System => bucket.system_logs += 1,
            }
        }
        Ok(wire::AppCountLogsResponse { app_id: request.app_id.clone(), buckets: buckets.into_values().collect() })
    }

    /// What is known of an app's past, or of an image's build, which has an id like a container's.
    fn logged(&self, app_id: &str, filter: &Filter) -> Result<Vec<LogEntry>, Status> {
        let image = filter.task.as_ref().and_then(|task| self.shared.images.by_build(task));
        let entries = match image {
            Some(image) => build_entries(&self.shared.build_logs().read(&image), filter.task.as_ref()),
            None => self.app(app_id)?.log.after(0, usize::MAX).entries,
        };
        Ok(entries.into_iter().filter(|entry| filter.accepts(entry)).collect())
    }
}

fn build_entries(lines: &[LogLine], task: Option<&TaskId>) -> Vec<LogEntry> {
    let entry = |(sequence, line): (u64, &LogLine)| LogEntry {
        sequence,
        at: line.at,
        task: task.cloned(),
        function: None,
        descriptor: Descriptor::Stdout,
        text: line.text.clone(),
    };
    (1..).zip(lines).map(entry).collect()
}

/// Sends what is there and what comes, until the patience or the app ends.
async fn follow(
    app: Arc<App>,
    filter: Filter,
    mut position: u64,
    patience: Duration,
    sender: mpsc::Sender<Result<wire::TaskLogsBatch, Status>>,
) {
    let deadline = Instant::now() + patience;
    let mut allowance = Allowance::new(Instant::now());
    loop {
        let page = app.log.after_or_end(position, PAGE, LAST_BYTES);
        if page.missed > 0 {
            let text =
                format!("[dorian] {} pieces of output came faster than they were read and are cut here\n", page.missed);
            let notice = wire::TaskLogsBatch { items: vec![item(Descriptor::System, text, 0)], ..Default::default() };
            if sender.send(Ok(notice)).await.is_err() {
                return;
            }
        }
        if let Some(last) = page.entries.last() {
            position = last.sequence;
        }
        for entry in join(page.entries.into_iter().filter(|e| filter.accepts(e))) {
            let wait = allowance.take(entry.text.len(), Instant::now());
            if sender.send(Ok(batch(&entry))).await.is_err() {
                return;
            }
            if !wait.is_zero() {
                app.log.wait_closed(wait).await;
            }
        }
        if page.closed {
            let _ = sender.send(Ok(wire::TaskLogsBatch { app_done: true, ..Default::default() })).await;
            return;
        }
        if page.more {
            continue;
        }
        tokio::select! {
            () = app.log.wait_after(position) => {}
            () = tokio::time::sleep_until(deadline) => return,
            () = sender.closed() => return,
        }
    }
}

/// Joins what one container wrote to one stream in a row.
fn join(entries: impl Iterator<Item = LogEntry>) -> Vec<LogEntry> {
    let mut joined: Vec<LogEntry> = Vec::new();
    for entry in entries {
        match joined.last_mut() {
            Some(last)
                if last.task == entry.task
                    && last.descriptor == entry.descriptor
                    && last.text.len() + entry.text.len() <= JOINED_BYTES =>
            {
                last.text.push_str(&entry.text);
                last.sequence = entry.sequence;
            }
            _ => joined.push(entry),
        }
    }
    joined
}

fn batch(entry: &LogEntry) -> wire::TaskLogsBatch {
    wire::TaskLogsBatch {
        task_id: entry.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        function_id: entry.function.as_ref().map(ToString::to_string).unwrap_or_default(),
        entry_id: format!("{}-0", entry.sequence),
        items: vec![item(entry.descriptor, entry.text.clone(), entry.at)],
        ..Default::default()
    }
}

fn item(descriptor: Descriptor, data: String, at: u64) -> wire::TaskLogs {
    let file_descriptor = match descriptor {
        Descriptor::Stdout => wire::FileDescriptor::Stdout,
        // What the platform says about a container goes where a person will see it without asking.
        Descriptor::Stderr | Descriptor::System => wire::FileDescriptor::Stderr,
    };
    wire::TaskLogs {
        data,
        file_descriptor: file_descriptor as i32,
        timestamp: seconds(at),
        timestamp_ns: at * 1_000_000,
        ..Default::default()
    }
}

fn optional_id<T>(text: &str, what: &str, parse: fn(&str) -> Option<T>) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).ok_or_else(|| Status::invalid_argument(format!("`{text}` is not a {what} id")))
}

fn descriptor(wanted: wire::FileDescriptor) -> Option<Descriptor> {
    match wanted {
        wire::FileDescriptor::Stdout => Some(Descriptor::Stdout),
        wire::FileDescriptor::Stderr => Some(Descriptor::Stderr),
        wire::FileDescriptor::Info => Some(Descriptor::System),
        _ => None,
    }
}

fn milliseconds(at: Timestamp) -> u64 {
    (at.seconds.max(0) as u64).saturating_mul(1000).saturating_add((at.nanos.max(0) as u64) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_gets_a_burst_and_then_a_steady_share() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert_eq!(allowance.take(2 << 20, start), Duration::ZERO);
        assert_eq!(allowance.take(1 << 20, start), Duration::from_secs(1));
        assert_eq!(allowance.take(0, start + Duration::from_secs(1)), Duration::ZERO);
    }
}
