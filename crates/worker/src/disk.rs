//! How much disk a container with a limit on it gets: never more than there is to give.
//!
//! Its file system lies in a file without the blocks that nothing is written to. One that is larger than what is free would
//! tell programs of room that is not there, and answer them with I/O errors instead of ENOSPC once they use it. What was given
//! to other containers, and not written to by them, is as good as used.
//!
//! Mistakes still possible: images, volumes and containers without a limit write to the same disk later, and nobody keeps
//! room for them but [`KEPT_PARTS`].

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

/// Of what is free, the machine keeps a part: for the file system's own tables, and for everybody else.
const KEPT_PARTS: u64 = 16;
/// A size that is not the user's choice has so many significant bits: a file system of each size is formatted once and
/// kept, and what is free is never twice the same.
const SIGNIFICANT_BITS: u32 = 4;

/// What running containers with a limit were given.
#[derive(Debug, Default)]
pub struct GivenDisks {
    /// Held while one is given its part, so that no other is given the same.
    parts: Mutex<Vec<Weak<GivenDisk>>>,
}

/// One container's part, for as long as somebody holds it.
#[derive(Debug)]
pub struct GivenDisk {
    pub bytes: u64,
    /// What the machine had for it when it asked.
    pub free: u64,
    /// The container's root, which lies on the disk that it was given; none before it runs.
    root: OnceLock<File>,
}

impl GivenDisks {
    /// `free` are the machine's free bytes at this moment.
    ///
    /// # Errors
    /// Those of `free`.
    pub fn give(&self, asked: u64, free: impl FnOnce() -> io::Result<u64>) -> io::Result<Arc<GivenDisk>> {
        let mut parts = self.parts.lock();
        parts.retain(|part| part.strong_count() > 0);
        // Before the look at what is free: what is written in between counts twice rather than not at all.
        let unwritten =
            parts.iter().filter_map(Weak::upgrade).map(|part| part.unwritten()).fold(0, u64::saturating_add);
        let free = free()?.saturating_sub(unwritten);
        let given = Arc::new(GivenDisk { bytes: given_bytes(asked, free), free, root: OnceLock::new() });
        parts.push(Arc::downgrade(&given));
        Ok(given)
    }
}

impl GivenDisk {
    /// From now on it is known how much of it is written to. Whatever becomes of the process, the root stays the same.
    pub fn is_used_by(&self, process: u32) {
        let root = File::options().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{process}/root"));
        // Without it nothing counts as written, which is safe.
        let _ = root.map(|root| self.root.set(root));
    }

    fn unwritten(&self) -> u64 {
        let found = self.root.get().and_then(|root| rustix::fs::fstatvfs(root).ok());
        let written =
            found.map_or(0, |found| found.f_blocks.saturating_sub(found.f_bfree).saturating_mul(found.f_frsize));
        self.bytes.saturating_sub(written)
    }
}

/// Bytes for a container that asks for `asked` while `free` are free.
fn given_bytes(asked: u64, free: u64) -> u64 {
    let to_give = free / KEPT_PARTS * (KEPT_PARTS - 1);
    if asked <= to_give { asked } else { round_down(to_give) }
}

fn round_down(bytes: u64) -> u64 {
    let shift = u64::BITS.saturating_sub(bytes.leading_zeros()).saturating_sub(SIGNIFICANT_BITS);
    bytes >> shift << shift
}

/// What a container's author is told that gets less than it asked for.
pub fn told(asked: u64, given: u64, free: u64) -> String {
    let [asked, given, free] = [asked, given, free].map(in_words);
    format!(
        "[dorian] this container has {given} of disk: `ephemeral_disk=` asks for {asked}, and {free} of this machine's \
         disk are free and not given to other containers\n"
    )
}

fn in_words(bytes: u64) -> String {
    let mib = bytes >> 20;
    if mib < 1024 { format!("{mib} MiB") } else { format!("{:.1} GiB", mib as f64 / 1024.0) }
}

/// Of the file system that `folder` is on.
pub fn size_bytes(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_blocks.saturating_mul(found.f_frsize))
}

/// What programs may still write there.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_container_gets_what_it_asks_for_or_most_of_what_is_free() {
        assert_eq!(given_bytes(10 * GIB, 100 * GIB), 10 * GIB);
        assert_eq!(given_bytes(500 * GIB, 100 * GIB), 88 * GIB);
        assert_eq!(given_bytes(GIB, 0), 0);
    }

    #[test]
    fn containers_are_together_given_no_more_than_is_free() {
        let (disks, free) = (GivenDisks::default(), || Ok(100 * GIB));
        let first = disks.give(60 * GIB, free).unwrap();
        let second = disks.give(60 * GIB, free).unwrap();
        let third = disks.give(60 * GIB, free).unwrap();
        assert_eq!((first.bytes, second.free), (60 * GIB, 40 * GIB));
        assert!(
            second.bytes >= 30 * GIB && first.bytes + second.bytes + third.bytes <= 100 * GIB,
            "{second:?} {third:?}"
        );
        drop((first, second));
        assert_eq!(disks.give(60 * GIB, free).unwrap().bytes, 60 * GIB, "theirs came back");
    }

    #[test]
    fn what_a_container_has_written_is_not_counted_twice() {
        let disks = GivenDisks::default();
        let first = disks.give(60 * GIB, || Ok(100 * GIB)).unwrap();
        first.is_used_by(std::process::id());
        let used = rustix::fs::statvfs("/").map(|found| (found.f_blocks - found.f_bfree) * found.f_frsize).unwrap();
        let second = disks.give(GIB, || Ok(100 * GIB)).unwrap();
        // Others write to this machine's disk meanwhile.
        let expected = 100 * GIB - (60 * GIB).saturating_sub(used);
        assert!(second.free.abs_diff(expected) < 2 * GIB, "{} of {expected}", second.free);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_there_is_as_much(asked in prop::collection::vec(1..200 * GIB, 1..20)) {
            let disks = GivenDisks::default();
            let given: Vec<_> = asked.iter().map(|asked| disks.give(*asked, || Ok(100 * GIB)).unwrap()).collect();
            prop_assert!(given.iter().map(|given| given.bytes).sum::<u64>() <= 100 * GIB);
        }

        #[test]
        fn nobody_gets_more_than_is_free_nor_less_than_needs_be(asked in 1u64.., free: u64) {
            let given = given_bytes(asked, free);
            prop_assert!(given <= asked && given <= free);
            prop_assert!(given == asked || given >= free / 100 * 80);
            let own_sizes = given >> given.trailing_zeros().min(63);
            prop_assert!(given == asked || own_sizes < 1 << SIGNIFICANT_BITS);
        }
    }
}
