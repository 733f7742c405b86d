//! Any split of a stream gives the same frames, whichever worker reads which part.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use sv3::ledger::LedgerMap;

use super::fixture::{frame, framed, mac};
use crate::port::files::input::{Input, LENGTH, Step};

/// A peer's stream, of which each read gives a part.
struct Peer {
    octets: Vec<u8>,
    at: usize,
}

impl Peer {
    fn give(&mut self, most: usize, room: &[AtomicU8]) -> usize {
        let rest = &self.octets[self.at..];
        let count = rest.len().min(most).min(room.len());
        room.iter().zip(&rest[..count]).for_each(|(to, from)| to.store(*from, Relaxed));
        self.at += count;
        count
    }
}

fn next(input: &mut Input) -> Option<Vec<u8>> {
    let at = input.start();
    let Step::Body(len) = input.step(at).unwrap() else { return None };
    let mut octets = vec![0; len];
    assert_eq!(input.octets(at + LENGTH, at + LENGTH + len).read(0, &mut octets), len);
    input.complete(LENGTH + len);
    input.publish();
    Some(octets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_split_gives_the_same_frames(
        lengths in proptest::collection::vec(prop_oneof![0usize..2000, 60_000usize..69_633], 1..20),
        reads in proptest::collection::vec((1usize..100_000, 0u8..4), 1..60),
    ) {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let shared = &ledger.inputs[0];
        let sent: Vec<Vec<u8>> = lengths.iter().map(|len| frame(mac(1), mac(0), *len)).collect();
        let mut peer = Peer { octets: sent.iter().flat_map(|frame| framed(frame)).collect(), at: 0 };
        let mut input = Input::open(shared, 1, 69_632).unwrap();
        let mut got = Vec::new();
        for (number, (most, what)) in reads.iter().cycle().enumerate() {
            if got.len() == sent.len() {
                break;
            }
            // Each round takes something.
            match if number % reads.len() == 0 { 2 } else { *what } {
                // The worker dies: between two reads, or before it has noted what the kernel gave.
                0 => input = Input::open(shared, 1, 69_632).unwrap(),
                1 => {
                    if next(&mut input).map(|frame| got.push(frame)).is_none() {
                        let position = shared.state.load(Relaxed);
                        let _ = input.receive(|message, room| {
                            message[7].store(peer.give(*most, room) as u64, Relaxed);
                            Err(nix::errno::Errno::EINTR)
                        });
                        prop_assert!(shared.state.load(Relaxed) >> 36 & 2 == position >> 36 & 2);
                        input = Input::open(shared, 1, 69_632).unwrap();
                    }
                }
                what => {
                    if input.step(input.start()).unwrap() == Step::Part
                        || input.step(input.start()).unwrap() == Step::Nothing
                    {
                        input.receive(|message, room| {
                            let count = peer.give(*most, room);
                            message[7].store(count as u64, Relaxed);
                            Ok(count)
                        }).unwrap();
                    }
                    if what == 2 {
                        while let Some(frame) = next(&mut input) {
                            got.push(frame);
                        }
                    }
                }
            }
        }
        prop_assert!(got == sent);
    }
}
