//! Whether an XML text has the shape of what stores answer, told in one pass before it is parsed.
//!
//! A store is whatever server a user names, and the parser's time and memory grow with the square of a tag's attributes,
//! with the namespaces around each tag that declares one, and with the square of a text in pieces (`CDATA`: each copies
//! all before it). Answers of stores are flat, escape their texts and have hardly any attributes, so bounds on the first
//! two and none of the third cost nothing.

/// In bytes. The longest that stores send are their declarations of a namespace, of less than a hundred.
const MAX_TAG: usize = 1 << 10;
/// Owners and checksums in the entries of listings are the deepest, at four.
const MAX_DEPTH: usize = 16;
/// Declared by a tag and those around it. Stores have one or two, some say them anew in each entry.
const MAX_NAMESPACES: usize = 8;

/// What is wrong, if something is. That tags match, and all other rules, are left to the parser.
pub fn fault(xml: &str) -> Option<&'static str> {
    let (mut rest, mut depth) = (xml.as_bytes(), 0_usize);
    // By depth: of all tags around.
    let mut namespaces = [0; MAX_DEPTH + 1];
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        rest = &rest[at..];
        let skipped = [("<!--", "-->"), ("<?", "?>")].iter().find(|(begin, _)| rest.starts_with(begin.as_bytes()));
        if let Some((begin, end)) = skipped {
            let Some(length) = find(&rest[begin.len()..], end.as_bytes()) else { return Some("no end") };
            rest = &rest[begin.len() + length + end.len()..];
            continue;
        }
        if rest.starts_with(b"<!") {
            return Some("a document type, or text in `CDATA`");
        }
        let Some(end) = end_of_tag(rest) else { return Some("a tag without an end, or of more than 1 KiB") };
        let declared = namespaces[depth] + declared(&rest[..end]);
        match (rest[1], rest[end - 1]) {
            (b'/', _) => depth = depth.saturating_sub(1),
            _ if declared > MAX_NAMESPACES => return Some("too many namespaces"),
            (_, b'/') => {}
            _ if depth == MAX_DEPTH => return Some("elements nested too deep"),
            _ => {
                depth += 1;
                namespaces[depth] = declared;
            }
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

/// Namespaces that a tag declares; also what only looks like it.
fn declared(tag: &[u8]) -> usize {
    tag.windows(5).filter(|window| window == b"xmlns").count()
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
        let answer =
            format!("<?xml version=\"1.0\"?><R xmlns=\"{name}\"><!-- it's > --><C><K a='>'>x</K><O><ID/></O></C></R>");
        assert_eq!(fault(&answer), None);
        assert_eq!(fault(&format!("<R>{}</R>", "<C><K>key</K></C>".repeat(10_000))), None);
        let again = format!("<C xmlns='{name}' xmlns:i='i'><O xmlns=''/></C>").repeat(10_000);
        assert_eq!(fault(&format!("<R xmlns='{name}'>{again}</R>")), None);
    }

    #[test]
    fn what_would_take_the_parser_long_has_not() {
        let attributes: String = (0..1000).map(|number| format!(" a{number}='>'")).collect();
        assert!(fault(&format!("<R{attributes}/>")).is_some());
        let nested: String = (0..1000).map(|number| format!("<a xmlns:n{number}='x'>")).collect();
        assert!(fault(&nested).is_some());
        let wide: String = (0..9).map(|number| format!(" xmlns:n{number}='x'")).collect();
        assert!(fault(&format!("<a><b{wide}/></a>")).is_some());
        assert!(fault("<R>a<![CDATA[b]]>c</R>").is_some());
        for bad in ["<", "<a", "<a b='>", "<!-- ", "<?", "<![CDATA[>", "<!DOCTYPE html><html/>"] {
            assert!(fault(bad).is_some(), "{bad}");
        }
    }

    proptest! {
        /// What the parser takes, this takes too, as long as it is small.
        #[test]
        fn nothing_that_is_small_and_parses_is_refused(text in "(<a>|</a>|<a b='>\"'/>|<!--'<-->|<\\?x >\\?>|[a' ]){0,12}") {
            let text = format!("<r>{text}</r>");
            if roxmltree::Document::parse(&text).is_ok() {
                prop_assert_eq!(fault(&text), None);
            }
        }
    }
}
