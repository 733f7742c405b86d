//! Sorted bursts beside bursts of one frame, which are never sorted: each receiver gets the same frames in the same order.

use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use sv3::ids::QueueId;
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF, VIRTQ_DESC_F_WRITE};

use super::super::tests::{DATA, Fixture, SIZE, fixture, run_at, run_split};
use super::*;
use crate::forward::fdb::Address;
use crate::poll::fair_share::TURN;
use crate::port::vring::driver::{Driver, PackedDriver, REGION};
use crate::port::vring::queue::Queue;

const RECEIVERS: u16 = 5;
const BUFFER: u64 = 1024;
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn receiver(slot: u16) -> [u8; 6] {
    [2, 0, 0, 0, 1, slot as u8]
}

/// A frame of a sender: where it goes, by a number, and what else is with it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    to: u8,
    len: u16,
    /// It asks for a checksum.
    asks: bool,
    /// It lies in two buffers.
    split: bool,
    /// Its source is another one.
    other: bool,
}

impl Sent {
    fn dst(self) -> [u8; 6] {
        match self.to {
            0..=4 => receiver(1 + u16::from(self.to)),
            // A second address of the first receiver; one that nobody has; everybody; the sender itself; and nobody's.
            5 => [2, 0, 0, 0, 1, 0x11],
            6 => [2, 0, 0, 0, 9, 9],
            7 => [0xff; 6],
            8 => SENDER,
            _ => [0; 6],
        }
    }
}

fn frames() -> impl Strategy<Value = Vec<Sent>> {
    // Most frames are such as can be sorted.
    let rarely = || prop::bool::weighted(0.04);
    let to = prop_oneof![40 => 0u8..5, 8 => Just(5u8), 1 => 6u8..10];
    let one = (to, 60u16..700, rarely(), rarely(), rarely());
    proptest::collection::vec(one.prop_map(|(to, len, asks, split, other)| Sent { to, len, asks, split, other }), 1..64)
}

/// What drivers offer: how many buffers, and of how many octets each seventh of them is.
type Offers = [(u16, u32); RECEIVERS as usize];

fn offers() -> impl Strategy<Value = Offers> {
    let one = (prop_oneof![2 => Just(64u16), 1 => 0u16..20], prop_oneof![4 => Just(1024u32), 1 => 40u32..800]);
    proptest::array::uniform5(one)
}

/// Serves the frames in bursts of `batch`. Returns what each receiver got, how many frames were dropped, by port, and how
/// many the sender got back.
fn serve(frames: &[Sent], offers: &Offers, batch: u16) -> (Vec<Vec<Vec<u8>>>, Vec<u64>, u16) {
    let (mut fixture, mut sender) = fixture(0, 0);
    let mut drivers: Vec<Half> = (1..).zip(offers).map(|(slot, offer)| Half::start(&fixture, slot, *offer)).collect();
    for slot in 1..=RECEIVERS {
        know(&mut fixture, receiver(slot), slot);
    }
    know(&mut fixture, [2, 0, 0, 0, 1, 0x11], 1);
    fixture.burst.set_batch(batch);
    for (head, frame) in (0u16..).step_by(2).zip(frames) {
        let at = DATA + u64::from(head) * BUFFER;
        let src = if frame.other { [2, 0, 0, 0, 0, frame.len as u8] } else { SENDER };
        let number = [head as u8; 700];
        let octets = [&frame.dst()[..], &src, &[8, 0], &number[..usize::from(frame.len) - 14]].concat();
        let hdr: [u8; 12] = if frame.asks { [1, 0, 0, 0, 0, 0, 20, 0, 4, 0, 0, 0] } else { [0; 12] };
        sender.write(at, &[&hdr[..], &octets].concat());
        let whole = 12 + u32::from(frame.len);
        match frame.split {
            false => sender.describe(head, (at, whole, 0, 0)),
            true => {
                sender.describe(head, (at, 40, 1, head + 1));
                sender.describe(head + 1, (at + 40, whole - 40, 0, 0));
            }
        }
        sender.offer(head);
    }
    run_split(&fixture, 0, 1, &sender);
    let mut done = 0;
    while done < frames.len() {
        let served = fixture.serve_as_it_is(8 * TURN).frames;
        assert!(served > 0, "{done} of {}", frames.len());
        done += served;
    }
    let dropped =
        |slot: u16| fixture.ports.get(slot).unwrap().counters().drops.iter().map(|drop| drop.load(Relaxed)).sum();
    (drivers.iter_mut().map(Half::received).collect(), (0..=RECEIVERS).map(dropped).collect(), sender.used_idx())
}

fn know(fixture: &mut Fixture, mac: [u8; 6], slot: u16) {
    assert!(fixture.forwarder.add(Address::new(MacAddr::new(mac), 0), slot));
}

/// A receiver's half of its ring.
enum Half {
    Split(Driver),
    Packed(PackedDriver),
}

impl Half {
    /// Ports differ: in the kind of ring, and in whether frames may be merged.
    fn start(fixture: &Fixture, slot: u16, (buffers, octets): (u16, u32)) -> Half {
        let merged = if slot.is_multiple_of(2) { VIRTIO_NET_F_MRG_RXBUF.mask() } else { 0 };
        let features = VIRTIO_F_VERSION_1.mask() | merged;
        let desc = |id: u16| (place(id), if id % 7 == 3 { octets } else { BUFFER as u32 }, VIRTQ_DESC_F_WRITE);
        let half = if slot < 4 {
            let mut driver = Driver::new(SIZE);
            for head in 0..buffers {
                let (at, len, flags) = desc(head);
                driver.describe(head, (at, len, flags, 0));
                driver.offer(head);
            }
            run_at(fixture, slot, 0, Queue::Split(driver.ring(features)), &driver.memory, features);
            Half::Split(driver)
        } else {
            let mut driver = PackedDriver::new(SIZE);
            assert!((0..buffers).all(|id| driver.offer(id, &[desc(id)])));
            run_at(fixture, slot, 0, Queue::Packed(driver.ring(features)), &driver.guest.memory, features);
            Half::Packed(driver)
        };
        fixture.ports.note_receiver(QueueId::receive(slot, 0), true);
        half
    }

    /// What came, by buffer.
    fn received(&mut self) -> Vec<Vec<u8>> {
        match self {
            Half::Split(driver) => (0..driver.used_idx())
                .map(|at| driver.used(at))
                .map(|(id, len)| driver.read(place(id as u16), len as usize))
                .collect(),
            Half::Packed(driver) => std::iter::from_fn(|| driver.take_used())
                .collect::<Vec<_>>()
                .into_iter()
                .map(|(id, len)| driver.guest.read(place(id), len as usize))
                .collect(),
        }
    }
}

/// Where a buffer is. Some are in the second region.
fn place(id: u16) -> u64 {
    DATA + u64::from(id) * BUFFER + if id % 5 == 2 { REGION } else { 0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn receivers_get_what_they_get_of_frames_sent_alone(frames in frames(), offers in offers()) {
        let (alone, sorted) = (serve(&frames, &offers, 1), serve(&frames, &offers, 64));
        prop_assert_eq!(alone, sorted);
    }
}
