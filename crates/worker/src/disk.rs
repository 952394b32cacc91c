//! How much disk a container with a limit on it gets: never more than there is to give.
//!
//! Its file system lies in a file without the blocks that nothing is written to. One that is larger than what is free would
//! tell programs of room that is not there, and answer them with I/O errors instead of ENOSPC once they use it.

use std::io;
use std::path::Path;

/// Of what is free, the machine keeps a part: for the file system's own tables, and for everybody else.
const KEPT_PARTS: u64 = 16;
/// A size that is not the user's choice has so many significant bits: a file system of each size is formatted once and
/// kept, and what is free is never twice the same.
const SIGNIFICANT_BITS: u32 = 4;

/// Bytes for a container that asks for `asked` while `free` are free.
pub fn given_bytes(asked: u64, free: u64) -> u64 {
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
         disk are free\n"
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

    proptest! {
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
