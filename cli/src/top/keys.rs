//! Keys of a terminal, from the octets that it sends (ECMA-48; xterm's and the Linux console's keys).

/// Most octets of a sequence; what is longer is no key.
const SEQUENCE_MAX: usize = 12;
const ESC: u8 = 0x1b;

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Cursor up.
    Up,
    /// Cursor down.
    Down,
    /// Cursor left.
    Left,
    /// Cursor right.
    Right,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// To the first one.
    Home,
    /// To the last one.
    End,
}

/// Reads keys at any split.
#[derive(Default)]
pub struct Keys {
    /// The beginning of a sequence.
    begun: Vec<u8>,
}

impl Keys {
    /// The keys that are complete now. Other octets and unknown sequences are skipped.
    pub fn read(&mut self, octets: &[u8]) -> Vec<Key> {
        octets.iter().filter_map(|octet| self.take(*octet)).collect()
    }

    fn take(&mut self, octet: u8) -> Option<Key> {
        match (self.begun.len(), octet) {
            // A sequence that was not ended is given up.
            (_, ESC) => self.begun = vec![ESC],
            (0, b' '..=b'~') => return Some(Key::Char(octet.into())),
            (0, _) => {}
            (1, b'[' | b'O') => self.begun.push(octet),
            // The key Esc, then another one.
            (1, _) => {
                self.begun.clear();
                return self.take(octet);
            }
            (_, 0x40..=0x7e) => {
                let key = named(self.begun.get(2..).unwrap_or_default(), octet);
                self.begun.clear();
                return key;
            }
            (length, _) if length < SEQUENCE_MAX => self.begun.push(octet),
            _ => self.begun.clear(),
        }
        None
    }
}

fn named(parameters: &[u8], end: u8) -> Option<Key> {
    Some(match (parameters, end) {
        (_, b'A') => Key::Up,
        (_, b'B') => Key::Down,
        (_, b'C') => Key::Right,
        (_, b'D') => Key::Left,
        (_, b'H') | (b"1" | b"7", b'~') => Key::Home,
        (_, b'F') | (b"4" | b"8", b'~') => Key::End,
        (b"5", b'~') => Key::PageUp,
        (b"6", b'~') => Key::PageDown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPED: &[u8] = b"q\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[1;5C\x1b[99;99x\x1bj\x01\xffd\x1b[1~\x1b[F";
    const KEYS: [Key; 10] = [
        Key::Char('q'),
        Key::Up,
        Key::Down,
        Key::PageUp,
        Key::PageDown,
        Key::Right,
        Key::Char('j'),
        Key::Char('d'),
        Key::Home,
        Key::End,
    ];

    #[test]
    fn keys_are_read_at_any_split() {
        for split in 0..TYPED.len() {
            let (head, tail) = TYPED.split_at(split);
            let mut keys = Keys::default();
            assert_eq!([keys.read(head), keys.read(tail)].concat(), KEYS, "split at {split}");
        }
    }

    #[test]
    fn a_sequence_without_an_end_costs_nothing() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(&[&b"\x1b["[..], &[b'1'; 1000]].concat()).len(), 1000 - SEQUENCE_MAX + 1);
        assert_eq!(keys.read(b"\x1b[\x1b[Aq"), [Key::Up, Key::Char('q')]);
    }
}
