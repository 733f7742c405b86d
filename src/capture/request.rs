//! What people ask for.

use std::fmt;

use super::SNAPLEN_MAX;

/// A capture as the command line asks for it: `SNAPLEN [PORT...]`. Its file comes with the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Octets of each frame that are kept.
    pub snaplen: u32,
    /// The ports by their names; none: all ports.
    pub ports: Vec<String>,
}

impl CaptureRequest {
    /// Reads what [`CaptureRequest`] writes.
    pub fn parse(words: &str) -> Option<CaptureRequest> {
        let mut words = words.split(' ');
        let snaplen = words.next()?.parse().ok().filter(|snaplen| (1..=SNAPLEN_MAX).contains(snaplen))?;
        let ports: Vec<String> = words.map(str::to_string).collect();
        ports.iter().all(|port| !port.is_empty()).then_some(CaptureRequest { snaplen, ports })
    }
}

impl fmt::Display for CaptureRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.snaplen)?;
        self.ports.iter().try_for_each(|port| write!(f, " {port}"))
    }
}
