//! What a virtual function asks of the 82599's physical function. The messages are not in the data sheet; the drivers of
//! physical functions define them, Linux' ixgbe for all. They came in versions of an interface (API_NEGOTIATE).
//!
//! | version | number | what it brought |
//! |---|---|---|
//! | 1.0 | 0 | RESET, SET_MAC_ADDR, SET_MULTICAST, SET_LPE, SET_MACVLAN |
//! | 1.1 | 2 | GET_QUEUES; jumbo frames beside functions of version 1.0 |
//! | 1.2, 1.3 | 3, 4 | UPDATE_XCAST_MODE: all groups, from 1.3 on all addresses |
//! | 1.4 | 5 | |
//! | 1.5 | 6 | GET_LINK_STATE |
//!
//! An 82599 cannot pass all addresses to a function, and its driver refuses. An X540 can, if its administrator trusts
//! the function and the physical function is promiscuous itself.

use sv3::card::CardSettings;

use crate::nic::address::{self, Mac};
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::vf::family::Terms;
use crate::nic::vf::mailbox::{MSG_INFO, Mailbox};

const SET_LPE: u32 = 5;
const SET_MACVLAN: u32 = 6;
const API_NEGOTIATE: u32 = 8;
const GET_QUEUES: u32 = 9;
const UPDATE_XCAST_MODE: u32 = 0xc;
const GET_LINK_STATE: u32 = 0x10;

/// Versions of the interface, best first, as their numbers. Version 2.0 (1) is another branch.
const VERSIONS: [u32; 6] = [API_1_5, 5, API_1_3, API_1_2, API_1_1, API_1_0];
const API_1_0: u32 = 0;
const API_1_1: u32 = 2;
const API_1_2: u32 = 3;
const API_1_3: u32 = 4;
const API_1_5: u32 = 6;

/// UPDATE_XCAST_MODE: the groups of SET_MULTICAST, all groups, all addresses.
const MULTI: u32 = 1;
const ALLMULTI: u32 = 2;
const PROMISC: u32 = 3;

/// Octets of a frame that are not payload and count for SET_LPE: header and CRC, no VLAN tag.
const FRAME: u32 = 18;
/// Payload of frames that are not jumbo frames.
const STANDARD: u16 = 1500;

/// See [`crate::nic::vf::family::Family::agree`].
pub fn agree(bar: &impl Bar, mailbox: &mut Mailbox, settings: &CardSettings) -> Result<Terms, Fault> {
    let version = negotiate(bar, mailbox)?;
    let pairs = if version >= API_1_1 { queues(bar, mailbox)? } else { 1 };
    let longest = u32::from(settings.mtu) + FRAME;
    if !mailbox.request(bar, &[SET_LPE, longest])?.done && settings.mtu > STANDARD {
        return Err(Fault::Bad("SET_LPE"));
    }
    let mode = mode(bar, mailbox, version)?;
    let link = version < API_1_5 || link_state(bar, mailbox)?;
    Ok(Terms { pairs, all_unicast: mode >= PROMISC, all_multicast: mode >= ALLMULTI, link })
}

/// The best version that both know.
fn negotiate(bar: &impl Bar, mailbox: &mut Mailbox) -> Result<u32, Fault> {
    for version in VERSIONS {
        if mailbox.request(bar, &[API_NEGOTIATE, version])?.done {
            return Ok(version);
        }
        // A physical function that has forgotten this one refuses all, and one without the request has version 1.0.
        if mailbox.is_lost() {
            return Err(Fault::Bad("API_NEGOTIATE"));
        }
    }
    Ok(API_1_0)
}

/// Queue pairs of the function, 1 to 8.
fn queues(bar: &impl Bar, mailbox: &mut Mailbox) -> Result<u16, Fault> {
    let reply = mailbox.request(bar, &[GET_QUEUES])?;
    let [transmit, receive, ..] = reply.words;
    Ok(if reply.done { transmit.min(receive).clamp(1, 8) as u16 } else { 1 })
}

/// The most that the physical function passes. It may grant less than was asked for and say so in the answer.
fn mode(bar: &impl Bar, mailbox: &mut Mailbox, version: u32) -> Result<u32, Fault> {
    for mode in [PROMISC, ALLMULTI, MULTI] {
        if version < API_1_2 || version < API_1_3 && mode == PROMISC {
            continue;
        }
        let reply = mailbox.request(bar, &[UPDATE_XCAST_MODE, mode])?;
        if reply.done {
            return Ok(reply.words[0].min(mode));
        }
        if mailbox.is_lost() {
            return Err(Fault::Bad("UPDATE_XCAST_MODE"));
        }
    }
    Ok(MULTI)
}

/// The administrator lets the link be up.
fn link_state(bar: &impl Bar, mailbox: &mut Mailbox) -> Result<bool, Fault> {
    let reply = mailbox.request(bar, &[GET_LINK_STATE])?;
    Ok(!reply.done || reply.words[0] != 0)
}

/// See [`crate::nic::vf::family::Family::add`]. Number 1 begins a new list.
pub fn add(index: usize, mac: Mac) -> [u32; 3] {
    let (low, high) = address::to_words(mac);
    [SET_MACVLAN | (index as u32 + 1) << MSG_INFO, low, high]
}
