//! One kind of error for a Dockerfile: a sentence, and the place it is about.

use std::fmt;

/// A place in the text: the physical line it begins on, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// How many characters the caret underlines, at least 1.
    pub length: usize,
    /// The whole physical line, for showing.
    pub text: String,
}

/// Why a Dockerfile is not accepted. Shown to the user as it is, with the line and a caret below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileError {
    pub message: String,
    pub position: Position,
}

impl DockerfileError {
    pub fn new(position: &Position, message: impl Into<String>) -> Self {
        Self { message: message.into(), position: position.clone() }
    }
}

/// Characters of a line that are shown: a screen's width.
const SHOWN: usize = 160;
/// Of these, so many before the place that the error is about.
const BEFORE: usize = 40;

impl Position {
    /// The part of the line around the place, and where in that the underlined part begins (from 0) and how long it is.
    fn excerpt(&self) -> (String, usize, usize) {
        let (begin, length) = (self.column.saturating_sub(1), self.length.max(1));
        if self.text.chars().count() <= SHOWN {
            return (self.text.clone(), begin, length);
        }
        let from = begin.saturating_sub(BEFORE);
        let mut rest = self.text.chars().skip(from);
        let mut shown: String = if from > 0 { "…".to_owned() } else { String::new() };
        let at = begin - from + shown.chars().count();
        shown.extend(rest.by_ref().take(SHOWN));
        let end = shown.chars().count();
        if rest.next().is_some() {
            shown.push('…');
        }
        (shown, at, length.min(end.saturating_sub(at).max(1)))
    }
}

impl fmt::Display for DockerfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.position.line;
        let (text, column, length) = self.position.excerpt();
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(column);
        let carets = "^".repeat(length);
        writeln!(f, "line {line}: {}", self.message)?;
        writeln!(f, "{number} | {text}")?;
        write!(f, "{margin} | {indent}{carets}")
    }
}

impl std::error::Error for DockerfileError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_line_only_what_is_around_the_place_is_shown() {
        let text = format!("RUN {} wrong {}", "x".repeat(300_000), "y".repeat(100_000));
        let position = Position { line: 7, column: 300_006, length: 5, text };
        let shown = DockerfileError::new(&position, "a message").to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "line 7: a message");
        assert!(lines[1].chars().count() < 200, "{shown}");
        let at = lines[1].chars().position(|c| c == 'w').unwrap();
        assert_eq!(lines[2].chars().skip(at).collect::<String>(), "^^^^^", "{shown}");
        let whole = Position { line: 1, column: 1, length: 400_000, text: "z".repeat(400_000) };
        assert!(DockerfileError::new(&whole, "").to_string().chars().count() < 500);
    }

    #[test]
    fn a_short_line_is_shown_whole() {
        let position = Position { line: 2, column: 6, length: 3, text: "COPY a/b /c".to_owned() };
        let shown = DockerfileError::new(&position, "no").to_string();
        assert_eq!(shown, "line 2: no\n2 | COPY a/b /c\n  |      ^^^");
    }
}
