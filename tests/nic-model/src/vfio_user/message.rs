//! Messages of vfio-user: a header of 16 octets, a body, and open files beside the header's first octet.
//!
//! docs/interop/vfio-user.rst of QEMU is the format. All numbers are little-endian here, as the machine is.
#![allow(unsafe_code)] // open files that come with a message

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

const HEADER: usize = 16;
/// Most open files that come with one message.
pub const MOST_FILES: usize = 16;
/// Most octets of one region access.
pub const MOST_DATA: usize = 1 << 20;

const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// A command of the client.
pub struct Message {
    id: u16,
    /// What it wants.
    pub command: u16,
    flags: u32,
    /// What follows the header.
    pub body: Vec<u8>,
    /// Open files that came with it.
    pub files: Vec<File>,
}

impl Message {
    /// Waits for the next one; none: the client is gone.
    pub fn receive(socket: &mut UnixStream) -> io::Result<Option<Message>> {
        let mut header = [0; HEADER];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; MOST_FILES]);
        let mut files = Vec::new();
        let mut parts = [IoSliceMut::new(&mut header)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for entry in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = entry {
                // SAFETY: the kernel has just made them for this process, and nobody else knows them.
                files.extend(fds.into_iter().map(|fd| unsafe { File::from_raw_fd(fd) }));
            }
        }
        let octets = received.bytes;
        if octets == 0 {
            return Ok(None);
        }
        socket.read_exact(header.get_mut(octets..).unwrap_or_default())?;
        let header = Fields(&header);
        let size = header.u32(4).unwrap_or_default() as usize;
        let body = size.checked_sub(HEADER).filter(|body| *body <= 2 * MOST_DATA);
        let mut body = vec![0; body.ok_or(ErrorKind::InvalidData)?];
        socket.read_exact(&mut body)?;
        let (id, command) = (header.u16(0).unwrap_or_default(), header.u16(2).unwrap_or_default());
        Ok(Some(Message { id, command, flags: header.u32(8).unwrap_or_default(), body, files }))
    }

    /// The body's numbers.
    pub fn fields(&self) -> Fields<'_> {
        Fields(&self.body)
    }

    /// Answers, if the client wants that.
    pub fn reply(&self, socket: &mut UnixStream, body: &[u8]) -> io::Result<()> {
        self.answer(socket, REPLY, 0, body)
    }

    /// Answers that the command failed.
    pub fn refuse(&self, socket: &mut UnixStream, errno: i32) -> io::Result<()> {
        self.answer(socket, REPLY | ERROR, errno as u32, &[])
    }

    fn answer(&self, socket: &mut UnixStream, flags: u32, errno: u32, body: &[u8]) -> io::Result<()> {
        if self.flags & NO_REPLY != 0 {
            return Ok(());
        }
        let mut octets = Vec::with_capacity(HEADER + body.len());
        octets.extend_from_slice(&self.id.to_le_bytes());
        octets.extend_from_slice(&self.command.to_le_bytes());
        for number in [(HEADER + body.len()) as u32, flags, errno] {
            octets.extend_from_slice(&number.to_le_bytes());
        }
        octets.extend_from_slice(body);
        socket.write_all(&octets)
    }
}

/// Numbers in octets that somebody else wrote.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn octets<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    /// A number of 16 bits.
    pub fn u16(self, at: usize) -> Option<u16> {
        self.octets(at).map(u16::from_le_bytes)
    }

    /// A number of 32 bits.
    pub fn u32(self, at: usize) -> Option<u32> {
        self.octets(at).map(u32::from_le_bytes)
    }

    /// A number of 64 bits.
    pub fn u64(self, at: usize) -> Option<u64> {
        self.octets(at).map(u64::from_le_bytes)
    }

    /// What follows.
    pub fn rest(self, at: usize) -> Option<&'a [u8]> {
        self.0.get(at..)
    }
}
