//! Numbers in sentences.

use std::fmt::Display;

/// `1 file`, `2 files`: a count with its noun, whose plural ends in `s`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    if count == N::from(1) { format!("{count} {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_thing_is_not_called_many() {
        assert_eq!([0_usize, 1, 2].map(|n| counted(n, "file")), ["0 files", "1 file", "2 files"]);
        assert_eq!(counted(1.5_f64, "second"), "1.5 seconds");
        assert_eq!(counted(1_u64, "day"), "1 day");
    }
}
