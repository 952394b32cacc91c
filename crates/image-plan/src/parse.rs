//! Logical lines to instructions.

use crate::error::{DockerfileError, Position};
use crate::expand::split_words;
use crate::instruction::{Command, Flag, Instruction, Kind};
use crate::lines::{LogicalLine, Source};

/// Parses a Dockerfile given as lines, the way the client sends it. An entry may hold several lines.
pub fn parse(lines: &[impl AsRef<str>]) -> Result<Vec<Instruction>, DockerfileError> {
    let source = Source::new(lines);
    source.logical_lines()?.iter().map(|line| Parser { source: &source, line }.instruction()).collect()
}

struct Parser<'a> {
    source: &'a Source,
    line: &'a LogicalLine,
}

/// A word and its byte offset in the logical line.
type Word<'a> = (usize, &'a str);

impl<'a> Parser<'a> {
    fn instruction(&self) -> Result<Instruction, DockerfileError> {
        let text = self.line.text.as_str();
        let name_length = text.find(char::is_whitespace).unwrap_or(text.len());
        let (name, rest) = text.split_at(name_length);
        let position = self.source.position(self.line, 0, name_length);
        let name = name.to_ascii_uppercase();
        let (flags, rest) = self.flags(&name, name_length, rest);
        if rest.1.is_empty() {
            return Err(DockerfileError::new(&position, format!("`{name}` needs an argument")));
        }
        let kind = self.kind(&name, flags, rest, &position)?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Instruction { position, text, escape: self.source.escape, kind })
    }

    fn kind(&self, name: &str, flags: Vec<Flag>, rest: Word<'a>, position: &Position) -> Result<Kind, DockerfileError> {
        let heredocs = self.line.heredocs.clone();
        Ok(match name {
            "FROM" => self.from(flags, rest)?,
            "RUN" => Kind::Run { flags, command: self.command(rest)?, heredocs },
            "COPY" | "ADD" => {
                let (sources, dest) = self.sources_and_dest(name, rest)?;
                match name {
                    "COPY" => Kind::Copy { flags, sources, dest, heredocs },
                    _ => Kind::Add { flags, sources, dest, heredocs },
                }
            }
            "ENV" => Kind::Env(self.pairs(name, rest)?),
            "LABEL" => Kind::Label(self.pairs(name, rest)?),
            "ARG" => Kind::Arg(self.arguments(rest)?),
            "WORKDIR" => Kind::Workdir(rest.1.to_owned()),
            "USER" => Kind::User(rest.1.to_owned()),
            "SHELL" => match self.command(rest)? {
                Command::Exec(words) if !words.is_empty() => Kind::Shell(words),
                _ => return Err(self.error(rest, "`SHELL` takes a JSON list, like `SHELL [\"/bin/bash\", \"-c\"]`")),
            },
            "ENTRYPOINT" => Kind::Entrypoint(self.command(rest)?),
            "CMD" => Kind::Cmd(self.command(rest)?),
            "EXPOSE" => Kind::Expose(self.words(rest).into_iter().map(|(_, word)| word.to_owned()).collect()),
            "VOLUME" => match self.command(rest)? {
                Command::Exec(paths) => Kind::Volume(paths),
                Command::Shell(_) => {
                    Kind::Volume(self.words(rest).into_iter().map(|(_, word)| word.to_owned()).collect())
                }
            },
            "STOPSIGNAL" => Kind::StopSignal(rest.1.to_owned()),
            "HEALTHCHECK" => self.healthcheck(rest)?,
            "MAINTAINER" => Kind::Maintainer(rest.1.to_owned()),
            "ONBUILD" => {
                return Err(DockerfileError::new(
                    position,
                    "`ONBUILD` is not supported: write the instruction where it is used",
                ));
            }
            _ => return Err(DockerfileError::new(position, format!("unknown instruction `{name}`{}", guess(name)))),
        })
    }

    /// Leading `--name[=value]` words. Only the instructions that have flags take them: `CMD --help` is an argument.
    fn flags(&self, name: &str, start: usize, text: &'a str) -> (Vec<Flag>, Word<'a>) {
        let mut flags = Vec::new();
        let mut rest = trim_start((start, text));
        while matches!(name, "FROM" | "RUN" | "COPY" | "ADD") && rest.1.starts_with("--") {
            // Quotes keep spaces inside of a flag, and are taken away with the substitution.
            let end = split_words(rest.1, self.source.escape).first().map_or(rest.1.len(), |(_, word)| word.len());
            let body = &rest.1[2..end];
            let position = self.source.position(self.line, rest.0, end);
            let (flag, value) = match body.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (body, None),
            };
            flags.push(Flag { name: flag.to_owned(), value, position });
            rest = trim_start((rest.0 + end, &rest.1[end..]));
        }
        (flags, rest)
    }

    fn from(&self, flags: Vec<Flag>, rest: Word<'a>) -> Result<Kind, DockerfileError> {
        let words = self.words(rest);
        let (image, stage) = match words.as_slice() {
            [image] => (image, None),
            [image, (_, word), stage] if word.eq_ignore_ascii_case("as") => (image, Some(stage)),
            _ => return Err(self.error(rest, "`FROM` takes an image, and `AS` with a name where wanted")),
        };
        if let Some(stage) = stage.filter(|(_, name)| !is_stage_name(name)) {
            let message = "a stage's name begins with a letter and is made of letters, digits, `-`, `_` and `.`";
            return Err(self.error(*stage, message));
        }
        Ok(Kind::From {
            flags,
            image: image.1.to_owned(),
            image_position: self.source.position(self.line, image.0, image.1.len()),
            stage: stage.map(|(_, name)| name.to_ascii_lowercase()),
        })
    }

    /// A JSON list of strings is the exec form; anything else, also broken JSON, is a shell command, as in every builder.
    fn command(&self, rest: Word<'a>) -> Result<Command, DockerfileError> {
        Ok(match json_strings(rest.1) {
            Some(words) => Command::Exec(words),
            None => Command::Shell(rest.1.to_owned()),
        })
    }

    fn sources_and_dest(&self, name: &str, rest: Word<'a>) -> Result<(Vec<String>, String), DockerfileError> {
        let mut words = match json_strings(rest.1) {
            Some(words) => words,
            None => self.words(rest).into_iter().map(|(_, word)| word.to_owned()).collect(),
        };
        match words.pop() {
            Some(dest) if !words.is_empty() => Ok((words, dest)),
            _ => Err(self.error(rest, format!("`{name}` needs at least one source and a destination"))),
        }
    }

    /// `name=value ...`, or the old form `name the rest of the line`.
    fn pairs(&self, name: &str, rest: Word<'a>) -> Result<Vec<(String, String)>, DockerfileError> {
        let words = self.words(rest);
        let first = words.first().map_or("", |(_, word)| word);
        if !first.contains('=') {
            let value = rest.1[first.len()..].trim();
            if value.is_empty() {
                return Err(self.error(rest, format!("`{name}` needs a value, like `{name} {first}=value`")));
            }
            return Ok(vec![(first.to_owned(), value.to_owned())]);
        }
        let mut pairs = Vec::with_capacity(words.len());
        for word in words {
            match word.1.split_once('=') {
                Some((key, value)) if !key.is_empty() => pairs.push((key.to_owned(), value.to_owned())),
                _ => return Err(self.error(word, format!("`{}` is not of the form `name=value`", word.1))),
            }
        }
        Ok(pairs)
    }

    /// Not carried out, but a mistake in it is one everywhere else, too.
    fn healthcheck(&self, rest: Word<'a>) -> Result<Kind, DockerfileError> {
        let first = self.words(rest).into_iter().find(|(_, word)| !word.starts_with("--"));
        match first {
            Some((_, word)) if word.eq_ignore_ascii_case("NONE") || word.eq_ignore_ascii_case("CMD") => {
                Ok(Kind::Healthcheck(rest.1.to_owned()))
            }
            other => Err(self.error(other.unwrap_or(rest), "`HEALTHCHECK` takes `NONE`, or `CMD` and a command")),
        }
    }

    fn arguments(&self, rest: Word<'a>) -> Result<Vec<(String, Option<String>)>, DockerfileError> {
        let mut found = Vec::new();
        for word in self.words(rest) {
            let (name, default) = match word.1.split_once('=') {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (word.1, None),
            };
            let plain = !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
            if !plain {
                return Err(self.error(word, format!("`{name}` is not a name for a build argument")));
            }
            found.push((name.to_owned(), default));
        }
        Ok(found)
    }

    fn words(&self, rest: Word<'a>) -> Vec<Word<'a>> {
        split_words(rest.1, self.source.escape).into_iter().map(|(offset, word)| (rest.0 + offset, word)).collect()
    }

    fn error(&self, word: Word<'_>, message: impl Into<String>) -> DockerfileError {
        DockerfileError::new(&self.source.position(self.line, word.0, word.1.len()), message)
    }
}

fn is_stage_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(plain)
}

fn trim_start((offset, text): Word<'_>) -> Word<'_> {
    let trimmed = text.trim_start();
    (offset + text.len() - trimmed.len(), trimmed)
}

const NAMES: [&str; 17] = [
    "FROM",
    "RUN",
    "COPY",
    "ADD",
    "ENV",
    "ARG",
    "WORKDIR",
    "USER",
    "SHELL",
    "ENTRYPOINT",
    "CMD",
    "LABEL",
    "EXPOSE",
    "VOLUME",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "MAINTAINER",
];

/// `, did you mean ...` when one edit leads to a known name.
fn guess(name: &str) -> String {
    match NAMES.iter().find(|known| one_edit_apart(known, name)) {
        Some(known) => format!(", did you mean `{known}`"),
        None => String::new(),
    }
}

pub(crate) fn one_edit_apart(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same_start = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (rest_a, rest_b) = (&a[same_start..], &b[same_start..]);
    match (rest_a, rest_b) {
        ([], [_]) | ([_], []) => true,
        ([x0, x1, x @ ..], [y0, y1, y @ ..]) if x0 == y1 && x1 == y0 && x == y => true,
        ([_, x @ ..], [_, y @ ..]) if x == y => true,
        ([_, x @ ..], y) if x == y => true,
        (x, [_, y @ ..]) if x == y => true,
        _ => false,
    }
}

/// A JSON list of strings and nothing else. Written out here because this crate has no other use for JSON.
fn json_strings(text: &str) -> Option<Vec<String>> {
    let mut chars = text.trim().chars().peekable();
    let skip_space = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
    };
    if chars.next()? != '[' {
        return None;
    }
    let mut words = Vec::new();
    skip_space(&mut chars);
    if chars.next_if_eq(&']').is_some() {
        return chars.next().is_none().then_some(words);
    }
    loop {
        skip_space(&mut chars);
        words.push(json_string(&mut chars)?);
        skip_space(&mut chars);
        match chars.next()? {
            ',' => continue,
            ']' => return chars.next().is_none().then_some(words),
            _ => return None,
        }
    }
}

fn json_string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    if chars.next()? != '"' {
        return None;
    }
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                'u' => out.push(json_unicode(chars)?),
                c @ ('"' | '\\' | '/') => out.push(c),
                _ => return None,
            },
            c if (c as u32) < 0x20 => return None,
            c => out.push(c),
        }
    }
}

fn json_unicode(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    let mut unit = || -> Option<u32> {
        let digits: String = (0..4).map_while(|_| chars.next()).collect();
        u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4)
    };
    let high = unit()?;
    if !(0xD800..0xDC00).contains(&high) {
        return char::from_u32(high);
    }
    if chars.next()? != '\\' || chars.next()? != 'u' {
        return None;
    }
    let digits: String = (0..4).map_while(|_| chars.next()).collect();
    let low = u32::from_str_radix(&digits, 16).ok()?;
    char::from_u32(0x10000 + ((high - 0xD800) << 10) + low.checked_sub(0xDC00)?)
}
