//! Whether an XML text has the shape of what stores answer, told in one pass before it is parsed.
//!
//! A store is whatever server a user names, and the parser's time and memory grow with the square of a tag's attributes
//! and of nested namespaces. Answers of stores are flat and have hardly any attributes, so bounds on both cost nothing.

/// In bytes. The longest that stores send are their declarations of a namespace, of less than a hundred.
const MAX_TAG: usize = 1 << 10;
/// Owners and checksums in the entries of listings are the deepest, at four.
const MAX_DEPTH: usize = 16;

/// What is wrong, if something is. That tags match, and all other rules, are left to the parser.
pub fn fault(xml: &str) -> Option<&'static str> {
    let (mut rest, mut depth) = (xml.as_bytes(), 0_usize);
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        rest = &rest[at..];
        let skipped = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")]
            .iter()
            .find(|(begin, _)| rest.starts_with(begin.as_bytes()));
        if let Some((begin, end)) = skipped {
            let Some(length) = find(&rest[begin.len()..], end.as_bytes()) else { return Some("no end") };
            rest = &rest[begin.len() + length + end.len()..];
            continue;
        }
        if rest.starts_with(b"<!") {
            return Some("a document type");
        }
        let Some(end) = end_of_tag(rest) else { return Some("a tag without an end, or of more than 1 KiB") };
        match (rest[1], rest[end - 1]) {
            (b'/', _) => depth = depth.saturating_sub(1),
            (_, b'/') => {}
            _ if depth == MAX_DEPTH => return Some("elements nested too deep"),
            _ => depth += 1,
        }
        rest = &rest[end + 1..];
    }
    None
}

/// Position of its `>`, which may also stand in an attribute's value.
fn end_of_tag(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in text.iter().take(MAX_TAG).enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_of_stores_have_the_shape() {
        let name = "http://s3.amazonaws.com/doc/2006-03-01/";
        let answer = format!(
            "<?xml version=\"1.0\"?><R xmlns=\"{name}\"><!-- it's > --><C><K a='>'>x</K><O><ID/></O></C><![CDATA[<a '>]]></R>"
        );
        assert_eq!(fault(&answer), None);
        assert_eq!(fault(&format!("<R>{}</R>", "<C><K>key</K></C>".repeat(10_000))), None);
    }

    #[test]
    fn what_would_take_the_parser_long_has_not() {
        let attributes: String = (0..1000).map(|number| format!(" a{number}='>'")).collect();
        assert!(fault(&format!("<R{attributes}/>")).is_some());
        let nested: String = (0..1000).map(|number| format!("<a xmlns:n{number}='x'>")).collect();
        assert!(fault(&nested).is_some());
        for bad in ["<", "<a", "<a b='>", "<!-- ", "<?", "<![CDATA[>", "<!DOCTYPE html><html/>"] {
            assert!(fault(bad).is_some(), "{bad}");
        }
    }

    proptest! {
        /// What the parser takes, this takes too, as long as it is small.
        #[test]
        fn nothing_that_is_small_and_parses_is_refused(text in "(<a>|</a>|<a b='>\"'/>|<!--'<-->|<\\?x >\\?>|<!\\[CDATA\\[<'\\]\\]>|[a' ]){0,12}") {
            let text = format!("<r>{text}</r>");
            if roxmltree::Document::parse(&text).is_ok() {
                prop_assert_eq!(fault(&text), None);
            }
        }
    }
}
