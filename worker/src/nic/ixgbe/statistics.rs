//! Statistics registers (82599, 8.2.3.23). Reading clears them.

use sv3::card::{CardState, Statistic};

use crate::nic::bar::{Bar, GONE};
use crate::nic::fault::Fault;
use crate::nic::statistics::count;
use crate::nic::wait;

use super::registers::STATUS;

/// Registers of 32 bits, and what they count.
const COUNTERS: [(u32, Statistic); 17] = [
    (0x4074, Statistic::GoodReceived),      // GPRC
    (0x4080, Statistic::GoodTransmitted),   // GPTC
    (0x407c, Statistic::MulticastReceived), // MPRC
    (0x4078, Statistic::BroadcastReceived), // BPRC
    (0x4000, Statistic::CrcErrors),         // CRCERRS
    (0x4040, Statistic::LengthErrors),      // RLEC
    (0x40a4, Statistic::LengthErrors),      // RUC
    (0x40a8, Statistic::LengthErrors),      // RFC
    (0x40ac, Statistic::LengthErrors),      // ROC
    (0x40b0, Statistic::LengthErrors),      // RJC
    (0x4004, Statistic::SymbolErrors),      // ILLERRC
    (0x4008, Statistic::SymbolErrors),      // ERRBC
    (0x4120, Statistic::ChecksumErrors),    // XEC
    (0x41a4, Statistic::PausesReceived),    // LXONRXCNT
    (0x41a8, Statistic::PausesReceived),    // LXOFFRXCNT
    (0x3fa0, Statistic::Missed),            // MPC of packet buffer 0, the only one
    (0x1430, Statistic::NoDescriptor),      // QPRDC 0: RQSMR maps all queues to it
];

/// Registers of 36 bits, low word first: octets. The high word clears both.
const OCTETS: [(u32, Statistic); 2] = [
    (0x4088, Statistic::GoodOctetsReceived),    // GORCL, GORCH
    (0x4090, Statistic::GoodOctetsTransmitted), // GOTCL, GOTCH
];

/// Adds what the card has counted since the last call.
pub fn read(bar: &impl Bar, state: &CardState) -> Result<(), Fault> {
    wait::read(bar, STATUS)?;
    let add = |statistic, value: u64| {
        if value != 0 {
            count(state, statistic, value);
        }
    };
    for (at, statistic) in COUNTERS {
        add(statistic, value(bar.read(at)));
    }
    for (at, statistic) in OCTETS {
        let low = value(bar.read(at));
        add(statistic, low | (value(bar.read(at + 4)) & 0xf) << 32);
    }
    // The card may have gone in the middle: then the port ends by the next reading.
    wait::read(bar, STATUS).map(drop)
}

/// A counter's value. All ones is what a card that is gone says, and counts as nothing.
fn value(register: u32) -> u64 {
    if register == GONE { 0 } else { u64::from(register) }
}

/// Forgets what the card has counted.
pub fn discard(bar: &impl Bar) {
    for (at, _) in COUNTERS.into_iter().chain(OCTETS) {
        bar.read(at);
    }
    for (at, _) in OCTETS {
        bar.read(at + 4);
    }
}
