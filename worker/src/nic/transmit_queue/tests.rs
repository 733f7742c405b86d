//! Transmit queues against a card that moves frames as they are, and against liars.

use super::*;
use crate::nic::descriptor::Options;
use crate::nic::plain_card::{PlainCard, TRANSMIT, Told, frame, memory, settings};

struct Fixture {
    plain: PlainCard,
    card: Card,
    queue: TransmitQueue,
}

fn fixture() -> Fixture {
    let plain = PlainCard::default();
    let card = plain.card(memory(settings()));
    let queue = open(&card, false);
    let mut fixture = Fixture { plain, card, queue };
    fixture.queue.turn_on(&fixture.card).unwrap();
    fixture
}

fn open(card: &Card, goes_on: bool) -> TransmitQueue {
    TransmitQueue::open(&card.memory, 0, QueueRegisters::at(TRANSMIT, 0), goes_on, false)
}

impl Fixture {
    fn put(&mut self, octets: &[u8], request: Request) -> bool {
        let Fixture { card, queue, .. } = self;
        let Some(place) = queue.find(&card.memory, octets.len()).unwrap() else { return false };
        assert_eq!(place.frame.write(0, octets), octets.len());
        queue.put(&card.memory, &place, &Request { len: octets.len() as u32, ..request });
        true
    }

    /// Puts a frame and publishes it.
    fn give(&mut self, number: u32, len: usize) -> bool {
        let given = self.put(&frame(number, len), Request::default());
        self.queue.publish(&self.card);
        given
    }

    fn send(&self, most: usize) -> Vec<Vec<u8>> {
        self.plain.send(&self.card.memory, most).into_iter().map(|told| told.frame).collect()
    }

    fn die(&mut self) {
        self.plain.stop();
        self.queue = open(&self.card, true);
    }
}

#[test]
fn frames_go_out_in_order_round_and_round() {
    let mut fixture = fixture();
    for round in 0..200 {
        let lens = [60, 1514, 16_384, 16_385, 65_000];
        assert!(lens.into_iter().all(|len| fixture.give(round, len)), "{round}");
        assert_eq!(fixture.send(9), lens.map(|len| frame(round, len)));
    }
}

#[test]
fn a_full_queue_takes_nothing_and_then_all_again() {
    for len in [60, 9000] {
        let mut fixture = fixture();
        for round in 0..20 {
            let given = (0..).take_while(|number| fixture.give(round * 1000 + number, len)).count();
            assert!((28..128).contains(&given), "{given}");
            let clean = fixture.queue.clean;
            assert!(!fixture.queue.has_news(&fixture.card.memory));
            let wanted: Vec<_> = (0..given as u32).map(|number| frame(round * 1000 + number, len)).collect();
            assert_eq!(fixture.send(999), wanted);
            assert!(fixture.queue.has_news(&fixture.card.memory) && fixture.queue.clean == clean);
        }
    }
}

#[test]
fn a_context_is_written_only_if_it_changes() {
    let mut fixture = fixture();
    let context = |mss: u16| Context { mac_len: 14, ip_len: 20, ipv4: true, tcp: true, l4_len: 20, mss };
    let options = Options { checksum: true, segment: true, ip_checksum: true, context: false };
    let mut descriptors = Vec::new();
    for mss in [100, 100, 0, 0, 200] {
        let before = fixture.queue.tail;
        let request = if mss == 0 {
            Request::default()
        } else {
            Request { options, context: context(mss), ..Request::default() }
        };
        fixture.put(&frame(1, 1000), request);
        descriptors.push(fixture.queue.tail - before);
    }
    assert_eq!(descriptors, [2, 1, 1, 1, 2]);
    assert!(fixture.plain.send(&fixture.card.memory, 9).is_empty(), "nothing is published");
    fixture.queue.publish(&fixture.card);
    let told = fixture.plain.send(&fixture.card.memory, 9);
    let all = told.iter().map(|told| (told.options >> 31 & 1 != 0, told.context)).collect::<Vec<_>>();
    let contexts = [100, 100, 100, 100, 200].map(|mss| Some(context(mss).encode()));
    assert_eq!(all, [true, true, false, false, true].into_iter().zip(contexts).collect::<Vec<_>>());
    assert!(told.iter().all(|Told { options, .. }| options >> 46 == if options >> 31 & 1 != 0 { 946 } else { 1000 }));
}

#[test]
fn a_virtual_function_gets_a_context_with_each_frame() {
    let mut fixture = fixture();
    let queue = TransmitQueue::open(&fixture.card.memory, 0, QueueRegisters::at(TRANSMIT, 0), false, true);
    fixture.queue = queue;
    fixture.queue.turn_on(&fixture.card).unwrap();
    assert!(fixture.give(1, 60) && fixture.give(2, 60));
    assert_eq!(fixture.queue.tail, 3);
    let told = fixture.plain.send(&fixture.card.memory, 9);
    let context = Context { mac_len: 14, ..Context::default() }.encode();
    assert!(told.iter().all(|told| told.options >> 39 & 1 == 1 && told.context == Some(context)));
}

#[test]
fn the_next_worker_sends_what_was_not_sent_and_nothing_else() {
    let mut fixture = fixture();
    for round in 0..500u32 {
        let (given, sent) = (round % 23, round % 7 * 3);
        // Each round ends elsewhere in ring and area.
        for number in 0..given {
            assert!(fixture.give(round * 100 + number, 60 + (round * 37 + number * 61) as usize % 4000), "{round}");
        }
        let first = fixture.send(sent as usize);
        // A burst that was not published when the worker died.
        (0..round % 3).for_each(|_| assert!(fixture.put(&frame(9, 100), Request::default())));
        fixture.die();
        if round % 5 == 0 {
            fixture.die();
        }
        assert!(fixture.give(round * 100 + given, 60), "the queue takes frames while it is off");
        fixture.queue.turn_on(&fixture.card).unwrap();
        let all = [first, fixture.send(999)].concat();
        let wanted = |number| {
            frame(
                round * 100 + number,
                if number == given { 60 } else { 60 + (round * 37 + number * 61) as usize % 4000 },
            )
        };
        assert_eq!(all, (0..=given).map(wanted).collect::<Vec<_>>(), "{round}");
    }
}

#[test]
fn requests_survive_the_worker() {
    let mut fixture = fixture();
    let context = Context { mac_len: 18, ip_len: 40, ipv4: false, tcp: true, l4_len: 32, mss: 1400 };
    let options = Options { checksum: true, segment: true, ip_checksum: false, context: false };
    let request = Request { options, context, ..Request::default() };
    (0..3).for_each(|number| assert!(fixture.put(&frame(number, 30_000), request)));
    fixture.queue.publish(&fixture.card);
    let before = fixture.plain.send(&fixture.card.memory, 1);
    fixture.die();
    fixture.queue.turn_on(&fixture.card).unwrap();
    let told = fixture.plain.send(&fixture.card.memory, 9);
    // The head told of nothing: the card reports the last frame of a publication.
    assert_eq!(told.len(), 3);
    assert_eq!(told[0], before[0]);
    assert!(told.iter().all(|told| told.context == Some(context.encode()) && told.options == before[0].options));
}

#[test]
fn a_lie_about_the_head_is_found_and_one_about_frames_is_the_cards_own_loss() {
    for head in [128, 5, 127, u32::MAX] {
        let mut fixture = fixture();
        assert!(fixture.give(1, 60) && fixture.give(2, 60));
        let at = fixture.card.memory.settings().layout(0).write_back;
        fixture.card.memory.slice(at, 4).write(0, &head.to_le_bytes());
        assert_eq!(fixture.queue.clean(&fixture.card.memory), Err(Fault::Bad("TDWBAL")), "{head}");
        fixture.die();
    }
    for octet in [0, 1, 0x40, 0xff] {
        let mut fixture = fixture();
        (0..20).for_each(|number| assert!(fixture.give(number, 3000)));
        let settings = *fixture.card.memory.settings();
        let all = vec![octet; settings.dma_size()];
        fixture.card.memory.slice(size_of::<sv3::card::CardState>(), all.len()).write(0, &all);
        fixture.die();
        fixture.die();
        fixture.queue.turn_on(&fixture.card).unwrap();
        assert!(fixture.give(7, 60));
        assert_eq!(fixture.send(999).last(), Some(&frame(7, 60)));
    }
}
