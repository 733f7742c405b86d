//! Receive queues against a card that moves frames as they are, and against liars.

use super::*;
use crate::nic::descriptor::status;
use crate::nic::plain_card::{PlainCard, RECEIVE, frame, memory, settings};

/// What was taken: octets, what the card says, and parts.
struct Taken<'m> {
    memory: &'m CardMemory,
    buffers: (usize, usize),
    all: Vec<(Vec<u8>, Received)>,
    counts: Vec<usize>,
}

impl Taker for Taken<'_> {
    fn simple(&mut self, part: Part, is_verified: bool) -> bool {
        self.any(Received { len: part.1.into(), is_verified, ..Received::default() }, &[part])
    }

    fn any(&mut self, received: Received, parts: &[Part]) -> bool {
        let mut octets = Vec::new();
        for (at, len) in parts {
            let mut part = vec![0; (*len).into()];
            self.memory.slice(self.buffers.0 + usize::from(*at) * self.buffers.1, part.len()).read(0, &mut part);
            octets.extend(part);
        }
        assert_eq!(octets.len(), received.len);
        self.all.push((octets, received));
        self.counts.push(parts.len());
        true
    }
}

struct Fixture {
    plain: PlainCard,
    card: Card,
    queue: ReceiveQueue,
}

fn fixture(lro: bool) -> Fixture {
    let plain = PlainCard::default();
    let card = plain.card(memory(sv3::card::CardSettings { lro, ..settings() }));
    let queue = open(&card, true);
    let mut fixture = Fixture { plain, card, queue };
    fixture.queue.turn_on(&fixture.card).unwrap();
    fixture
}

fn open(card: &Card, goes_on: bool) -> ReceiveQueue {
    ReceiveQueue::open(&card.memory, 0, QueueRegisters::at(RECEIVE, 0), goes_on)
}

impl Fixture {
    /// Takes up to `most` frames, and completes all of them but `kept`.
    fn take(&mut self, most: usize, kept: usize) -> Result<Vec<(Vec<u8>, Received)>, Fault> {
        let Fixture { card, queue, .. } = self;
        let mut taken = Taken { memory: &card.memory, buffers: queue.buffers(), all: Vec::new(), counts: Vec::new() };
        queue.take(&card.memory, most, &mut taken)?;
        let Taken { mut all, counts, .. } = taken;
        all.truncate(all.len().saturating_sub(kept));
        queue.complete(counts.iter().take(all.len()).sum());
        queue.publish(card);
        Ok(all)
    }

    fn frames(&mut self, most: usize) -> Vec<Vec<u8>> {
        self.take(most, 0).unwrap().into_iter().map(|(frame, _)| frame).collect()
    }

    fn arrive(&self, number: u32, len: usize) -> bool {
        self.plain.receive(&self.card.memory, &frame(number, len))
    }

    /// The worker dies, the card is stopped, and another worker goes on.
    fn die(&mut self) {
        self.plain.stop();
        self.queue = open(&self.card, true);
    }
}

#[test]
fn frames_of_one_and_more_buffers_come_in_order_round_and_round() {
    let mut fixture = fixture(false);
    for round in 0..300 {
        let lens = [60, 2048, 2049, 9000, 1514];
        assert!(lens.into_iter().all(|len| fixture.arrive(round, len)));
        let wanted: Vec<_> = lens.map(|len| frame(round, len)).into();
        // Two frames are taken and not completed: they are taken again.
        assert_eq!(fixture.take(5, 2).unwrap().len(), 3);
        assert_eq!(fixture.frames(5), wanted[3..]);
    }
    assert!(fixture.frames(9).is_empty());
}

#[test]
fn the_card_has_all_descriptors_but_one_and_the_doorbell_is_rung_once_a_burst() {
    let mut fixture = fixture(false);
    assert_eq!((0..200).filter(|number| fixture.arrive(*number, 60)).count(), 127);
    assert_eq!(fixture.frames(256).len(), 127);
    assert!(fixture.arrive(0, 60) && !fixture.queue.has_some(&memory(settings())));
    assert!(fixture.queue.has_some(&fixture.card.memory));
}

#[test]
fn what_the_card_says_of_a_frame_is_told() {
    let mut fixture = fixture(false);
    let say = [status::CHECKED, status::CHECKED | status::WRONG, 0, status::DAMAGED];
    for status in say {
        assert!(fixture.plain.receive_with(&fixture.card.memory, &frame(1, 60), status));
    }
    let told = fixture.take(9, 0).unwrap().into_iter().map(|(_, it)| (it.is_verified, it.is_damaged));
    assert_eq!(told.collect::<Vec<_>>(), [(true, false), (false, false), (false, false), (false, true)]);
}

#[test]
fn the_next_worker_takes_what_is_left_and_begins_anew() {
    let mut fixture = fixture(false);
    for round in 0..100u32 {
        let before = round % 7;
        assert!((0..20).all(|number| fixture.arrive(round * 20 + number, 60 + 100 * number as usize * 3 / 2)));
        assert_eq!(fixture.take(before as usize, 0).unwrap().len(), before as usize);
        fixture.die();
        assert!(!fixture.arrive(0, 60), "the queue is off");
        let left: Vec<_> =
            std::iter::from_fn(|| Some(fixture.frames(6)).filter(|some| !some.is_empty())).flatten().collect();
        let all = (before..20).map(|number| frame(round * 20 + number, 60 + 100 * number as usize * 3 / 2));
        assert_eq!(left, all.collect::<Vec<_>>());
        fixture.queue.turn_on(&fixture.card).unwrap();
    }
    // A card that is opened anew has nothing.
    assert!(fixture.arrive(0, 60));
    fixture.plain.stop();
    fixture.queue = open(&fixture.card, false);
    assert!(fixture.frames(9).is_empty());
}

/// Writes what a liar says into a descriptor.
fn lie(fixture: &Fixture, at: usize, words: [u64; 2]) {
    let ring = fixture.card.memory.settings().layout(0).receive_ring;
    fixture.card.memory.slice(ring + 16 * at, 16).write(0, &words.map(u64::to_le_bytes).concat());
}

#[test]
fn lies_end_the_queue_and_nothing_else() {
    // Longer than a buffer; a chain without an end.
    for lro in [false, true] {
        let mut fixture = fixture(lro);
        lie(&fixture, 0, WriteBack::words(2049, status::LAST, 0));
        assert_eq!(fixture.take(9, 0).unwrap_err(), Fault::Bad("PKT_LEN"));
    }
    let mut fixture = fixture(false);
    (0..127).for_each(|at| lie(&fixture, at, WriteBack::words(100, 0, 0)));
    assert_eq!(fixture.take(9, 0).unwrap_err(), Fault::Bad("EOP"));
    // The next worker does not follow it.
    fixture.die();
    assert!(fixture.frames(9).is_empty());
}

#[test]
fn a_descriptor_that_comes_and_goes_is_taken_once_at_most() {
    let mut fixture = fixture(false);
    assert!(fixture.arrive(1, 60) && fixture.arrive(2, 60));
    lie(&fixture, 0, [0, 0]);
    assert!(fixture.frames(9).is_empty());
    lie(&fixture, 0, WriteBack::words(60, status::LAST, 0));
    assert_eq!(fixture.frames(9), [frame(1, 60), frame(2, 60)]);
}

/// Two flows that the card joins by turns: descriptors 0, 2 and 3 are one frame, 1 and 4 another.
fn joined(fixture: &Fixture) -> [Vec<u8>; 2] {
    let next = |at: u32| at << 4;
    let parts = [frame(1, 2048), frame(2, 2048), frame(3, 2048), frame(4, 900), frame(5, 700)];
    let say = [(next(2), 2), (next(4), 3), (next(3), 3), (status::LAST, 2), (status::LAST | status::CHECKED, 1)];
    for (part, (status, joined)) in parts.iter().zip(say) {
        assert!(fixture.plain.part(&fixture.card.memory, part, status, joined));
    }
    let [a, b, c, d, e] = parts;
    [[a, c, d].concat(), [b, e].concat()]
}

#[test]
fn joined_frames_come_in_the_order_of_their_beginnings() {
    let mut fixture = fixture(true);
    let wanted = joined(&fixture);
    assert!(fixture.arrive(9, 60));
    let all = fixture.take(9, 0).unwrap();
    assert_eq!(all.iter().map(|(_, it)| it.joined).collect::<Vec<_>>(), [4, 2, 0]);
    assert_eq!(all.iter().map(|(_, it)| it.is_verified).collect::<Vec<_>>(), [false, true, true]);
    let frames: Vec<_> = all.into_iter().map(|(frame, _)| frame).collect();
    assert_eq!(frames, [&wanted[..], &[frame(9, 60)]].concat());
    assert_eq!(fixture.queue.position(), 6);
}

#[test]
fn the_next_worker_does_not_see_parts_of_joined_frames_that_are_done() {
    let mut fixture = fixture(true);
    let wanted = joined(&fixture);
    // The first frame is forwarded; the second is not.
    assert_eq!(fixture.take(9, 1).unwrap()[0].0, wanted[0]);
    assert_eq!(fixture.queue.position(), 1);
    fixture.die();
    assert_eq!(fixture.frames(9), wanted[1..]);
    assert!(fixture.frames(9).is_empty());
    // A frame whose end the card did not write holds up nothing.
    fixture.queue.turn_on(&fixture.card).unwrap();
    assert!(fixture.plain.part(&fixture.card.memory, &frame(1, 2048), 5 << 4, 2));
    assert!(fixture.arrive(2, 70));
    assert!(fixture.frames(9).is_empty(), "in order");
    fixture.die();
    assert_eq!(fixture.frames(9), [frame(2, 70)]);
}

#[test]
fn chains_that_go_back_or_out_of_the_ring_or_meet_end_the_queue() {
    // (descriptor, where it says that its frame goes on)
    let cases: [&[(usize, u32)]; 5] = [&[(0, 0)], &[(0, 128)], &[(0, 0xffff)], &[(0, 127)], &[(0, 2), (2, 1)]];
    for case in cases {
        let mut fixture = fixture(true);
        (0..5).for_each(|at| lie(&fixture, at, WriteBack::words(100, status::LAST, 0)));
        case.iter().for_each(|(at, next)| lie(&fixture, *at, WriteBack::words(100, next << 4, 2)));
        assert_eq!(fixture.take(9, 0).unwrap_err(), Fault::Bad("NEXTP"), "{case:?}");
        fixture.die();
        assert!(fixture.frames(9).len() <= 5);
    }
    // Two frames go on in one descriptor: the first has it.
    let mut fixture = fixture(true);
    (0..3).for_each(|at| lie(&fixture, at, WriteBack::words(100, if at < 2 { 2 << 4 } else { status::LAST }, 2)));
    assert_eq!(fixture.frames(9).len(), 1);
    assert_eq!(fixture.take(9, 0).unwrap_err(), Fault::Bad("NEXTP"));
}
