//! Which bytes a `Range` header asks for. Pure; RFC 9110, section 14.

use std::ops::Range;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Also what we do not understand, and several ranges at once: a server may always answer with all of it.
    All,
    Some(Range<u64>),
    /// Nothing of it is there.
    Outside,
}

/// `header` is the header's value, `length` the length of what it is asked of.
pub(crate) fn asked_range(header: &str, length: u64) -> Asked {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::All;
    };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.is_empty() => first..length,
        // The last so many bytes.
        (Err(_), Ok(many)) if first.is_empty() => length.saturating_sub(many)..length,
        _ => return Asked::All,
    };
    if range.is_empty() { Asked::Outside } else { Asked::Some(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_the_end() {
        for (header, range) in [
            ("bytes=0-", 0..10),
            ("bytes=0-0", 0..1),
            ("bytes=3-5", 3..6),
            ("bytes=9-", 9..10),
            ("bytes=4-400", 4..10),
            ("bytes=4-18446744073709551615", 4..10),
            ("bytes=-3", 7..10),
            ("bytes=-30", 0..10),
        ] {
            assert_eq!(asked_range(header, 10), Asked::Some(range), "{header}");
        }
    }

    #[test]
    fn what_begins_after_the_end_is_outside() {
        for header in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(asked_range(header, 10), Asked::Outside, "{header}");
        }
        assert_eq!(asked_range("bytes=0-", 0), Asked::Outside);
    }

    #[test]
    fn what_is_not_understood_asks_for_all() {
        for header in
            ["", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=a-b", "bytes=0-1,4-5", "lines=0-1", "bytes=0x1-2"]
        {
            assert_eq!(asked_range(header, 10), Asked::All, "{header}");
        }
    }
}
