//! Random exchanges.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sv3::ipc::{Command as C, Region, RingAddr};
use sv3::virtio::OFFERED;

use super::super::*;
use super::client::*;

fn any_request() -> impl Strategy<Value = Request> {
    (0u32..33, 0u16..32, any::<u32>(), 0u64..6).prop_map(|(kind, ring, number, place)| {
        let region = (region(place * 0x8_0000), fd());
        let fd = (number % 4 != 0).then(fd);
        match kind {
            0 => Request::GetFeatures,
            1 => Request::SetFeatures(OFFERED & u64::from(number) << 8),
            2 => Request::GetProtocolFeatures,
            3..6 => Request::SetProtocolFeatures(OFFERED_PROTOCOL_FEATURES),
            6 => Request::ResetOwner,
            7 => Request::ResetDevice,
            8 => Request::SetMemTable(vec![region]),
            9 => Request::GetMaxMemSlots,
            10..12 => Request::AddMemReg(region.0, region.1),
            12 => Request::RemMemReg(region.0),
            13..16 => Request::SetVringNum { ring, num: number % 2 + 1 },
            16..18 => addr(ring, number.into()),
            18 => Request::SetVringBase { ring, base: number },
            19..21 => Request::GetVringBase { ring },
            21..24 => Request::SetVringKick { ring, fd },
            24 => Request::SetVringCall { ring, fd },
            25 => Request::SetVringErr { ring, fd },
            26 => Request::SetVringEnable { ring, num: number % 3 },
            27 => Request::SendRarp { mac: [2; 6] },
            30 => Request::SetLogBase { size: number.into(), offset: place << 12, fd: self::fd() },
            31 => Request::SetLogFd,
            32 => match addr(ring, number.into()) {
                Request::SetVringAddr { ring, addr, .. } => {
                    Request::SetVringAddr { ring, flags: number % 3, addr, log: u64::from(number) << 8 }
                }
                other => other,
            },
            28 => Request::NetSetMtu(number.into()),
            _ => Request::SetStatus(number.into()),
        }
    })
}

proptest! {
    /// For any request in any state: nothing panics, each request that asks for a reply gets one, and a replay to a new
    /// worker gives the same rings as the live commands, also if supervisors replace each other meanwhile.
    #[test]
    fn any_sequence_is_survived_and_can_be_replayed(
        requests in prop::collection::vec((any_request(), any::<bool>(), 0u8..8), 0..120),
    ) {
        let mut client = Client::new();
        for (request, need_reply, accident) in requests {
            let acks = VHOST_USER_PROTOCOL_F_REPLY_ACK.of(client.session.protocol_features());
            match accident {
                0 => { let _ = client.session.ring_faulted(request_ring(&request), RingFault::Unmapped); }
                1 => { client.session.worker_died(|_| 3); }
                _ => {}
            }
            let code = request.code();
            let reply = client.ask_with(request, need_reply);
            if acks && need_reply {
                let answered = match reply { Ok(reply) => reply, Err(refused) => refused.reply };
                prop_assert!(answered.is_some(), "{code} was not answered");
            }
            prop_assert!(!client.session.is_waiting());
            if accident == 2 {
                client.session = crate::fuzz::session::handed_over(&client.session);
            }
        }
        let replayed = client.session.replay();
        prop_assert_eq!(running(client.commands.iter()), running(replayed.iter().map(|told| &told.command)));
    }
}

fn request_ring(request: &Request) -> u16 {
    match request {
        Request::SetVringNum { ring, .. } | Request::GetVringBase { ring } => *ring,
        _ => 0,
    }
}

/// Rings by index: size, addresses, whether enabled.
type Rings = BTreeMap<u16, (u16, RingAddr, bool)>;

/// The rings that are started after these commands, and whether they are enabled; and the log.
fn running<'a>(commands: impl Iterator<Item = &'a C>) -> (Rings, Option<Region>) {
    let (mut rings, mut enabled, mut log) = (BTreeMap::new(), BTreeSet::new(), None);
    for command in commands {
        match command {
            C::RingStart { ring, size, addr, .. } => {
                rings.insert(*ring, (*size, *addr, false));
            }
            C::RingStop { ring, .. } => {
                rings.remove(ring);
            }
            C::LogOpen { region, .. } => log = Some(*region),
            C::LogClose { .. } => log = None,
            C::RingEnable { ring, enable: true, .. } => {
                enabled.insert(*ring);
            }
            C::RingEnable { ring, .. } => {
                enabled.remove(ring);
            }
            _ => {}
        }
    }
    rings.iter_mut().for_each(|(index, ring)| ring.2 = enabled.contains(index));
    (rings, log)
}
