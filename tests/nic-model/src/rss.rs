//! Which queue a frame is for, by the hash of its flow (RSS; data sheet, 7.1.2.8).

use crate::frame::{Headers, Network, Transport};
use crate::registers::{self as reg, Registers};

/// Fields that MRQC may enable, the type that a descriptor tells, and whether ports are in the hash: for TCP, UDP and
/// others, each over IPv4 and IPv6.
const FIELDS: [[(u32, u32); 2]; 3] =
    [[(1 << 16, 1), (1 << 21, 3)], [(1 << 22, 7), (1 << 23, 8)], [(1 << 17, 2), (1 << 20, 5)]];

/// What RSS says of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The receive queue.
    pub queue: usize,
    /// The type of hash, as in the descriptor; 0 if there is none.
    pub kind: u32,
    /// The hash.
    pub hash: u32,
}

/// Chooses the queue. Frames without a hash are for queue 0.
pub fn choose(registers: &Registers, frame: &[u8], headers: &Headers) -> Choice {
    let control = registers.get(reg::MRQC);
    if control & 0xF != 1 {
        return Choice::default();
    }
    let Some((network, at)) = headers.network else { return Choice::default() };
    let (version, addresses) = match network {
        Network::V4 { .. } => (0, at + 12..at + 20),
        Network::V6 { .. } => (1, at + 8..at + 40),
    };
    let ports = match headers.transport.filter(|_| !headers.fragment) {
        Some((Transport::Tcp, at)) => Some((FIELDS[0][version], at)),
        Some((Transport::Udp, at)) => Some((FIELDS[1][version], at)),
        _ => None,
    };
    let with_ports = ports.filter(|((bit, _), _)| control & bit != 0);
    let plain = FIELDS[2][version];
    let mut input = [0u8; 36];
    let len = addresses.len();
    input[..len].copy_from_slice(frame.get(addresses).unwrap_or(&[0; 32][..len]));
    let (kind, len) = match with_ports {
        Some(((_, kind), at)) => {
            input[len..len + 4].copy_from_slice(frame.get(at..at + 4).unwrap_or(&[0; 4]));
            (kind, len + 4)
        }
        None if control & plain.0 != 0 => (plain.1, len),
        None => return Choice::default(),
    };
    let hash = toeplitz(registers, &input[..len]);
    let entry = hash & 0x7F;
    let queue = registers.get(reg::RETA + entry / 4 * 4) >> (entry % 4 * 8) & 0xF;
    Choice { queue: queue as usize, kind, hash }
}

/// For each bit that is set in the input, the 32 bits of the key from there on are added.
fn toeplitz(registers: &Registers, input: &[u8]) -> u32 {
    let key = |octet: usize| registers.get(reg::RSSRK + (octet as u32 / 4 % 10) * 4) >> (octet % 4 * 8) & 0xFF;
    let mut window = key(0) << 24 | key(1) << 16 | key(2) << 8 | key(3);
    let mut hash = 0;
    for (at, octet) in input.iter().enumerate() {
        let next = key(at + 4);
        for bit in (0..8).rev() {
            if octet >> bit & 1 != 0 {
                hash ^= window;
            }
            window = window << 1 | next >> bit & 1;
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::packet;

    /// The key and the results with which Microsoft's documents of RSS verify an implementation.
    const KEY: [u32; 10] = [
        0xda56_5a6d,
        0xc20e_5b25,
        0x3d25_6741,
        0xb08f_a343,
        0xcb2b_cad0,
        0xb4307bae,
        0xa32d_cb77,
        0x0cf2_3080,
        0x3bb7_426a,
        0xfa01_acbe,
    ];

    fn card(fields: u32) -> Registers {
        let mut it = Registers::default();
        (0..).zip(KEY).for_each(|(at, word)| it.set(reg::RSSRK + 4 * at, word));
        (0..32).for_each(|at| it.set(reg::RETA + 4 * at, 0x0302_0100));
        it.set(reg::MRQC, 1 | fields);
        it
    }

    fn ipv4() -> Vec<u8> {
        let (mut frame, _) = packet(false, 1, 10, 0);
        frame[26..34].copy_from_slice(&[66, 9, 149, 187, 161, 142, 100, 80]);
        frame[34..38].copy_from_slice(&[0x0A, 0xEA, 0x06, 0xE6]);
        frame
    }

    #[test]
    fn hashes_are_those_that_are_known() {
        let frame = ipv4();
        let headers = Headers::of(&frame);
        let tcp = choose(&card(1 << 16 | 1 << 17), &frame, &headers);
        assert_eq!(tcp, Choice { queue: 0, kind: 1, hash: 0x51cc_c178 });
        let plain = choose(&card(1 << 17), &frame, &headers);
        assert_eq!(plain, Choice { queue: 2, kind: 2, hash: 0x323e_8fc2 });
        assert_eq!(choose(&card(1 << 20), &frame, &headers), Choice::default());

        let (mut frame, _) = packet(true, 1, 10, 0);
        let source: std::net::Ipv6Addr = "3ffe:2501:200:1fff::7".parse().unwrap();
        let target: std::net::Ipv6Addr = "3ffe:2501:200:3::1".parse().unwrap();
        frame[22..38].copy_from_slice(&source.octets());
        frame[38..54].copy_from_slice(&target.octets());
        frame[54..58].copy_from_slice(&[0x0A, 0xEA, 0x06, 0xE6]);
        let headers = Headers::of(&frame);
        assert_eq!(choose(&card(1 << 21), &frame, &headers).hash, 0x4020_7d3d);
        assert_eq!(choose(&card(1 << 20), &frame, &headers).hash, 0x2cc1_8cd5);
    }
}
