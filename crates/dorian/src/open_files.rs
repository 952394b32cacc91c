//! How many files and sockets the server may have open.

/// For clients, containers and stores of buckets: each has several. The 1,024 that most systems begin with are kept that
/// low for programs that cannot count higher (`select`), which this one can. Not all that is allowed, which may be a
/// thousand million: tools that the server starts inherit it, and some go through all numbers to close what they find.
const ENOUGH: u64 = 65_536;

/// Raises this process's limit as far as it may; what is there already is good for a while, too.
pub fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the struct that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return;
    }
    limit.rlim_cur = raised(limit.rlim_cur, limit.rlim_max);
    // SAFETY: the call only reads the struct that it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "could not raise the limit of open files");
    }
}

fn raised(soft: u64, hard: u64) -> u64 {
    soft.max(hard.min(ENOUGH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be_and_never_lowered() {
        assert_eq!([raised(1_024, 524_288), raised(1_024, 4_096), raised(1 << 20, 1 << 20)], [ENOUGH, 4_096, 1 << 20]);
    }

    #[test]
    fn this_process_gets_what_it_may_have() {
        raise_limit();
        let status = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let [soft, hard] = [0, 1].map(|at| line.split_whitespace().nth(at).unwrap().parse::<u64>().unwrap());
        assert!(soft >= hard.min(ENOUGH), "{soft} of {hard}");
    }
}
