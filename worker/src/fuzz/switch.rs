//! Target `switch`: three guests with whatever features and frames; one of them or all may scribble over their rings.
//! Honest guests get frames that were sent, in buffers that they gave, in a form that they negotiated; every descriptor
//! comes back once; every frame is delivered or counted.

mod guest;

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use sv3::fuzz::Input;
use sv3::ledger::{LedgerMap, PortLine};

use crate::burst::Burst;
use crate::fabric::{Fabric, Room};
use crate::fdb::AGE_S;
use crate::port::{Ports, RingLease};
use guest::{Guest, Sent};

const GUESTS: u16 = 3;
/// Little, so that bursts end before their last frame.
const BUDGET: u64 = 4096;

/// Octets: frames taken at a time (1), features of each guest (3 times 2), then steps; see [`House::step`].
pub fn switch(octets: &[u8]) {
    let mut input = Input::new(octets);
    let mut house = House::new(&mut input);
    while !input.is_empty() {
        house.step(&mut input);
    }
    for slot in 0..GUESTS {
        house.serve(slot);
    }
    for (slot, guest) in (0..).zip(house.guests) {
        guest.clean(house.ports.get(slot).unwrap());
        house.ports.note_receiver(slot, 0, false);
    }
}

struct House {
    ledger: &'static LedgerMap,
    ports: &'static Ports,
    fabric: Fabric,
    burst: Burst,
    guests: Vec<Guest>,
    /// Frames are taken one by one, so that what becomes of each can be told.
    single: bool,
    /// Where addresses were seen.
    learnt: HashMap<[u8; 6], u16>,
    /// Frames that were taken so far.
    taken: Vec<Sent>,
}

thread_local! {
    static LEDGER: OnceCell<&'static LedgerMap> = const { OnceCell::new() };
    static PORTS: &'static Ports = Box::leak(Box::new(Ports::new()));
    static NOW: Cell<u64> = const { Cell::new(0) };
}

impl House {
    fn new(input: &mut Input<'_>) -> House {
        let ledger = LEDGER.with(|cell| *cell.get_or_init(|| Box::leak(Box::new(LedgerMap::create().unwrap().1))));
        let ports = PORTS.with(|ports| *ports);
        let mut fabric = Fabric::new(ledger, &ledger.lanes[0], ports, Room::new(), (0, 1));
        // What was learnt from the last input has been forgotten by now.
        fabric.now_s = NOW.get() + 2 * AGE_S;
        NOW.set(fabric.now_s);
        let batch = u16::from(input.u8() % 4);
        let mut guests = Vec::new();
        for slot in 0..GUESTS {
            ledger.ports[usize::from(slot)].reset();
            guests.push(Guest::new(ports.make(slot).unwrap(), input.u16()));
            ports.note_receiver(slot, 0, true);
        }
        let mut burst = Burst::new();
        burst.set_batch(batch);
        House { ledger, ports, fabric, burst, guests, single: batch <= 1, learnt: HashMap::new(), taken: Vec::new() }
    }

    /// Octets: guest and kind of step (1), then its particulars.
    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let slot = u16::from(what >> 4) % GUESTS;
        let guest = &mut self.guests[usize::from(slot)];
        match what & 15 {
            0..4 => guest.post(input),
            4..9 => guest.send(input),
            9..13 => self.serve(slot),
            13 => guest.scribble(input),
            14 => {
                guest.restart(self.ports.get(slot).unwrap());
                self.ports.note_receiver(slot, 0, guest.enabled);
            }
            _ => {
                let up = input.below(4) != 0;
                lease(self.ports, slot, 0).enabled = up;
                self.ports.note_receiver(slot, 0, up && guest.sound);
                guest.enabled = up;
            }
        }
    }

    fn serve(&mut self, slot: u16) {
        loop {
            let before: Vec<Count> = (0..GUESTS).map(|slot| self.count(slot)).collect();
            let taken = self
                .burst
                .serve(&mut self.fabric, &mut lease(self.ports, slot, 1), (slot, 1), BUDGET)
                .map(|served| served.chains);
            self.hold_faults();
            let taken = match taken {
                Ok(taken) => taken,
                Err(_) => {
                    assert!(!self.guests[usize::from(slot)].honest);
                    lease(self.ports, slot, 1).queue = None;
                    return;
                }
            };
            let sender = &mut self.guests[usize::from(slot)];
            let sent = sender.completed(taken);
            let after = self.count(slot);
            let forwarded = after.from_guest - before[usize::from(slot)].from_guest;
            let dropped = after.drops - before[usize::from(slot)].drops;
            if self.guests[usize::from(slot)].honest {
                // The sender's own drops are those of its frames: nothing comes back to it.
                assert_eq!(forwarded + dropped, taken as u64, "a frame was neither forwarded nor dropped");
            }
            // Where addresses of one are seen who scribbles, nobody knows.
            if self.single && taken == 1 && self.guests.iter().all(|guest| guest.honest) {
                self.judge(slot, &sent[0], forwarded == 1, &before);
            }
            self.taken.extend(sent);
            // What one sends who scribbles over his rings, nobody knows.
            let known = self.guests.iter().all(|guest| guest.honest).then_some(&self.taken[..]);
            for guest in &mut self.guests {
                guest.receive(known);
            }
            if taken == 0 {
                return;
            }
        }
    }

    /// Compares what became of one frame with what becomes of frames.
    fn judge(&mut self, from: u16, sent: &Sent, forwarded: bool, before: &[Count]) {
        let Some((dst, src)) = sent.addresses() else { return assert!(!forwarded) };
        if src[0] & 1 != 0 || src == [0; 6] || dst[..5] == [1, 0x80, 0xc2, 0, 0] && dst[5] < 16 {
            return assert!(!forwarded);
        }
        if self.count(from).bad_offload > before[usize::from(from)].bad_offload {
            return;
        }
        self.learnt.insert(src, from);
        let others = (0..GUESTS).filter(|slot| *slot != from);
        let expected: Vec<u16> = match self.learnt.get(&dst).filter(|_| dst[0] & 1 == 0) {
            Some(to) if *to == from => return assert!(!forwarded, "hairpin"),
            Some(to) => vec![*to],
            None => others.clone().filter(|slot| before[usize::from(*slot)].up).collect(),
        };
        assert_eq!(forwarded, !expected.is_empty());
        for slot in others {
            let (before, after) = (&before[usize::from(slot)], self.count(slot));
            let news = after.to_guest + after.drops - before.to_guest - before.drops;
            match expected.contains(&slot) {
                true => assert!(news == 1 || news > 1 && sent.hdr[1] != 0, "{news} frames of one for port {slot}"),
                false => assert_eq!(news, 0, "a frame for somebody else came to port {slot}"),
            }
        }
    }

    /// A ring that broke stays stopped, and only who broke it can have done so.
    fn hold_faults(&mut self) {
        while let Some((slot, ring, _)) = self.fabric.next_fault() {
            let guest = &mut self.guests[usize::from(slot)];
            assert!(!guest.honest, "an honest guest's ring broke");
            guest.sound &= ring != 0;
            lease(self.ports, slot, ring).end();
            self.ports.note_receiver(slot, ring, false);
        }
    }

    fn count(&self, slot: u16) -> Count {
        let at = usize::from(slot);
        Count::of(&self.ledger.ports[at], self.guests[at].enabled && self.guests[at].sound)
    }
}

fn lease(ports: &'static Ports, slot: u16, ring: u16) -> RingLease {
    ports.get(slot).unwrap().ring(ring).unwrap().lease(0).unwrap()
}

/// A port's counters.
struct Count {
    from_guest: u64,
    to_guest: u64,
    drops: u64,
    bad_offload: u64,
    /// The guest received, as far as its ring was known to be sound.
    up: bool,
}

impl Count {
    fn of(line: &PortLine, up: bool) -> Count {
        Count {
            up,
            from_guest: line.from_guest_frames.load(Relaxed),
            to_guest: line.to_guest_frames.load(Relaxed),
            drops: line.drops.iter().map(|counter| counter.load(Relaxed)).sum(),
            bad_offload: line.drops[sv3::drops::Drop::BadOffload as usize].load(Relaxed),
        }
    }
}
