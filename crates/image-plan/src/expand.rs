//! Words of a Dockerfile: splitting at spaces, removing quotes, substituting `$NAME`.

/// Raw words with their byte offsets; quotes and escapes keep spaces inside a word, and are kept.
pub(crate) fn split_words(text: &str, escape: char) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut escaped = false;
    for (offset, c) in text.char_indices() {
        if quote.is_none() && !escaped && c.is_whitespace() {
            if let Some(begin) = start.take() {
                words.push((begin, &text[begin..offset]));
            }
            continue;
        }
        start.get_or_insert(offset);
        if escaped {
            escaped = false;
        } else if c == escape && quote != Some('\'') {
            escaped = true;
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
        }
    }
    if let Some(begin) = start {
        words.push((begin, &text[begin..]));
    }
    words
}

/// Whether the text ends inside quotes.
pub(crate) fn has_open_quote(text: &str, escape: char) -> bool {
    let mut quote = None;
    let mut escaped = false;
    for c in text.chars() {
        match quote {
            _ if escaped => escaped = false,
            Some('\'') if c != '\'' => {}
            _ if c == escape => escaped = true,
            Some(open) if open == c => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            _ => {}
        }
    }
    quote.is_some()
}

/// Words within words (`${A:-${B:-...}}`) deeper than this are a mistake or an attack on the stack.
const DEEPEST: usize = 50;

/// Removes quotes and escapes of one word and substitutes variables. The error is a sentence without a place.
pub(crate) fn expand(word: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expander = Expander { chars: word.chars().collect(), at: 0, escape, lookup, quotes: true, depth: 0 };
    expander.until(None)
}

/// Substitutes variables only, as in the body of a here-document: quotes are ordinary characters there.
pub(crate) fn expand_body(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expander = Expander { chars: text.chars().collect(), at: 0, escape, lookup, quotes: false, depth: 0 };
    expander.until(None)
}

struct Expander<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    quotes: bool,
    depth: usize,
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Reads up to the end, or past `stop`.
    fn until(&mut self, stop: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.take() {
            if Some(c) == stop {
                return Ok(out);
            }
            match c {
                '\'' if self.quotes => self.single_quoted(&mut out)?,
                '"' if self.quotes => self.double_quoted(&mut out)?,
                '$' => out.push_str(&self.variable()?),
                c if c == self.escape && self.quotes => match self.take() {
                    Some(next) => out.push(next),
                    None => out.push(c),
                },
                c if c == self.escape => match self.peek() {
                    Some(next) if next == '$' || next == self.escape => {
                        out.push(next);
                        self.at += 1;
                    }
                    _ => out.push(c),
                },
                c => out.push(c),
            }
        }
        match stop {
            Some(stop) => Err(format!("`{stop}` is missing after `${{`")),
            None => Ok(out),
        }
    }

    fn single_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.take() {
                Some('\'') => return Ok(()),
                Some(c) => out.push(c),
                None => return Err("a single quote is not closed".to_owned()),
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.take() {
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.variable()?),
                Some(c) if c == self.escape => match self.take() {
                    Some(next) if matches!(next, '"' | '$') || next == self.escape => out.push(next),
                    Some(next) => out.extend([c, next]),
                    None => out.push(c),
                },
                Some(c) => out.push(c),
                None => return Err("a double quote is not closed".to_owned()),
            }
        }
    }

    /// After a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { (self.lookup)(&name).unwrap_or_default() });
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err("`${` is not followed by a variable's name".to_owned());
        }
        let value = (self.lookup)(&name);
        match self.take() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                let operator = self.take();
                self.alternative(&name, operator, value.filter(|value| !value.is_empty()))
            }
            operator => self.alternative(&name, operator, value),
        }
    }

    /// `${name-word}`, `${name+word}`, `${name?word}`; `value` is `None` when the word decides.
    fn alternative(&mut self, name: &str, operator: Option<char>, value: Option<String>) -> Result<String, String> {
        let Some(operator @ ('-' | '+' | '?')) = operator else {
            return Err(format!("`${{{name}...}}`: only the forms `:-`, `:+`, `:?`, `-`, `+` and `?` are supported"));
        };
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("`${{{name}...}}`: more than {DEEPEST} of them are inside each other"));
        }
        let word = self.until(Some('}'))?;
        self.depth -= 1;
        match (operator, value) {
            ('-', value) => Ok(value.unwrap_or(word)),
            ('+', value) => Ok(value.map(|_| word).unwrap_or_default()),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(format!("`{name}` is not set: {word}")),
        }
    }

    fn name(&mut self) -> String {
        let start = self.at;
        while self.peek().is_some_and(|c| c == '_' || c.is_ascii_alphanumeric()) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn e(word: &str) -> String {
        expand(word, '\\', &known).unwrap()
    }

    #[test]
    fn variables_are_substituted_as_a_shell_would() {
        assert_eq!(e("$A-${A}x$B."), "one-onex.");
        assert_eq!(e("${B:-two}${EMPTY:-three}${EMPTY-four}"), "twothree");
        assert_eq!(e("${A:+yes}${B:+no}"), "yes");
        assert_eq!(e("${B:-${A}}"), "one");
        assert_eq!(e(r"\$A '$A' "), "$A $A ");
        assert_eq!(e("100$"), "100$");
    }

    #[test]
    fn quotes_are_removed_and_keep_what_they_hold() {
        assert_eq!(e(r#""a b"'c d'e\ f"#), "a bc de f");
        assert_eq!(e(r#"'it'"'"'s'"#), "it's");
        assert_eq!(e(r#""\x\"""#), r#"\x""#);
    }

    #[test]
    fn a_missing_variable_with_a_question_mark_is_an_error() {
        assert_eq!(expand("${B:?say it}", '\\', &known), Err("`B` is not set: say it".to_owned()));
    }

    #[test]
    fn endless_nesting_is_an_error_and_no_overflow() {
        let word = "${B:-".repeat(100_000);
        assert!(expand(&word, '\\', &known).unwrap_err().contains("inside each other"));
    }

    #[test]
    fn words_keep_quoted_spaces() {
        let words: Vec<&str> = split_words(r#"a "b c" d\ e  'f g'h"#, '\\').into_iter().map(|(_, word)| word).collect();
        assert_eq!(words, ["a", "\"b c\"", "d\\ e", "'f g'h"]);
    }
}
