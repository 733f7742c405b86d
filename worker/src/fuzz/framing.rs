//! Target `framing`: a stream's octets, and what a worker that lied left in the ledger. Nothing panics, and what is
//! delivered is what a plain reader of the stream finds: whole frames, in order, once, without an octet of their
//! neighbours.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use sv3::attachment::{FrameForm, Transport};
use sv3::frame::{ETHERNET_LEN, MAX_FRAME, MacAddr};
use sv3::fuzz::Input;
use sv3::ids::QueueId;
use sv3::ipc::FileSettings;
use sv3::ledger::LedgerMap;
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use crate::forward::burst::Burst;
use crate::forward::fdb::AGE_S;
use crate::forward::forwarder::Forwarder;
use crate::forward::leases::Leases;
use crate::forward::offload;
use crate::port::Ports;
use crate::port::counting::Counting;
use crate::port::endpoint::Endpoint;
use crate::port::files::{FileQueue, OpenFile, Waiting, implied};
use crate::port::in_memory::InMemory;
use crate::port::view::View;

const FORMS: [FrameForm; 3] = [FrameForm::Plain, FrameForm::NetHeader, FrameForm::Implied];
const MTU: usize = 1500;
/// Frames that the receiver takes.
const ROOM: usize = 10_000;

thread_local! {
    static SHARED: (&'static LedgerMap, &'static Ports, &'static Epoll) = {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        (ledger, Box::leak(Box::new(Ports::new())), Box::leak(Box::new(epoll)))
    };
}

/// Octets: form (1), what the last worker left: whether it counts (1), state (8), counts (2 times 4); then parts of the
/// stream: length (2, its high bit: fill up with zeroes to 64 times as many), octets.
pub fn framing(octets: &[u8]) {
    let mut input = Input::new(octets);
    let (ledger, ports, epoll) = SHARED.with(|shared| *shared);
    let form = FORMS[input.below(FORMS.len())];
    let lies = input.u8() & 1 != 0;
    let shared = &ledger.inputs[0];
    shared.run.store(u32::from(lies), Relaxed);
    shared.state.store(input.u64(), Relaxed);
    shared.messages.iter().for_each(|message| message[7].store(input.u32().into(), Relaxed));
    let (ours, theirs) = UnixStream::pair().unwrap();
    [&ours, &theirs].iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let settings =
        FileSettings { transport: Transport::Stream, form, mtu: MTU as u32, send_buffer: 212_992, input: 0, run: 1 };
    let mut fixture = Fixture::new((ledger, ports, epoll), OpenFile { fd: ours.into(), settings, input: shared });
    if !fixture.begins {
        assert!(lies, "an input that nobody used");
        return;
    }
    let (mut sent, mut got, mut peer, mut is_broken) = (Vec::new(), Vec::new(), theirs, false);
    while !input.is_empty() && !is_broken {
        let len = input.u16();
        let mut part = input.take(usize::from(len & 0x7fff)).to_vec();
        if len & 0x8000 != 0 {
            part.resize(part.len() + 64 * usize::from(len & 0xff), 0);
        }
        let accepted = peer.write(&part).unwrap_or(0);
        sent.extend_from_slice(&part[..accepted]);
        is_broken = !fixture.serve(&mut got);
    }
    // A stream that lies go before gives anything, but for the octets before a frame: they never become a header.
    if !lies {
        let expected = plain_reader(&sent, form);
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert!(got[NET_HDR_LEN..] == expected[..], "{got:?} in the place of {expected:?}");
        }
    }
    if form == FrameForm::Plain {
        assert!(got.iter().all(|frame| frame[..10] == [0; 10]), "octets before a frame became its header");
    }
    let mut back = Vec::new();
    let _ = peer.read_to_end(&mut back);
    assert!(back.is_empty(), "frames came back to their sender");
}

struct Fixture {
    ports: &'static Ports,
    forwarder: Forwarder,
    burst: Burst,
    begins: bool,
}

impl Fixture {
    /// Port 0 is a stream, port 1 takes what comes.
    fn new((ledger, ports, epoll): (&'static LedgerMap, &'static Ports, &'static Epoll), file: OpenFile) -> Fixture {
        let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
        let mut forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
        forwarder.now_s = 2 * AGE_S;
        [0, 1].into_iter().for_each(|slot| forwarder.forget(slot));
        let mut burst = Burst::new();
        burst.set_batch(64);
        let [port, other] = [0, 1].map(|slot| ports.make(slot, ledger).unwrap());
        assert!(port.make_pair(0) && other.make_pair(0));
        let waiting = Waiting::new((epoll, 0), port, 0);
        let mut queue = FileQueue::new(QueueId::transmit(0, 0), Arc::new(file), waiting);
        let begins = queue.begin().is_ok();
        port.seize(QueueId::transmit(0, 0), || ()).unwrap().reset(Endpoint::Files(Box::new(queue)));
        let receiver = Endpoint::InMemory(InMemory::new(u64::MAX, ROOM));
        other.seize(QueueId::receive(1, 0), || ()).unwrap().reset(receiver);
        ports.note_receiver(QueueId::receive(1, 0), true);
        Fixture { ports, forwarder, burst, begins }
    }

    /// Serves until nothing is left. False: the stream is broken.
    fn serve(&mut self, got: &mut Vec<Vec<u8>>) -> bool {
        let (port, id) = (self.ports.get(0).unwrap(), QueueId::transmit(0, 0));
        loop {
            let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
            let served = self.burst.serve(&mut self.forwarder, (port, id), &mut queue, 1 << 20, false);
            drop(queue);
            let mut lease = self.ports.get(1).unwrap().seize(QueueId::receive(1, 0), || ()).unwrap();
            if let Endpoint::InMemory(queue) = lease.endpoint() {
                got.append(&mut queue.received);
                queue.room = ROOM;
            }
            match served {
                Ok(served) if served.frames > 0 => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// The frames that a plain reader of the stream finds, as far as the switch may forward them.
fn plain_reader(mut octets: &[u8], form: FrameForm) -> Vec<Vec<u8>> {
    let (skip, longest) = if form == FrameForm::NetHeader { (12, 69_644) } else { (0, 69_632) };
    let (mut frames, mut learnt) = (Vec::new(), std::collections::HashSet::new());
    while let Some((length, rest)) = octets.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some(body) = rest.get(..length).filter(|_| length <= longest) else { break };
        octets = &rest[length..];
        let Some((hdr, frame)) = body.split_at_checked(skip) else { continue };
        if !(ETHERNET_LEN..=MAX_FRAME).contains(&frame.len()) {
            continue;
        }
        let head = &frame[..frame.len().min(offload::HEAD)];
        let hdr = match form {
            FrameForm::Plain => NetHdr::NONE,
            FrameForm::NetHeader => NetHdr::from_bytes(hdr.try_into().unwrap()),
            FrameForm::Implied => implied::header(head, frame.len(), MTU),
        };
        // Target `offload` checks that.
        if offload::check(&hdr, head, frame.len(), u64::MAX).is_err() {
            continue;
        }
        let address = |at: usize| MacAddr::new(*frame[at..].first_chunk().unwrap());
        let (dst, src) = (address(0), address(6));
        if src.is_group() || src.is_zero() || dst.is_link_local() {
            continue;
        }
        learnt.insert(src.bits());
        if dst.is_group() || !learnt.contains(&dst.bits()) {
            frames.push(frame.to_vec());
        }
    }
    frames
}
