//! What a command says: data to standard output, one-line progress to standard error.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often a slow step says that it is still at work: seldom enough for a log file, often enough for a person.
const STILL_AT_WORK: Duration = Duration::from_secs(10);

/// Set once, before anything is said, when a person wants no progress.
static QUIET: AtomicBool = AtomicBool::new(false);

pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Prints a command's result. A reader that has gone away (`dorian env | head -0`) is no error.
pub fn print(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

/// Says what is going on, unless nobody wants to know.
pub fn progress(text: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        say(text);
    }
}

/// Says one line that matters: an error, a warning.
pub fn say(text: &str) {
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let _ =
        if colour { writeln!(stderr(), "\x1b[2mdorian:\x1b[0m {text}") } else { writeln!(stderr(), "dorian: {text}") };
}

/// `1 layer`, `2 layers`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Does a piece of work that may take long; says what it is only when it does.
pub fn step_if_slow<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, ended) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                progress(what);
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Does a slow piece of work, saying what it is, and from time to time that it still goes on.
pub fn step<T>(what: &str, work: impl FnOnce() -> T) -> T {
    progress(what);
    let started = Instant::now();
    let (done, ended) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(STILL_AT_WORK) == Err(RecvTimeoutError::Timeout) {
                progress(&format!("still {what} ({} s)", started.elapsed().as_secs()));
            }
        });
        let result = work();
        drop(done);
        result
    })
}
