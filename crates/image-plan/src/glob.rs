//! Patterns of COPY: `*`, `?`, `[a-z]` within one path component, `\` to escape, as Go's `filepath.Match`; in `--exclude`
//! also `**` for any number of components.

use std::ops::RangeInclusive;

pub fn has_wildcard(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

enum Token {
    Star,
    Any,
    Class {
        ranges: Vec<RangeInclusive<char>>,
        negated: bool,
    },
    Char(char),
    /// What no name matches: a `[` without its end.
    Broken,
}

/// Whether one path component matches.
pub fn matches_name(pattern: &str, name: &str) -> bool {
    let pattern = tokens(pattern);
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut seen) = (0, 0);
    // Where to go on when the last star takes one character more. Earlier stars never need to: the time stays
    // within the product of both lengths.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(at) {
            Some(Token::Star) => {
                retry = Some((at + 1, seen));
                at += 1;
                continue;
            }
            Some(token) => name.get(seen).is_some_and(|c| token.accepts(*c)),
            None if seen == name.len() => return true,
            None => false,
        };
        if step {
            (at, seen) = (at + 1, seen + 1);
            continue;
        }
        match retry {
            Some((after, from)) if from < name.len() => {
                retry = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Star | Self::Broken => false,
            Self::Any => true,
            Self::Class { ranges, negated } => ranges.iter().any(|range| range.contains(&c)) != *negated,
            Self::Char(own) => *own == c,
        }
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut rest = chars.as_slice();
    let mut found = Vec::new();
    loop {
        let (token, after) = match rest {
            [] => return found,
            ['*', after @ ..] => (Token::Star, after),
            ['?', after @ ..] => (Token::Any, after),
            ['[', after @ ..] => class(after).unwrap_or((Token::Broken, &[])),
            ['\\', c, after @ ..] | [c, after @ ..] => (Token::Char(*c), after),
        };
        found.push(token);
        rest = after;
    }
}

/// After `[`: the class, and what follows `]`.
fn class(text: &[char]) -> Option<(Token, &[char])> {
    let (negated, mut text) = match text {
        ['^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        match text {
            [']', rest @ ..] if !ranges.is_empty() => return Some((Token::Class { ranges, negated }, rest)),
            [low, '-', high, rest @ ..] if *high != ']' => {
                ranges.push(*low..=*high);
                text = rest;
            }
            [c, rest @ ..] => {
                ranges.push(*c..=*c);
                text = rest;
            }
            [] => return None,
        }
    }
}

/// Whether a relative path matches a pattern, component by component.
pub fn matches_path(pattern: &str, path: &str) -> bool {
    pattern.split('/').count() == path.split('/').count()
        && pattern.split('/').zip(path.split('/')).all(|(pattern, name)| matches_name(pattern, name))
}

/// Whether `--exclude=pattern` leaves out a relative path: the pattern matches it or a folder that it is in.
pub fn excludes(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.trim_matches('/').split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    (1..=path.len()).any(|length| matches_parts(&pattern, &path[..length]))
}

fn matches_parts(pattern: &[&str], path: &[&str]) -> bool {
    // As in `matches_name`, one level up: only the last `**` is tried again.
    let (mut at, mut seen) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(at) {
            Some(&"**") => {
                retry = Some((at + 1, seen));
                at += 1;
                continue;
            }
            Some(part) => path.get(seen).is_some_and(|name| matches_name(part, name)),
            None if seen == path.len() => return true,
            None => false,
        };
        if step {
            (at, seen) = (at + 1, seen + 1);
            continue;
        }
        match retry {
            Some((after, from)) if from < path.len() => {
                retry = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_one_component() {
        assert!(matches_path("src/*.py", "src/a.py"));
        assert!(!matches_path("src/*.py", "src/deep/a.py"));
        assert!(matches_path("*/a.py", "src/a.py"));
        assert!(matches_name("*a*b", "xxaxxab"));
        assert!(!matches_name("*a*b", "xxaxxabc"));
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

    #[test]
    fn many_stars_take_no_time() {
        let started = std::time::Instant::now();
        assert!(!matches_name(&"*a".repeat(200), &format!("{}b", "a".repeat(5_000))));
        assert!(started.elapsed() < std::time::Duration::from_secs(2));
    }

    #[test]
    fn an_exclusion_takes_whole_folders_and_double_stars_any_depth() {
        assert!(excludes("*.pyc", "a.pyc"));
        assert!(!excludes("*.pyc", "deep/a.pyc"));
        assert!(excludes("**/*.pyc", "a.pyc") && excludes("**/*.pyc", "very/deep/a.pyc"));
        assert!(excludes("deep", "deep/a/b") && !excludes("deep", "other/deep"));
    }
}
