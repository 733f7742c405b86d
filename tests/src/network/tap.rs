//! A tap device, opened: the side that the switch has.

use std::ffi::CString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::Namespace;
use crate::failure::{Failure, Result};
use crate::guest::NetHdr;
use crate::patience::until;

/// Octets of the header in front of each frame.
const HEADER: usize = 12;
/// TUN_F_CSUM, TSO4, TSO6, TSO_ECN, USO4 and USO6 (linux/if_tun.h).
pub const OFFLOADS: libc::c_ulong = 0x6f;
const TUN_F_USO: libc::c_ulong = 0x60;

/// A tap whose reader finishes checksums and segments itself.
pub struct Tap {
    file: File,
}

impl Tap {
    /// Opens a tap of a network, as `sv3 attach tap` does: with a header of 12 octets and all [`OFFLOADS`]. It is made
    /// if it is missing. Each call opens one queue of a tap with several. Waits for a tap of one queue that is open in a
    /// process which is about to end or to close it.
    pub fn open(namespace: &Namespace, name: &str, multi_queue: bool) -> Result<Tap> {
        let name = CString::new(name)?;
        namespace.inside(|| {
            let file = File::options().read(true).write(true).open("/dev/net/tun")?;
            let more = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
            let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more) as i16;
            // SAFETY: all of `ifreq` are numbers and octets.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            request.ifr_ifru.ifru_flags = flags;
            let octets = name.as_bytes_with_nul();
            let longest = request.ifr_name.len();
            let room = request.ifr_name.iter_mut().zip(octets);
            room.for_each(|(place, octet)| *place = *octet as libc::c_char);
            if octets.len() > longest {
                return Err(Failure::new(format!("{name:?} is too long for an interface")));
            }
            // SAFETY: the kernel reads and writes an `ifreq`, which `request` is.
            let mut set = || Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) });
            until("a tap that nobody has open", || match set() {
                Err(Errno::EBUSY) => Ok(None),
                done => Ok(Some(done.map_err(|error| Failure::new(format!("TUNSETIFF: {error}")))?)),
            })?;
            set_header_len(&file, HEADER)?;
            // SAFETY: takes a number. Linux before 6.2 has no USO.
            let set = |offloads: libc::c_ulong| unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
            done("TUNSETOFFLOAD", if set(OFFLOADS) == 0 { 0 } else { set(OFFLOADS & !TUN_F_USO) })?;
            // SAFETY: fcntl with numbers.
            done("O_NONBLOCK", unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
            Ok(Tap { file })
        })
    }

    /// Gives the device headers of another length, in all of its queues.
    pub fn set_header_len(&self, octets: usize) -> Result<()> {
        set_header_len(&self.file, octets)
    }

    /// Sends a frame to the network; false: the interface is down.
    pub fn send(&self, hdr: &NetHdr, frame: &[u8]) -> Result<bool> {
        let octets = [hdr.octets().as_slice(), frame].concat();
        match (&self.file).write(&octets) {
            Ok(written) if written == octets.len() => Ok(true),
            Ok(written) => Err(Failure::new(format!("{written} of {} octets were written", octets.len()))),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a frame that the network sends, if there is one.
    pub fn receive(&self) -> Result<Option<(NetHdr, Vec<u8>)>> {
        let mut octets = vec![0; 70_000];
        match (&self.file).read(&mut octets) {
            Ok(count) => {
                octets.truncate(count);
                let frame = octets.split_off(HEADER.min(count));
                Ok((octets.len() == HEADER).then(|| (NetHdr::parse(&octets), frame)))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The open file, for what moves frames by itself.
    pub fn into_file(self) -> File {
        self.file
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> OwnedFd {
        tap.file.into()
    }
}

fn set_header_len(file: &File, octets: usize) -> Result<()> {
    let length = libc::c_int::try_from(octets)?;
    // SAFETY: the kernel reads an `int`, which `length` is.
    done("TUNSETVNETHDRSZ", unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &length) })
}

fn done(what: &str, result: libc::c_int) -> Result<()> {
    let failed = || Failure::new(format!("{what}: {}", std::io::Error::last_os_error()));
    if result == 0 { Ok(()) } else { Err(failed()) }
}
