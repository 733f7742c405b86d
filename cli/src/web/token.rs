//! The secret in the page's address: 128 random bits.

use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Characters of a token: hexadecimal.
pub const LENGTH: usize = 32;

/// A token.
pub struct Token([u8; LENGTH]);

impl Token {
    /// A new one.
    pub fn random() -> Result<Token, String> {
        let mut octets = [0; LENGTH / 2];
        let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut octets));
        read.map_err(|error| format!("/dev/urandom: {error}"))?;
        let mut token = [0; LENGTH];
        for (pair, octet) in token.chunks_exact_mut(2).zip(octets) {
            pair.copy_from_slice(format!("{octet:02x}").as_bytes());
        }
        Ok(Token(token))
    }

    /// Tells the page server. (All users can read the arguments of a process.)
    pub fn send(&self, mut to: &UnixStream) -> Result<(), String> {
        to.write_all(&self.0).map_err(|error| format!("the page server has ended: {error}"))
    }

    /// What [`Token::send`] sent.
    pub fn receive(mut from: &UnixStream) -> Result<Token, String> {
        let mut token = [0; LENGTH];
        from.read_exact(&mut token).map_err(|error| format!("no token: {error}"))?;
        Ok(Token(token))
    }

    /// Whether these are its octets. The time that this takes tells nothing but whether the length is right.
    pub fn is(&self, given: &[u8]) -> bool {
        let differ = self.0.iter().zip(given).fold(0, |differ, (own, given)| black_box(differ | (own ^ given)));
        given.len() == LENGTH && differ == 0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_and_no_other() {
        let (token, other) = (Token::random().unwrap(), Token::random().unwrap());
        let text = token.to_string();
        assert!(text.len() == LENGTH && text.bytes().all(|octet| octet.is_ascii_hexdigit()), "{text}");
        assert!(token.is(text.as_bytes()) && !token.is(other.to_string().as_bytes()));
        for wrong in ["", &text[1..], &format!("{text}0"), &text.replace(|c| c != 'a', "a"), "é"] {
            assert!(!token.is(wrong.as_bytes()) || wrong == text, "{wrong}");
        }
    }
}
