//! Ports of open files, made as `sv3 attach` makes them.

use std::os::fd::AsFd;

use nix::sys::socket::SockType;
use sv3::attachment::{Attachment, FrameForm, Learning, Transport};

use super::{Form, Namespace, PacketPeer, StreamPeer, Tap, packet_pair};
use crate::failure::Result;
use crate::switch::Switch;

/// What is attached under a name, with nothing unusual.
pub fn attachment(transport: Transport, name: &str) -> Attachment {
    let form = if transport == Transport::Tap { FrameForm::NetHeader } else { FrameForm::Plain };
    Attachment { transport, name: name.to_string(), form, mtu: Attachment::MTU, learning: Learning::Free }
}

/// The same, as an uplink.
pub fn uplink(transport: Transport, name: &str) -> Attachment {
    Attachment { learning: Learning::Uplink, ..attachment(transport, name) }
}

/// Attaches a network's tap of one queue.
pub fn attach_tap(switch: &Switch, network: &Namespace, tap: &str, what: &Attachment) -> Result<()> {
    switch.attach(what, &[Tap::open(network, tap, false)?.as_fd()]).map(drop)
}

/// Attaches a stream; the peer behind it.
pub fn attach_stream(switch: &Switch, what: &Attachment) -> Result<StreamPeer> {
    let form = if what.form == FrameForm::NetHeader { Form::NetHeader } else { Form::Plain };
    let (peer, theirs) = StreamPeer::pair(form)?;
    switch.attach(what, &[theirs.as_fd()])?;
    Ok(peer)
}

/// Attaches a socket on which a frame is a message; the peer behind it.
pub fn attach_packets(switch: &Switch, what: &Attachment, kind: SockType) -> Result<PacketPeer> {
    let (peer, theirs) = packet_pair(kind)?;
    switch.attach(what, &[theirs.as_fd()])?;
    Ok(peer)
}
