//! Requests at the control socket. A request is a line; its first word is the kind.
//!
//! ```
//! use sv3::control::ControlRequest;
//!
//! let request = ControlRequest::Release("p7".to_string());
//! assert_eq!(request.to_string(), "release p7");
//! assert_eq!(ControlRequest::parse("release p7"), Some(request));
//! assert_eq!(ControlRequest::parse("dance"), None);
//! ```

use std::fmt;

use crate::attachment::Attachment;
use crate::capture::CaptureRequest;
use crate::card_attachment::CardAttachment;
use crate::fdb::Which;
use crate::mirror::Mirror;
use crate::snooping::Snooping;
use crate::trace::FRAME_MAX;

/// Version of the protocol: what requests and answers mean. It grows when a request or a field goes or means something
/// else, and not when one is added (docs/operate/control.md).
pub const PROTOCOL: u32 = 1;

/// Most octets of a request, with the newline at its end: a mirror of 16 ports with the longest names has 600.
pub const LINE_MAX: usize = 4096;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// Asks for [`crate::status::Status`].
    Status,
    /// Asks for [`crate::status::Crashes`].
    Crashes,
    /// Asks for metrics, the only answer that is not JSON but text.
    Metrics,
    /// Asks for [`crate::audit::AuditAnswer`].
    Audit,
    /// Asks for a handover to a new worker of the same binary; the answer is [`crate::status::HandoverAnswer`].
    Restart,
    /// Asks for a handover to a worker of another binary, whose open file comes with the request.
    Upgrade,
    /// Ends the quarantine of the port of this name.
    Release(String),
    /// Makes a port of open files, which come with the request; or gives a port of this name, whose files are gone,
    /// new ones. The answer is [`crate::status::AttachAnswer`].
    Attach(Attachment),
    /// Makes a port of a network card, whose open files come with the request. The answer is
    /// [`crate::status::AttachAnswer`].
    AttachCard(CardAttachment),
    /// Ends a port that was made by [`ControlRequest::Attach`] or [`ControlRequest::AttachCard`], by its name.
    Detach(String),
    /// Asks for [`crate::group_status::GroupsStatus`].
    Groups,
    /// The switch snoops on IGMP and MLD in this way from now on; `None`: it does not. The answer is empty.
    Snoop(Option<Snooping>),
    /// Asks for what is declared; the answer is [`crate::config::InForce`].
    Config,
    /// Changes what is declared, made from this generation. A sealed memfd with a [`crate::config::Change`] comes with
    /// the request, and the sockets that it names.
    Configure(u64),
    /// Asks what the switch would do with a frame. The answer is [`crate::trace::TraceAnswer`].
    Trace {
        /// Name of the port that the frame would come from.
        port: String,
        /// The frame's first octets, at most [`crate::trace::FRAME_MAX`].
        frame: Vec<u8>,
    },
    /// Asks which addresses are where; the answer is [`crate::fdb::FdbAnswer`].
    Fdb,
    /// Forgets addresses that were learnt; the answer is [`crate::fdb::FlushAnswer`].
    FdbFlush(Which),
    /// Begins a capture, whose file comes with the request. Each answer is a line of [`crate::status::CaptureAnswer`]: the
    /// first one, and one for each change of the ports. The capture ends with the connection.
    Capture(CaptureRequest),
    /// Begins a mirror.
    MirrorAdd(Mirror),
    /// Ends the mirror of this name.
    MirrorRemove(String),
    /// Asks, as the next supervisor, for all sockets and files, in a record of this version.
    Succeed(u32),
}

impl ControlRequest {
    /// Reads a request, without the newline at its end.
    pub fn parse(line: &str) -> Option<ControlRequest> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match verb {
            "status" => ControlRequest::Status,
            "crashes" => ControlRequest::Crashes,
            "metrics" => ControlRequest::Metrics,
            "audit" => ControlRequest::Audit,
            "restart" => ControlRequest::Restart,
            "upgrade" => ControlRequest::Upgrade,
            "release" => ControlRequest::Release(rest.to_string()),
            "attach" => ControlRequest::Attach(Attachment::parse(rest)?),
            "attach-card" => ControlRequest::AttachCard(CardAttachment::parse(rest)?),
            "detach" => ControlRequest::Detach(rest.to_string()),
            "groups" => ControlRequest::Groups,
            "snooping" => ControlRequest::Snoop(match rest.split_once(' ').unwrap_or((rest, "")) {
                ("off", "") => None,
                ("on", words) => Some(Snooping::parse(words).ok()?),
                _ => return None,
            }),
            "config" => ControlRequest::Config,
            "configure" => ControlRequest::Configure(rest.parse().ok()?),
            "trace" => {
                let (port, frame) = rest.rsplit_once(' ')?;
                ControlRequest::Trace { port: port.to_string(), frame: octets(frame)? }
            }
            "fdb" => ControlRequest::Fdb,
            "fdb-flush" => ControlRequest::FdbFlush(Which::parse(rest)?),
            "capture" => ControlRequest::Capture(CaptureRequest::parse(rest)?),
            "mirror-add" => ControlRequest::MirrorAdd(Mirror::parse(rest)?),
            "mirror-remove" => ControlRequest::MirrorRemove(rest.to_string()),
            "succeed" => ControlRequest::Succeed(rest.parse().ok()?),
            _ => return None,
        })
    }
}

impl fmt::Display for ControlRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ControlRequest::Status => "status",
            ControlRequest::Crashes => "crashes",
            ControlRequest::Metrics => "metrics",
            ControlRequest::Audit => "audit",
            ControlRequest::Restart => "restart",
            ControlRequest::Upgrade => "upgrade",
            ControlRequest::Release(name) => return write!(f, "release {name}"),
            ControlRequest::Attach(attachment) => return write!(f, "attach {attachment}"),
            ControlRequest::AttachCard(card) => return write!(f, "attach-card {card}"),
            ControlRequest::Detach(name) => return write!(f, "detach {name}"),
            ControlRequest::Groups => "groups",
            ControlRequest::Snoop(None) => "snooping off",
            ControlRequest::Snoop(Some(setting)) => return write!(f, "snooping on {setting}"),
            ControlRequest::Config => "config",
            ControlRequest::Configure(generation) => return write!(f, "configure {generation}"),
            ControlRequest::Trace { port, frame } => {
                write!(f, "trace {port} ")?;
                return frame.iter().try_for_each(|octet| write!(f, "{octet:02x}"));
            }
            ControlRequest::Fdb => "fdb",
            ControlRequest::FdbFlush(which) => return write!(f, "fdb-flush {which}"),
            ControlRequest::Capture(capture) => return write!(f, "capture {capture}"),
            ControlRequest::MirrorAdd(mirror) => return write!(f, "mirror-add {mirror}"),
            ControlRequest::MirrorRemove(name) => return write!(f, "mirror-remove {name}"),
            ControlRequest::Succeed(version) => return write!(f, "succeed {version}"),
        })
    }
}

/// Octets of a frame in hexadecimal.
fn octets(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let octet = |pair: &[u8]| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    };
    let octets: Option<Vec<u8>> = text.as_bytes().chunks(2).map(octet).collect();
    octets.filter(|octets| octets.len() <= FRAME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mirror_fits_into_a_request() {
        let name = |letter: &str| letter.repeat(31);
        let from = vec![name("f"); crate::mirror::SOURCES_MAX].join(",");
        let mirror = Mirror::parse(&format!("{} {} both {from}", name("m"), name("t"))).unwrap();
        assert!(ControlRequest::MirrorAdd(mirror).to_string().len() < LINE_MAX);
    }

    #[test]
    fn what_is_written_is_read() {
        let plain = [ControlRequest::Status, ControlRequest::Crashes, ControlRequest::Metrics, ControlRequest::Audit];
        let others = [ControlRequest::Restart, ControlRequest::Upgrade, ControlRequest::Release("p7".to_string())];
        let others = others.into_iter().chain([
            ControlRequest::Attach(Attachment::parse("tap up0 learning=uplink").unwrap()),
            ControlRequest::AttachCard(CardAttachment::new("nic0", "0000:02:00.1")),
            ControlRequest::Detach("up0".to_string()),
            ControlRequest::Groups,
            ControlRequest::Snoop(None),
            ControlRequest::Snoop(Some(Snooping {
                querier: false,
                interval_ms: 2000,
                response_ms: 1000,
                ..Snooping::default()
            })),
            ControlRequest::Config,
            ControlRequest::Configure(7),
            ControlRequest::Fdb,
            ControlRequest::FdbFlush(Which::default()),
            ControlRequest::FdbFlush(Which::parse("vlan=7").unwrap()),
            ControlRequest::Capture(CaptureRequest::parse("96 p0 up0").unwrap()),
            ControlRequest::Capture(CaptureRequest::parse("262144").unwrap()),
            ControlRequest::MirrorAdd(Mirror::parse("ids p2 both p0,p1").unwrap()),
            ControlRequest::MirrorRemove("ids".to_string()),
            ControlRequest::Succeed(1),
            ControlRequest::Trace { port: "p7".to_string(), frame: (0..96).collect() },
        ]);
        for request in plain.into_iter().chain(others) {
            assert_eq!(ControlRequest::parse(&request.to_string()), Some(request));
        }
        assert_eq!(ControlRequest::parse("Status"), None);
        assert_eq!(ControlRequest::parse("snooping on interval=0"), None);
        assert_eq!(ControlRequest::parse("snooping"), None);
        assert_eq!(ControlRequest::parse(""), None);
        for wrong in
            ["trace", "trace p0", "trace p0 0", "trace p0 0g", "trace p0 +1", &format!("trace p0 {}", "0".repeat(194))]
        {
            assert_eq!(ControlRequest::parse(wrong), None, "{wrong}");
        }
        for spoiled in ["capture", "capture 0", "capture 262145", "capture 96  p0", "mirror-add ids p2 both"] {
            assert_eq!(ControlRequest::parse(spoiled), None, "{spoiled}");
        }
    }
}
