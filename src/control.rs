//! Requests at the control socket. A request is a line; its first word is the kind.

use std::fmt;

use crate::attachment::Attachment;
use crate::capture::CaptureRequest;
use crate::card_attachment::CardAttachment;
use crate::mirror::Mirror;

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
            ControlRequest::Capture(capture) => return write!(f, "capture {capture}"),
            ControlRequest::MirrorAdd(mirror) => return write!(f, "mirror-add {mirror}"),
            ControlRequest::MirrorRemove(name) => return write!(f, "mirror-remove {name}"),
            ControlRequest::Succeed(version) => return write!(f, "succeed {version}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let plain = [ControlRequest::Status, ControlRequest::Crashes, ControlRequest::Metrics, ControlRequest::Audit];
        let others = [ControlRequest::Restart, ControlRequest::Upgrade, ControlRequest::Release("p7".to_string())];
        let others = others.into_iter().chain([
            ControlRequest::Attach(Attachment::parse("tap up0 learning=uplink").unwrap()),
            ControlRequest::AttachCard(CardAttachment::new("nic0", "0000:02:00.1")),
            ControlRequest::Detach("up0".to_string()),
            ControlRequest::Capture(CaptureRequest::parse("96 p0 up0").unwrap()),
            ControlRequest::Capture(CaptureRequest::parse("262144").unwrap()),
            ControlRequest::MirrorAdd(Mirror::parse("ids p2 both p0,p1").unwrap()),
            ControlRequest::MirrorRemove("ids".to_string()),
            ControlRequest::Succeed(1),
        ]);
        for request in plain.into_iter().chain(others) {
            assert_eq!(ControlRequest::parse(&request.to_string()), Some(request));
        }
        assert_eq!(ControlRequest::parse("Status"), None);
        assert_eq!(ControlRequest::parse(""), None);
        for spoiled in ["capture", "capture 0", "capture 262145", "capture 96  p0", "mirror-add ids p2 both"] {
            assert_eq!(ControlRequest::parse(spoiled), None, "{spoiled}");
        }
    }
}
