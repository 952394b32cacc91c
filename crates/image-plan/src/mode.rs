//! `--chmod`: an octal mode, or changes to the mode that a file has (`u+x,go=rX`).

use std::fmt;

/// How a copied file's permission bits are decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    Exactly(u32),
    Changes(Vec<Change>),
}

/// One comma's worth: who, what to do, and with which bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of `u`, `g`, `o`.
    who: Vec<char>,
    /// `+`, `-` or `=`.
    operator: char,
    /// Of `r`, `w`, `x`, `X`, `s`, `t`.
    permissions: Vec<char>,
}

impl ModeChange {
    /// The error is a sentence without a place.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Self::Exactly).ok_or_else(|| format!("`--chmod={text}`: not an octal mode like `755`"));
        }
        let changes: Option<Vec<Vec<Change>>> = text.split(',').map(Change::parse).collect();
        let changes = changes.map(|changes| changes.into_iter().flatten().collect());
        changes
            .map(Self::Changes)
            .ok_or_else(|| format!("`--chmod={text}`: neither an octal mode like `755` nor changes like `u+x,go=rX`"))
    }

    /// The new permission bits of something that has `mode`.
    pub fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        match self {
            Self::Exactly(mode) => *mode,
            Self::Changes(changes) => changes.iter().fold(mode & 0o7777, |mode, change| change.apply(mode, is_folder)),
        }
    }
}

impl Change {
    /// `go+r-w` is two changes for the same people.
    fn parse(text: &str) -> Option<Vec<Self>> {
        let start = text.find(['+', '-', '='])?;
        let (who, mut rest) = text.split_at(start);
        if !who.chars().all(|c| matches!(c, 'u' | 'g' | 'o' | 'a')) {
            return None;
        }
        let who: Vec<char> =
            if who.is_empty() || who.contains('a') { vec!['u', 'g', 'o'] } else { who.chars().collect() };
        let mut changes = Vec::new();
        while let Some(operator) = rest.chars().next() {
            let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |end| end + 1);
            let permissions: Vec<char> = rest[1..end].chars().collect();
            if !permissions.iter().all(|c| matches!(c, 'r' | 'w' | 'x' | 'X' | 's' | 't')) {
                return None;
            }
            changes.push(Self { who: who.clone(), operator, permissions });
            rest = &rest[end..];
        }
        Some(changes)
    }

    fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        let (mut bits, mut covered) = (0, 0);
        for who in &self.who {
            let (shift, special) = match who {
                'u' => (6, 0o4000),
                'g' => (3, 0o2000),
                _ => (0, 0),
            };
            covered |= 0o7 << shift | special;
            for permission in &self.permissions {
                bits |= match permission {
                    'r' => 0o4 << shift,
                    'w' => 0o2 << shift,
                    'x' => 0o1 << shift,
                    'X' if is_folder || mode & 0o111 != 0 => 0o1 << shift,
                    's' => special,
                    't' => 0o1000,
                    _ => 0,
                };
            }
        }
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !covered | bits,
        }
    }
}

impl fmt::Display for ModeChange {
    /// One text for one meaning, for keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(mode) => write!(f, "{mode:o}"),
            Self::Changes(changes) => changes.iter().try_for_each(|Change { who, operator, permissions }| {
                let (who, permissions) = (String::from_iter(who), String::from_iter(permissions));
                write!(f, "{who}{operator}{permissions},")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, mode: u32) -> u32 {
        ModeChange::parse(text).unwrap().apply(mode, false)
    }

    #[test]
    fn modes_are_octal_or_changes() {
        assert_eq!(changed("4755", 0o600), 0o4755);
        assert_eq!(changed("u+x", 0o644), 0o744);
        assert_eq!(changed("+x", 0o644), 0o755);
        assert_eq!(changed("a-w", 0o666), 0o444);
        assert_eq!(changed("u=rwX,go=rX", 0o700), 0o755);
        assert_eq!(changed("go=", 0o755), 0o700);
        assert_eq!(changed("u+rw-x,g+s", 0o710), 0o2610);
        assert_eq!(changed("u+s,+t", 0o755), 0o5755);
    }

    #[test]
    fn a_large_x_is_for_folders_and_what_runs_already() {
        let change = ModeChange::parse("a+X").unwrap();
        assert_eq!(
            (change.apply(0o644, false), change.apply(0o644, true), change.apply(0o744, false)),
            (0o644, 0o755, 0o755)
        );
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "z+x", "u", "u+q", "99", "17777", "u+x,", "u*x", "é+x", "u+é"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
