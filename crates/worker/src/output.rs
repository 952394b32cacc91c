//! From a container's pipes to log events: whole characters, in order, without holding more than a chunk.

use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use types::ids::TaskId;
use worker_protocol::{Descriptor, WorkerEvent};

/// A pipe's own capacity on Linux: one read empties it.
const CHUNK: usize = 64 * 1024;

/// Reads until every process that holds the pipe's other end is gone. Sending awaits room, so a container that
/// prints faster than its log is taken is slowed by its own pipe, and nothing else is.
pub async fn ship(task: TaskId, descriptor: Descriptor, from: OwnedFd, events: mpsc::Sender<WorkerEvent>) {
    let Ok(mut pipe) = pipe::Receiver::from_owned_fd(from) else { return };
    let mut chunk = vec![0; CHUNK];
    let mut kept = 0;
    loop {
        let Ok(read) = pipe.read(&mut chunk[kept..]).await else { return };
        let end = kept + read;
        let whole = if read == 0 { end } else { whole_characters(&chunk[..end]) };
        if whole > 0 {
            let text = String::from_utf8_lossy(&chunk[..whole]).into_owned();
            if events.send(WorkerEvent::Output { task: task.clone(), descriptor, text }).await.is_err() {
                return;
            }
        }
        if read == 0 {
            return;
        }
        chunk.copy_within(whole..end, 0);
        kept = end - whole;
    }
}

/// Length of the longest prefix that does not end inside a UTF-8 character.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        if byte & 0b1100_0000 == 0b1000_0000 {
            continue;
        }
        let length = match byte {
            b if b & 0b1110_0000 == 0b1100_0000 => 2,
            b if b & 0b1111_0000 == 0b1110_0000 => 3,
            b if b & 0b1111_1000 == 0b1111_0000 => 4,
            _ => 1,
        };
        return if length > back { bytes.len() - back } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_by_a_read_waits_for_its_rest() {
        let text = "ab€".as_bytes();
        assert_eq!(whole_characters(&text[..3]), 2);
        assert_eq!(whole_characters(&text[..4]), 2);
        assert_eq!(whole_characters(text), 5);
        assert_eq!(whole_characters(b"plain"), 5);
    }

    #[test]
    fn bytes_that_are_no_text_are_not_held_back() {
        assert_eq!(whole_characters(&[0x80, 0x80, 0x80, 0x80]), 4);
        assert_eq!(whole_characters(&[0xff]), 1);
    }
}
