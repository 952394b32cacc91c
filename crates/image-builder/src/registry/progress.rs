//! What a person sees of a pull: a line about every second, and one at the end.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::logs::LogSink;

const EVERY: Duration = Duration::from_secs(1);

/// One image's pull, shared by its downloads.
pub(crate) struct Progress {
    logs: LogSink,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    counts: Counts,
    /// When a line was last said.
    last: Instant,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    bytes: u64,
    all_bytes: u64,
    layers: usize,
    all_layers: usize,
}

impl Progress {
    pub fn new(all_bytes: u64, all_layers: usize, logs: LogSink) -> Self {
        let counts = Counts { all_bytes, all_layers, ..Counts::default() };
        let started = Instant::now();
        Self { logs, started, state: Mutex::new(State { counts, last: started }) }
    }

    /// Bytes that arrived, or were there from an earlier attempt.
    pub fn add(&self, bytes: u64) {
        self.count(|counts| counts.bytes += bytes);
    }

    /// Bytes that have to come once more.
    pub fn take_back(&self, bytes: u64) {
        self.count(|counts| counts.bytes = counts.bytes.saturating_sub(bytes));
    }

    pub fn layer_done(&self) {
        self.count(|counts| counts.layers += 1);
    }

    pub fn say(&self, text: String) {
        self.logs.say(text);
    }

    pub fn finish(&self) {
        let counts = self.state.lock().counts;
        self.logs.say(counts.closing(self.started.elapsed()));
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut state = self.state.lock();
        change(&mut state.counts);
        if state.last.elapsed() >= EVERY {
            state.last = Instant::now();
            let line = state.counts.line();
            drop(state);
            self.logs.say(line);
        }
    }
}

impl Counts {
    fn line(&self) -> String {
        let Self { bytes, all_bytes, layers, all_layers } = *self;
        format!("   {} of {} MB, {layers} of {all_layers} layers", megabytes(bytes), megabytes(all_bytes))
    }

    fn closing(&self, elapsed: Duration) -> String {
        let layers = if self.layers == 1 { "layer" } else { "layers" };
        format!("   pulled {} {layers}, {} MB, in {:.1} s", self.layers, megabytes(self.bytes), elapsed.as_secs_f64())
    }
}

pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn lines_come_about_every_second_however_much_arrives() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        let progress = Progress::new(1_000_000, 2, LogSink::new(move |log| kept.lock().push(log.text)));
        (0..500).for_each(|_| progress.add(1_000));
        assert!(lines.lock().is_empty());
        progress.state.lock().last -= EVERY;
        progress.layer_done();
        progress.add(250_000);
        assert_eq!(*lines.lock(), ["   0.5 of 1.0 MB, 1 of 2 layers"]);
        progress.finish();
        assert_eq!(lines.lock().last().unwrap(), "   pulled 1 layer, 0.8 MB, in 0.0 s");
    }
}
