//! What can be attached to the switch by open files: taps, macvtaps and sockets.
//!
//! Whoever has the right to open the file opens it, and passes it over the control socket with an [`Attachment`]. The
//! supervisor checks what the kernel says of the file, and gives it to the worker ([`crate::ipc::Command::FileOpen`]).

use std::fmt;

use serde::{Deserialize, Serialize};

/// How frames pass through a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// A tap or macvtap device: a frame a syscall, each with a net header of 12 octets.
    Tap,
    /// A SOCK_SEQPACKET or SOCK_DGRAM socket: a frame a message.
    Packets,
    /// A SOCK_STREAM socket: each frame follows its length, 4 octets, big-endian.
    Stream,
}

/// What is in front of each frame of a socket, and what that says of offloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameForm {
    /// Nothing: frames are complete.
    #[default]
    Plain,
    /// A net header of [`crate::virtio::NET_HDR_LEN`] octets, which counts in the length. All offloads.
    NetHeader,
    /// Nothing, but the peer's guest uses offloads (libkrun): TCP and UDP frames have a partial checksum, and frames
    /// longer than the MTU are to be segmented.
    Implied,
}

/// Which source addresses a port may take for its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Learning {
    /// Any: an address belongs to the port that it spoke from last (802.1Q, 8.7).
    #[default]
    Free,
    /// Any that no other running port has, except for uplinks: a guest that came here from the network takes its address
    /// along. A frame with another port's address is dropped: its sender is a second machine with one address.
    Guarded,
    /// The same, so stations that move between uplinks take their addresses along. Only an uplink gets the announcements
    /// of guests' addresses and the frames that find loops.
    Uplink,
}

/// A port to be made of open files, which come with the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// How frames pass through the files: one, or one for each queue pair of a tap.
    pub transport: Transport,
    /// The name of the port: 1 to [`Attachment::NAME_MAX`] octets of letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// What is in front of each frame. A tap's is [`FrameForm::NetHeader`].
    pub form: FrameForm,
    /// Most octets of a frame's payload that the other side accepts, [`Attachment::MTU_MIN`] to
    /// [`Attachment::MTU_MAX`].
    pub mtu: u32,
    /// Which addresses the port may take.
    pub learning: Learning,
}

impl Attachment {
    /// Most octets of a name.
    pub const NAME_MAX: usize = 31;
    /// The least MTU (RFC 791).
    pub const MTU_MIN: u32 = 68;
    /// The largest MTU, as passt, gvproxy and slirp4netns have it.
    pub const MTU_MAX: u32 = 65_520;
    /// The MTU of Ethernet.
    pub const MTU: u32 = 1_500;

    /// Whether a name may be a port's. `p` and a number is the name of a slot, which no attachment may have.
    pub fn is_name(name: &str) -> bool {
        let good = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
        let of_slot = name.strip_prefix('p').is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()));
        (1..=Attachment::NAME_MAX).contains(&name.len()) && name.chars().all(good) && !of_slot
    }

    /// Reads what [`fmt::Display`] writes: transport and name, then `KEY=VALUE` for what differs from the defaults.
    pub fn parse(words: &str) -> Option<Attachment> {
        let mut words = words.split(' ');
        let transport = match words.next()? {
            "tap" => Transport::Tap,
            "packets" => Transport::Packets,
            "stream" => Transport::Stream,
            _ => return None,
        };
        let name = words.next().filter(|name| Attachment::is_name(name))?.to_string();
        let form = if transport == Transport::Tap { FrameForm::NetHeader } else { FrameForm::Plain };
        let mut it = Attachment { transport, name, form, mtu: Attachment::MTU, learning: Learning::Free };
        for word in words {
            match word.split_once('=')? {
                ("form", "net-header") => it.form = FrameForm::NetHeader,
                ("form", "implied") if transport != Transport::Tap => it.form = FrameForm::Implied,
                ("mtu", mtu) => {
                    let bounds = Attachment::MTU_MIN..=Attachment::MTU_MAX;
                    it.mtu = mtu.parse().ok().filter(|mtu| bounds.contains(mtu))?;
                }
                ("learning", "guarded") => it.learning = Learning::Guarded,
                ("learning", "uplink") => it.learning = Learning::Uplink,
                _ => return None,
            }
        }
        Some(it)
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tap => "tap",
            Transport::Packets => "packets",
            Transport::Stream => "stream",
        };
        write!(f, "{transport} {}", self.name)?;
        match self.form {
            FrameForm::Plain => {}
            FrameForm::NetHeader if self.transport == Transport::Tap => {}
            FrameForm::NetHeader => f.write_str(" form=net-header")?,
            FrameForm::Implied => f.write_str(" form=implied")?,
        }
        if self.mtu != Attachment::MTU {
            write!(f, " mtu={}", self.mtu)?;
        }
        f.write_str(match self.learning {
            Learning::Free => "",
            Learning::Guarded => " learning=guarded",
            Learning::Uplink => " learning=uplink",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for transport in [Transport::Tap, Transport::Packets, Transport::Stream] {
            for form in [FrameForm::Plain, FrameForm::NetHeader, FrameForm::Implied] {
                for (mtu, learning) in [(1500, Learning::Free), (65_520, Learning::Guarded), (68, Learning::Uplink)] {
                    let attachment = Attachment { transport, name: "up.0".to_string(), form, mtu, learning };
                    if transport != Transport::Tap || form == FrameForm::NetHeader {
                        assert_eq!(Attachment::parse(&attachment.to_string()), Some(attachment));
                    }
                }
            }
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for words in [
            "",
            "tap",
            "pipe a",
            "tap p7",
            "tap p",
            "tap a/b",
            "tap a form=implied",
            "stream a mtu=67",
            "stream a mtu=65521",
            "stream a mtu=",
            "stream a form=other",
            "stream a learning=",
            "stream a  mtu=1500",
            "stream a mtu=1500 ",
            "stream aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert_eq!(Attachment::parse(words), None, "{words:?}");
        }
    }
}
