//! Target `wire`: the vhost-user decoder, at any split, with any fds.

use std::os::fd::OwnedFd;

use crate::foreign::ForeignFd;

use super::{Fds, Input};
use crate::MAX_RINGS;
use crate::wire::Refuse;
use crate::wire::vhost_user::{Code, Decoder, FDS_MAX, HEADER_LEN, Message, PAYLOAD_MAX, Request};

/// Octets: reads, each with its length (1), its number of fds (1) and its octets. A read that reaches beyond the
/// current message is split.
pub fn wire(octets: &[u8]) {
    let fds = Fds::default();
    let mut split = Reader::default();
    let mut single = Reader::default();
    let mut input = Input::new(octets);
    while !input.is_empty() && !split.is_over() {
        let (len, count) = (usize::from(input.u8()), input.below(FDS_MAX + 2));
        let octets = input.take(len);
        split.read(octets, usize::MAX, || (0..count).map(|_| fds.one()).collect());
        single.read(octets, 1, || (0..count).map(|_| fds.one()).collect());
    }
    // The pieces of a message do not change the message.
    assert_eq!(split.heard, single.heard);
    drop((split, single));
    fds.assert_closed();
}

#[derive(Default)]
struct Reader {
    decoder: Decoder,
    /// Octets and fds of the current message.
    octets: Vec<u8>,
    fds: usize,
    heard: Vec<Result<String, Refuse>>,
}

impl Reader {
    fn is_over(&self) -> bool {
        self.heard.last().is_some_and(Result::is_err)
    }

    /// Feeds a read in pieces of at most `most` octets. The fds come with the first piece.
    fn read(&mut self, mut octets: &[u8], most: usize, fds: impl Fn() -> Vec<OwnedFd>) {
        let mut fds = if octets.is_empty() { Vec::new() } else { fds() };
        while !octets.is_empty() && !self.is_over() {
            let space = self.decoder.space();
            assert!(!space.is_empty() && space.len() <= PAYLOAD_MAX);
            let count = space.len().min(octets.len()).min(most);
            let (now, later) = octets.split_at(count);
            space[..count].copy_from_slice(now);
            octets = later;
            self.octets.extend(now);
            self.fds += fds.len();
            match self.decoder.advance(count, fds.drain(..).map(ForeignFd::from)) {
                Ok(None) => assert!(self.decoder.is_amid_message()),
                Ok(Some(message)) => {
                    assert!(!self.decoder.is_amid_message());
                    check(&message, &self.octets, self.fds);
                    self.heard.push(Ok(words(&message)));
                    self.octets.clear();
                    self.fds = 0;
                }
                Err(refuse) => self.heard.push(Err(refuse)),
            }
        }
    }
}

/// Compares a message with its octets, decoded by hand.
fn check(message: &Message, octets: &[u8], fds: usize) {
    let word = |at: usize| u32::from_ne_bytes(octets[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().unwrap());
    let code = message.request.code();
    assert_eq!((code.id(), word(8) as usize), (word(0), octets.len() - HEADER_LEN));
    assert_eq!(word(4), 1 | u32::from(message.need_reply) << 3);
    let (held, ring) = match &message.request {
        Request::SetMemTable(table) => {
            assert_eq!(word(12) as usize, table.len());
            for (at, (region, _)) in (20..).step_by(32).zip(table) {
                let fields = [region.guest_addr, region.size, region.user_addr, region.offset];
                assert_eq!(fields, [at, at + 8, at + 16, at + 24].map(long));
            }
            (table.len(), None)
        }
        Request::AddMemReg(region, _) => {
            assert_eq!((region.guest_addr, region.offset), (long(20), long(44)));
            (1, None)
        }
        Request::SetVringKick { ring, fd } | Request::SetVringCall { ring, fd } | Request::SetVringErr { ring, fd } => {
            assert_eq!(long(12), u64::from(*ring) | if fd.is_none() { 0x100 } else { 0 });
            (usize::from(fd.is_some()), None)
        }
        Request::SetVringNum { ring, num } => (0, Some((*ring, *num))),
        Request::SetVringBase { ring, base } => (0, Some((*ring, *base))),
        Request::SetVringEnable { ring, num } => (0, Some((*ring, *num))),
        Request::GetVringBase { ring } => (0, Some((*ring, word(16)))),
        Request::SetLogBase { size, offset, .. } => {
            assert_eq!([*size, *offset], [12, 20].map(long));
            (1, None)
        }
        Request::SetVringAddr { ring, flags, addr, log } => {
            assert_eq!([addr.desc, addr.used, addr.avail, *log], [20, 28, 36, 44].map(long));
            (0, Some((*ring, *flags)))
        }
        Request::SetFeatures(value) | Request::SetProtocolFeatures(value) | Request::NetSetMtu(value) => {
            assert_eq!(*value, long(12));
            (0, None)
        }
        _ => (0, None),
    };
    if let Some((ring, value)) = ring {
        assert!(usize::from(ring) < MAX_RINGS);
        assert_eq!((u32::from(ring), value), (word(12), word(16)));
    }
    let closes = matches!(message.request, Request::Unserved(_) | Request::RemMemReg(_) | Request::SetLogFd);
    assert_eq!(if closes { fds } else { held }, fds);
    assert!(code != Code::REM_MEM_REG || fds <= 1);
}

/// The message without the fds' numbers.
fn words(message: &Message) -> String {
    let mut words = format!("{message:?}");
    while let Some(at) = words.find("OwnedFd { fd: ") {
        let end = words[at..].find('}').unwrap();
        words.replace_range(at..=at + end, "fd");
    }
    words
}
