//! Keeps what apps print on disk: `logs/<app>/<sequence of the first entry>.log`, written by one thread.
//!
//! Whoever prints only encodes an entry into a bounded buffer; the writer takes everything that waits, a few times a
//! second. When the disk is slower than the printing, or full, entries are left out there (the newest are still in
//! memory for those who follow), and a line in the log says how many. It is never a reason to stop or to slow anything.
//!
//! A server never appends to a file of an earlier one: there may be a torn record at its end, where reading stops.
//! Nothing is forced to the disk's platter: what the kernel has survives the server's death, and a machine that loses
//! power may lose the last seconds of what was printed, and no more.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use calls::Millis;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use types::ids::AppId;
use worker_protocol::Descriptor;

use super::record::{EntryView, HEADER, encode, records, whole_records};
use super::retention::{LogLimits, SegmentView, plan_expiry};
use crate::clock::wall_ms;

/// Waits for the disk at most; a flood beyond it is left out.
const QUEUE_BYTES: usize = 16 << 20;
/// The writer waits this long for more before it writes, unless much waits or somebody wants to read.
const GATHER: Duration = Duration::from_millis(250);
const MUCH_BYTES: usize = 1 << 20;
/// A reader waits so long for what was printed until now; then it gets what is there.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);
/// Small enough to be read whole, large enough that an app has few.
const SEGMENT_BYTES: u64 = 4 << 20;
/// What is too old is looked for so often.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// A new server's entries come after those of the one before, even when the clock went back: by more than fit into the
/// newest segment.
const SEQUENCE_GAP: u64 = 1 << 40;

pub struct LogKeeper {
    folder: PathBuf,
    waiting: Mutex<Waiting>,
    news: Condvar,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Sequence of the newest segment that each app had when the server started.
    newest_at_start: BTreeMap<AppId, u64>,
}

#[derive(Default)]
struct Waiting {
    bytes: usize,
    apps: BTreeMap<AppId, Portion>,
    forgotten: Vec<AppId>,
    readers: Vec<oneshot::Sender<()>>,
    closing: bool,
}

/// What waits for one app.
#[derive(Default)]
struct Portion {
    records: Vec<u8>,
    count: u64,
    /// Entries left out after these, with the sequence and time of the last.
    left_out: u64,
    last: (u64, Millis),
}

impl LogKeeper {
    /// Looks at what is there and begins to write.
    ///
    /// # Errors
    /// When no thread can be started. A folder that cannot be read is empty: its problem shows with the first write.
    pub fn open(folder: PathBuf, limits: LogLimits) -> io::Result<Arc<Self>> {
        let segments = scan(&folder);
        let mut newest_at_start = BTreeMap::new();
        for segment in &segments {
            let newest = newest_at_start.entry(segment.app.clone()).or_insert(segment.first);
            *newest = segment.first.max(*newest);
        }
        let keeper = Arc::new(Self {
            folder: folder.clone(),
            waiting: Mutex::default(),
            news: Condvar::new(),
            writer: Mutex::default(),
            newest_at_start,
        });
        let files = Files { folder, limits, segments, open: BTreeMap::new(), failing: false, missing: BTreeMap::new() };
        let this = keeper.clone();
        let writer = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || this.write_loop(files))?;
        *keeper.writer.lock() = Some(writer);
        Ok(keeper)
    }

    pub fn folder_of(&self, app: &AppId) -> PathBuf {
        self.folder.join(app.as_str())
    }

    /// The sequence after which the entries of this server's time come: larger than any that a follower has seen.
    pub fn base(&self, app: &AppId) -> u64 {
        // A time and room for a million entries in each millisecond.
        let by_clock = wall_ms() << 20;
        self.newest_at_start.get(app).map_or(by_clock, |newest| by_clock.max(newest.saturating_add(SEQUENCE_GAP)))
    }

    /// Hands an entry to the writer, or leaves it out when too much waits.
    pub fn put(&self, app: &AppId, entry: &EntryView<'_>) {
        let mut waiting = self.waiting.lock();
        if waiting.closing {
            return;
        }
        let was = (waiting.apps.is_empty(), waiting.bytes);
        let full = waiting.bytes > QUEUE_BYTES;
        if !waiting.apps.contains_key(app) {
            waiting.apps.insert(app.clone(), Portion::default());
        }
        let Some(portion) = waiting.apps.get_mut(app) else { return };
        portion.last = (entry.sequence, entry.at);
        // Once something is left out, so is what follows: the note about it must be in its place.
        if full || portion.left_out > 0 {
            portion.left_out += 1;
            return;
        }
        let before = portion.records.len();
        encode(entry, &mut portion.records);
        portion.count += 1;
        waiting.bytes += portion.records.len() - before;
        if was.0 || (was.1 < MUCH_BYTES && waiting.bytes >= MUCH_BYTES) {
            self.news.notify_one();
        }
    }

    /// Returns when everything that was put until now is in its file, or was left out.
    pub async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closing {
                return;
            }
            waiting.readers.push(sender);
        }
        self.news.notify_one();
        // An error means that the writer has ended, and with it everything is written. A disk that hangs must not
        // hang those who read.
        let _ = tokio::time::timeout(FLUSH_PATIENCE, receiver).await;
    }

    /// Deletes what is kept of an app.
    pub fn forget(&self, app: AppId) {
        self.waiting.lock().forgotten.push(app);
        self.news.notify_one();
    }

    /// Apps of which something is kept.
    pub fn apps(&self) -> Vec<AppId> {
        folders(&self.folder)
    }

    /// Writes what waits and ends the writer.
    pub fn close(&self) {
        self.waiting.lock().closing = true;
        self.news.notify_one();
        let writer = self.writer.lock().take();
        if writer.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the logs ended early");
        }
    }

    fn write_loop(&self, mut files: Files) {
        files.expire(wall_ms());
        let mut expire_at = Instant::now() + EXPIRE_EVERY;
        loop {
            let (taken, closing) = self.take(expire_at);
            for (app, portion) in taken.apps {
                files.write(&app, portion, wall_ms());
            }
            for app in taken.forgotten {
                files.forget(&app);
            }
            if Instant::now() >= expire_at {
                files.expire(wall_ms());
                expire_at = Instant::now() + EXPIRE_EVERY;
            }
            for reader in taken.readers {
                let _ = reader.send(());
            }
            if closing {
                return;
            }
        }
    }

    /// Waits until there is something to do, and takes it.
    fn take(&self, until: Instant) -> (Waiting, bool) {
        let mut waiting = self.waiting.lock();
        let mut gather_until = None;
        loop {
            let urgent = waiting.closing || !waiting.readers.is_empty() || waiting.bytes >= MUCH_BYTES;
            if urgent || !waiting.forgotten.is_empty() {
                break;
            }
            let wake = match waiting.apps.is_empty() {
                true => until,
                false => *gather_until.get_or_insert_with(|| Instant::now() + GATHER),
            };
            if self.news.wait_until(&mut waiting, wake).timed_out() {
                break;
            }
        }
        let closing = waiting.closing;
        (std::mem::replace(&mut *waiting, Waiting { closing, ..Waiting::default() }), closing)
    }
}

/// The writer's own: what lies on the disk.
struct Files {
    folder: PathBuf,
    limits: LogLimits,
    segments: Vec<SegmentView>,
    /// The segment that each app's entries go to: its first sequence, and its length.
    open: BTreeMap<AppId, (u64, u64)>,
    /// The last write failed; said once.
    failing: bool,
    /// Entries that could not be written and of which the log does not tell yet.
    missing: BTreeMap<AppId, u64>,
}

impl Files {
    fn write(&mut self, app: &AppId, portion: Portion, now: Millis) {
        let missing = self.missing.remove(app).unwrap_or(0);
        let mut bytes = Vec::new();
        if missing > 0 {
            let first = records(&portion.records).next().map_or(portion.last, |e| (e.sequence, e.at));
            note_missing(missing, first, &mut bytes);
        }
        bytes.extend(&portion.records);
        if portion.left_out > 0 {
            note_missing(portion.left_out, portion.last, &mut bytes);
        }
        let done = self.write_records(app, &bytes, now);
        match done {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("logs are written to the disk again");
            }
            Ok(()) => {}
            Err(error) => {
                // Some of them may be there; the note says how many may not.
                self.missing.insert(app.clone(), missing + portion.count + portion.left_out);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(folder = %self.folder.display(), %error, "logs cannot be written to the disk; they are only followed until this passes");
                }
            }
        }
    }

    fn write_records(&mut self, app: &AppId, mut bytes: &[u8], now: Millis) -> io::Result<()> {
        let segment_bytes = SEGMENT_BYTES.min(self.limits.app_bytes / 4).max(4096);
        let mut rolled = false;
        while let Some(first) = records(bytes).next() {
            let (segment, length) = match self.open.get(app) {
                Some(&(segment, length)) if length < segment_bytes => (segment, length),
                _ => (first.sequence, 0),
            };
            let piece = whole_records(bytes, (segment_bytes.saturating_sub(length)) as usize);
            let path = self.folder.join(app.as_str()).join(name(segment));
            rolled |= length == 0;
            let written = append(&path, length, &bytes[..piece]);
            match written {
                Ok(length) => {
                    self.open.insert(app.clone(), (segment, length));
                    self.note_segment(SegmentView { app: app.clone(), first: segment, bytes: length, written_ms: now });
                }
                Err(error) => {
                    // Its end is not known; the next attempt begins another file.
                    self.open.remove(app);
                    return Err(error);
                }
            }
            bytes = &bytes[piece..];
        }
        if rolled {
            self.expire(now);
        }
        Ok(())
    }

    fn note_segment(&mut self, segment: SegmentView) {
        match self.segments.iter_mut().rev().find(|s| s.app == segment.app && s.first == segment.first) {
            Some(known) => *known = segment,
            None => self.segments.push(segment),
        }
    }

    fn expire(&mut self, now: Millis) {
        let mut goes = plan_expiry(&self.segments, self.limits, now);
        goes.sort_unstable();
        for index in goes.into_iter().rev() {
            let segment = self.segments.remove(index);
            if self.open.get(&segment.app).is_some_and(|(first, _)| *first == segment.first) {
                self.open.remove(&segment.app);
            }
            let folder = self.folder.join(segment.app.as_str());
            let _ = fs::remove_file(folder.join(name(segment.first)));
            // Only when it was the last.
            let _ = fs::remove_dir(folder);
        }
    }

    fn forget(&mut self, app: &AppId) {
        self.open.remove(app);
        self.missing.remove(app);
        self.segments.retain(|segment| segment.app != *app);
        match fs::remove_dir_all(self.folder.join(app.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%app, %error, "cannot delete the kept log of an app");
            }
            _ => {}
        }
    }
}

fn note_missing(count: u64, (sequence, at): (u64, Millis), into: &mut Vec<u8>) {
    let text = format!("[dorian] {count} pieces of output could not be kept on disk and are missing here\n");
    let note = EntryView {
        sequence,
        at,
        descriptor: Descriptor::System,
        task: "",
        function: "",
        variant: "",
        call: "",
        input: "",
        text: &text,
    };
    encode(&note, into);
}

/// Appends to a segment of a known length, making it when that is 0. Returns the new length. What a failed write left
/// is taken back.
fn append(path: &Path, length: u64, bytes: &[u8]) -> io::Result<u64> {
    let mut file: File = if length == 0 {
        if let Some(folder) = path.parent() {
            // What programs print is nobody else's business.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        OpenOptions::new().write(true).create(true).truncate(true).open(path)?
    } else {
        // Appending to what is not there (somebody deleted it) must fail and not make a file without its beginning.
        OpenOptions::new().append(true).open(path)?
    };
    let header: &[u8] = if length == 0 { HEADER } else { &[] };
    let written = file.write_all(header).and_then(|()| file.write_all(bytes));
    if let Err(error) = written {
        let _ = if length == 0 { fs::remove_file(path) } else { file.set_len(length) };
        return Err(error);
    }
    Ok(length + (header.len() + bytes.len()) as u64)
}

pub fn name(first: u64) -> String {
    format!("{first:020}.log")
}

/// The sequence of the first entry of a file of this name.
pub fn parse_name(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}

fn folders(folder: &Path) -> Vec<AppId> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| AppId::parse(entry.file_name().to_str()?)).collect()
}

fn scan(folder: &Path) -> Vec<SegmentView> {
    let mut segments = Vec::new();
    for app in folders(folder) {
        for entry in fs::read_dir(folder.join(app.as_str())).into_iter().flatten().flatten() {
            let first = entry.file_name().to_str().and_then(parse_name);
            let (Some(first), Ok(metadata)) = (first, entry.metadata()) else { continue };
            let written = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let written_ms = written.map_or(0, |at| at.as_millis() as u64);
            segments.push(SegmentView { app: app.clone(), first, bytes: metadata.len(), written_ms });
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_beyond_the_queue_is_left_out_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        // Nobody writes: the disk hangs.
        let keeper = LogKeeper {
            folder: folder.path().to_owned(),
            waiting: Mutex::default(),
            news: Condvar::new(),
            writer: Mutex::default(),
            newest_at_start: BTreeMap::new(),
        };
        let app = AppId::parse("ap-flood").unwrap();
        let text = "x".repeat(64 << 10);
        for sequence in 1..=400 {
            let entry = EntryView {
                sequence,
                at: sequence,
                descriptor: Descriptor::Stdout,
                task: "",
                function: "",
                variant: "",
                call: "",
                input: "",
                text: &text,
            };
            keeper.put(&app, &entry);
        }
        let (mut taken, _) = keeper.take(Instant::now());
        assert!(taken.bytes < QUEUE_BYTES + (128 << 10), "{}", taken.bytes);
        let portion = taken.apps.remove(&app).unwrap();
        assert_eq!(portion.count + portion.left_out, 400);
        let left_out = portion.left_out;
        let mut files = Files {
            folder: folder.path().to_owned(),
            limits: LogLimits::default(),
            segments: Vec::new(),
            open: BTreeMap::new(),
            failing: false,
            missing: BTreeMap::new(),
        };
        files.write(&app, portion, 1);
        let segments = scan(folder.path());
        assert!(segments.len() > 1 && segments.iter().all(|s| s.bytes <= SEGMENT_BYTES + (128 << 10)));
        let newest = segments.iter().map(|s| s.first).max().unwrap();
        let bytes = fs::read(folder.path().join("ap-flood").join(name(newest))).unwrap();
        let last = records(&bytes[HEADER.len()..]).last().unwrap();
        assert_eq!(last.sequence, 400);
        assert!(last.text.contains(&format!("{left_out} pieces of output")), "{}", last.text);
    }
}
