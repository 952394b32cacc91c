//! How log entries lie in a file, one after the other: length, checksum, then the entry.
//!
//! A server that is killed leaves a torn record at the end, a machine that loses power perhaps zeros: whatever is not a
//! whole record with the right checksum ends the file, and everything before it is good.

use types::ids::{FunctionCallId, FunctionId, InputId, TaskId};
use worker_protocol::Descriptor;

use super::LogEntry;

/// Begins every segment; another format would begin otherwise.
pub const HEADER: &[u8; 8] = b"dorlog2\n";
/// Length and checksum of the body.
const PREFIX: usize = 8;
/// A body has at least its numbers and the lengths of its five ids.
const SMALLEST_BODY: usize = 8 + 8 + 1 + 5;
/// A length above this is no length: entries are at most a pipe's 64 KiB, and messages of the platform are shorter.
const LARGEST_BODY: usize = 16 << 20;

/// An entry as it lies in memory that somebody else owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryView<'a> {
    pub sequence: u64,
    pub at: u64,
    pub descriptor: Descriptor,
    /// Empty where there is none; so are the other ids.
    pub task: &'a str,
    pub function: &'a str,
    pub variant: &'a str,
    pub call: &'a str,
    pub input: &'a str,
    pub text: &'a str,
}

impl EntryView<'_> {
    pub fn to_entry(self) -> LogEntry {
        LogEntry {
            sequence: self.sequence,
            at: self.at,
            task: TaskId::parse(self.task),
            function: FunctionId::parse(self.function),
            variant: FunctionId::parse(self.variant),
            call: FunctionCallId::parse(self.call),
            input: InputId::parse(self.input),
            descriptor: self.descriptor,
            text: self.text.to_owned(),
        }
    }
}

/// Appends the record of an entry.
pub fn encode(entry: &EntryView<'_>, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend([0; PREFIX]);
    into.extend(entry.sequence.to_le_bytes());
    into.extend(entry.at.to_le_bytes());
    into.push(match entry.descriptor {
        Descriptor::Stdout => 1,
        Descriptor::Stderr => 2,
        Descriptor::System => 3,
    });
    for id in [entry.task, entry.function, entry.variant, entry.call, entry.input] {
        // Ids are at most 67 bytes by their type.
        let id = if id.len() <= usize::from(u8::MAX) { id } else { "" };
        into.push(id.len() as u8);
        into.extend(id.as_bytes());
    }
    into.extend(entry.text.as_bytes());
    let body = start + PREFIX;
    let length = (into.len() - body) as u32;
    let checksum = crc32fast::hash(&into[body..]);
    into[start..start + 4].copy_from_slice(&length.to_le_bytes());
    into[start + 4..body].copy_from_slice(&checksum.to_le_bytes());
}

/// The whole records at the beginning of `bytes`, in order.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = EntryView<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (entry, after) = first_record(rest)?;
        rest = after;
        Some(entry)
    })
}

/// How many bytes of whole records fit into `room`, at least one record; 0 when there is none.
pub fn whole_records(bytes: &[u8], room: usize) -> usize {
    let mut length = 0;
    while let Some((body, _)) = split_body(&bytes[length..]) {
        let next = length + PREFIX + body.len();
        if length > 0 && next > room {
            break;
        }
        length = next;
    }
    length
}

fn first_record(bytes: &[u8]) -> Option<(EntryView<'_>, &[u8])> {
    let (body, after) = split_body(bytes)?;
    let checksum = u32::from_le_bytes(bytes.get(4..PREFIX)?.try_into().ok()?);
    if crc32fast::hash(body) != checksum {
        return None;
    }
    Some((decode(body)?, after))
}

fn split_body(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if !(SMALLEST_BODY..=LARGEST_BODY).contains(&length) {
        return None;
    }
    let body = bytes.get(PREFIX..PREFIX + length)?;
    Some((body, &bytes[PREFIX + length..]))
}

fn decode(body: &[u8]) -> Option<EntryView<'_>> {
    let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let (sequence, at) = (number(0)?, number(8)?);
    let descriptor = match body.get(16)? {
        1 => Descriptor::Stdout,
        2 => Descriptor::Stderr,
        3 => Descriptor::System,
        _ => return None,
    };
    let mut rest = &body[17..];
    let mut ids = [""; 5];
    for id in &mut ids {
        let length = usize::from(*rest.first()?);
        *id = std::str::from_utf8(rest.get(1..1 + length)?).ok()?;
        rest = &rest[1 + length..];
    }
    let [task, function, variant, call, input] = ids;
    let text = std::str::from_utf8(rest).ok()?;
    Some(EntryView { sequence, at, descriptor, task, function, variant, call, input, text })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_entry() -> impl Strategy<Value = LogEntry> {
        let task = proptest::option::of("ta-[0-9A-Z]{26}");
        let call = proptest::option::of("[0-9A-Za-z]{22}");
        let descriptor = prop_oneof![Just(Descriptor::Stdout), Just(Descriptor::Stderr), Just(Descriptor::System)];
        (any::<u64>(), any::<u64>(), task, call, descriptor, ".{0,80}").prop_map(
            |(sequence, at, task, call, descriptor, text)| LogEntry {
                sequence,
                at,
                task: task.as_deref().and_then(TaskId::parse),
                function: call.as_deref().and_then(|id| FunctionId::parse(&format!("fu-{id}"))),
                variant: task.as_deref().and_then(|id| FunctionId::parse(&format!("fu-{}", &id[3..]))),
                call: call.as_deref().and_then(|id| FunctionCallId::parse(&format!("fc-{id}"))),
                input: call.as_deref().and_then(|id| InputId::parse(&format!("in-{id}"))),
                descriptor,
                text,
            },
        )
    }

    fn encoded(entries: &[LogEntry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            encode(&entry.view(), &mut bytes);
        }
        bytes
    }

    proptest! {
        #[test]
        fn any_cut_of_a_file_gives_a_prefix_of_its_records(
            entries in proptest::collection::vec(any_entry(), 0..20),
            cut in any::<proptest::sample::Index>(),
            zeros in 0..64_usize,
        ) {
            let mut bytes = encoded(&entries);
            bytes.truncate(cut.index(bytes.len() + 1));
            let whole = {
                let mut length = 0;
                entries.iter().take_while(|e| { length += encoded(&[(*e).clone()]).len(); length <= bytes.len() }).count()
            };
            // A file whose end a power cut lost reads as zeros there. A torn record may by chance end in zeros itself,
            // and then it is whole after all.
            bytes.extend(vec![0; zeros]);
            let read: Vec<LogEntry> = records(&bytes).map(EntryView::to_entry).collect();
            prop_assert!(read.len() >= whole && entries.starts_with(&read), "{} of {whole}", read.len());
            if zeros == 0 {
                prop_assert_eq!(read.len(), whole);
            }
        }

        #[test]
        fn a_changed_byte_is_never_read_as_an_entry(
            entries in proptest::collection::vec(any_entry(), 1..8),
            place in any::<proptest::sample::Index>(),
            change in 1..=255_u8,
        ) {
            let mut bytes = encoded(&entries);
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            let read: Vec<LogEntry> = records(&bytes).map(EntryView::to_entry).collect();
            prop_assert!(entries.starts_with(&read) && read.len() < entries.len());
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), room in 0..300_usize) {
            let _ = records(&bytes).count();
            prop_assert!(whole_records(&bytes, room) <= bytes.len());
        }

        #[test]
        fn a_split_falls_between_records(entries in proptest::collection::vec(any_entry(), 1..20), room in 0..2000_usize) {
            let bytes = encoded(&entries);
            let at = whole_records(&bytes, room);
            prop_assert!(at > 0);
            let both: Vec<LogEntry> =
                records(&bytes[..at]).chain(records(&bytes[at..])).map(EntryView::to_entry).collect();
            prop_assert_eq!(both, entries);
        }
    }
}
