//! Percentiles.

use std::time::Duration;

use serde::Serialize;

#[derive(Debug, Serialize, PartialEq)]
pub struct Percentiles {
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub count: usize,
}

impl Percentiles {
    pub fn of(mut values: Vec<Duration>) -> Self {
        values.sort_unstable();
        let at = |share: f64| {
            let index = (values.len().saturating_sub(1) as f64 * share).round() as usize;
            values.get(index).map_or(0.0, |v| v.as_secs_f64() * 1e6)
        };
        Self { p50_us: at(0.5), p90_us: at(0.9), p99_us: at(0.99), count: values.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_the_sorted_values() {
        let found = Percentiles::of((1..=101).rev().map(Duration::from_micros).collect());
        assert_eq!((found.p50_us, found.p90_us, found.p99_us), (51.0, 91.0, 100.0));
    }

    #[test]
    fn nothing_has_percentiles_of_zero() {
        assert_eq!(Percentiles::of(Vec::new()).count, 0);
    }
}
