//! Virtual functions of the Intel 82576 (its data sheet, revision 2.87, 8.26; the messages are those of Linux' igb).
//!
//! There is no way to have frames to all addresses; all groups are had by asking. The card joins no segments.

use sv3::card::{CardSettings, Statistic};

use super::address::{self, Mac};
use super::bar::Bar;
use super::fault::Fault;
use super::interrupts::Unit;
use super::vf::Registers;
use super::vf::family::{Counter, Family, Terms};
use super::vf::mailbox::{MSG_INFO, Mailbox};

const SET_MAC_ADDR: u32 = 2;
const SET_LPE: u32 = 5;
const SET_PROMISC: u32 = 6;
/// SET_MAC_ADDR: all filters beside the function's address go.
const FILTER_CLR: u32 = 1 << MSG_INFO;
/// SET_MAC_ADDR: one more filter.
const FILTER_ADD: u32 = 2 << MSG_INFO;
/// SET_PROMISC: all groups.
const PROMISC_MULTICAST: u32 = 2 << MSG_INFO;

/// Octets of a frame that are not payload and count for SET_LPE: header, VLAN tag and CRC.
const FRAME: u32 = 22;
/// Payload of frames that are not jumbo frames.
const STANDARD: u16 = 1500;

/// The family.
#[derive(Debug)]
pub struct IgbVf;

impl Family for IgbVf {
    const REGISTERS: Registers = Registers {
        ctrl: 0x0,         // VTCTRL
        link: 0x8,         // VTSTATUS
        mailbox: 0xc40,    // V2PMAILBOX
        buffer: 0x800,     // VMBMEM
        eicr: 0x1580,      // VTEICR
        eims: 0x1524,      // VTEIMS
        eimc: 0x1528,      // VTEIMC
        eiac: 0x152c,      // VTEIAC
        eiam: 0x1530,      // VTEIAM
        eitr: 0x1680,      // VTEITR
        ivar: 0x1700,      // VTIVAR
        ivar_misc: 0x1740, // VTIVAR_MISC
        receive: 0x2800,   // RDBAL
        transmit: 0x3800,  // TDBAL
        stride: 0x100,
        srrctl: 0xc,
        drop_en: 1 << 31,
        dca: 0x14,
        flush: 0,
        rxdctl: 8 | 8 << 8,
        txdctl: 8 | 1 << 8,
        psrtype: 0xf0c, // PSRTYPE
    };
    const UNIT: Unit = Unit::Microsecond;
    const COUNTERS: &'static [Counter] = &[
        Counter { at: 0xf10, high: None, statistic: Statistic::GoodReceived }, // VFGPRC
        Counter { at: 0xf14, high: None, statistic: Statistic::GoodTransmitted }, // VFGPTC
        Counter { at: 0xf18, high: None, statistic: Statistic::GoodOctetsReceived }, // VFGORC
        Counter { at: 0xf34, high: None, statistic: Statistic::GoodOctetsTransmitted }, // VFGOTC
        Counter { at: 0xf3c, high: None, statistic: Statistic::MulticastReceived }, // VFMPRC
    ];

    fn hash(_: &[u32; 4]) -> u32 {
        0
    }

    fn speed(link: u32) -> u32 {
        match link >> 1 & 1 {
            0 => 0,
            _ => [10, 100, 1_000, 1_000][(link >> 6 & 3) as usize],
        }
    }

    fn agree(bar: &impl Bar, mailbox: &mut Mailbox, settings: &CardSettings) -> Result<Terms, Fault> {
        let longest = u32::from(settings.mtu) + FRAME;
        if !mailbox.request(bar, &[SET_LPE, longest])?.done && settings.mtu > STANDARD {
            return Err(Fault::Bad("SET_LPE"));
        }
        let all_multicast = mailbox.request(bar, &[SET_PROMISC | PROMISC_MULTICAST])?.done;
        // The 82576 has two, but its functions' frames are not spread; the I350, which is used in the same way, has one.
        Ok(Terms { pairs: 1, all_unicast: false, all_multicast, link: true })
    }

    fn add(_: usize, mac: Mac) -> [u32; 3] {
        let (low, high) = address::to_words(mac);
        [SET_MAC_ADDR | FILTER_ADD, low, high]
    }

    fn clear(mac: Mac) -> Option<[u32; 3]> {
        // Linux' igb looks at the address before it looks at what is asked, and refuses one that no station has.
        let (low, high) = address::to_words(mac);
        Some([SET_MAC_ADDR | FILTER_CLR, low, high])
    }
}
