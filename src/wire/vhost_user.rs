//! vhost-user: message format, requests and their payloads (QEMU, docs/interop/vhost-user.rst).
//!
//! # Theory of operation
//!
//! A message is a header of three u32 (request, flags, payload size) and a payload, in the machine's byte order. Fds
//! travel as ancillary data of the message's first octets. A stream socket may deliver the octets in any pieces. If
//! one read covered two messages, nobody could tell to which message its fds belong. So the decoder says where the
//! next octets go ([`Decoder::space`]), and that space never reaches beyond the current message: first the header,
//! then the payload. All fds of a read belong to that message.
//!
//! The decoder checks all that the header says before it reads an octet of payload: version, flags, whether the
//! request is known, and whether the size is right for the request. [`Request::decode`] checks the rest, so a
//! [`Request`] is well-formed: right size, right number of fds, ring index in range. The session decides whether it
//! is *legal now*.
//!
//! Each fd has an owner from the first moment. A refused or abandoned message closes its fds.

mod code;
mod feature;
mod reply;
mod request;

pub use code::Code;
pub use feature::*;
pub use reply::Reply;
pub use request::{MemoryRegion, Request};

use super::Refuse;
use crate::foreign::ForeignFd;

/// Octets of a message's header.
pub const HEADER_LEN: usize = 12;
/// Most octets of a payload that sv3 accepts. The largest served one is `SET_MEM_TABLE` with 264.
pub const PAYLOAD_MAX: usize = 512;
/// Most fds of one message (`SET_MEM_TABLE` with its 8 regions).
pub const FDS_MAX: usize = 8;

const VERSION: u32 = 1;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

/// A decoded message.
#[derive(Debug)]
pub struct Message {
    /// The request.
    pub request: Request,
    /// The `need_reply` flag (see `VHOST_USER_PROTOCOL_F_REPLY_ACK`).
    pub need_reply: bool,
}

/// Collects messages one after the other. Unusable after a [`Refuse`].
#[derive(Debug)]
pub struct Decoder {
    buffer: [u8; HEADER_LEN + PAYLOAD_MAX],
    filled: usize,
    header: Option<Header>,
    fds: Vec<ForeignFd>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    code: Code,
    need_reply: bool,
    size: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder at the beginning of a message.
    pub fn new() -> Decoder {
        Decoder { buffer: [0; HEADER_LEN + PAYLOAD_MAX], filled: 0, header: None, fds: Vec::new() }
    }

    /// The octets of the message that has begun, and the fds that came with them.
    pub fn part(&self) -> (&[u8], &[ForeignFd]) {
        (self.buffer.get(..self.filled).unwrap_or_default(), &self.fds)
    }

    /// A decoder that has received a part of a message. It is an error if the part is a whole message or more.
    pub fn amid(octets: &[u8], fds: Vec<ForeignFd>) -> Result<Decoder, Refuse> {
        let (mut decoder, mut rest, mut fds) = (Decoder::new(), octets, Some(fds));
        while !rest.is_empty() {
            let space = decoder.space();
            let count = rest.len().min(space.len());
            for (to, from) in space.iter_mut().zip(rest) {
                *to = *from;
            }
            rest = rest.get(count..).unwrap_or_default();
            if decoder.advance(count, fds.take().unwrap_or_default())?.is_some() {
                return Err(Refuse("a part of a message is a whole message".to_string()));
            }
        }
        Ok(decoder)
    }

    /// Where the next octets of the stream go. Never empty, and never beyond the current message.
    pub fn space(&mut self) -> &mut [u8] {
        let end = HEADER_LEN + self.header.map_or(0, |header| header.size);
        self.buffer.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Whether a message has begun and is not complete.
    pub fn is_amid_message(&self) -> bool {
        self.filled > 0
    }

    /// The caller has filled the first `count` octets of [`Decoder::space`], and `fds` came with them. Returns the
    /// message if it is complete.
    pub fn advance(
        &mut self,
        count: usize,
        fds: impl IntoIterator<Item = ForeignFd>,
    ) -> Result<Option<Message>, Refuse> {
        self.fds.extend(fds);
        if self.fds.len() > FDS_MAX {
            return Err(Refuse(format!("more than {FDS_MAX} fds on one message")));
        }
        self.filled = self.filled.saturating_add(count.min(self.space().len()));
        if self.header.is_none() && self.filled == HEADER_LEN {
            self.header = Some(self.parse_header()?);
        }
        match self.header {
            Some(header) if self.filled == HEADER_LEN + header.size => self.complete(header).map(Some),
            _ => Ok(None),
        }
    }

    fn parse_header(&self) -> Result<Header, Refuse> {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| self.buffer[at + i]));
        let (id, flags, size) = (word(0), word(4), word(8));
        let code = Code::from_id(id).ok_or_else(|| Refuse(format!("unknown request {id}")))?;
        if flags & !FLAG_NEED_REPLY != VERSION {
            let reply = if flags & FLAG_REPLY != 0 { ", a reply where a request belongs" } else { "" };
            return Err(Refuse(format!(
                "{code}: flags {flags:#x}{reply}; expected version {VERSION} (and need_reply)"
            )));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        code.check_size(size)?;
        Ok(Header { code, need_reply: flags & FLAG_NEED_REPLY != 0, size })
    }

    fn complete(&mut self, header: Header) -> Result<Message, Refuse> {
        let payload = self.buffer.get(HEADER_LEN..self.filled).unwrap_or_default();
        let request = Request::decode(header.code, payload, std::mem::take(&mut self.fds))?;
        self.filled = 0;
        self.header = None;
        Ok(Message { request, need_reply: header.need_reply })
    }
}

#[cfg(test)]
mod tests;
