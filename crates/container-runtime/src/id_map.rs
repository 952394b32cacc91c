//! Which ids of the machine are those of containers.
//!
//! All containers of all servers share one mapping: layers and volumes are mounted for many of them with owners mapped,
//! and what keeps containers apart is not who they are (see `container`). So each has as many ids as images use. Whoever
//! broke out of a container would be somebody whom nothing on the machine belongs to.

use std::fs;

use types::owners::LARGEST_ID;

use crate::sys::{At, Doing};

/// The machine's id for root inside; the others follow. From here to the end of the numbers nobody else hands out ids:
///
/// - `/etc/subuid` begins at 100,000 and Incus asks it for a thousand million more, directories are given 200,000 to
///   2,000,200,000 by sssd, machines of systemd's 524,288 to 1,879,048,191, and its foreign images 2,147,352,576 to
///   2,147,418,111, one below this;
/// - everybody stays below 2^31, because some programs take what is above for negative. So does `devpts` with the group of
///   terminals, which is why the first 65,536 ids, those of every distribution, lie below.
const FIRST: u32 = (1 << 31) - 65_536;

/// All from 0 to the largest. The last number of all, 2^32 - 1, means nobody at all, and is not among those outside.
const COUNT: u32 = LARGEST_ID + 1;

/// The machine's id for one of a container's ordinary ids.
pub const fn outside(id: u16) -> u32 {
    FIRST + id as u32
}

/// Gives the mapping to the new user namespace of a process.
pub(crate) fn give_to(pid: i32) -> Doing<()> {
    for kind in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{kind}");
        fs::write(&path, format!("0 {FIRST} {COUNT}\n")).at(format_args!("map user ids in `{path}`"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_id_outside_is_one_that_the_kernel_has() {
        assert!(u64::from(FIRST) + u64::from(COUNT) <= u64::from(u32::MAX));
    }

    #[test]
    fn ordinary_ids_are_numbers_that_are_not_negative_when_signed() {
        assert_eq!(outside(u16::MAX), i32::MAX as u32);
    }
}
