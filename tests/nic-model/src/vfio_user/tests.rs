//! A client speaks to a card that is served.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::device::{command, numbers};
use super::message::Fields;
use super::{Function, Served};
use crate::{Card, Memory};

/// A card with one register, which is the address of a frame of 4 octets: a write sends it, a frame is received to it.
#[derive(Default)]
struct Echo {
    at: u64,
    sent: Vec<Vec<u8>>,
    interrupts: u32,
    complaints: Vec<String>,
}

impl Card for Echo {
    fn read(&mut self, _: u32, _: u8) -> u64 {
        self.at
    }

    fn write(&mut self, _: u32, _: u8, value: u64, memory: &mut dyn Memory) {
        self.at = value;
        let mut frame = vec![0; 4];
        match memory.read(value, &mut frame) {
            true => self.sent.push(frame),
            false => self.complaints.push(format!("no memory at {value:#x}")),
        }
    }

    fn receive(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        self.interrupts |= 1;
        memory.write(self.at, frame)
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.sent.pop()
    }

    fn interrupts(&mut self) -> u32 {
        std::mem::take(&mut self.interrupts)
    }

    fn set_link(&mut self, _: bool, _: &mut dyn Memory) {}
    fn set_paused(&mut self, _: bool, _: &mut dyn Memory) {}
    fn set_bus_master(&mut self, _: bool, _: &mut dyn Memory) {}
    fn send_some(&mut self, _: u32, _: &mut dyn Memory) {}
    fn reset(&mut self) {}
    fn pull_out(&mut self) {}

    fn link_losses(&self) -> u32 {
        0
    }

    fn pass_time(&mut self, _: u32, _: &mut dyn Memory) {}

    fn complaints(&self) -> &[String] {
        &self.complaints
    }
}

struct Client {
    socket: UnixStream,
    wire: UnixStream,
    memory: File,
    served: Served,
    _folder: tempfile::TempDir,
}

/// An address at which the card finds the beginning of the memory.
const IOVA: u64 = 0x7000;

impl Client {
    fn connect() -> io::Result<Client> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("card");
        let (wire, theirs) = UnixStream::pair()?;
        let served = Served::start(Function::Physical, Box::new(Echo::default()), &path, theirs)?;
        let socket = UnixStream::connect(path)?;
        let memory = nix::sys::memfd::memfd_create(c"memory", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        let memory = File::from(memory);
        memory.set_len(4096)?;
        let mut client = Client { socket, wire, memory, served, _folder: folder };
        let fd = client.memory.as_raw_fd();
        let numbers = [numbers(&[32, 0b11]), [0, IOVA, 4096].map(u64::to_le_bytes).concat()].concat();
        client.request(command::DMA_MAP, &numbers, &[fd])?;
        Ok(client)
    }

    /// The body of the answer; an error with the number that the server gave.
    fn request(&mut self, command: u16, body: &[u8], fds: &[RawFd]) -> io::Result<Vec<u8>> {
        let header = [7_u16.to_le_bytes(), command.to_le_bytes()].concat();
        let message = [header, numbers(&[16 + body.len() as u32, 0, 0]), body.to_vec()].concat();
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights };
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&message)], rights, MsgFlags::empty(), None)?;
        let mut header = [0; 16];
        self.socket.read_exact(&mut header)?;
        let header = Fields(&header);
        assert_eq!((header.u16(0), header.u16(2)), (Some(7), Some(command)));
        let mut answer = vec![0; header.u32(4).unwrap_or_default() as usize - 16];
        self.socket.read_exact(&mut answer)?;
        match header.u32(12) {
            Some(0) => Ok(answer),
            errno => Err(io::Error::from_raw_os_error(errno.unwrap_or_default() as i32)),
        }
    }

    fn read(&mut self, region: u32, at: u64, count: u32) -> io::Result<Vec<u8>> {
        let body = [&at.to_le_bytes()[..], &numbers(&[region, count])].concat();
        Ok(self.request(command::REGION_READ, &body, &[])?.split_off(16))
    }

    fn write(&mut self, region: u32, at: u64, octets: &[u8]) -> io::Result<()> {
        let body = [&at.to_le_bytes()[..], &numbers(&[region, octets.len() as u32]), octets].concat();
        self.request(command::REGION_WRITE, &body, &[]).map(drop)
    }
}

const COMMAND: u64 = 4;
const MEMORY_AND_BUS: [u8; 2] = [6, 0];

#[test]
fn a_client_learns_what_the_device_is() -> io::Result<()> {
    let mut client = Client::connect()?;

    let version = client.request(command::VERSION, b"\0\0\0\0{}\0", &[])?;
    assert!(version.starts_with(b"\0\0\0\0{\"capabilities\""), "{version:?}");
    assert_eq!(client.request(command::DEVICE_GET_INFO, &[0; 16], &[])?, numbers(&[16, 3, 9, 5]));
    let sizes = [0, 3, 4, 7].map(|index| {
        let answer =
            client.request(command::DEVICE_GET_REGION_INFO, &[numbers(&[32, 0, index]), vec![0; 20]].concat(), &[]);
        answer.map(|body| Fields(&body).u64(16).unwrap_or_default()).unwrap_or_default()
    });
    assert_eq!(sizes, [512 << 10, 0, 16 << 10, 4096]);
    assert_eq!(client.read(7, 0, 4)?, [0x86, 0x80, 0xfb, 0x10]);
    assert!(client.request(14, &[], &[]).is_err() && client.read(0, 512 << 10, 4).is_err());
    Ok(())
}

#[test]
fn a_frame_goes_each_way_and_raises_an_interrupt() -> io::Result<()> {
    let mut client = Client::connect()?;
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
    client.request(command::DEVICE_SET_IRQS, &numbers(&[20, 1 << 2 | 1 << 5, 2, 0, 1]), &[eventfd.as_raw_fd()])?;
    client.write(7, COMMAND, &MEMORY_AND_BUS)?;
    std::os::unix::fs::FileExt::write_all_at(&client.memory, b"ping", 0)?;

    client.write(0, 0x10, &IOVA.to_le_bytes())?;
    let mut frame = [0; 8];
    client.wire.read_exact(&mut frame)?;
    assert_eq!(&frame, b"\0\0\0\x04ping");

    client.wire.write_all(b"\0\0\0\x04pong")?;
    assert_eq!(eventfd.read()?, 1);
    let mut octets = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&client.memory, &mut octets, 0)?;
    assert_eq!(&octets, b"pong");
    assert!(client.served.complaints().is_empty());
    Ok(())
}

#[test]
fn without_the_bus_the_card_reaches_nothing() -> io::Result<()> {
    let mut client = Client::connect()?;

    client.write(0, 0x10, &IOVA.to_le_bytes())?;
    client.read(0, 0x10, 4)?;
    assert_eq!(client.served.complaints(), ["no memory at 0x7000"]);

    // A reset takes the bus, too.
    client.write(7, COMMAND, &MEMORY_AND_BUS)?;
    client.request(command::DEVICE_RESET, &[], &[])?;
    client.write(0, 0x10, &IOVA.to_le_bytes())?;
    client.read(0, 0x10, 4)?;
    assert_eq!(client.served.complaints().len(), 2);
    assert!(client.served.is_alive());
    Ok(())
}
