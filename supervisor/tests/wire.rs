//! Tests sv3's vhost-user codec against rust-vmm's: sv3's decoder reads exactly what `vhost::Frontend` sends, and the
//! front-end reads exactly what sv3's back-end answers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use proptest::prelude::*;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use sv3::foreign::ForeignFd;
use sv3::ipc::RingAddr;
use sv3::wire::vhost_user::{Code, Decoder, MemoryRegion, OFFERED_PROTOCOL_FEATURES, Reply, Request};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

/// Requests about this ring are refused.
const REFUSED: u16 = 5;
/// What the back-end answers to questions.
const ANSWER: u64 = 0x1234_5678_9abc_def0 | 1 << 30;

/// A call of the front-end.
#[derive(Clone, Debug)]
enum Call {
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    ResetDevice,
    SetMemTable(Vec<MemoryRegion>),
    AddMemReg(MemoryRegion),
    RemMemReg(MemoryRegion),
    SetVringNum(u16, u16),
    SetVringBase(u16, u16),
    GetVringBase(u16),
    SetVringAddr(u16, RingAddr),
    SetVringKick(u16),
    SetVringInterrupt(u16),
    SetVringErr(u16),
    SetVringEnable(u16, bool),
    GetMaxMemSlots,
}

fn call() -> impl Strategy<Value = Call> {
    let region = (any::<u64>(), 1..u64::MAX, any::<u64>(), any::<u64>())
        .prop_map(|(guest_addr, size, user_addr, offset)| MemoryRegion { guest_addr, size, user_addr, offset });
    let addr = any::<(u64, u64, u64)>().prop_map(|(desc, avail, used)| RingAddr { desc, avail, used });
    let ring = || 0u16..32;
    prop_oneof![
        any::<u64>().prop_map(|features| Call::SetFeatures(features | 1 << 30)),
        Just(Call::SetOwner),
        Just(Call::ResetOwner),
        Just(Call::ResetDevice),
        prop::collection::vec(region.clone(), 1..=8).prop_map(Call::SetMemTable),
        region.clone().prop_map(Call::AddMemReg),
        region.prop_map(Call::RemMemReg),
        (ring(), any::<u16>()).prop_map(|(ring, num)| Call::SetVringNum(ring, num)),
        (ring(), any::<u16>()).prop_map(|(ring, base)| Call::SetVringBase(ring, base)),
        ring().prop_map(Call::GetVringBase),
        (ring(), addr).prop_map(|(ring, addr)| Call::SetVringAddr(ring, addr)),
        ring().prop_map(Call::SetVringKick),
        ring().prop_map(Call::SetVringInterrupt),
        ring().prop_map(Call::SetVringErr),
        (ring(), any::<bool>()).prop_map(|(ring, on)| Call::SetVringEnable(ring, on)),
        Just(Call::GetMaxMemSlots),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn we_hear_what_another_front_end_says(calls in prop::collection::vec(call(), 0..40)) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let backend = std::thread::spawn(move || listen(ours));
        let memory = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
        let expected: Vec<String> = {
            let mut frontend = negotiate(theirs);
            calls.iter().map(|call| say(&mut frontend, call, &memory)).collect()
        };
        let heard = finish(backend, &memory);
        prop_assert_eq!(expected, heard);
    }
}

fn negotiate(stream: UnixStream) -> Frontend {
    let mut frontend = Frontend::from_stream(stream, 32);
    assert_eq!(frontend.get_features().unwrap(), ANSWER);
    let protocol = frontend.get_protocol_features().unwrap();
    assert_eq!(protocol, VhostUserProtocolFeatures::from_bits_truncate(OFFERED_PROTOCOL_FEATURES));
    frontend.set_protocol_features(protocol).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(1 << 30).unwrap();
    frontend
}

/// Makes the call, checks the answer, and returns what the back-end should have received.
fn say(frontend: &mut Frontend, call: &Call, memory: &OwnedFd) -> String {
    let fd = EventFd::new(0).unwrap();
    let at = |region: &MemoryRegion| VhostUserMemoryRegionInfo {
        guest_phys_addr: region.guest_addr,
        memory_size: region.size,
        userspace_addr: region.user_addr,
        mmap_offset: region.offset,
        mmap_handle: memory.as_fd().as_raw_fd(),
    };
    let (words, ring, heard) = match call {
        Call::SetFeatures(features) => {
            (format!("SetFeatures({features})"), 0, frontend.set_features(*features).map_err(drop))
        }
        Call::SetOwner => ("SetOwner".to_string(), 0, frontend.set_owner().map_err(drop)),
        Call::ResetOwner => ("ResetOwner".to_string(), 0, frontend.reset_owner().map_err(drop)),
        Call::ResetDevice => ("ResetDevice".to_string(), 0, frontend.reset_device().map_err(drop)),
        Call::SetMemTable(regions) => {
            let table: Vec<_> = regions.iter().map(at).collect();
            let pairs: Vec<String> = regions.iter().map(|region| format!("({region:?}, fd)")).collect();
            let words = format!("SetMemTable([{}])", pairs.join(", "));
            (words, 0, frontend.set_mem_table(&table).map(drop).map_err(drop))
        }
        Call::AddMemReg(region) => {
            (format!("AddMemReg({region:?}, fd)"), 0, frontend.add_mem_region(&at(region)).map(drop).map_err(drop))
        }
        Call::RemMemReg(region) => {
            (format!("RemMemReg({region:?})"), 0, frontend.remove_mem_region(&at(region)).map_err(drop))
        }
        Call::SetVringNum(ring, num) => {
            let words = format!("SetVringNum {{ ring: {ring}, num: {num} }}");
            (words, *ring, frontend.set_vring_num((*ring).into(), *num).map_err(drop))
        }
        Call::SetVringBase(ring, base) => {
            let words = format!("SetVringBase {{ ring: {ring}, base: {base} }}");
            (words, *ring, frontend.set_vring_base((*ring).into(), *base).map_err(drop))
        }
        Call::GetVringBase(ring) => {
            assert_eq!(frontend.get_vring_base((*ring).into()).unwrap(), u32::from(*ring) + 40_000);
            (format!("GetVringBase {{ ring: {ring} }}"), 0, Ok(()))
        }
        Call::SetVringAddr(ring, addr) => {
            let RingAddr { desc, avail, used } = *addr;
            let config = VringConfigData {
                queue_max_size: 256,
                queue_size: 256,
                flags: 0,
                desc_table_addr: desc,
                avail_ring_addr: avail,
                used_ring_addr: used,
                log_addr: None,
            };
            let words = format!("SetVringAddr {{ ring: {ring}, flags: 0, addr: {addr:?}, log: 0 }}");
            (words, *ring, frontend.set_vring_addr((*ring).into(), &config).map_err(drop))
        }
        Call::SetVringKick(ring) => {
            let words = format!("SetVringKick {{ ring: {ring}, fd: Some(fd) }}");
            (words, *ring, frontend.set_vring_kick((*ring).into(), &fd).map_err(drop))
        }
        Call::SetVringInterrupt(ring) => {
            let words = format!("SetVringCall {{ ring: {ring}, fd: Some(fd) }}");
            (words, *ring, frontend.set_vring_call((*ring).into(), &fd).map_err(drop))
        }
        Call::SetVringErr(ring) => {
            let words = format!("SetVringErr {{ ring: {ring}, fd: Some(fd) }}");
            (words, *ring, frontend.set_vring_err((*ring).into(), &fd).map_err(drop))
        }
        Call::SetVringEnable(ring, on) => {
            let words = format!("SetVringEnable {{ ring: {ring}, num: {} }}", u32::from(*on));
            (words, *ring, frontend.set_vring_enable((*ring).into(), *on).map_err(drop))
        }
        Call::GetMaxMemSlots => {
            assert_eq!(frontend.get_max_mem_slots().unwrap(), ANSWER);
            ("GetMaxMemSlots".to_string(), 0, Ok(()))
        }
    };
    assert_eq!(heard.is_err(), ring == REFUSED, "{call:?}: the front-end read another answer than was given");
    words
}

/// The requests that the back-end received, as text, and the memory that came with them.
type Heard = (Vec<String>, Vec<OwnedFd>);

fn listen(mut stream: UnixStream) -> Heard {
    let (mut decoder, mut words, mut memory) = (Decoder::new(), Vec::new(), Vec::new());
    loop {
        let mut space = [MaybeUninit::uninit(); 256];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let octets = &mut [IoSliceMut::new(decoder.space())];
        let count = recvmsg(&stream, octets, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        if count == 0 {
            return (words, memory);
        }
        let mut fds: Vec<ForeignFd> = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received.map(ForeignFd::from));
            }
        }
        let Some(message) = decoder.advance(count, fds).unwrap() else { continue };
        words.push(spell(&message.request));
        let ring = ring(&message.request);
        let code = message.request.code();
        let reply = match code {
            Code::GET_VRING_BASE => Some(Reply::VringBase { ring, base: u32::from(ring) + 40_000 }),
            Code::GET_PROTOCOL_FEATURES => Some(Reply::U64(code, OFFERED_PROTOCOL_FEATURES)),
            Code::GET_FEATURES | Code::GET_MAX_MEM_SLOTS => Some(Reply::U64(code, ANSWER)),
            _ => message.need_reply.then(|| Reply::ack(code, ring != REFUSED)),
        };
        if let Some(reply) = reply {
            stream.write_all(&reply.to_bytes()).unwrap();
        }
        match message.request {
            Request::SetMemTable(table) => memory.extend(table.iter().map(|(_, fd)| copy(fd))),
            Request::AddMemReg(_, fd) => memory.push(copy(&fd)),
            _ => {}
        }
    }
}

/// What the back-end received after the negotiation. All memory must be the guest's.
fn finish(backend: JoinHandle<Heard>, memory: &OwnedFd) -> Vec<String> {
    let (words, fds) = backend.join().unwrap();
    let inode = |fd: &OwnedFd| fstat(fd).unwrap().st_ino;
    assert!(fds.iter().all(|fd| inode(fd) == inode(memory)));
    assert_eq!(words[..2], ["GetFeatures", "GetProtocolFeatures"]);
    words[4..].to_vec()
}

fn ring(request: &Request) -> u16 {
    match request {
        Request::SetVringNum { ring, .. }
        | Request::SetVringBase { ring, .. }
        | Request::GetVringBase { ring }
        | Request::SetVringAddr { ring, .. }
        | Request::SetVringKick { ring, .. }
        | Request::SetVringCall { ring, .. }
        | Request::SetVringErr { ring, .. }
        | Request::SetVringEnable { ring, .. } => *ring,
        _ => 0,
    }
}

/// The request as text, without the fds' numbers.
fn spell(request: &Request) -> String {
    let mut words = format!("{request:?}");
    while let Some(at) = words.find("OwnedFd { fd: ") {
        let end = words[at..].find('}').unwrap();
        words.replace_range(at..=at + end, "fd");
    }
    words
}

fn copy(fd: &ForeignFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}
