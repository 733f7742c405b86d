//! The answers of a back-end.

use super::{Code, FLAG_REPLY, HEADER_LEN, VERSION};

/// An answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A u64: the answer to the `GET_*` requests, and the acknowledgement of any other (0: done, otherwise refused).
    U64(Code, u64),
    /// A vring state description: the answer to `GET_VRING_BASE`.
    VringBase {
        /// Vring index.
        ring: u16,
        /// Index of the next available entry. Of a packed ring, as `SET_VRING_BASE` describes it: index and wrap
        /// counter of the next available descriptor, and above bit 16 those of the next used one.
        base: u32,
    },
}

impl Reply {
    /// The acknowledgement that `need_reply` asks for.
    pub fn ack(code: Code, done: bool) -> Reply {
        Reply::U64(code, u64::from(!done))
    }

    /// The wire form.
    pub fn to_bytes(self) -> Vec<u8> {
        let (code, payload) = match self {
            Reply::U64(code, value) => (code, value.to_ne_bytes()),
            Reply::VringBase { ring, base } => {
                let [a, b, c, d] = u32::from(ring).to_ne_bytes();
                let [e, f, g, h] = base.to_ne_bytes();
                (Code::GET_VRING_BASE, [a, b, c, d, e, f, g, h])
            }
        };
        let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
        for word in [code.id(), VERSION | FLAG_REPLY, payload.len() as u32] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.extend_from_slice(&payload);
        out
    }
}
