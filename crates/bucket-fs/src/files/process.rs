//! Who closes a file, as the kernel's process table tells.

/// The process that thread `thread` belongs to; the thread itself where nothing is known of it.
pub fn process_of(thread: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(thread)
}

/// The thread is ending because a signal killed its process: it closes its files, but did not finish them.
///
/// A program that is being started also closes files, those that it is not to have, and until it has, whoever reads
/// `stat` of it waits: the two would wait for each other. `status` can be read; it tells of memory, which a thread that
/// ends has given back before it closes its files.
pub fn is_killed(thread: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let has_memory = status.lines().any(|line| line.starts_with("VmSize:"));
    !has_memory && std::fs::read_to_string(format!("/proc/{thread}/stat")).is_ok_and(|stat| says_killed(&stat))
}

/// Flags of a thread that is ending (`PF_EXITING`).
const ENDING: u64 = 0x4;

/// Field 9 has the flags, field 52 the exit code as `wait` tells it: its low seven bits are the signal.
fn says_killed(stat: &str) -> bool {
    // The second field is a name in parentheses, which may contain anything.
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    number(9) & ENDING != 0 && number(52) & 0x7f != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(flags: u64, exit_code: u64) -> String {
        let mut fields = vec!["0".to_owned(); 50];
        fields[9 - 3] = flags.to_string();
        fields[52 - 3] = exit_code.to_string();
        format!("17 (a) b) {}", fields.join(" "))
    }

    #[test]
    fn a_killed_process_is_told_from_one_that_exits_and_one_that_runs() {
        assert!(says_killed(&stat(0x40_0104, 9)));
        assert!(!says_killed(&stat(0x40_0104, 1 << 8)));
        assert!(!says_killed(&stat(0x40_0100, 9)));
        assert!(!says_killed("") && !is_killed(std::process::id()));
    }

    #[test]
    fn threads_belong_to_their_process() {
        let own = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get()).join().unwrap();
        assert_eq!(process_of(own as u32), own as u32, "the thread is gone");
        assert_eq!(process_of(std::process::id()), std::process::id());
    }
}
