//! How long a function's inputs take, remembered over idle times: the next burst is then answered by what is known,
//! and not by trying. Recent inputs count more, so that a function that changes is followed within some dozens.

/// The part of the estimate that one more input replaces.
const WEIGHT: f64 = 0.05;

/// An exponentially weighted mean.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct InputTimes {
    completed: u64,
    run_ms: u64,
    estimate_ms: Option<f64>,
}

impl InputTimes {
    /// `completed` inputs have been finished so far, which ran for `run_ms` in sum.
    pub fn on_progress(&mut self, completed: u64, run_ms: u64) {
        let count = completed.saturating_sub(self.completed);
        if count == 0 {
            return;
        }
        let mean = run_ms.saturating_sub(self.run_ms) as f64 / count as f64;
        let kept = (1.0 - WEIGHT).powi(count.min(1_000) as i32);
        self.estimate_ms = Some(self.estimate_ms.map_or(mean, |before| before * kept + mean * (1.0 - kept)));
        (self.completed, self.run_ms) = (completed, run_ms);
    }

    /// `None` until an input has finished.
    pub fn estimate_ms(&self) -> Option<f64> {
        self.estimate_ms
    }

    /// Other code may take another time.
    pub fn forget_estimate(&mut self) {
        self.estimate_ms = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_inputs_are_the_estimate_and_later_ones_move_it() {
        let mut times = InputTimes::default();
        assert_eq!(times.estimate_ms(), None);
        times.on_progress(4, 400);
        times.on_progress(4, 400);
        assert_eq!(times.estimate_ms(), Some(100.0));
        times.on_progress(5, 1_400);
        assert!((times.estimate_ms().unwrap() - 145.0).abs() < 0.01);
        times.on_progress(105, 101_400);
        assert!(times.estimate_ms().unwrap() > 990.0);
        times.forget_estimate();
        assert_eq!(times.estimate_ms(), None);
        times.on_progress(106, 101_407);
        assert_eq!(times.estimate_ms(), Some(7.0));
    }
}
