//! Following an app's output, and its recent history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client_protocol::wire;
use futures::Stream;
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use types::ids::{AppId, FunctionCallId, FunctionId, TaskId};
use worker_protocol::Descriptor;

use crate::apps::App;
use crate::clock::{milliseconds, patience, seconds};
use crate::images::LogLine;
use crate::logs::{EntryView, KeptRange, LogEntry, LogKeeper, Newest, has_printed, visit_kept};
use crate::rpc::Api;
use crate::tasks::EndedTask;

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
/// And of at most this much text: the client takes messages of up to 100 MiB.
const MAX_FETCH_BYTES: usize = 32 << 20;
/// Files of up to 4 MiB that are searched for a container that nobody remembers.
const SEARCHED_SEGMENTS: usize = 64;

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
    /// With its variants; or one variant.
    function: Option<FunctionId>,
    call: Option<FunctionCallId>,
    descriptor: Option<Descriptor>,
    search: String,
    since_ms: u64,
    /// Not this one any more: clients ask for neighbouring ranges.
    until_ms: u64,
}

/// How a request for the past narrows it, as the wire has it.
struct Narrowing<'a> {
    task_id: &'a str,
    function_id: &'a str,
    variant_id: &'a str,
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
        if !wanted.sandbox_id.is_empty() {
            return Err(Status::unimplemented("logs of a sandbox are not served yet"));
        }
        let function = if wanted.variant_id.is_empty() { wanted.function_id } else { wanted.variant_id };
        Ok(Self {
            task: optional_id(wanted.task_id, "container", TaskId::parse)?,
            function: optional_id(function, "function", FunctionId::parse)?,
            call: optional_id(wanted.function_call_id, "function call", FunctionCallId::parse)?,
            descriptor: descriptor(wanted.source),
            search: wanted.search_text.to_owned(),
            since_ms: wanted.since.map_or(0, milliseconds),
            until_ms: wanted.until.map_or(u64::MAX, milliseconds),
        })
    }

    fn accepts(&self, entry: &EntryView<'_>) -> bool {
        self.task.as_ref().is_none_or(|t| entry.task == t.as_str())
            && self.function.as_ref().is_none_or(|f| [entry.function, entry.variant].contains(&f.as_str()))
            && self.call.as_ref().is_none_or(|c| entry.call == c.as_str())
            && self.descriptor.is_none_or(|d| entry.descriptor == d)
            && (self.search.is_empty() || entry.text.contains(&self.search))
            && (self.since_ms..self.until_ms).contains(&entry.at)
    }
}

impl Api {
    pub(crate) async fn app_get_logs(&self, request: wire::AppGetLogsRequest) -> Result<LogStream, Status> {
        let source = request.file_descriptor();
        let mut filter = Filter::new(Narrowing {
            task_id: "",
            function_id: &request.function_id,
            variant_id: &request.parametrized_function_id,
            function_call_id: &request.function_call_id,
            sandbox_id: &request.sandbox_id,
            source,
            search_text: &request.search_text,
            since: None,
            until: None,
        })?;
        let app = if request.task_id.is_empty() {
            self.app(&request.app_id)?
        } else {
            filter.task = TaskId::parse(&request.task_id);
            match filter.task.as_ref().and_then(|id| self.shared.tasks.get(id)) {
                Some(task) => task.owner.app.clone(),
                None => return self.log_of_ended_task(&request.task_id, filter).await,
            }
        };
        let position = request.last_entry_id.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let patience = patience(request.timeout, MAX_FOLLOW);
        let (sender, receiver) = mpsc::channel(4);
        let keeper = self.shared.logs.clone();
        tokio::spawn(async move {
            follow(&keeper, app, filter, position, patience, sender).await;
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    /// What a container printed whose life is over, and then the end.
    async fn log_of_ended_task(&self, id: &str, filter: Filter) -> Result<LogStream, Status> {
        let app = self.app(self.ended_task(id).await?.app.as_str())?;
        let newest = self.newest(&app, filter, MAX_FETCH).await?;
        let last = wire::TaskLogsBatch { app_done: true, ..Default::default() };
        let joined = join(newest.entries.into_iter());
        let batches: Vec<_> = joined.iter().map(batch).chain([last]).map(Ok).collect();
        Ok(Box::pin(futures::stream::iter(batches)))
    }

    /// A task that does not run any more: as it is remembered, or as the kept logs know of it.
    pub(crate) async fn ended_task(&self, id: &str) -> Result<EndedTask, Status> {
        let unknown = || Status::not_found(format!("container `{id}` does not run, and no log of it is kept"));
        let task = TaskId::parse(id).ok_or_else(unknown)?;
        if let Some(ended) = self.shared.ended_tasks.get(&task) {
            return Ok(ended);
        }
        let began = task.created_at_ms().ok_or_else(unknown)?;
        let apps: Vec<AppId> = self.shared.apps.iter().map(|app| app.id.clone()).collect();
        let (keeper, wanted) = (self.shared.logs.clone(), task.clone());
        let search = move || {
            let mut budget = SEARCHED_SEGMENTS;
            for app in apps {
                if has_printed(&keeper.folder_of(&app), &wanted, began, &mut budget)? {
                    return Ok(Some(app));
                }
            }
            Ok(None)
        };
        let searched = tokio::task::spawn_blocking(search).await;
        let app = searched.unwrap_or(Ok(None)).unwrap_or_else(|error: std::io::Error| {
            tracing::warn!(%error, "the kept logs cannot be searched for a container");
            None
        });
        let app = app.ok_or_else(unknown)?;
        // Its start and end are not known any more; the client takes that for until now.
        Ok(EndedTask { id: task, app, enqueued_at: began, started_at: 0, finished_at: 0 })
    }

    pub(crate) async fn app_fetch_logs(
        &self,
        request: &wire::AppFetchLogsRequest,
    ) -> Result<wire::AppFetchLogsResponse, Status> {
        let filter = Filter::new(Narrowing {
            task_id: &request.task_id,
            function_id: &request.function_id,
            variant_id: &request.parametrized_function_id,
            function_call_id: &request.function_call_id,
            sandbox_id: &request.sandbox_id,
            source: request.source(),
            search_text: &request.search_text,
            since: request.since,
            until: request.until,
        })?;
        let limit = if request.limit == 0 { MAX_FETCH } else { (request.limit as usize).min(MAX_FETCH) };
        let newest = match self.build_entries(&filter).await {
            Some(entries) => {
                let wanted = entries.into_iter().rev().filter(|entry| filter.accepts(&entry.view()));
                Newest::of(wanted, limit, MAX_FETCH_BYTES)
            }
            None => self.newest(&*self.app(&request.app_id)?, filter, limit).await?,
        };
        let mut batches: Vec<wire::TaskLogsBatch> = newest.entries.iter().map(batch).collect();
        if newest.cut {
            let text = "[dorian] older output in this range is more than one reply holds; ask for a narrower range\n";
            let at = newest.entries.front().map_or(0, |entry| entry.at);
            let notice = wire::TaskLogsBatch {
                items: vec![item(Descriptor::System, text.to_owned(), at)],
                ..Default::default()
            };
            batches.insert(0, notice);
        }
        Ok(wire::AppFetchLogsResponse { batches })
    }

    pub(crate) async fn app_count_logs(
        &self,
        request: &wire::AppCountLogsRequest,
    ) -> Result<wire::AppCountLogsResponse, Status> {
        let filter = Filter::new(Narrowing {
            task_id: &request.task_id,
            function_id: &request.function_id,
            variant_id: &request.parametrized_function_id,
            function_call_id: &request.function_call_id,
            sandbox_id: &request.sandbox_id,
            source: request.source(),
            search_text: &request.search_text,
            since: request.since,
            until: request.until,
        })?;
        let mut buckets = Buckets::new(request.bucket_secs);
        match self.build_entries(&filter).await {
            Some(entries) => {
                entries.iter().map(LogEntry::view).filter(|view| filter.accepts(view)).for_each(|e| buckets.add(&e));
            }
            None => buckets = self.count(&*self.app(&request.app_id)?, filter, buckets).await?,
        }
        Ok(wire::AppCountLogsResponse { app_id: request.app_id.clone(), buckets: buckets.into_wire() })
    }

    /// The newest of an app's entries, from memory and then from the disk.
    async fn newest(&self, app: &App, filter: Filter, limit: usize) -> Result<Newest, Status> {
        let (newest, before) = app.log.newest(limit, MAX_FETCH_BYTES, |entry| filter.accepts(entry));
        if newest.is_full(limit) {
            return Ok(newest);
        }
        self.shared.logs.flush().await;
        let folder = self.shared.logs.folder_of(&app.id);
        let range = KeptRange { after: 0, before, since_ms: filter.since_ms };
        on_disk(&app.id, move || newest.add_kept(&folder, range, limit, MAX_FETCH_BYTES, |entry| filter.accepts(entry)))
            .await
    }

    async fn count(&self, app: &App, filter: Filter, mut buckets: Buckets) -> Result<Buckets, Status> {
        let before = app.log.visit(|entry| {
            if filter.accepts(entry) {
                buckets.add(entry);
            }
        });
        self.shared.logs.flush().await;
        let folder = self.shared.logs.folder_of(&app.id);
        let range = KeptRange { after: 0, before, since_ms: filter.since_ms };
        on_disk(&app.id, move || {
            visit_kept(&folder, range, |entry| {
                if filter.accepts(entry) {
                    buckets.add(entry);
                }
            })?;
            Ok(buckets)
        })
        .await
    }

    /// What an image's build printed, if the container asked for is such a build: it has an id like a container's.
    async fn build_entries(&self, filter: &Filter) -> Option<Vec<LogEntry>> {
        let task = filter.task.as_ref()?;
        let image = self.shared.images.by_build(task)?;
        let lines = self.shared.build_logs().read(&image).await;
        let entry = |(sequence, line): (u64, LogLine)| LogEntry {
            sequence,
            at: line.at,
            task: Some(task.clone()),
            function: None,
            variant: None,
            call: None,
            input: None,
            descriptor: Descriptor::Stdout,
            text: line.text,
        };
        Some((1..).zip(lines).map(entry).collect())
    }
}

/// Entries by the time in which they came.
struct Buckets {
    width: u64,
    by_start: BTreeMap<u64, wire::app_count_logs_response::LogBucket>,
}

impl Buckets {
    fn new(width_seconds: u32) -> Self {
        Self { width: u64::from(width_seconds.max(1)), by_start: BTreeMap::new() }
    }

    fn add(&mut self, entry: &EntryView<'_>) {
        let start = entry.at / 1000 / self.width * self.width;
        let bucket = self.by_start.entry(start).or_default();
        match entry.descriptor {
            Descriptor::Stdout => bucket.stdout_logs += 1,
            Descriptor::Stderr => bucket.stderr_logs += 1,
            Descriptor::System => bucket.system_logs += 1,
        }
    }

    fn into_wire(self) -> Vec<wire::app_count_logs_response::LogBucket> {
        let dated = |(start, mut bucket): (u64, wire::app_count_logs_response::LogBucket)| {
            bucket.bucket_start_at = Some(Timestamp { seconds: start as i64, nanos: 0 });
            bucket
        };
        self.by_start.into_iter().map(dated).collect()
    }
}

/// Reads files away from the threads that answer others.
async fn on_disk<T: Send + 'static>(
    app: &AppId,
    read: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(read).await;
    let done = done.unwrap_or_else(|_| Err(std::io::Error::other("the reading ended early")));
    done.map_err(|error| Status::failed_precondition(format!("the kept log of app `{app}` cannot be read: {error}")))
}

/// Sends what the follower has not seen of the time before this server, as far as it would be sent of an app that has
/// ended. Returns where to go on, or nothing when nobody listens any more.
async fn catch_up(
    keeper: &LogKeeper,
    app: &App,
    filter: &Filter,
    position: u64,
    sender: &mpsc::Sender<Result<wire::TaskLogsBatch, Status>>,
) -> Option<u64> {
    let base = app.log.base();
    if position >= base {
        // From the future, should this be another server's data: then from here on.
        return Some(position.min(app.log.last()));
    }
    let (folder, filter) = (keeper.folder_of(&app.id), filter.clone());
    let range = KeptRange { after: position, before: base + 1, since_ms: 0 };
    let read = move || Newest::default().add_kept(&folder, range, MAX_FETCH, LAST_BYTES, |entry| filter.accepts(entry));
    match on_disk(&app.id, read).await {
        Ok(newest) => {
            for entry in join(newest.entries.into_iter()) {
                sender.send(Ok(batch(&entry))).await.ok()?;
            }
        }
        Err(status) => tracing::warn!(app = %app.id, error = status.message(), "a follower misses what was before"),
    }
    Some(base)
}

/// Sends what is there and what comes, until the patience or the app ends.
async fn follow(
    keeper: &LogKeeper,
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
        // At first, and when the log has left memory since the last look.
        if position < app.log.base() || position > app.log.last() {
            match catch_up(keeper, &app, &filter, position, &sender).await {
                Some(reached) => position = reached,
                None => return,
            }
            continue;
        }
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
        for entry in join(page.entries.into_iter().filter(|e| filter.accepts(&e.view()))) {
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
                    && last.input == entry.input
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
    let input_id = entry.input.as_ref().map(ToString::to_string).unwrap_or_default();
    let item = wire::TaskLogs {
        function_call_id: entry.call.as_ref().map(ToString::to_string).unwrap_or_default(),
        input_id: input_id.clone(),
        ..item(entry.descriptor, entry.text.clone(), entry.at)
    };
    wire::TaskLogsBatch {
        task_id: entry.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        function_id: entry.function.as_ref().map(ToString::to_string).unwrap_or_default(),
        input_id,
        entry_id: format!("{}-0", entry.sequence),
        items: vec![item],
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

#[cfg(test)]
mod tests {
    use metadata_store::AppState;
    use types::ids::EnvironmentId;

    use crate::logs::{AppLog, LogLimits, Origin};
    use crate::rpc::apps::new_record;

    use super::*;

    #[test]
    fn a_function_is_asked_for_with_all_its_variants_or_as_one_of_them() {
        let (base, variant, other) = (FunctionId::random(), FunctionId::random(), FunctionId::random());
        let entry = |variant: Option<&FunctionId>| LogEntry {
            sequence: 1,
            at: 1,
            task: None,
            function: Some(base.clone()),
            variant: variant.cloned(),
            call: None,
            input: None,
            descriptor: Descriptor::Stdout,
            text: String::new(),
        };
        let accepts = |function: &FunctionId, entry: &LogEntry| {
            Filter { function: Some(function.clone()), until_ms: 2, ..Filter::default() }.accepts(&entry.view())
        };
        let (plain, of_variant) = (entry(None), entry(Some(&variant)));
        assert!(accepts(&base, &plain) && accepts(&base, &of_variant) && accepts(&variant, &of_variant));
        assert!(!accepts(&variant, &plain) && !accepts(&other, &of_variant));
    }

    #[test]
    fn a_follower_gets_a_burst_and_then_a_steady_share() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert_eq!(allowance.take(2 << 20, start), Duration::ZERO);
        assert_eq!(allowance.take(1 << 20, start), Duration::from_secs(1));
        assert_eq!(allowance.take(0, start + Duration::from_secs(1)), Duration::ZERO);
    }

    #[tokio::test]
    async fn what_left_memory_after_a_follower_asked_is_shown_from_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = LogKeeper::open(folder.path().to_owned(), LogLimits::default()).unwrap();
        let record = new_record(AppId::random(), EnvironmentId::random(), AppState::Ephemeral);
        let log = AppLog::kept(&keeper, &record.id);
        let app = Arc::new(App::new(record, log, 0));
        let asked_at = app.log.base();
        for line in 0..3 {
            app.log.append(1, Origin::default(), Descriptor::Stdout, format!("line {line}\n"));
        }
        keeper.flush().await;
        app.log.put_away();
        app.log.append(1, Origin::default(), Descriptor::Stdout, "line 3\n".to_owned());
        app.log.close();
        let (sender, mut receiver) = mpsc::channel(100);
        let filter = Filter { until_ms: 2, ..Filter::default() };
        follow(&keeper, app, filter, asked_at, Duration::from_secs(60), sender).await;
        let mut seen = String::new();
        while let Some(Ok(batch)) = receiver.recv().await {
            batch.items.iter().for_each(|item| seen += &item.data);
        }
        assert_eq!(seen, "line 0\nline 1\nline 2\nline 3\n");
    }
}
