//! `sv3 attach` and `sv3 detach`: ports of open files and of network cards.
//!
//! This process opens the tap or the card, or connects the socket, because it has the right of the person who runs it, and gives the
//! open files to the switch, which may open nothing. Then it ends. The switch keeps the files.

pub mod macvtap;
pub mod nic;
pub mod socket;
pub mod tap;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use sv3::attachment::{Attachment, FrameForm, Learning, Transport};
use sv3::card_attachment::{CardAttachment, parse_mac};
use sv3::control::ControlRequest;
use sv3::frame::MacAddr;
use sv3::status::AttachAnswer;

use crate::control::Control;
use crate::output::print;

/// Attach a tap, a macvtap, a network card or a socket as a port of the switch.
///
/// Run it as the user who owns the device; root attaches root's own with --control. See docs/use/uplinks.md.
#[derive(Args)]
pub struct Attach {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Attach a tap device of this host
    Tap {
        /// The device, such as tap0
        device: String,
        /// Queue pairs: one for each thread of the worker that shall serve it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
        queues: u16,
        #[command(flatten)]
        port: PortOptions,
    },
    /// Attach a macvtap device of this host
    Macvtap {
        /// The device, such as macvtap0
        device: String,
        #[command(flatten)]
        port: PortOptions,
    },
    /// Drive a network card of this host: an Intel 82599 or X540, or a virtual function of these or of an 82576 or I350
    ///
    /// The card must be bound to vfio-pci and its group be this user's: scripts/vfio-rebind does that. See
    /// docs/use/nic.md.
    Nic {
        /// Its address on the PCI bus, such as 0000:02:00.1
        address: String,
        #[command(flatten)]
        card: CardOptions,
        #[command(flatten)]
        port: PortOptions,
    },
    /// Connect to a stream socket: frames with their length in front (passt, gvproxy, socket_vmnet, QEMU)
    Stream {
        /// The socket that the other side listens on
        path: PathBuf,
        #[command(flatten)]
        frames: FrameOptions,
        #[command(flatten)]
        port: PortOptions,
    },
    /// Connect to a SOCK_SEQPACKET socket: a frame a message
    Seqpacket {
        /// The socket that the other side listens on
        path: PathBuf,
        #[command(flatten)]
        frames: FrameOptions,
        #[command(flatten)]
        port: PortOptions,
    },
    /// Bind a SOCK_DGRAM socket and connect it to the peer's: a frame a message
    Dgram {
        /// The path of this side, which is made
        local: PathBuf,
        /// The path of the peer, which must exist
        peer: PathBuf,
        #[command(flatten)]
        frames: FrameOptions,
        #[command(flatten)]
        port: PortOptions,
    },
}

/// What the port is.
#[derive(Args, Clone)]
pub struct PortOptions {
    /// The port's name [default: the device's or the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The port leads to a network, not to one machine [default for taps and macvtaps]
    #[arg(long, overrides_with = "no_uplink")]
    uplink: bool,
    /// The port leads to one machine
    #[arg(long)]
    no_uplink: bool,
    /// Wait for the switch with this process id to start
    #[arg(long, hide = true, value_name = "PID")]
    of: Option<i32>,
    #[command(flatten)]
    control: Control,
}

/// How a card is used.
#[derive(Args, Clone)]
pub struct CardOptions {
    /// Queue pairs: one for each thread of the worker that shall serve it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    queues: u16,
    /// Descriptors of each ring, a multiple of 128 up to 4096
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u16).range(128..=4096))]
    descriptors: u16,
    /// Most octets of a frame's payload that the network takes, 68 to 9500
    #[arg(long, value_name = "OCTETS", default_value_t = 1500,
        value_parser = clap::value_parser!(u16).range(68..=9500))]
    mtu: u16,
    /// Let the card join received TCP segments (RSC)
    #[arg(long)]
    lro: bool,
    /// Let the card read what guests send in their own memory, which is locked. See docs/use/nic.md
    #[arg(long)]
    zero_copy: bool,
    /// Use this address in the place of the card's own
    #[arg(long, value_name = "MAC", value_parser = mac)]
    mac: Option<MacAddr>,
}

fn mac(words: &str) -> Result<MacAddr, String> {
    let good = |mac: &MacAddr| !mac.is_group() && !mac.is_zero();
    parse_mac(words).filter(good).ok_or(format!("{words:?} is no address of one machine, such as 02:00:00:00:00:01"))
}

impl CardOptions {
    fn card(&self, name: &str, address: &str, learning: Learning) -> CardAttachment {
        CardAttachment {
            pairs: self.queues,
            descriptors: self.descriptors,
            mtu: self.mtu,
            lro: self.lro,
            zero_copy: self.zero_copy,
            mac: self.mac,
            learning,
            ..CardAttachment::new(name, address)
        }
    }
}

/// How long a switch may take to start.
pub const SWITCH_TIME: Duration = Duration::from_secs(30);

/// How frames look on a socket.
#[derive(Args, Clone)]
pub struct FrameOptions {
    /// Most octets of a frame's payload that the other side takes, 68 to 65520
    #[arg(long, value_name = "OCTETS", default_value_t = Attachment::MTU,
        value_parser = clap::value_parser!(u32).range(i64::from(Attachment::MTU_MIN)..=i64::from(Attachment::MTU_MAX)))]
    mtu: u32,
    /// A net header of 12 octets is in front of each frame
    #[arg(long, conflicts_with = "implied")]
    vnet: bool,
    /// The peer's guest uses offloads although no header says so (libkrun)
    #[arg(long)]
    implied: bool,
}

impl FrameOptions {
    fn form(&self) -> FrameForm {
        match (self.vnet, self.implied) {
            (true, _) => FrameForm::NetHeader,
            (_, true) => FrameForm::Implied,
            _ => FrameForm::Plain,
        }
    }
}

impl Attach {
    /// Opens the files, gives them to the switch, and prints the result.
    pub fn exec(&self) -> Result<(), String> {
        let (port, default) = self.what.port();
        if !port.is_wanted(&default)? {
            return Ok(());
        }
        match &self.what {
            What::Tap { device, queues, .. } => {
                let (fds, is_new) = tap::open(device, *queues)?;
                port.attach(Transport::Tap, &default, None, &fds)?;
                tap::hint(device, is_new);
                Ok(())
            }
            What::Macvtap { device, .. } => {
                let fds = macvtap::open(device)?;
                port.attach(Transport::Tap, &default, None, &fds)?;
                macvtap::limits(device)
            }
            What::Nic { address, card, .. } => port.attach_card(card, &default, address),
            What::Stream { path, frames, .. } => {
                port.attach(Transport::Stream, &default, Some(frames), &[socket::stream(path)?])
            }
            What::Seqpacket { path, frames, .. } => {
                port.attach(Transport::Packets, &default, Some(frames), &[socket::seqpacket(path)?])
            }
            What::Dgram { local, peer, frames, .. } => {
                port.attach(Transport::Packets, &default, Some(frames), &[socket::dgram(local, peer)?])
            }
        }
    }
}

impl What {
    /// The options of the port, and its name if none is given.
    fn port(&self) -> (&PortOptions, String) {
        match self {
            What::Tap { device, port, .. } | What::Macvtap { device, port } => (port, device.clone()),
            What::Nic { address, port, .. } => (port, format!("nic-{}", address.replace(':', "-"))),
            What::Stream { path, port, .. } | What::Seqpacket { path, port, .. } => (port, name_of(path)),
            What::Dgram { local, port, .. } => (port, name_of(local)),
        }
    }
}

impl PortOptions {
    /// Whether the port is to be attached. Beside `sv3 run --take-over`, the switch may have it already.
    fn is_wanted(&self, default: &str) -> Result<bool, String> {
        let name = self.name.as_deref().unwrap_or(default);
        if !Attachment::is_name(name) {
            return Err(format!(
                "{name:?} cannot be the name of a port: use --name with up to {} letters, digits, '.', '_' and '-', \
                 and not 'p' with a number",
                Attachment::NAME_MAX
            ));
        }
        let Some(pid) = self.of else { return Ok(true) };
        Ok(self.control.wait_for(pid, SWITCH_TIME)?.1.port(name).is_none())
    }

    fn attach(
        &self,
        transport: Transport,
        default: &str,
        frames: Option<&FrameOptions>,
        fds: &[OwnedFd],
    ) -> Result<(), String> {
        let uplink = !self.no_uplink && (self.uplink || transport == Transport::Tap);
        let attachment = Attachment {
            transport,
            name: self.name.clone().unwrap_or(default.to_string()),
            form: frames.map_or(FrameForm::NetHeader, FrameOptions::form),
            mtu: frames.map_or(Attachment::MTU, |frames| frames.mtu),
            learning: match (uplink, transport) {
                (true, _) => Learning::Uplink,
                (false, Transport::Tap) => Learning::Free,
                (false, _) => Learning::Guarded,
            },
        };
        let answer = give(&self.control, attachment, fds)?;
        let again = if answer.resumed { " again" } else { "" };
        print(&format!(
            "{} is attached{again}; `sv3 status` shows it, `sv3 detach {}` ends it\n",
            answer.name, answer.name
        ))
    }
}

impl PortOptions {
    fn attach_card(&self, options: &CardOptions, default: &str, address: &str) -> Result<(), String> {
        let name = self.name.as_deref().unwrap_or(default);
        let learning = if self.no_uplink { Learning::Free } else { Learning::Uplink };
        let card = options.card(name, address, learning);
        if !card.is_valid() {
            return Err(format!("{address}: the number of descriptors must be a multiple of 128"));
        }
        let nic = nic::Nic::open(&card)?;
        let answer = self.control.hand(&ControlRequest::AttachCard(card), &nic.files())?;
        let again = if answer.get("resumed").is_some_and(|resumed| resumed == true) { " again" } else { "" };
        print(&format!("{name} is attached{again}; `sv3 status` shows it, `sv3 detach {name}` ends it\n"))
    }
}

/// Gives open files to the switch as a port.
pub fn give(control: &Control, attachment: Attachment, fds: &[OwnedFd]) -> Result<AttachAnswer, String> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let answer = control.hand(&ControlRequest::Attach(attachment), &fds)?;
    serde_json::from_value(answer).map_err(|error| format!("the switch's answer cannot be read: {error}"))
}

fn name_of(path: &std::path::Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let good = |c: char| if c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c) { c } else { '-' };
    stem.chars().map(good).take(Attachment::NAME_MAX).collect()
}

/// End a port that was attached by `sv3 attach` or `sv3 uplink`.
#[derive(Args)]
pub struct Detach {
    /// The port's name
    name: String,
    #[command(flatten)]
    control: Control,
}

impl Detach {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        self.control.ask(&ControlRequest::Detach(self.name.clone()))?;
        print(&format!("{} is detached\n", self.name))
    }
}
