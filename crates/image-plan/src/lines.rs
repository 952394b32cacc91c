//! Physical lines to logical lines: comments, continuations, the escape directive, here-documents.
//!
//! A logical line remembers where each of its characters came from, so that an error inside a long RUN points at the
//! physical line the user sees in their editor.

use crate::error::{DockerfileError, Position};
use crate::expand::{has_open_quote, split_words};
use crate::instruction::Heredoc;

/// One instruction's text with its continuations joined.
#[derive(Debug, Clone)]
pub(crate) struct LogicalLine {
    pub text: String,
    /// (byte offset in `text`, index of the physical line, column there in characters), ascending.
    segments: Vec<(usize, usize, usize)>,
    pub heredocs: Vec<Heredoc>,
}

pub(crate) struct Source {
    lines: Vec<String>,
    /// Whether the line's entry goes on with the next line.
    goes_on: Vec<bool>,
    pub escape: char,
}

impl Source {
    /// The client sends one entry per line, but an entry may hold several lines itself.
    pub fn new(entries: &[impl AsRef<str>]) -> Self {
        let mut lines: Vec<String> = Vec::new();
        let mut goes_on = Vec::new();
        for entry in entries {
            let parts = entry.as_ref().split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned());
            lines.extend(parts);
            goes_on.resize(lines.len(), true);
            if let Some(last) = goes_on.last_mut() {
                *last = false;
            }
        }
        let escape = escape_directive(&lines).unwrap_or('\\');
        Self { lines, goes_on, escape }
    }

    pub fn logical_lines(&self) -> Result<Vec<LogicalLine>, DockerfileError> {
        let mut found = Vec::new();
        let mut next = 0;
        while next < self.lines.len() {
            if is_blank_or_comment(&self.lines[next]) {
                next += 1;
                continue;
            }
            let (mut line, after) = self.join_continuations(next);
            next = after;
            // An escape character alone on its line, with nothing after it.
            if line.text.is_empty() {
                continue;
            }
            if takes_heredocs(&line.text) {
                next = self.read_heredocs(&mut line, next)?;
            }
            found.push(line);
        }
        Ok(found)
    }

    /// Where `length` bytes at `offset` of a logical line stand in the text.
    pub fn position(&self, line: &LogicalLine, offset: usize, length: usize) -> Position {
        let at = line.segments.partition_point(|(start, ..)| *start <= offset).saturating_sub(1);
        let (start, index, column) = line.segments[at];
        let within = line.text.get(start..offset).map_or(0, |text| text.chars().count());
        let text = self.lines[index].clone();
        let column = column + within;
        let underlined = line.text.get(offset..offset + length).map_or(1, |text| text.chars().count());
        let room = text.chars().count().saturating_sub(column - 1).max(1);
        Position { line: index + 1, column, length: underlined.clamp(1, room), text }
    }

    fn join_continuations(&self, first: usize) -> (LogicalLine, usize) {
        let mut text = String::new();
        let mut segments = Vec::new();
        let mut index = first;
        let mut in_value = false;
        while index < self.lines.len() {
            let raw = &self.lines[index];
            // Comments and empty lines inside a continued instruction are dropped, as every builder does.
            if index > first && !in_value && is_blank_or_comment(raw) {
                index += 1;
                continue;
            }
            let visible = if index == first { raw.trim_start() } else { raw.as_str() };
            let column = raw.chars().count() - visible.chars().count() + 1;
            segments.push((text.len(), index, column));
            index += 1;
            match strip_continuation(visible, self.escape) {
                Some(kept) => text.push_str(kept),
                None => {
                    text.push_str(visible);
                    // The client puts a value with line breaks into one entry, in quotes. A file's lines are entries of
                    // their own, so there an open quote stays the mistake that it is.
                    in_value = self.goes_on[index - 1] && takes_values(&text) && has_open_quote(&text, self.escape);
                    if !in_value {
                        break;
                    }
                    text.push('\n');
                }
            }
        }
        let end = text.trim_end().len();
        text.truncate(end);
        (LogicalLine { text, segments, heredocs: Vec::new() }, index)
    }

    fn read_heredocs(&self, line: &mut LogicalLine, mut next: usize) -> Result<usize, DockerfileError> {
        for (offset, word) in split_words(&line.text, self.escape) {
            let Some(mut heredoc) = heredoc_start(word) else { continue };
            let mut closed = false;
            while next < self.lines.len() && !closed {
                let raw = &self.lines[next];
                next += 1;
                let body_line = if heredoc.strip_tabs { raw.trim_start_matches('\t') } else { raw };
                if body_line == heredoc.name {
                    closed = true;
                } else {
                    heredoc.body.push_str(body_line);
                    heredoc.body.push('\n');
                }
            }
            if !closed {
                let position = self.position(line, offset, word.len());
                let message = format!("the here-document is not ended by a line `{}`", heredoc.name);
                return Err(DockerfileError::new(&position, message));
            }
            line.heredocs.push(heredoc);
        }
        Ok(next)
    }
}

fn is_blank_or_comment(line: &str) -> bool {
    let trimmed = line.trim_start();
    trimmed.is_empty() || trimmed.starts_with('#')
}

/// `# escape=` counts only in the block of `# name=value` lines that opens the file.
fn escape_directive(lines: &[String]) -> Option<char> {
    for line in lines {
        let directive = line.trim().strip_prefix('#')?.trim();
        let (name, value) = directive.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("escape") {
            return match value.trim() {
                "`" => Some('`'),
                _ => Some('\\'),
            };
        }
    }
    None
}

/// The line without its final escape character, when it has one that is not itself escaped.
fn strip_continuation(line: &str, escape: char) -> Option<&str> {
    let kept = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!kept.ends_with(escape)).then_some(kept)
}

fn takes_heredocs(text: &str) -> bool {
    is_one_of(text, &["RUN", "COPY", "ADD"])
}

fn takes_values(text: &str) -> bool {
    is_one_of(text, &["ENV", "LABEL", "ARG"])
}

fn is_one_of(text: &str, names: &[&str]) -> bool {
    let name = text.split_whitespace().next().unwrap_or_default();
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn heredoc_start(word: &str) -> Option<Heredoc> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (descriptor, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (strip_tabs, quoted) = match rest.strip_prefix('-') {
        Some(after) => (true, after),
        None => (false, rest),
    };
    let name: String = quoted.chars().filter(|c| !matches!(c, '\'' | '"')).collect();
    // `<<<` is a here-string, which the shell itself reads.
    if name.is_empty() || name.contains('<') {
        return None;
    }
    let expand = name.len() == quoted.len();
    Some(Heredoc { name, descriptor: descriptor.to_owned(), expand, strip_tabs, body: String::new() })
}
