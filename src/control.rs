//! What may be asked at the control socket: a line, of which the first word says what.

use std::fmt;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// [`crate::status::Status`].
    Status,
    /// [`crate::status::Crashes`].
    Crashes,
    /// Metrics as text, the only answer that is not JSON.
    Metrics,
    /// [`crate::audit::AuditAnswer`].
    Audit,
    /// A hand-over to a new worker: [`crate::status::HandoverAnswer`].
    Restart,
    /// The same to a worker of another binary, which comes with the request as an open file.
    Upgrade,
    /// The end of the quarantine of a port, by its name.
    Release(String),
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
        for request in plain.into_iter().chain(others) {
            assert_eq!(ControlRequest::parse(&request.to_string()), Some(request));
        }
        assert_eq!(ControlRequest::parse("Status"), None);
        assert_eq!(ControlRequest::parse(""), None);
    }
}
