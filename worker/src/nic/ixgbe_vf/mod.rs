//! Virtual functions of the Intel 82599 and X540 (82599, 8.3).

mod requests;

use sv3::card::{CardSettings, Statistic};

use super::address::Mac;
use super::bar::Bar;
use super::fault::Fault;
use super::interrupts::Unit;
use super::vf::Registers;
use super::vf::family::{Counter, Family, Terms};
use super::vf::mailbox::Mailbox;

/// The family.
#[derive(Debug)]
pub struct IxgbeVf;

impl Family for IxgbeVf {
    const REGISTERS: Registers = Registers {
        ctrl: 0x0,        // VFCTRL
        link: 0x10,       // VFLINKS
        mailbox: 0x2fc,   // VFMAILBOX
        buffer: 0x200,    // VFMBMEM
        eicr: 0x100,      // VTEICR
        eims: 0x108,      // VTEIMS
        eimc: 0x10c,      // VTEIMC
        eiac: 0x110,      // VTEIAC
        eiam: 0x114,      // VTEIAM
        eitr: 0x820,      // VTEITR
        ivar: 0x120,      // VTIVAR
        ivar_misc: 0x140, // VTIVAR_MISC
        receive: 0x1000,  // VFRDBAL
        transmit: 0x2000, // VFTDBAL
        stride: 0x40,
        srrctl: 0x14,
        drop_en: 1 << 28,
        dca: 0xc,
        flush: super::queue_registers::SWFLSH,
        rxdctl: 0,
        txdctl: 36 | 8 << 8,
        psrtype: 0x300, // VFPSRTYPE
    };
    const UNIT: Unit = Unit::TwoMicroseconds;
    const COUNTERS: &'static [Counter] = &[
        Counter { at: 0x101c, high: None, statistic: Statistic::GoodReceived }, // VFGPRC
        Counter { at: 0x201c, high: None, statistic: Statistic::GoodTransmitted }, // VFGPTC
        Counter { at: 0x1020, high: Some(0x1024), statistic: Statistic::GoodOctetsReceived }, // VFGORC
        Counter { at: 0x2020, high: Some(0x2024), statistic: Statistic::GoodOctetsTransmitted }, // VFGOTC
        Counter { at: 0x1034, high: None, statistic: Statistic::MulticastReceived }, // VFMPRC
    ];

    fn hash(answer: &[u32; 4]) -> u32 {
        answer[2]
    }

    fn speed(link: u32) -> u32 {
        // As LINKS of the physical function (8.3.5.2.3).
        match link >> 30 & 1 {
            0 => 0,
            _ => [10, 100, 1_000, 10_000][(link >> 28 & 3) as usize],
        }
    }

    fn agree(bar: &impl Bar, mailbox: &mut Mailbox, settings: &CardSettings) -> Result<Terms, Fault> {
        requests::agree(bar, mailbox, settings)
    }

    fn add(index: usize, mac: Mac) -> [u32; 3] {
        requests::add(index, mac)
    }

    fn clear(_: Mac) -> Option<[u32; 3]> {
        None
    }
}
