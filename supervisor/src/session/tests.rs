//! Conversations as front-ends hold them, and as they should not.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;

use nix::fcntl::SealFlag;
use proptest::prelude::*;
use sv3::ipc::{Command as C, RingAddr};
use sv3::virtio::*;

use super::*;
use crate::admission::MemoryFile;

/// Answers as told, whatever the fd.
struct FakeKernel {
    file_size: Cell<u64>,
    eventfd: Cell<bool>,
}

impl Inspect for FakeKernel {
    fn memory(&self, _: BorrowedFd<'_>) -> io::Result<Option<MemoryFile>> {
        let size = self.file_size.get();
        Ok(Some(MemoryFile { size, block: 4096, seals: SealFlag::empty(), writable: true }))
    }

    fn claim_eventfd(&self, _: BorrowedFd<'_>) -> bool {
        self.eventfd.get()
    }
}

/// A front-end and the worker behind the session, which obeys at once.
struct Client {
    session: Session,
    kernel: FakeKernel,
    orders: Vec<C>,
}

impl Client {
    fn new() -> Client {
        let kernel = FakeKernel { file_size: Cell::new(1 << 30), eventfd: Cell::new(true) };
        Client { session: Session::new(7), kernel, orders: Vec::new() }
    }

    /// A client of QEMU's manner that has acknowledged every feature.
    fn negotiated() -> Client {
        let mut client = Client::new();
        client.ask(Request::SetProtocolFeatures(OFFERED_PROTOCOL_FEATURES));
        client.ask(Request::SetOwner);
        client.ask(Request::SetFeatures(OFFERED));
        client.orders.clear();
        client
    }

    /// Two rings that run and are enabled.
    fn running() -> Client {
        let mut client = Client::negotiated();
        client.ask(table());
        for ring in 0..2 {
            client.start(ring);
            client.ask(Request::SetVringEnable { ring, num: 1 });
        }
        client.orders.clear();
        client
    }

    fn send(&mut self, request: Request, need_reply: bool) -> Result<Step, Refused> {
        self.session.request(Message { request, need_reply }, &self.kernel)
    }

    /// Sends a request, lets the worker obey, returns the reply.
    fn ask(&mut self, request: Request) -> Option<Reply> {
        self.ask_with(request, false).unwrap()
    }

    fn ask_with(&mut self, request: Request, need_reply: bool) -> Result<Option<Reply>, Refused> {
        let step = self.send(request, need_reply)?;
        assert_eq!(step.orders.last().is_some_and(|order| order.command == C::Barrier), self.session.is_waiting());
        let mut reply = step.reply;
        for order in step.orders {
            assert_eq!(order.fd.is_some(), order.command.fds() == 1);
            match order.command {
                C::Barrier => reply = self.session.fence().unwrap(),
                C::RingStop { ring, .. } => self.session.ring_stopped(ring, 40 + u64::from(ring)).unwrap(),
                _ => {}
            }
            self.orders.push(order.command);
        }
        Ok(reply)
    }

    fn refused(&mut self, request: Request) -> String {
        let refused = self.send(request, true).unwrap_err();
        assert!(refused.close);
        refused.reason.0
    }

    fn start(&mut self, ring: u16) {
        self.ask(Request::SetVringNum { ring, num: 256 });
        self.ask(Request::SetVringBase { ring, base: 0 });
        self.ask(addr(ring, 0x1000));
        self.ask(Request::SetVringKick { ring, fd: Some(fd()) });
        self.ask(Request::SetVringCall { ring, fd: Some(fd()) });
    }

    fn names(&self) -> Vec<&'static str> {
        self.orders.iter().map(name).collect()
    }
}

fn name(command: &C) -> &'static str {
    match command {
        C::Start { .. } => "Start",
        C::Promote => "Promote",
        C::PortAdd { .. } => "PortAdd",
        C::PortRemove { .. } => "PortRemove",
        C::PortFeatures { .. } => "PortFeatures",
        C::RegionStage { .. } => "RegionStage",
        C::MemoryCommit { .. } => "MemoryCommit",
        C::RegionAdd { .. } => "RegionAdd",
        C::RegionRemove { .. } => "RegionRemove",
        C::RingStart { .. } => "RingStart",
        C::RingStop { .. } => "RingStop",
        C::RingEnable { enable: true, .. } => "RingEnable",
        C::RingEnable { enable: false, .. } => "RingDisable",
        C::RingCall { .. } => "RingCall",
        C::SendRarp { .. } => "SendRarp",
        C::Barrier => "Barrier",
    }
}

fn fd() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn region(guest_addr: u64) -> MemoryRegion {
    MemoryRegion { guest_addr, size: 0x10_0000, user_addr: 0x7000_0000_0000 + guest_addr, offset: 0 }
}

fn table() -> Request {
    Request::SetMemTable(vec![(region(0), fd())])
}

fn addr(ring: u16, desc: u64) -> Request {
    Request::SetVringAddr { ring, flags: 0, addr: RingAddr { desc, avail: desc + 0x1000, used: desc + 0x2000 } }
}

/// QEMU's order: features, protocol features, calls, enable, features again, memory, rings.
#[test]
fn a_guest_of_qemu_starts_its_rings() {
    let mut client = Client::new();
    assert_eq!(client.ask(Request::GetFeatures), Some(Reply::U64(Code::GET_FEATURES, OFFERED)));
    let offered = Reply::U64(Code::GET_PROTOCOL_FEATURES, OFFERED_PROTOCOL_FEATURES);
    assert_eq!(client.ask(Request::GetProtocolFeatures), Some(offered));
    client.ask(Request::SetProtocolFeatures(OFFERED_PROTOCOL_FEATURES));
    assert_eq!(client.ask(Request::GetQueueNum), Some(Reply::U64(Code::GET_QUEUE_NUM, 16)));
    assert_eq!(client.ask(Request::GetMaxMemSlots), Some(Reply::U64(Code::GET_MAX_MEM_SLOTS, 509)));
    client.ask(Request::SetOwner);
    client.ask(Request::SetVringCall { ring: 0, fd: Some(fd()) });
    client.ask(Request::SetVringCall { ring: 1, fd: Some(fd()) });
    client.ask(Request::SetVringEnable { ring: 0, num: 1 });
    client.ask(Request::SetVringEnable { ring: 1, num: 1 });
    client.ask(Request::SetFeatures(OFFERED));
    client.orders.clear();

    let added = client.ask_with(Request::AddMemReg(region(0), fd()), true);
    client.start(0);

    assert_eq!(added, Ok(Some(Reply::ack(Code::ADD_MEM_REG, true))));
    assert_eq!(client.names(), ["RegionAdd", "Barrier", "RingEnable", "RingStart", "RingCall"]);
    assert!(client.session.record().known_ring(0).unwrap().started);
}

/// DPDK's virtio-user tells calls before features, and enables last.
#[test]
fn a_virtio_user_starts_its_rings() {
    let mut client = Client::new();
    client.ask(Request::SetOwner);
    client.ask(Request::SetProtocolFeatures(VHOST_USER_PROTOCOL_F_REPLY_ACK.mask()));
    client.ask(Request::SetVringCall { ring: 0, fd: Some(fd()) });
    client.ask(Request::SetFeatures(OFFERED));
    client.orders.clear();

    let told = client.ask_with(table(), true);
    client.ask(Request::SetVringNum { ring: 0, num: 512 });
    client.ask(Request::SetVringBase { ring: 0, base: 0 });
    client.ask(addr(0, 0x1000));
    client.ask(Request::SetVringKick { ring: 0, fd: Some(fd()) });
    let enabled = client.ask_with(Request::SetVringEnable { ring: 0, num: 1 }, true);

    assert_eq!(told, Ok(Some(Reply::ack(Code::SET_MEM_TABLE, true))));
    assert_eq!(enabled, Ok(Some(Reply::ack(Code::SET_VRING_ENABLE, true))));
    let wanted = ["RegionStage", "MemoryCommit", "Barrier", "RingDisable", "RingStart", "RingEnable", "Barrier"];
    assert_eq!(client.names(), wanted);
}

#[test]
fn a_ring_starts_with_whatever_comes_last() {
    let rest = |client: &mut Client, skip: usize| {
        for step in (0..4).filter(|step| *step != skip).chain([skip]) {
            assert!(client.orders.iter().all(|order| name(order) != "RingStart"));
            match step {
                0 => client.ask(Request::SetVringNum { ring: 1, num: 256 }),
                1 => client.ask(addr(1, 0x1000)),
                2 => client.ask(Request::SetVringKick { ring: 1, fd: Some(fd()) }),
                _ => client.ask(table()),
            };
        }
    };
    for last in 0..4 {
        let mut client = Client::negotiated();
        rest(&mut client, last);
        assert_eq!(client.names().iter().filter(|name| **name == "RingStart").count(), 1, "{last} last");
    }
}

/// "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled state."
#[test]
fn without_protocol_features_rings_start_enabled() {
    let mut client = Client::new();
    client.ask(Request::SetFeatures(VIRTIO_F_VERSION_1.mask()));
    client.ask(table());
    client.orders.clear();
    client.start(0);
    assert_eq!(client.names(), ["RingEnable", "RingStart", "RingCall"]);
}

#[test]
fn get_vring_base_answers_where_the_worker_stopped() {
    let mut client = Client::running();
    assert_eq!(client.ask(Request::GetVringBase { ring: 1 }), Some(Reply::VringBase { ring: 1, base: 41 }));
    assert_eq!(client.names(), ["RingStop", "Barrier"]);
    client.orders.clear();
    // Stopped already: the same answer, and nothing to do.
    assert_eq!(client.ask(Request::GetVringBase { ring: 1 }), Some(Reply::VringBase { ring: 1, base: 41 }));
    assert!(client.orders.is_empty());
    // Stopped means forgotten: only all of it starts it again.
    client.ask(Request::SetVringKick { ring: 1, fd: Some(fd()) });
    assert!(client.orders.is_empty());
    client.ask(addr(1, 0x1000));
    assert_eq!(client.names(), ["RingEnable", "RingStart"]);
}

#[test]
fn get_vring_base_of_a_ring_that_never_ran_answers_what_was_set() {
    let mut client = Client::negotiated();
    assert_eq!(client.ask(Request::GetVringBase { ring: 5 }), Some(Reply::VringBase { ring: 5, base: 0 }));
    client.ask(Request::SetVringBase { ring: 4, base: 9 });
    assert_eq!(client.ask(Request::GetVringBase { ring: 4 }), Some(Reply::VringBase { ring: 4, base: 9 }));
    assert!(client.orders.is_empty());
}

#[test]
fn a_ring_that_runs_keeps_its_size_addresses_and_base() {
    let mut client = Client::running();
    client.ask(Request::SetVringNum { ring: 0, num: 256 });
    client.ask(addr(0, 0x1000));
    client.ask(Request::SetVringBase { ring: 0, base: 0 });
    assert!(client.orders.is_empty());
    assert!(client.refused(Request::SetVringNum { ring: 0, num: 512 }).contains("ring 0 runs"));
    assert!(client.refused(addr(0, 0x8000)).contains("ring 0 runs"));
    assert!(client.refused(Request::SetVringBase { ring: 0, base: 1 }).contains("ring 0 runs"));
}

#[test]
fn features_may_be_repeated_while_rings_run_but_not_changed() {
    let mut client = Client::running();
    client.ask(Request::SetFeatures(OFFERED));
    assert!(client.orders.is_empty());
    assert!(client.refused(Request::SetFeatures(0)).contains("while rings run"));
}

#[test]
fn a_new_kick_starts_a_running_ring_anew_and_a_new_call_does_not() {
    let mut client = Client::running();
    client.ask(Request::SetVringCall { ring: 0, fd: Some(fd()) });
    client.ask(Request::SetVringCall { ring: 0, fd: None });
    assert_eq!(client.names(), ["RingCall", "RingCall"]);
    client.orders.clear();
    client.ask(Request::SetVringKick { ring: 0, fd: Some(fd()) });
    assert_eq!(client.names(), ["RingEnable", "RingStart"]);
}

/// QEMU resets the device after it has stopped the rings; other front-ends do not stop them. It then relies on what it
/// has told before: memory, calls, protocol features.
#[test]
fn a_reset_stops_and_disables_the_rings_and_keeps_the_rest() {
    let mut client = Client::running();
    client.ask(Request::SetStatus(15));
    let reply = client.ask_with(Request::ResetDevice, true);
    assert_eq!(reply, Ok(Some(Reply::ack(Code::RESET_DEVICE, true))));
    assert_eq!(client.names(), ["RingStop", "RingDisable", "RingStop", "RingDisable", "Barrier"]);
    let record = client.session.record();
    assert!(!record.is_running() && record.memory.len() == 1 && record.status == 0);
    assert_eq!(record.protocol_features, OFFERED_PROTOCOL_FEATURES);
    assert_eq!(client.ask(Request::GetVringBase { ring: 1 }), Some(Reply::VringBase { ring: 1, base: 41 }));
}

#[test]
fn regions_come_and_go() {
    let mut client = Client::running();
    client.ask(Request::AddMemReg(region(0x10_0000), fd()));
    assert!(client.refused(Request::AddMemReg(region(0x10_0000), fd())).contains("overlaps"));
    assert!(client.refused(Request::RemMemReg(region(0x20_0000))).contains("no region"));
    client.ask(Request::RemMemReg(MemoryRegion { offset: 77, ..region(0x10_0000) }));
    assert_eq!(client.names(), ["RegionAdd", "Barrier", "RegionRemove", "Barrier"]);
    assert_eq!(client.session.record().memory.len(), 1);
}

/// QEMU replaces a region by removing and adding it, while rings that lie in it run.
#[test]
fn a_ring_whose_memory_comes_back_runs_again() {
    let mut client = Client::running();
    client.ask(Request::RemMemReg(region(0)));
    assert!(client.session.ring_faulted(0, RingFault::Unmapped));
    assert!(!client.session.ring_faulted(0, RingFault::Unmapped));
    client.orders.clear();
    client.ask(Request::AddMemReg(region(0), fd()));
    assert_eq!(client.names(), ["RegionAdd", "RingEnable", "RingStart", "Barrier"]);
    assert_eq!(client.session.record().known_ring(0).unwrap().fault, None);
}

#[test]
fn the_table_is_full_at_509_regions() {
    let mut client = Client::negotiated();
    for slot in 0..509 {
        client.ask(Request::AddMemReg(region(slot * 0x10_0000), fd()));
    }
    assert!(client.refused(Request::AddMemReg(region(509 * 0x10_0000), fd())).contains("509 slots"));
}

#[test]
fn a_refused_memory_table_is_answered_and_changes_nothing() {
    let mut client = Client::running();
    client.kernel.file_size.set(4096);
    let refused = client.send(table(), true).unwrap_err();
    assert_eq!(refused.reply, Some(Reply::ack(Code::SET_MEM_TABLE, false)));
    assert!(refused.close && refused.reason.0.contains("4096 octets long and must be at least 1048576"));
    assert_eq!(client.session.record().memory[0].file_size, 1 << 30);
    assert!(!client.session.is_waiting());
}

#[test]
fn what_is_not_offered_is_answered_if_an_answer_is_wanted() {
    let mut client = Client::negotiated();
    let refused = client.send(Request::Unserved(Code::SET_LOG_BASE), true).unwrap_err();
    assert_eq!((refused.reply, refused.close), (Some(Reply::ack(Code::SET_LOG_BASE, false)), false));
    let refused = client.send(Request::Unserved(Code::SET_LOG_BASE), false).unwrap_err();
    assert_eq!((refused.reply, refused.close), (None, true));
}

#[test]
fn nothing_is_acknowledged_before_reply_ack_is_negotiated() {
    let mut client = Client::new();
    assert_eq!(client.ask_with(Request::SetOwner, true), Ok(None));
    client.ask(Request::SetProtocolFeatures(VHOST_USER_PROTOCOL_F_REPLY_ACK.mask()));
    assert_eq!(client.ask_with(Request::SetOwner, true), Ok(Some(Reply::ack(Code::SET_OWNER, true))));
    assert_eq!(client.ask_with(Request::SetOwner, false), Ok(None));
}

#[test]
fn requests_need_their_protocol_feature() {
    for request in [
        Request::SendRarp { mac: [0; 6] },
        Request::NetSetMtu(1500),
        Request::GetMaxMemSlots,
        Request::AddMemReg(region(0), fd()),
        Request::RemMemReg(region(0)),
        Request::ResetDevice,
        Request::SetStatus(0),
        Request::GetStatus,
    ] {
        assert!(Client::new().refused(request).contains(" without VHOST_USER_PROTOCOL_F_"));
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let mut client = Client::negotiated();
    for num in [0, 3, 65536, 0x1_0000] {
        assert!(client.refused(Request::SetVringNum { ring: 0, num }).contains("power of two"));
    }
    client.refused(Request::SetFeatures(VHOST_F_LOG_ALL.mask()));
    client.refused(Request::SetProtocolFeatures(1 << 63));
    client.refused(Request::SetVringBase { ring: 0, base: 0x1_0000 });
    client.refused(Request::SetVringEnable { ring: 0, num: 2 });
    client.refused(Request::SetStatus(256));
    client.refused(Request::SetVringKick { ring: 0, fd: None });
    assert!(!client.send(Request::NetSetMtu(67), true).unwrap_err().close);
    client.kernel.eventfd.set(false);
    assert!(client.refused(Request::SetVringCall { ring: 0, fd: Some(fd()) }).contains("not an eventfd"));
}

#[test]
fn a_replay_says_all_that_was_said_live() {
    let mut client = Client::running();
    client.ask(Request::GetVringBase { ring: 0 });
    let names: Vec<_> = client.session.replay().iter().map(|order| name(&order.command)).collect();
    let wanted =
        ["PortAdd", "PortFeatures", "RegionStage", "MemoryCommit", "RingCall", "RingCall", "RingEnable", "RingStart"];
    assert_eq!(names, wanted);
}

#[test]
fn an_acknowledgement_is_due_when_the_worker_dies() {
    let mut client = Client::running();
    client.send(Request::RemMemReg(region(0)), true).unwrap();
    assert_eq!(client.session.worker_died(|_| 0), Some(Reply::ack(Code::REM_MEM_REG, true)));
    assert!(!client.session.is_waiting());
}

#[test]
fn a_base_is_asked_of_the_next_worker_and_in_the_end_of_the_ledger() {
    let mut client = Client::running();
    client.send(Request::GetVringBase { ring: 1 }, false).unwrap();
    assert_eq!(client.session.worker_died(|_| 77), None);
    let names: Vec<_> = client.session.replay().iter().map(|order| name(&order.command)).collect();
    assert_eq!(names[names.len() - 3..], ["RingStart", "RingStop", "Barrier"]);
    assert_eq!(client.session.worker_died(|_| 77), None);
    assert_eq!(client.session.worker_died(|_| 77), Some(Reply::VringBase { ring: 1, base: 77 }));
    assert!(!client.session.record().known_ring(1).unwrap().started);
}

#[test]
fn a_worker_that_reports_what_cannot_be_is_found_out() {
    let mut client = Client::running();
    client.session.fence().unwrap_err();
    client.session.ring_stopped(0, 1).unwrap_err();
    client.session.ring_stopped(9999, 1).unwrap_err();
    assert!(!client.session.ring_faulted(9999, RingFault::Unmapped));
    client.send(Request::GetVringBase { ring: 0 }, false).unwrap();
    client.session.fence().unwrap_err();
    client.session.ring_stopped(0, 0x1_0000).unwrap_err();
}

#[test]
fn an_order_that_fails_is_answered_with_a_refusal() {
    let mut client = Client::running();
    client.send(table(), true).unwrap();
    let refused = client.session.order_failed("mmap: ENOMEM".to_string()).unwrap();
    assert_eq!(refused.reply, Some(Reply::ack(Code::SET_MEM_TABLE, false)));
    assert!(client.session.order_failed(String::new()).is_none());
}

#[test]
fn a_client_that_never_waits_is_made_to_wait() {
    let mut client = Client::running();
    let waits = (0..200)
        .filter(|_| {
            client.ask(Request::SetVringCall { ring: 0, fd: Some(fd()) });
            client.orders.last() == Some(&C::Barrier)
        })
        .count();
    assert_eq!(waits, 3);
}

fn any_request() -> impl Strategy<Value = Request> {
    (0u32..30, 0u16..32, any::<u32>(), 0u64..6).prop_map(|(kind, ring, number, place)| {
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
            28 => Request::NetSetMtu(number.into()),
            _ => Request::SetStatus(number.into()),
        }
    })
}

proptest! {
    /// Whatever is asked in whatever state, nothing panics, every wish for an answer is answered, and a replay into a
    /// new worker leads to the rings that the live orders have led to.
    #[test]
    fn any_sequence_is_survived_and_can_be_replayed(requests in prop::collection::vec((any_request(), any::<bool>(), 0u8..8), 0..120)) {
        let mut client = Client::new();
        for (request, need_reply, accident) in requests {
            let acks = VHOST_USER_PROTOCOL_F_REPLY_ACK.of(client.session.record().protocol_features);
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
        }
        prop_assert_eq!(running(client.orders.iter()), running(client.session.replay().iter().map(|order| &order.command)));
    }
}

fn request_ring(request: &Request) -> u16 {
    match request {
        Request::SetVringNum { ring, .. } | Request::GetVringBase { ring } => *ring,
        _ => 0,
    }
}

/// The rings that run after these commands, and whether they are enabled.
fn running<'a>(commands: impl Iterator<Item = &'a C>) -> std::collections::BTreeMap<u16, (u16, RingAddr, bool)> {
    let (mut rings, mut enabled) = (std::collections::BTreeMap::new(), std::collections::BTreeSet::new());
    for command in commands {
        match command {
            C::RingStart { ring, size, addr, .. } => {
                rings.insert(*ring, (*size, *addr, false));
            }
            C::RingStop { ring, .. } => {
                rings.remove(ring);
            }
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
    rings
}
