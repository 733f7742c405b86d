//! Messages of target `session`: mostly of the right size, with numbers that often match one another.

use sv3::foreign::ForeignFd;
use sv3::fuzz::{Fds, Input};
use sv3::virtio::OFFERED;
use sv3::wire::vhost_user::{Code, Decoder, Message, OFFERED_PROTOCOL_FEATURES};

/// The most frequent requests, by octet. Other octets are the request id itself.
const CODES: [Code; 26] = [
    Code::SET_FEATURES,
    Code::SET_PROTOCOL_FEATURES,
    Code::SET_OWNER,
    Code::SET_MEM_TABLE,
    Code::SET_VRING_NUM,
    Code::SET_VRING_ADDR,
    Code::SET_VRING_BASE,
    Code::GET_VRING_BASE,
    Code::SET_VRING_KICK,
    Code::SET_VRING_CALL,
    Code::SET_VRING_ERR,
    Code::SET_VRING_ENABLE,
    Code::ADD_MEM_REG,
    Code::REM_MEM_REG,
    Code::RESET_DEVICE,
    Code::RESET_OWNER,
    Code::SEND_RARP,
    Code::NET_SET_MTU,
    Code::SET_STATUS,
    Code::GET_STATUS,
    Code::GET_FEATURES,
    Code::GET_PROTOCOL_FEATURES,
    Code::GET_QUEUE_NUM,
    Code::GET_MAX_MEM_SLOTS,
    Code::SET_LOG_BASE,
    Code::GET_INFLIGHT_FD,
];

/// The next message, if the decoder takes it. Octets: request and `need_reply` (1), one more fd or none (1), payload.
pub fn message(input: &mut Input<'_>, fds: &Fds) -> Option<Message> {
    let (_, octets, count) = request(input)?;
    let mut decoder = Decoder::new();
    let (header, rest) = octets.split_at(12);
    decoder.space().copy_from_slice(header);
    let message = decoder.advance(header.len(), (0..count).map(|_| ForeignFd::from(fds.one()))).ok()?;
    if rest.is_empty() {
        return message;
    }
    decoder.space().copy_from_slice(rest);
    decoder.advance(rest.len(), []).ok()?
}

/// The next message as octets, and how many fds go with it.
pub fn request(input: &mut Input<'_>) -> Option<(Code, Vec<u8>, usize)> {
    let what = input.u8();
    let code = CODES.get(usize::from(what & 0x3f)).copied().or_else(|| Code::from_id(input.u8().into()))?;
    let odd = input.u8();
    let (payload, natural) = payload(code, input);
    let count = match odd {
        0xff => natural + 1,
        0xfe => natural.saturating_sub(1),
        _ => natural,
    };
    let flags = 1 | u32::from(what >> 7) << 3;
    let words = [code.id(), flags, payload.len() as u32].map(u32::to_ne_bytes);
    Some((code, [words.as_flattened(), &payload].concat(), count))
}

/// A payload, and how many fds go with it.
fn payload(code: Code, input: &mut Input<'_>) -> (Vec<u8>, usize) {
    let longs = |longs: &[u64]| longs.iter().flat_map(|long| long.to_ne_bytes()).collect::<Vec<u8>>();
    let ring = |input: &mut Input<'_>| match input.u8() {
        wild @ 0xf0.. => u64::from(wild) << 12,
        ring => u64::from(ring % 34),
    };
    match code {
        Code::SET_FEATURES => {
            let wild = input.u8();
            (longs(&[if wild == 0xff { input.u64() } else { OFFERED & !(u64::from(wild) << 8) }]), 0)
        }
        Code::SET_PROTOCOL_FEATURES => {
            let wild = input.u8();
            (longs(&[if wild == 0xff { input.u64() } else { OFFERED_PROTOCOL_FEATURES & !(u64::from(wild)) }]), 0)
        }
        Code::SET_MEM_TABLE => {
            let count = input.below(9);
            let mut octets = longs(&[count as u64]);
            (0..count).for_each(|_| octets.extend(longs(&region(input))));
            (octets, count)
        }
        Code::ADD_MEM_REG => (longs(&[[0].as_slice(), &region(input)].concat()), 1),
        Code::REM_MEM_REG => (longs(&[[0].as_slice(), &region(input)].concat()), 0),
        Code::SET_VRING_NUM => {
            let num = [256, 1, 32768, 0, 3, 65536, 1024, 0x1_0001][input.below(8)];
            (longs(&[ring(input) | num << 32]), 0)
        }
        Code::SET_VRING_ADDR => {
            let (ring, place) = (ring(input), u64::from(input.u8()) << 12);
            let flags = match input.u8() {
                0xff => 2,
                0xf0.. => 1,
                _ => 0,
            };
            (longs(&[ring | flags << 32, place, place + 0x2000, place + 0x1000, place]), 0)
        }
        Code::SET_VRING_BASE | Code::GET_VRING_BASE => (longs(&[ring(input) | u64::from(input.u16()) << 32]), 0),
        Code::SET_VRING_ENABLE => (longs(&[ring(input) | (input.below(3) as u64) << 32]), 0),
        Code::SET_VRING_KICK | Code::SET_VRING_CALL | Code::SET_VRING_ERR => {
            let without = input.below(4) == 1;
            (longs(&[ring(input) | if without { 0x100 } else { 0 }]), usize::from(!without))
        }
        Code::NET_SET_MTU | Code::SET_STATUS => (longs(&[input.u16().into()]), 0),
        Code::SEND_RARP => (input.array::<8>().to_vec(), 0),
        Code::SET_LOG_BASE => {
            let (size, offset) = (u64::from(input.u8()) << 12, u64::from(input.u8()) << 12);
            match input.u8() {
                0xff => (longs(&[input.u64(), input.u64()]), 1),
                _ => (longs(&[size, offset]), 1),
            }
        }
        Code::SET_LOG_FD => (Vec::new(), 1),
        Code::GET_INFLIGHT_FD => {
            let count = input.u8();
            (input.take(count.into()).to_vec(), 0)
        }
        _ => (Vec::new(), 0),
    }
}

/// Guest address, size, user address, offset.
fn region(input: &mut Input<'_>) -> [u64; 4] {
    let (place, wild) = (u64::from(input.u8()), input.u8());
    let guest = place << 19;
    let user = 0x7000_0000_0000 + guest;
    match wild {
        0xf0 => [input.u64(), input.u64(), input.u64(), input.u64()],
        0xf1 => [guest, 0x8_0000, user & 0xffff_f000, 0],
        0xf2 => [guest, 8 << 40, user, 0],
        _ => [guest, (u64::from(wild >> 4) + 1) << 19, user, u64::from(wild & 3) << 12],
    }
}
