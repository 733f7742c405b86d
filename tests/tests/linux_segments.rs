//! The reference that the switch is compared with, compared with Linux: what a tap device of the kernel makes of the
//! frames, with its offloads off. Needs root, for a network of its own.
#![allow(unsafe_code)] // ioctl and setsockopt that no library has
#![allow(clippy::expect_used, reason = "a kernel that refuses has failed the test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use sv3_tests::frames::{ACK, CWR, FIN, PSH, Packet, finish, frame, mac};
use sv3_tests::guest::NetHdr;

/// A tap device, and a socket that sends by it: frames with a virtio header in, frames with one out.
struct Tap {
    device: File,
    sender: File,
}

/// Octets of the virtio header that the kernel puts in front.
const HEADER: usize = 10;

impl Tap {
    /// A device that leaves to its reader what `offloads` says (`TUN_F_*`); the rest the kernel does.
    fn new(offloads: libc::c_ulong) -> Tap {
        let device = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        // SAFETY: all of `ifreq` are numbers and octets.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = flags;
        // SAFETY: the kernel reads and writes an `ifreq`, which `request` is; and then numbers.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
        assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        // SAFETY: takes a number.
        let set = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
        assert_eq!(set, 0, "TUNSETOFFLOAD: {}", std::io::Error::last_os_error());
        let name: Vec<u8> = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
        let name = String::from_utf8(name).expect("a name of ASCII");
        let up = std::process::Command::new("ip").args(["link", "set", &name, "up"]).status().expect("ip");
        assert!(up.success());
        Tap { device, sender: packet_socket(&name) }
    }

    /// What becomes of a frame; a marker behind it shows the end.
    fn exchange(&mut self, hdr: &NetHdr, sent: &[u8]) -> Vec<Vec<u8>> {
        let marker = frame(mac(2), mac(1), &[0; 46]);
        for (hdr, frame) in [(hdr, sent), (&NetHdr::default(), &marker)] {
            let octets = [&hdr.octets()[..HEADER], frame].concat();
            assert_eq!(self.sender.write(&octets).expect("the kernel takes the frame"), octets.len(), "{hdr:?}");
        }
        let mut received = Vec::new();
        let mut buffer = vec![0; 70_000];
        loop {
            let ready = poll(&mut [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)], 10_000u16);
            assert_eq!(ready, Ok(1), "the marker does not come");
            let len = self.device.read(&mut buffer).expect("a frame");
            let (hdr, octets) = (NetHdr::parse(&buffer[..HEADER]), &buffer[HEADER..len]);
            if octets == marker {
                return received;
            }
            // The kernel's own frames have another source.
            if octets[..12] == sent[..12] {
                received.push(finish(&hdr, octets.to_vec()));
            }
        }
    }
}

fn packet_socket(name: &str) -> File {
    // SAFETY: numbers in, an fd out that nothing else has.
    let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)) };
    let on: libc::c_int = 1;
    let index = nix::net::if_::if_nametoindex(name).expect("the device's number");
    // SAFETY: all of it are numbers.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = index as i32;
    let len = |octets: usize| octets as libc::socklen_t;
    // SAFETY: the kernel reads as many octets as both values have.
    let set = unsafe {
        let (fd, value) = (socket.as_raw_fd(), (&raw const on).cast());
        libc::setsockopt(fd, libc::SOL_PACKET, PACKET_VNET_HDR, value, len(size_of_val(&on)))
            | libc::bind(fd, (&raw const to).cast(), len(size_of_val(&to)))
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    File::from(socket)
}

const PACKET_VNET_HDR: libc::c_int = 15;
const TUN_F_CSUM: libc::c_ulong = 1;

#[test]
#[ignore = "needs root"]
fn linux_makes_the_same_segments() {
    // Of this thread alone.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, for a network of its own");
    let (mut all, mut partial) = (Tap::new(0), Tap::new(TUN_F_CSUM));
    for v6 in [false, true] {
        for (tags, options) in [(0, 0), (1, 0), (2, 0), (0, 8), (0, 40), (1, 24)] {
            for (packet, mss) in [
                (Packet::tcp(v6, 0), 1448),
                (Packet::tcp(v6, 1400), 1448),
                (Packet::tcp(v6, 2896).flags(ACK | PSH | FIN), 1448),
                (Packet::tcp(v6, 64_000).flags(ACK | PSH), 1448),
                (Packet::tcp(v6, 5001).flags(ACK | CWR | PSH), 537),
                (Packet::udp(v6, 1), 1000),
                (Packet::udp(v6, 1000), 1000),
                (Packet::udp(v6, 2000), 1000),
                (Packet::udp(v6, 64_001), 1001),
            ] {
                let packet = packet.tagged(tags).optioned(options);
                let (hdr, frame) = packet.unsegmented(mss);
                let parts = packet.parts(mss);
                let case = format!("{:?} v6 {v6} tags {tags} options {options} mss {mss}", packet.transport);
                let finished: Vec<_> = parts.iter().map(|(hdr, frame)| finish(hdr, frame.clone())).collect();
                assert_same(&partial.exchange(&hdr, &frame), &finished, &format!("{case}, partial"));
                assert_same(&all.exchange(&hdr, &frame), &finished, &case);
            }
        }
    }
}

#[track_caller]
fn assert_same(got: &[Vec<u8>], wanted: &[Vec<u8>], case: &str) {
    assert_eq!(got.len(), wanted.len(), "frames of {case}");
    for (index, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let differs = got.iter().zip(wanted).position(|(got, wanted)| got != wanted);
        assert!(got.len() == wanted.len() && differs.is_none(), "number {index} of {case} differs at {differs:?}");
    }
}
