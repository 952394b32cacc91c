//! Processes, namespaces, signals, limits.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{check, check_long, owned};

pub const NEW_USER: u64 = libc::CLONE_NEWUSER as u64;
pub const NEW_PID: u64 = libc::CLONE_NEWPID as u64;

/// Which side of a fork we are on.
pub enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Forks into new namespaces. Only for processes with a single thread: the child runs on the parent's copied memory,
/// where another thread's locks would stay locked for ever.
pub fn fork(namespaces: u64) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and with no stack given this behaves as fork(2): the child continues here on its own
    // copy of the memory. The process has one thread (see above). `args` and `pidfd` outlive the call.
    let pid = check_long(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    Ok(Forked::Parent { pid: pid as i32, pidfd: owned(pidfd.into())? })
}

/// Fork that is safe beside other threads as far as the C library can make it so (it keeps its own locks usable).
pub fn fork_launcher() -> io::Result<Option<i32>> {
    // SAFETY: the child goes on to use memory allocation, which glibc keeps usable after `fork`, and no lock of ours.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Ends this process without running anything that belongs to the process it was copied from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

pub fn unshare(namespaces: i32) -> io::Result<()> {
    // SAFETY: takes only flags; the caller has one thread.
    check(unsafe { libc::unshare(namespaces) }).map(drop)
}

/// Moves to the mount namespace of a process, and to its root. For a process with a single thread.
pub fn enter_mounts_of(process: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes an open descriptor and flags.
    check(unsafe { libc::setns(process.as_raw_fd(), libc::CLONE_NEWNS) }).map(drop)
}

/// Makes an open folder the current one.
pub fn enter(folder: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes an open descriptor.
    check(unsafe { libc::fchdir(folder.as_raw_fd()) }).map(drop)
}

/// Asks to be killed when the parent ends; true only until the next change of identity.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes only integers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}

pub fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: `name` is zero-terminated; failure would only leave the old name.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    }
}

pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: takes only integers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Every signal as a fresh process expects it: default action, nothing blocked. Asks the kernel directly, because the
/// C library refuses to touch the two signals that it uses itself, and those are inherited over exec too.
pub fn reset_signals() {
    // The kernel's own `struct sigaction` and `sigset_t`: all zeros mean the default action, and no signals.
    let zeros = [0u64; 4];
    let set_size = size_of::<u64>();
    // SAFETY: `zeros` is at least as large as both structs and outlives the calls. Errors (SIGKILL and SIGSTOP) are
    // harmless.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, zeros.as_ptr(), std::ptr::null_mut::<u64>(), set_size);
        }
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            zeros.as_ptr(),
            std::ptr::null_mut::<u64>(),
            set_size,
        );
    }
}

pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// A descriptor that is readable when a child has ended.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by `sigemptyset` before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        owned(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())
    }
}

pub fn drain_signals(fd: BorrowedFd<'_>) {
    let mut buffer = [0u8; 1024];
    // SAFETY: pointer and length describe `buffer`; the descriptor does not block.
    while unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
}

/// How a child ended, as `wait` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Status(pub i32);

impl Status {
    pub fn code(self) -> Option<i32> {
        libc::WIFEXITED(self.0).then(|| libc::WEXITSTATUS(self.0))
    }

    pub fn signal(self) -> Option<i32> {
        libc::WIFSIGNALED(self.0).then(|| libc::WTERMSIG(self.0))
    }
}

/// The next child that has ended; `None` when there is none (or, without `block`, none yet).
pub fn reap(block: bool) -> Option<(i32, Status)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, if block { 0 } else { libc::WNOHANG }) };
        match pid {
            1.. => return Some((pid, Status(status))),
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            _ => return None,
        }
    }
}

/// Collects one particular child.
pub fn wait_for(pid: i32) {
    // SAFETY: null means that the status is not wanted. A missing child (somebody else collected it) is fine.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes only integers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

pub fn signal_process(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: takes an open descriptor and integers; null asks the kernel to fill in the sender.
    check_long(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    })
    .map(drop)
}

/// Closes every descriptor from 3 up that is not in `keep`.
pub fn close_others(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter(|fd| **fd > 2).map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut from = 3u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            // SAFETY: the caller is a freshly forked process in which the closed descriptors' owners never run again.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - u32::from(fd != u32::MAX), 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// Makes `fd` the descriptor number `number`, to be kept over exec.
pub fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: both are descriptors of this process, which is about to exec and owns 0, 1 and 2.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

pub fn become_root_of_namespace() -> io::Result<()> {
    // SAFETY: the group list is empty, so the null pointer is never read; the rest takes integers.
    unsafe {
        check_long(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        check_long(libc::syscall(libc::SYS_setresgid, 0, 0, 0))?;
        check_long(libc::syscall(libc::SYS_setresuid, 0, 0, 0))?;
    }
    Ok(())
}

/// Creates files as `uid` from now on, without giving up any right. (The call behind it would otherwise take the rights
/// over files away when the id changes from 0.)
pub fn create_files_as(uid: u32) -> io::Result<()> {
    const KEEP_RIGHTS: libc::c_int = 1 << 2;
    // SAFETY: takes only integers. `setfsuid` cannot report failure; for root with all rights there is none.
    unsafe {
        check(libc::prctl(libc::PR_SET_SECUREBITS, KEEP_RIGHTS, 0, 0, 0))?;
        libc::setfsuid(uid);
        libc::setfsgid(uid);
        check(libc::prctl(libc::PR_SET_SECUREBITS, 0, 0, 0, 0)).map(drop)
    }
}

/// Gives up every right for good: another user, who can own nothing here.
pub fn become_nobody(uid: u32) -> io::Result<()> {
    // SAFETY: as above.
    unsafe {
        check_long(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        check_long(libc::syscall(libc::SYS_setresgid, uid, uid, uid))?;
        check_long(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

pub fn new_session() {
    // SAFETY: no arguments; fails only for a group leader, for which nothing changes.
    unsafe { libc::setsid() };
}

pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Soft and hard limit; the hard one is lowered to what we may give.
pub fn limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `now` and `wanted` outlive the calls.
    unsafe {
        check(libc::getrlimit(resource, &raw mut now))?;
        let wanted = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        if libc::setrlimit(resource, &raw const wanted) == 0 {
            return Ok(());
        }
        let allowed = libc::rlimit { rlim_cur: soft.min(now.rlim_max), rlim_max: hard.min(now.rlim_max) };
        check(libc::setrlimit(resource, &raw const allowed)).map(drop)
    }
}

/// Replaces this program. Returns only the error.
pub fn exec(path: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|item| item.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with null and point to strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Removes every capability that is not in `keep` (a bit mask) from all sets, so that no exec brings one back.
pub fn keep_capabilities(keep: u64) -> io::Result<()> {
    for capability in 0..64 {
        if keep >> capability & 1 == 0 {
            // SAFETY: takes only integers; numbers that this kernel does not know fail with EINVAL, harmlessly.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    // SAFETY: takes only integers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let header: [u32; 2] = [CAPABILITY_VERSION_3, 0];
    let (low, high) = (keep as u32, (keep >> 32) as u32);
    // effective, permitted, inheritable; low words first, then high words.
    let data: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    check_long(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Installs a system-call filter for this process and all that come from it.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` describes a slice that outlives the call; the kernel copies it.
    check_long(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })
        .map(drop)
}

pub fn effective_uid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}
