//! What root inside a container may do, beyond what any user may.
//!
//! The lists are short because the container's namespaces belong to the machine's root: rights over mounts, network
//! and host name would have no object here anyway. Deliberately absent everywhere: SYS_ADMIN, NET_ADMIN,
//! SYS_PTRACE, MKNOD, SYS_MODULE, SYS_RAWIO.

use crate::spec::Profile;

pub struct Rights {
    /// Bit mask of Linux capabilities.
    pub capabilities: u64,
    pub no_new_privileges: bool,
}

// Numbers from the kernel's `capability.h`.
const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const FOWNER: u32 = 3;
const FSETID: u32 = 4;
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const NET_BIND_SERVICE: u32 = 10;
const SYS_CHROOT: u32 = 18;
const AUDIT_WRITE: u32 = 29;
const SETFCAP: u32 = 31;

/// Owning files, changing users and signalling them: what a program that believes to be root does.
const TASK: [u32; 8] = [CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE];

/// Package scripts also change root, set capabilities on files, and log users in.
const BUILD: [u32; 12] = [
    CHOWN,
    DAC_OVERRIDE,
    FOWNER,
    FSETID,
    KILL,
    SETGID,
    SETUID,
    SETPCAP,
    NET_BIND_SERVICE,
    SYS_CHROOT,
    AUDIT_WRITE,
    SETFCAP,
];

/// Worth nothing in a user namespace that does not own its network, but `ping` carries a mark that makes the kernel
/// refuse to run it at all where this can never be had.
const NET_RAW: u32 = 13;

pub fn of(profile: Profile, in_user_namespace: bool) -> Rights {
    let harmless = if in_user_namespace { mask(&[NET_RAW]) } else { 0 };
    match profile {
        Profile::Task => Rights { capabilities: mask(&TASK) | harmless, no_new_privileges: true },
        // `sudo` and other programs that change identity when run have their place in image builds.
        Profile::Build => Rights { capabilities: mask(&BUILD) | harmless, no_new_privileges: false },
    }
}

fn mask(capabilities: &[u32]) -> u64 {
    capabilities.iter().fold(0, |mask, capability| mask | 1 << capability)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_step_can_do_all_that_a_task_can() {
        let (task, build) = (of(Profile::Task, true).capabilities, of(Profile::Build, true).capabilities);
        assert_eq!(task & build, task);
    }

    #[test]
    fn nobody_administers_the_machine() {
        assert_eq!(of(Profile::Build, false).capabilities & mask(&[NET_RAW]), 0);
        const SYS_ADMIN: u64 = 1 << 21;
        const NET_ADMIN: u64 = 1 << 12;
        assert_eq!(of(Profile::Build, true).capabilities & (SYS_ADMIN | NET_ADMIN), 0);
    }
}
