//! Prints text. Text from a switch may come from another user or from a hijacked worker, so characters that would move
//! the terminal's cursor or change what it shows are escaped.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};

use serde_json::Value;

/// Prints to stdout. A reader that closes the pipe early (`| head`) is not an error.
pub fn print(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout();
    let printed = stdout.write_all(escaped(text, "\n").as_bytes()).and_then(|()| stdout.flush());
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot print: {error}")),
        _ => Ok(()),
    }
}

/// Writes an error to stderr, if that is possible.
pub fn complain(problem: &str) {
    let _ = io::stderr().write_all(escaped(&format!("sv3: {problem}\n"), "\n").as_bytes());
}

/// The same value with all strings escaped and in one line, for texts for people. (JSON output is escaped when it is
/// printed.)
pub fn harmless(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(escaped(&text, "")),
        Value::Array(values) => values.into_iter().map(harmless).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (escaped(&name, ""), harmless(value))).collect())
        }
        other => other,
    }
}

/// The same text in one line, escaped, for texts for people.
pub fn harmless_words(text: &str) -> String {
    escaped(text, "")
}

/// Writes each control character as `\\uXXXX`, which JSON reads as the same character, except those in `keep`.
fn escaped(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if keep.contains(c) => out.push(c),
            c if c.is_control() || is_direction(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether the character changes the direction of the following text (Unicode TR 9), and so what a line seems to say.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_switch_moves_the_cursor() {
        let evil = "a\u{1b}[2J\u{9b}31m\u{7}\u{202e}\r\nb\u{fc}";
        assert_eq!(escaped(evil, "\n"), "a\\u001b[2J\\u009b31m\\u0007\\u202e\\u000d\nb\u{fc}");
        let value = serde_json::json!({ "x": [evil], "y\u{1b}": 1 });
        let text = harmless(value).to_string();
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\n']), "{text}");
    }

    #[test]
    fn json_that_was_escaped_reads_as_the_same() {
        let value = serde_json::json!({ "words": "\u{9b}x\u{7f}\u{202e}\n" });
        let printed = escaped(&serde_json::to_string_pretty(&value).unwrap(), "\n");
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), value);
    }
}
