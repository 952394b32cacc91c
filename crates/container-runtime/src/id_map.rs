//! Which ids of the machine are those of containers.
//!
//! All containers of all servers share one mapping: layers and volumes are mounted for many of them with owners mapped,
//! and what keeps containers apart is not who they are (see `container`). So there are enough ids for every container to
//! have as many as images use.
//!
//! Rejected: ids above 65535 on top of one range from 1,000,000,000 up, which would run through what systemd
//! (524,288 to 1,879,048,191 for machines, 2,147,352,576 and up for foreign images) and directories (sssd: 200,000 to
//! 2,000,200,000) give to real users and to other containers.

use std::fs;

use types::owners::LARGEST_ID;

use crate::sys::{At, Doing};

/// Consecutive ids inside and the same number of ids outside.
#[derive(Debug, Clone, Copy)]
struct Extent {
    inside: u32,
    outside: u32,
    count: u32,
}

/// The ids of every distribution, in a place above what `/etc/subuid` hands out (100,000 and up, 65,536 per user), and
/// below 2^31 because `devpts` reads the group of terminals as a signed number.
const ORDINARY: Extent = Extent { inside: 0, outside: 1_000_000_000, count: 65_536 };

/// All others, in the upper half of the numbers, which nobody hands out since some programs take them for negative.
/// The last id of all, 2^32 - 1, means none and cannot be mapped.
const LARGE: Extent = Extent { inside: 65_536, outside: 1 << 31, count: LARGEST_ID - 65_535 };

const MAP: [Extent; 2] = [ORDINARY, LARGE];

/// The machine's id for one of a container's ordinary ids.
pub const fn outside(id: u16) -> u32 {
    ORDINARY.outside + id as u32
}

/// Gives the mapping to the new user namespace of a process.
pub(crate) fn give_to(pid: i32) -> Doing<()> {
    let lines: Vec<String> =
        MAP.iter().map(|Extent { inside, outside, count }| format!("{inside} {outside} {count}\n")).collect();
    for kind in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{kind}");
        // The kernel takes the whole mapping in one write, and only once.
        fs::write(&path, lines.concat()).at(format_args!("map user ids in `{path}`"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_up_to_the_largest_is_mapped_once_and_none_beyond() {
        let mut next = 0;
        for extent in MAP {
            assert_eq!(u64::from(extent.inside), next);
            next += u64::from(extent.count);
        }
        assert_eq!(next, u64::from(LARGEST_ID) + 1);
    }

    #[test]
    fn no_id_of_the_machine_is_two_and_the_one_that_means_none_is_left_out() {
        let end = |extent: Extent| u64::from(extent.outside) + u64::from(extent.count);
        assert!(end(ORDINARY) <= u64::from(LARGE.outside));
        assert!(end(LARGE) <= u64::from(u32::MAX));
    }

    #[test]
    fn terminals_belong_to_a_group_that_a_signed_number_holds() {
        assert!(i32::try_from(outside(u16::MAX)).is_ok());
    }
}
