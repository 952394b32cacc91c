//! Errors that repeat what a client has sent, which may be anything of any length.
//!
//! A message that says what was wrong with which name is a good one until the name has 400 KB. So the text of every refusal
//! goes through here on its way out: whatever stands in backticks, and whatever has no space in it, is cut to a length that
//! still tells what it was. The handlers need not think of it.

use std::borrow::Cow;

use types::words::shortened;

/// Characters of one literal, or of one word, that are shown.
pub const LITERAL: usize = 200;
/// Characters of a whole message. Text with spaces that stands outside of backticks ends here.
const WHOLE: usize = 4_000;
const CUT: char = '…';

/// The message with nothing in it that is too long to read.
#[must_use]
pub fn clip(message: &str) -> Cow<'_, str> {
    if message.len() <= LITERAL {
        return Cow::Borrowed(message);
    }
    let clipped = clip_whole(&clip_names(message));
    if clipped == message { Cow::Borrowed(message) } else { Cow::Owned(clipped) }
}

/// The message with its literals and its words cut, and all of its sentences.
pub fn clip_names(message: &str) -> String {
    clip_words(&clip_literals(message))
}

/// An odd backtick at the end opens nothing.
fn clip_literals(message: &str) -> String {
    let pieces: Vec<&str> = message.split('`').collect();
    let closed = pieces.len().saturating_sub(1) / 2 * 2;
    let piece = |(place, text): (usize, &&str)| match place % 2 == 1 && place < closed {
        true => shortened(text, LITERAL).into_owned(),
        false => (*text).to_owned(),
    };
    pieces.iter().enumerate().map(piece).collect::<Vec<_>>().join("`")
}

fn clip_words(message: &str) -> String {
    message.split_inclusive(char::is_whitespace).map(clip_word).collect()
}

/// The space after it stays, and so does what closes it.
fn clip_word(word: &str) -> String {
    let letters = word.trim_end_matches(|c: char| c.is_whitespace() || "`'\";,.".contains(c));
    format!("{}{}", shortened(letters, LITERAL), &word[letters.len()..])
}

fn clip_whole(message: &str) -> String {
    match message.char_indices().nth(WHOLE) {
        Some((end, _)) => format!("{}{CUT}", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_argument_is_cut_and_the_sentence_around_it_stays() {
        let name = "x".repeat(400_000);
        let said = clip(&format!("`{name}` is not an app id; `modal app list` shows those that are")).into_owned();
        assert!(
            said.starts_with("`xxx") && said.ends_with("…` is not an app id; `modal app list` shows those that are")
        );
        assert!(said.chars().count() < LITERAL + 100, "{}", said.len());
        let quoted = clip(&format!("Secret '{name}' not found")).into_owned();
        assert!(quoted.ends_with("…' not found") && quoted.chars().count() < LITERAL + 50, "{quoted}");
        let spaced = clip(&format!("`{}` is no name", "ab ".repeat(9_000))).into_owned();
        assert!(spaced.ends_with("…` is no name"), "{spaced}");
    }

    #[test]
    fn an_ordinary_message_is_left_as_it_is() {
        let message = format!("function `train` cannot run here: {}", "it asks for more than there is, ".repeat(10));
        assert!(matches!(clip(&message), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn any_text_is_cut_to_a_bounded_length_and_cutting_twice_changes_nothing(text in "[a-z` é\n]{0,3000}", times in 1usize..9) {
            let once = clip(&text.repeat(times)).into_owned();
            prop_assert!(once.chars().count() <= WHOLE + 1);
            let words = once.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
            prop_assert!(words <= 3 * LITERAL, "a word of {words} characters");
        }
    }
}
