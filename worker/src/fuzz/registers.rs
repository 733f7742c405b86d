//! Target `registers`: a card whose registers hold anything. Nothing panics; no call takes longer than the watchdog's
//! patience; no register is touched that the function does not have.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use sv3::card::{CardModel, CardSettings, CardState, PairState};
use sv3::fuzz::Input;

use crate::nic::bar::{Bar, GONE};
use crate::nic::device::Device;
use crate::nic::event::Event;
use crate::nic::fault::Fault;
use crate::nic::wait::MS;

/// Most time of one call: half of what the watchdog takes for a hang, and a part of it for the rest of the command.
const PATIENCE: u64 = 300 * MS;

/// Bits by which cards tell that they are ready, and that they are not.
const READY: u32 = 1 << 9 | 1 << 5 | 1 << 4 | 1 << 3 | 1 << 2 | 1;
const UNREADY: u32 = 1 << 26 | 1 << 19 | 1 << 6;

/// A card that says what the input says. Without input it is a memory.
struct Liar<'i> {
    input: RefCell<Input<'i>>,
    memory: RefCell<BTreeMap<u32, u32>>,
    clock: Cell<u64>,
    size: u32,
}

impl Liar<'_> {
    fn check(&self, at: u32) {
        assert!(at.is_multiple_of(4) && at < self.size, "register {at:#x} of {:#x}", self.size);
        self.clock.set(self.clock.get() + 1_000);
    }
}

impl Bar for Liar<'_> {
    fn read(&self, at: u32) -> u32 {
        self.check(at);
        let stored = self.memory.borrow().get(&at).copied().unwrap_or(0);
        let mut input = self.input.borrow_mut();
        let choice = input.u8();
        let value = match choice {
            0x00..0x60 => stored,
            0x60..0x80 => stored & !UNREADY | READY,
            0x80..0xc0 => stored ^ 1 << (choice & 31),
            0xc0..0xe0 => 1 << (choice & 31),
            0xe0..0xf0 => input.u32(),
            0xf0..0xfe => u32::MAX >> 1,
            0xfe.. => GONE,
        };
        drop(input);
        self.memory.borrow_mut().insert(at, value);
        value
    }

    fn write(&self, at: u32, value: u32) {
        self.check(at);
        self.memory.borrow_mut().insert(at, value);
    }

    fn now_ns(&self) -> u64 {
        self.clock.set(self.clock.get() + 100 * 1_000);
        self.clock.get()
    }
}

/// Octets: the card (1), pairs (1), options (1), state that another worker has left: run (1), address (8); then calls (1)
/// and what each register says that they read (1, or 5).
pub fn registers(octets: &[u8]) {
    let mut input = Input::new(octets);
    let (model, size) =
        [(CardModel::Ixgbe, 0x2_0000), (CardModel::IxgbeVf, 0x4000), (CardModel::IgbVf, 0x4000)][input.below(3)];
    let pairs = 1 + input.below(if model == CardModel::Ixgbe { 16 } else { 3 }) as u16;
    let options = input.u8();
    let settings = CardSettings {
        model,
        bar_offset: 0,
        bar_size: size,
        iova: 0x1000_0000,
        pairs,
        descriptors: 128,
        buffer: [2048, 4096, 8192, 16384][usize::from(options & 3)],
        transmit: 65536,
        mtu: if options & 4 != 0 { 9000 } else { 1500 },
        lro: options & 8 != 0,
        zero_copy: false,
        mac: (options & 16 != 0).then_some([2, 0, 0, 0, 0, 1]),
        run: 1,
    };
    let state = state(u32::from(input.u8() & 1), input.u64());
    let liar = Liar { input: RefCell::new(input), memory: RefCell::default(), clock: Cell::new(0), size };
    let mut device = timed(&liar, || Device::of(&liar, &settings, &state)).ok();
    let mut calls = 0;
    while let Some(it) = device.as_mut().filter(|_| calls < 64 && !liar.input.borrow().is_empty()) {
        calls += 1;
        if call(&liar, it, &settings, &state) == Err(Fault::Gone) {
            device = None;
        }
    }
}

fn call(liar: &Liar, device: &mut Device, settings: &CardSettings, state: &CardState) -> Result<(), Fault> {
    assert!((1..=settings.pairs).contains(&device.pairs()));
    assert_eq!(device.mac()[0] & 1, 0, "a station's address");
    let choice = liar.input.borrow_mut().u8();
    let vector = u16::from(choice >> 4);
    let interrupts = device.interrupts();
    timed(liar, || match choice & 7 {
        0 => device.start(liar).map(drop),
        1 => device.stop(liar),
        2 => device.link(liar).map(|speed| assert!([0, 10, 100, 1_000, 10_000].contains(&speed))),
        3 => {
            let macs = [[2, 0, 0, 0, 1, choice]; 20];
            device.filter(liar, &macs).map(|count| assert!(count <= macs.len()))
        }
        4 | 5 => device.service(liar, state).map(|event| assert!(event != Event::Link(1))),
        6 => device.statistics(liar, state),
        _ => {
            interrupts.mask(liar, vector);
            interrupts.acknowledge(liar, vector);
            interrupts.unmask(liar, vector);
            interrupts.set_rate(liar, vector, u32::from(choice) << 12);
            let pair = vector % device.pairs();
            device.receive_registers(pair).enable(liar, "RXDCTL")?;
            device.transmit_registers(pair).enable(liar, "TXDCTL")
        }
    })
}

fn timed<T>(liar: &Liar, call: impl FnOnce() -> T) -> T {
    let start = liar.clock.get();
    let value = call();
    let took = liar.clock.get() - start;
    assert!(took < PATIENCE, "a call took {} ms", took / MS);
    value
}

fn state(run: u32, mac: u64) -> Box<CardState> {
    let state = CardState {
        run: AtomicU32::new(run),
        link: AtomicU32::new(0),
        mac: AtomicU64::new(0),
        statistics: std::array::from_fn(|_| AtomicU64::new(0)),
        pairs: std::array::from_fn(|_| PairState { words: std::array::from_fn(|_| AtomicU64::new(0)) }),
    };
    state.mac.store(mac >> 16, Relaxed);
    Box::new(state)
}
