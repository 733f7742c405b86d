//! Identifies the file that an event of epoll is about, as a number for epoll and back.

/// A file that epoll watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The signalfd.
    Signals,
    /// The spawner's answers.
    Spawner,
    /// The eventfd that counts files that closers have closed.
    Closers,
    /// The link to the worker of this area of the ledger.
    Link(u8),
    /// The stderr of the worker of this area.
    Stderr(u8),
    /// The front door.
    FrontDoor,
    /// The door for streams at this place.
    StreamDoor(u16),
    /// The door of the declared port that this slot belongs to.
    DeclaredDoor(u16),
    /// The control socket.
    ControlDoor,
    /// The control socket's connection at this place.
    Control(usize),
    /// The HTTP socket for metrics.
    HttpDoor,
    /// The HTTP socket's connection at this place.
    Http(usize),
    /// The client that has this slot.
    Client(u16),
    /// The pending client with this serial number. A number is never used again, so an event is never taken for another
    /// client's.
    Pending(u64),
    /// The card in this slot: the host wants it back.
    Card(u16),
    /// The connection of this capture.
    Capture(u8),
    /// The connection to the supervisor that takes over, or that is taken over from.
    Heir,
}

/// Position of the kind in a token's number. The bits below it tell which one of the kind.
const KIND_SHIFT: u32 = 56;
const WHICH: u64 = (1 << KIND_SHIFT) - 1;

impl Token {
    /// The number for epoll.
    pub fn encode(self) -> u64 {
        let (kind, which): (u64, u64) = match self {
            Token::Signals => (0, 0),
            Token::Spawner => (1, 0),
            Token::Closers => (2, 0),
            Token::Link(area) => (3, area.into()),
            Token::Stderr(area) => (4, area.into()),
            Token::FrontDoor => (5, 0),
            Token::ControlDoor => (6, 0),
            Token::Control(place) => (7, place as u64),
            Token::HttpDoor => (8, 0),
            Token::Http(place) => (9, place as u64),
            Token::Client(slot) => (10, slot.into()),
            Token::Pending(serial) => (11, serial),
            Token::Heir => (12, 0),
            Token::StreamDoor(place) => (13, place.into()),
            Token::Card(slot) => (14, slot.into()),
            Token::DeclaredDoor(slot) => (15, slot.into()),
            Token::Capture(number) => (16, number.into()),
        };
        kind << KIND_SHIFT | which & WHICH
    }

    /// The token of a number, if the number is valid.
    pub fn decode(number: u64) -> Option<Token> {
        let which = number & WHICH;
        Some(match (number >> KIND_SHIFT, which) {
            (0, 0) => Token::Signals,
            (1, 0) => Token::Spawner,
            (2, 0) => Token::Closers,
            (3, _) => Token::Link(which.try_into().ok()?),
            (4, _) => Token::Stderr(which.try_into().ok()?),
            (5, 0) => Token::FrontDoor,
            (6, 0) => Token::ControlDoor,
            (7, _) => Token::Control(which.try_into().ok()?),
            (8, 0) => Token::HttpDoor,
            (9, _) => Token::Http(which.try_into().ok()?),
            (10, _) => Token::Client(which.try_into().ok()?),
            (11, _) => Token::Pending(which),
            (12, 0) => Token::Heir,
            (13, _) => Token::StreamDoor(which.try_into().ok()?),
            (14, _) => Token::Card(which.try_into().ok()?),
            (15, _) => Token::DeclaredDoor(which.try_into().ok()?),
            (16, _) => Token::Capture(which.try_into().ok()?),
            _ => return None,
        })
    }

    /// Whether the event is about a worker: these come before any number of clients' events.
    pub fn is_urgent(self) -> bool {
        matches!(self, Token::Signals | Token::Spawner | Token::Link(_) | Token::Heir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_has_a_number_of_its_own() {
        let one = [Token::Signals, Token::Spawner, Token::Closers, Token::FrontDoor, Token::Heir];
        let doors = [Token::ControlDoor, Token::HttpDoor];
        let areas = [0, 1, u8::MAX].into_iter().flat_map(|n| [Token::Link(n), Token::Stderr(n), Token::Capture(n)]);
        let places = [0, 15, 1 << 40].into_iter().flat_map(|place| [Token::Control(place), Token::Http(place)]);
        let slots = [0, 1023, u16::MAX].into_iter();
        let of_slot =
            |slot| [Token::Client(slot), Token::StreamDoor(slot), Token::Card(slot), Token::DeclaredDoor(slot)];
        let slots = slots.flat_map(of_slot);
        let pending = [0, 1, WHICH].into_iter().map(Token::Pending);
        let all: Vec<Token> =
            one.into_iter().chain(doors).chain(areas).chain(places).chain(slots).chain(pending).collect();
        let mut numbers: Vec<u64> = all.iter().map(|token| token.encode()).collect();
        assert!(all.iter().zip(&numbers).all(|(token, number)| Token::decode(*number) == Some(*token)));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all.len());
    }

    #[test]
    fn a_number_that_is_no_tokens_is_none() {
        for number in [1, 3 << KIND_SHIFT | 256, 10 << KIND_SHIFT | 1 << 16, u64::MAX] {
            assert_eq!(Token::decode(number), None, "{number:#x}");
        }
    }
}
