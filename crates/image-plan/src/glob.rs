//! Patterns in COPY sources: `*`, `?`, `[a-z]` within one path component, `\` to escape, as Go's `filepath.Match`.

pub(crate) fn has_wildcard(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// Whether one path component matches.
fn matches_component(pattern: &[char], name: &[char]) -> bool {
    match pattern {
        [] => name.is_empty(),
        ['*', rest @ ..] => (0..=name.len()).any(|skipped| matches_component(rest, &name[skipped..])),
        ['?', rest @ ..] => !name.is_empty() && matches_component(rest, &name[1..]),
        ['[', rest @ ..] => match (class(rest), name) {
            (Some((set, negated, rest)), [c, tail @ ..]) => {
                let inside = set.iter().any(|(low, high)| low <= c && c <= high);
                inside != negated && matches_component(rest, tail)
            }
            _ => false,
        },
        ['\\', c, rest @ ..] | [c, rest @ ..] => name.first() == Some(c) && matches_component(rest, &name[1..]),
    }
}

type Class<'a> = (Vec<(char, char)>, bool, &'a [char]);

/// After `[`: the ranges, whether they are excluded, and what follows `]`.
fn class(text: &[char]) -> Option<Class<'_>> {
    let (negated, mut text) = match text {
        ['^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut set = Vec::new();
    loop {
        match text {
            [']', rest @ ..] if !set.is_empty() => return Some((set, negated, rest)),
            [low, '-', high, rest @ ..] if *high != ']' => {
                set.push((*low, *high));
                text = rest;
            }
            [c, rest @ ..] => {
                set.push((*c, *c));
                text = rest;
            }
            [] => return None,
        }
    }
}

/// Whether a relative path matches a pattern, component by component.
pub(crate) fn matches_path(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len()
        && pattern.iter().zip(path).all(|(pattern, name)| {
            matches_component(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_one_component() {
        assert!(matches_path("src/*.py", "src/a.py"));
        assert!(!matches_path("src/*.py", "src/deep/a.py"));
        assert!(matches_path("*/a.py", "src/a.py"));
    }

    #[test]
    fn classes_and_escapes_work() {
        assert!(matches_path("file[0-9x].t?t", "file7.txt"));
        assert!(matches_path("file[^0-9].txt", "filez.txt"));
        assert!(!matches_path("file[^0-9].txt", "file1.txt"));
        assert!(matches_path(r"a\*b", "a*b"));
        assert!(!matches_path(r"a\*b", "axb"));
        assert!(!matches_path("[", "["));
    }
}
