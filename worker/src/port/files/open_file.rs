//! An open file and how to use it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sv3::attachment::{FrameForm, Transport};
use sv3::frame::{ETHERNET_LEN, MAX_FRAME};
use sv3::ipc::FileSettings;
use sv3::ledger::Input;
use sv3::virtio::*;

/// Octets of two VLAN tags (802.1Q, 802.1ad).
const TAGS: usize = 8;
/// Octets of the longest frame that passt takes. It closes the connection at a longer one.
const LONGEST_PLAIN: usize = 65_535;
/// Octets of the longest frame that QEMU sends to a stream (net/net.h: `NET_BUFSIZE`). More than sv3 forwards, so
/// longer frames than sv3's are dropped while the stream goes on.
const LONGEST_STREAMED: usize = 69_632;

/// The file of a queue pair.
pub struct OpenFile {
    /// The file. It does not block.
    pub fd: OwnedFd,
    /// How to use it.
    pub settings: FileSettings,
    /// Where what is read from it waits.
    pub input: &'static Input,
}

impl OpenFile {
    /// The file, for a syscall.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether a net header is in front of each frame.
    #[inline]
    pub fn has_header(&self) -> bool {
        self.settings.form == FrameForm::NetHeader
    }

    /// Whether the file gives and takes octets, not frames.
    #[inline]
    pub fn is_stream(&self) -> bool {
        self.settings.transport == Transport::Stream
    }

    /// Octets of the longest net header and frame that are read.
    pub fn longest(&self) -> usize {
        let header = if self.has_header() { NET_HDR_LEN } else { 0 };
        match self.is_stream() {
            true => LONGEST_STREAMED + header,
            // One more than is forwarded, so that a longer one is seen as such.
            false => MAX_FRAME + 1 + header,
        }
    }

    /// Octets of the longest frame that the other side takes.
    pub fn longest_taken(&self) -> usize {
        match self.has_header() {
            true => MAX_FRAME,
            false => (self.settings.mtu as usize + ETHERNET_LEN + TAGS).min(LONGEST_PLAIN),
        }
    }

    /// The virtio features that frames of both directions may use, as if the other side had negotiated them.
    pub fn features(&self) -> u64 {
        let host = VIRTIO_NET_F_CSUM.mask()
            | VIRTIO_NET_F_HOST_TSO4.mask()
            | VIRTIO_NET_F_HOST_TSO6.mask()
            | VIRTIO_NET_F_HOST_ECN.mask()
            | VIRTIO_NET_F_HOST_USO.mask();
        let guest = VIRTIO_NET_F_GUEST_CSUM.mask()
            | VIRTIO_NET_F_GUEST_TSO4.mask()
            | VIRTIO_NET_F_GUEST_TSO6.mask()
            | VIRTIO_NET_F_GUEST_ECN.mask()
            | VIRTIO_NET_F_GUEST_USO4.mask()
            | VIRTIO_NET_F_GUEST_USO6.mask();
        match self.settings.form {
            FrameForm::Plain => 0,
            FrameForm::NetHeader => host | guest,
            FrameForm::Implied => host,
        }
    }
}
