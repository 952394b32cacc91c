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

impl fmt::Display for DockerfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column, length, text } = &self.position;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(column.saturating_sub(1));
        let carets = "^".repeat((*length).max(1));
        writeln!(f, "line {line}: {}", self.message)?;
        writeln!(f, "{number} | {text}")?;
        write!(f, "{margin} | {indent}{carets}")
    }
}

impl std::error::Error for DockerfileError {}
