//! Ports of sockets, without a loop.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use sv3::attachment::{FrameForm, Transport};
use sv3::drop_reason::DropReason;
use sv3::ids::QueueId;
use sv3::ipc::{FileSettings, RingFault};
use sv3::ledger::LedgerMap;

use crate::forward::burst::{Burst, End, Served};
use crate::forward::forwarder::Forwarder;
use crate::forward::leases::Leases;
use crate::poll::fair_share::TURN;
use crate::port::Ports;
use crate::port::counting::Counting;
use crate::port::endpoint::Endpoint;
use crate::port::files::{FileQueue, OpenFile, Waiting};
use crate::port::kind::{Kind, WhenEmpty};
use crate::port::sink::{BufferWait, Sink};
use crate::port::view::View;

/// The MTU of all ports.
pub const MTU: u32 = 1500;
/// SO_SNDBUF of the ports' sockets, as the kernel makes them.
const SEND_BUFFER: u32 = 212_992;

pub fn settings(transport: Transport, form: FrameForm) -> FileSettings {
    FileSettings { transport, form, mtu: MTU, send_buffer: SEND_BUFFER, input: 0, run: 1 }
}

pub fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// A frame of `len` octets in all.
pub fn frame(dst: [u8; 6], src: [u8; 6], len: usize) -> Vec<u8> {
    let head = [&dst[..], &src, &[0x88, 0xb5]].concat();
    head.into_iter().chain((0..=255).cycle()).take(len).collect()
}

/// A TCP frame with this many octets of payload and a partial checksum.
pub fn tcp(dst: [u8; 6], src: [u8; 6], payload: usize) -> Vec<u8> {
    let total = ((40 + payload) as u16).to_be_bytes();
    let ip = [0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let tcp = [0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0x12, 0x34, 0, 0];
    [&dst[..], &src, &[8, 0], &ip, &tcp, &vec![0x5a; payload]].concat()
}

/// A frame behind its length.
pub fn framed(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u32).to_be_bytes()[..], octets].concat()
}

/// The frames of a stream.
pub fn frames(mut octets: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = octets.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        frames.push(frame.to_vec());
        octets = rest;
    }
    frames
}

/// All that a socket has now.
pub fn stream(socket: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = socket.read_to_end(&mut all);
    all
}

pub struct Fixture {
    pub ledger: &'static LedgerMap,
    ports: &'static Ports,
    epoll: &'static Epoll,
    forwarder: Forwarder,
    burst: Burst,
    peers: Vec<Option<UnixStream>>,
}

impl Fixture {
    /// A port for each of these, with sockets that do not block, on both sides.
    pub fn new(settings: &[FileSettings]) -> Fixture {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let ports: &Ports = Box::leak(Box::new(Ports::new()));
        let epoll: &Epoll = Box::leak(Box::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap()));
        let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
        let forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
        let mut burst = Burst::new();
        burst.set_batch(64);
        let mut fixture = Fixture { ledger, ports, epoll, forwarder, burst, peers: Vec::new() };
        for (slot, one) in (0..).zip(settings) {
            let kind = if one.transport == Transport::Stream { SockType::Stream } else { SockType::SeqPacket };
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
            fixture.peers.push(Some(theirs.into()));
            fixture.open(slot, ours, FileSettings { input: slot, ..*one });
        }
        fixture
    }

    /// Gives a port a file.
    pub fn open(&mut self, slot: u16, fd: OwnedFd, settings: FileSettings) {
        let port = self.ports.make(slot, self.ledger).unwrap();
        port.make_pair(0);
        let input = &self.ledger.inputs[usize::from(settings.input)];
        let file = Arc::new(OpenFile { fd, settings, input });
        let waiting = Waiting::new((self.epoll, slot.into()), port, 0);
        waiting.begin(file.fd()).unwrap();
        for id in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
            let mut queue = FileQueue::new(id, Arc::clone(&file), waiting);
            queue.begin().unwrap();
            port.seize(id, || ()).unwrap().reset(Endpoint::Files(Box::new(queue)));
        }
        self.ports.note_receiver(QueueId::receive(slot, 0), true);
    }

    /// The other end of a port's socket.
    pub fn peer(&mut self, slot: usize) -> &mut UnixStream {
        self.peers[slot].as_mut().unwrap()
    }

    /// The switch learns that `mac(slot)` is at a port. A flooded frame would not wait.
    pub fn learn(&mut self, slot: u16) {
        let address = sv3::frame::MacAddr::new(mac(slot as u8));
        self.forwarder.learn(address, slot);
    }

    /// Closes the other end of a port's socket.
    pub fn hang_up(&mut self, slot: usize) {
        self.peers[slot] = None;
    }

    fn try_serve(&mut self, slot: u16, may_pause: bool) -> Result<Served, RingFault> {
        let (port, id) = (self.ports.get(slot).unwrap(), QueueId::transmit(slot, 0));
        self.forwarder.now_ns += 50_000_000;
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        self.burst.serve(&mut self.forwarder, (port, id), &mut queue, 4 * TURN, may_pause)
    }

    /// What one burst may cost.
    pub fn most_of_burst(&self, slot: u16, others_wait: bool) -> u64 {
        self.ports.get(slot).unwrap().transmit(0).unwrap().lease(0).unwrap().endpoint.most_of_burst(others_wait)
    }

    /// Serves one burst as the loop does, while others wait or not.
    pub fn serve_within(&mut self, slot: u16, others_wait: bool) -> Served {
        let budget = self.most_of_burst(slot, others_wait);
        let (port, id) = (self.ports.get(slot).unwrap(), QueueId::transmit(slot, 0));
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        self.burst.serve(&mut self.forwarder, (port, id), &mut queue, budget, false).unwrap()
    }

    /// Serves one burst. What finds no room is dropped.
    pub fn serve(&mut self, slot: u16) -> Served {
        let served = self.try_serve(slot, false).unwrap();
        assert_eq!(served.end, End::Done);
        served
    }

    /// The same, but a frame may wait.
    pub fn serve_or_wait(&mut self, slot: u16) -> Served {
        self.try_serve(slot, true).unwrap()
    }

    /// Serves a burst; why the queue broke.
    pub fn fails(&mut self, slot: u16) -> Option<RingFault> {
        self.try_serve(slot, false).err()
    }

    /// The next receiver that broke.
    pub fn next_fault(&mut self) -> Option<(u16, RingFault)> {
        self.forwarder.next_fault().map(|(queue, fault)| (queue.slot, fault))
    }

    pub fn when_empty(&self, slot: u16) -> WhenEmpty {
        self.ports.get(slot).unwrap().transmit(0).unwrap().lease(0).unwrap().endpoint.when_empty()
    }

    pub fn is_ready(&self, wait: BufferWait) -> bool {
        self.ports.get(wait.queue.slot).unwrap().receive(0).unwrap().lease(0).unwrap().endpoint.is_ready(wait.cursor)
    }

    /// Looks at the kernel's events, as the loop does.
    pub fn look(&mut self) {
        let mut events = [EpollEvent::empty(); 16];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
        for event in &events[..count] {
            self.ports.get(event.data() as u16).unwrap().note_event(0);
        }
    }

    /// What was counted as dropped at a port.
    pub fn drops(&self, slot: usize) -> Vec<(DropReason, u64)> {
        let counters = &self.ledger.ports[slot].drops;
        let all = DropReason::ALL.into_iter().map(|reason| (reason, counters[reason as usize].load(Relaxed)));
        all.filter(|(_, count)| *count > 0).collect()
    }
}
