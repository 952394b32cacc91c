//! Numbers and names in sentences.

use std::borrow::Cow;
use std::fmt::Display;

/// `1 file`, `2 files`: a count with its noun, whose plural ends in `s`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    if count == N::from(1) { format!("{count} {noun}") } else { format!("{count} {noun}s") }
}

/// The text, or its first `most` characters with an ellipsis behind them.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        // What was cut already is not cut again.
        Some((end, '…')) if end + '…'.len_utf8() == text.len() => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::{counted, shortened};

    #[test]
    fn a_long_text_is_cut_once() {
        let cut = shortened("äbcdef", 3).into_owned();
        assert_eq!((cut.as_str(), shortened(&cut, 3)), ("äbc…", Cow::Borrowed("äbc…")));
        assert_eq!(shortened("abc", 3), "abc");
    }

    #[test]
    fn one_thing_is_not_called_many() {
        assert_eq!([0_usize, 1, 2].map(|n| counted(n, "file")), ["0 files", "1 file", "2 files"]);
        assert_eq!(counted(1.5_f64, "second"), "1.5 seconds");
        assert_eq!(counted(1_u64, "day"), "1 day");
    }
}
