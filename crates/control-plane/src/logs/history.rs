//! Reading what is kept of an app's log: segment by segment, newest first, never more than one of them in memory.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use types::ids::TaskId;

use super::LogEntry;
use super::keeper::{name, parse_name};
use super::record::{EntryView, HEADER, records};

/// No segment is longer; a file that is was not written by us.
const LARGEST_SEGMENT: u64 = 64 << 20;
/// How far the disk's clock and ours may differ.
const CLOCK_SLACK_MS: u64 = 60_000;

/// The newest of what was wanted, oldest first.
#[derive(Debug, Default)]
pub struct Newest {
    pub entries: VecDeque<LogEntry>,
    bytes: usize,
    /// There was more, and it was left out for its size.
    pub cut: bool,
}

impl Newest {
    /// Takes an entry in before those that are there, unless that is too much.
    fn push_older(&mut self, entry: LogEntry, limit: usize, max_bytes: usize) -> bool {
        if self.entries.len() >= limit {
            return false;
        }
        if self.bytes + entry.text.len() > max_bytes {
            self.cut = true;
            return false;
        }
        self.bytes += entry.text.len();
        self.entries.push_front(entry);
        true
    }

    /// Begins with what memory has, given newest first.
    pub fn of(newest_first: impl Iterator<Item = LogEntry>, limit: usize, max_bytes: usize) -> Self {
        let mut newest = Self::default();
        for entry in newest_first {
            if !newest.push_older(entry, limit, max_bytes) {
                break;
            }
        }
        newest
    }

    pub fn is_full(&self, limit: usize) -> bool {
        self.cut || self.entries.len() >= limit
    }

    /// Adds entries from an app's folder that come before `before` and not before `since_ms`, newest first, until there
    /// are `limit` of them.
    ///
    /// # Errors
    /// When a segment is there and cannot be read.
    pub fn add_kept(
        mut self,
        folder: &Path,
        range: KeptRange,
        limit: usize,
        max_bytes: usize,
        wanted: impl Fn(&EntryView<'_>) -> bool,
    ) -> io::Result<Self> {
        for segment in segments_newest_first(folder, range)? {
            let Some(bytes) = read_segment(folder, segment)? else { continue };
            let room = limit - self.entries.len().min(limit);
            // Views are small: only those of entries that will be given are copied.
            let mut views: VecDeque<EntryView<'_>> = VecDeque::new();
            for view in records(&bytes).filter(|view| range.contains(view) && wanted(view)) {
                views.push_back(view);
                if views.len() > room {
                    views.pop_front();
                }
            }
            for view in views.into_iter().rev() {
                if !self.push_older(view.to_entry(), limit, max_bytes) {
                    break;
                }
            }
            if self.is_full(limit) {
                break;
            }
        }
        Ok(self)
    }
}

/// Which part of a kept log is looked at.
#[derive(Debug, Clone, Copy)]
pub struct KeptRange {
    /// After this sequence.
    pub after: u64,
    /// Before this sequence: memory has the rest.
    pub before: u64,
    /// Segments last written before this are not even opened.
    pub since_ms: u64,
}

impl KeptRange {
    fn contains(&self, view: &EntryView<'_>) -> bool {
        view.sequence > self.after && view.sequence < self.before
    }
}

/// Shows every kept entry of the range, in no particular order.
///
/// # Errors
/// When a segment is there and cannot be read.
pub fn visit_kept(folder: &Path, range: KeptRange, mut look: impl FnMut(&EntryView<'_>)) -> io::Result<()> {
    for segment in segments_newest_first(folder, range)? {
        let Some(bytes) = read_segment(folder, segment)? else { continue };
        records(&bytes).filter(|view| range.contains(view)).for_each(|view| look(&view));
    }
    Ok(())
}

/// Whether a task that began at `since_ms` printed into this log. Looks at the segments since then, as far as `budget`
/// of them goes.
///
/// # Errors
/// When a segment is there and cannot be read.
pub fn has_printed(folder: &Path, task: &TaskId, since_ms: u64, budget: &mut usize) -> io::Result<bool> {
    let range = KeptRange { after: 0, before: u64::MAX, since_ms };
    for segment in segments_newest_first(folder, range)? {
        if *budget == 0 {
            return Ok(false);
        }
        *budget -= 1;
        let Some(bytes) = read_segment(folder, segment)? else { continue };
        if records(&bytes).any(|entry| entry.task == task.as_str()) {
            return Ok(true);
        }
        if records(&bytes).next().is_some_and(|first| first.at.saturating_add(CLOCK_SLACK_MS) < since_ms) {
            return Ok(false);
        }
    }
    Ok(false)
}

fn segments_newest_first(folder: &Path, range: KeptRange) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(first) = entry.file_name().to_str().and_then(parse_name) else { continue };
        let written = entry.metadata().and_then(|m| m.modified()).ok();
        let written =
            written.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(u64::MAX, |d| d.as_millis() as u64);
        if first < range.before && written.saturating_add(CLOCK_SLACK_MS) >= range.since_ms {
            found.push(first);
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    // The entries of a segment end where the next one begins.
    if let Some(last_wanted) = found.iter().position(|&first| first <= range.after) {
        found.truncate(last_wanted + 1);
    }
    Ok(found)
}

/// The records of a segment; `None` when it expired meanwhile or is of another format.
fn read_segment(folder: &Path, first: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(folder.join(name(first))) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut file = file.take(LARGEST_SEGMENT);
    let mut header = [0; HEADER.len()];
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    if header != *HEADER {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
