//! Which system calls a container may make.
//!
//! A list of what is refused rather than of what is allowed: the interesting attack surface is known by name, a
//! forgotten harmless call would break user programs in ways that take days to find, and calls newer than this list
//! are refused as a whole. Refused calls fail with EPERM (the program was not allowed) or ENOSYS (so that the C
//! library and others fall back to an older call). The kernel remembers the verdict of calls that are always allowed,
//! so ordinary calls cost nothing.
//!
//! Not covered: 32-bit programs do not run, because their call numbers mean something else.

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, sock_filter};

/// Administration of the machine, kernel code, other processes' secrets, and namespaces.
const REFUSED: &[c_long] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Namespaces; `clone` is looked at separately.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Kernel code and its helpers.
    libc::SYS_bpf,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_lookup_dcookie,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Reaching files and processes around the usual checks.
    libc::SYS_open_by_handle_at,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
    libc::SYS_move_pages,
    libc::SYS_fanotify_init,
    // Keys are kept per user of the machine, not per container.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Calls that programs try first and can do without. `clone3` hides its flags in memory, where no filter can see
/// them; io_uring does its work where no filter looks.
const ABSENT: &[c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The same numbers on all architectures since 5.1; libc does not name this one everywhere.
const QUOTACTL_FD: c_long = 443;

/// The first call that this list knows nothing about (after `cachestat` and `fchmodat2`, Linux 6.6).
const FIRST_UNKNOWN: u32 = 453;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Families of sockets that ordinary programs use; the others (vsock, AF_ALG, packet, ...) reach kernel code that
/// nobody needs here.
const SOCKET_FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

// Offsets into `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument_low(index: u32) -> u32 {
    // Little-endian: the low half of a 64-bit argument comes first.
    16 + 8 * index
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const fn fail_with(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}
const EPERM: u32 = fail_with(libc::EPERM);
const ENOSYS: u32 = fail_with(libc::ENOSYS);

/// The filter, as the kernel's little machine runs it.
pub fn program() -> Vec<sock_filter> {
    let mut code = vec![load(ARCH), jump(BPF_JEQ, ARCHITECTURE, 1, 0), ret(ENOSYS), load(NUMBER)];
    // Also catches the x32 calls of x86-64, which are numbered from 2^30.
    code.extend([jump(BPF_JGE, FIRST_UNKNOWN, 0, 1), ret(ENOSYS)]);
    for (calls, verdict) in [(REFUSED, EPERM), (ABSENT, ENOSYS)] {
        for call in calls {
            code.extend([jump(BPF_JEQ, *call as u32, 0, 1), ret(verdict)]);
        }
    }
    extend_for_call(
        &mut code,
        libc::SYS_clone,
        &[load(argument_low(0)), jump(BPF_JSET, NEW_NAMESPACES, 0, 1), ret(EPERM)],
    );
    // Typing into somebody's terminal.
    extend_for_call(
        &mut code,
        libc::SYS_ioctl,
        &[
            load(argument_low(1)),
            jump(BPF_JEQ, libc::TIOCSTI as u32, 0, 1),
            ret(EPERM),
            jump(BPF_JEQ, libc::TIOCLINUX as u32, 0, 1),
            ret(EPERM),
        ],
    );
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let mut families = vec![load(argument_low(0))];
        for family in SOCKET_FAMILIES {
            families.extend([jump(BPF_JEQ, family as u32, 0, 1), ret(ALLOW)]);
        }
        families.push(ret(fail_with(libc::EAFNOSUPPORT)));
        extend_for_call(&mut code, call, &families);
    }
    code.push(ret(ALLOW));
    code
}

/// Runs `body` for `call` only, and allows it when `body` has no verdict.
fn extend_for_call(code: &mut Vec<sock_filter>, call: c_long, body: &[sock_filter]) {
    code.push(jump(BPF_JEQ, call as u32, 0, body.len() as u8 + 1));
    code.extend_from_slice(body);
    code.push(ret(ALLOW));
}

const fn instruction(code: u32, value: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: yes, jf: no, k: value }
}

const fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

/// Skips `yes` instructions when the comparison holds, `no` otherwise.
const fn jump(comparison: u32, value: u32, yes: u8, no: u8) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, value, yes, no)
}

const fn ret(verdict: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, verdict, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn verdict(arch: u32, call: c_long, arguments: [u64; 2]) -> u32 {
        let code = program();
        let (mut at, mut value) = (0, 0u32);
        loop {
            let step = &code[at];
            let class = u32::from(step.code);
            let holds = match class {
                c if c == BPF_RET | BPF_K => return step.k,
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    value = match step.k {
                        NUMBER => call as u32,
                        ARCH => arch,
                        offset => arguments[((offset - 16) / 8) as usize] as u32,
                    };
                    at += 1;
                    continue;
                }
                c if c == BPF_JMP | BPF_JEQ | BPF_K => value == step.k,
                c if c == BPF_JMP | BPF_JGE | BPF_K => value >= step.k,
                c if c == BPF_JMP | BPF_JSET | BPF_K => value & step.k != 0,
                other => panic!("unexpected instruction {other:#x}"),
            };
            at += 1 + usize::from(if holds { step.jt } else { step.jf });
        }
    }

    fn native(call: c_long, first: i32) -> u32 {
        verdict(ARCHITECTURE, call, [first as u32 as u64, 0])
    }

    #[test]
    fn every_call_on_the_lists_is_refused_and_everyday_calls_are_not() {
        for call in REFUSED {
            assert_eq!(native(*call, 0), EPERM, "{call}");
        }
        for call in ABSENT {
            assert_eq!(native(*call, 0), ENOSYS, "{call}");
        }
        for call in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_futex, libc::SYS_ptrace] {
            assert_eq!(native(call, 0), ALLOW, "{call}");
        }
    }

    #[test]
    fn threads_and_forks_are_allowed_but_not_namespaces() {
        assert_eq!(native(libc::SYS_clone, libc::CLONE_VM | libc::CLONE_THREAD | libc::SIGCHLD), ALLOW);
        assert_eq!(native(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD), EPERM);
    }

    #[test]
    fn only_common_socket_families_exist() {
        assert_eq!(native(libc::SYS_socket, libc::AF_INET), ALLOW);
        assert_eq!(native(libc::SYS_socket, libc::AF_VSOCK), fail_with(libc::EAFNOSUPPORT));
        assert_eq!(native(libc::SYS_socket, libc::AF_ALG), fail_with(libc::EAFNOSUPPORT));
    }

    #[test]
    fn nobody_types_into_a_terminal() {
        assert_eq!(verdict(ARCHITECTURE, libc::SYS_ioctl, [0, libc::TIOCSTI]), EPERM);
        assert_eq!(verdict(ARCHITECTURE, libc::SYS_ioctl, [0, libc::FIONREAD]), ALLOW);
    }

    #[test]
    fn calls_of_another_architecture_or_a_newer_kernel_do_not_exist() {
        assert_eq!(verdict(0x4000_0003, libc::SYS_read, [0, 0]), ENOSYS);
        assert_eq!(native(c_long::from(FIRST_UNKNOWN), 0), ENOSYS);
        assert_eq!(native(1 << 30, 0), ENOSYS);
    }
}
