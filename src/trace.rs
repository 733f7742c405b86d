//! What the switch would do with a frame, step by step (`sv3 trace`).
//!
//! The supervisor sends [`crate::ipc::Command::Trace`] to the serving worker, which decides by the rules and the table that
//! it forwards by, and sends a report for each step. The command line puts the steps into words.

use serde::{Deserialize, Serialize};

use crate::MAX_PORTS;
use crate::drop_reason::DropReason;
use crate::ipc::{Report, ReportKind};
use crate::mirror::MIRRORS_MAX;
use crate::rules::{VID_MAX, Vid};

/// Most octets of a frame that are looked at: two VLAN tags, IPv6, and a neighbour solicitation with an option.
pub const FRAME_MAX: usize = 96;
/// Most steps: one for each port and each mirror, and those before.
pub const STEPS_MAX: usize = MAX_PORTS + 8 + MIRRORS_MAX;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The sender has sent as much as it may: the frame would wait, and then what follows would happen.
    Held,
    /// The sender's rules let the frame in, into this VLAN; 0: the port knows none.
    Admitted(Vid),
    /// The table has the source at the sender's port.
    SourceKnown,
    /// The table would learn the source.
    SourceNew,
    /// The table has the source at this port, and would have it at the sender's.
    SourceMoves(u16),
    /// The table would not learn the source, since the sender's port learns none.
    SourceIgnored,
    /// The table has the destination at this port.
    Found(u16),
    /// The table does not have the destination: the frame is for all ports of its VLAN that take such frames.
    Unknown,
    /// The frame is for a group or for all.
    Group,
    /// The frame is a message of IGMP or MLD, which the switch reads: where it goes depends on what it says.
    Message,
    /// The port gets the frame.
    Delivered {
        /// Its slot.
        port: u16,
        /// The VLAN tag in the frame is taken off.
        cut: bool,
        /// This tag is put in, first octet highest; 0: none.
        put: u32,
    },
    /// The port does not get the frame.
    Withheld {
        /// Its slot.
        port: u16,
        /// Why.
        reason: DropReason,
    },
    /// The port gets a copy.
    Copied {
        /// The mirror's number.
        mirror: u8,
        /// The slot of its port.
        port: u16,
    },
    /// The frame is dropped.
    Dropped(DropReason),
}

impl Step {
    /// The report of the step, about the command of this number.
    pub fn report(self, seq: u64) -> Report {
        let (ring, port, value, detail) = match self {
            Step::Admitted(vid) => (0, 0, u64::from(vid), 0),
            Step::SourceKnown => (1, 0, 0, 0),
            Step::SourceNew => (2, 0, 0, 0),
            Step::SourceMoves(port) => (3, port, 0, 0),
            Step::SourceIgnored => (4, 0, 0, 0),
            Step::Found(port) => (5, port, 0, 0),
            Step::Unknown => (6, 0, 0, 0),
            Step::Group => (7, 0, 0, 0),
            Step::Delivered { port, cut, put } => (8, port, u64::from(cut), u64::from(put)),
            Step::Withheld { port, reason } => (9, port, reason as u64, 0),
            Step::Dropped(reason) => (10, 0, reason as u64, 0),
            Step::Message => (11, 0, 0, 0),
            Step::Held => (12, 0, 0, 0),
            Step::Copied { mirror, port } => (13, port, mirror.into(), 0),
        };
        Report { kind: ReportKind::Traced, port, ring, seq, value, detail }
    }

    /// The step of a report. `None`: no step is like that.
    pub fn of(report: &Report) -> Option<Step> {
        let port = Some(report.port).filter(|port| usize::from(*port) < MAX_PORTS);
        let reason = || DropReason::ALL.into_iter().find(|reason| *reason as u64 == report.value);
        Some(match report.ring {
            0 => Step::Admitted(Vid::try_from(report.value).ok().filter(|vid| *vid <= VID_MAX)?),
            1 => Step::SourceKnown,
            2 => Step::SourceNew,
            3 => Step::SourceMoves(port?),
            4 => Step::SourceIgnored,
            5 => Step::Found(port?),
            6 => Step::Unknown,
            7 => Step::Group,
            8 => Step::Delivered { port: port?, cut: report.value != 0, put: u32::try_from(report.detail).ok()? },
            9 => Step::Withheld { port: port?, reason: reason()? },
            10 => Step::Dropped(reason()?),
            11 => Step::Message,
            12 => Step::Held,
            13 => {
                let mirror = u8::try_from(report.value).ok().filter(|mirror| usize::from(*mirror) < MIRRORS_MAX)?;
                Step::Copied { mirror, port: port? }
            }
            _ => return None,
        })
    }

    /// The step with names for slots and for mirrors.
    pub fn named(self, name: impl Fn(u16) -> String, mirror_name: impl Fn(u8) -> String) -> NamedStep {
        match self {
            Step::Held => NamedStep::Held,
            Step::Copied { mirror, port } => NamedStep::Copied { mirror: mirror_name(mirror), port: name(port) },
            Step::Admitted(vid) => NamedStep::Admitted { vid },
            Step::SourceKnown => NamedStep::SourceKnown,
            Step::SourceNew => NamedStep::SourceNew,
            Step::SourceMoves(port) => NamedStep::SourceMoves { port: name(port) },
            Step::SourceIgnored => NamedStep::SourceIgnored,
            Step::Found(port) => NamedStep::Found { port: name(port) },
            Step::Unknown => NamedStep::Unknown,
            Step::Group => NamedStep::Group,
            Step::Message => NamedStep::Message,
            Step::Delivered { port, cut, put } => {
                NamedStep::Delivered { port: name(port), cut, put: (put != 0).then(|| format!("{put:08x}")) }
            }
            Step::Withheld { port, reason } => {
                NamedStep::Withheld { port: name(port), reason: reason.name().to_string() }
            }
            Step::Dropped(reason) => NamedStep::Dropped { reason: reason.name().to_string() },
        }
    }
}

/// The answer to the request `trace` at the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceAnswer {
    /// The port that the frame comes from.
    pub port: String,
    /// The steps, in their order.
    pub steps: Vec<NamedStep>,
}

/// A [`Step`] for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum NamedStep {
    /// [`Step::Held`].
    Held,
    /// [`Step::Admitted`].
    Admitted {
        /// The VLAN.
        vid: Vid,
    },
    /// [`Step::SourceKnown`].
    SourceKnown,
    /// [`Step::SourceNew`].
    SourceNew,
    /// [`Step::SourceMoves`].
    SourceMoves {
        /// From where.
        port: String,
    },
    /// [`Step::SourceIgnored`].
    SourceIgnored,
    /// [`Step::Found`].
    Found {
        /// Where.
        port: String,
    },
    /// [`Step::Unknown`].
    Unknown,
    /// [`Step::Group`].
    Group,
    /// [`Step::Message`].
    Message,
    /// [`Step::Delivered`].
    Delivered {
        /// Who gets it.
        port: String,
        /// Its tag is taken off.
        cut: bool,
        /// The tag that is put in, in hexadecimal.
        put: Option<String>,
    },
    /// [`Step::Withheld`].
    Withheld {
        /// Who does not get it.
        port: String,
        /// Why: a reason for drops.
        reason: String,
    },
    /// [`Step::Copied`].
    Copied {
        /// The mirror.
        mirror: String,
        /// Who gets the copy.
        port: String,
    },
    /// [`Step::Dropped`].
    Dropped {
        /// Why: a reason for drops.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_survives_the_report_and_nothing_else_is_one() {
        let reason = DropReason::VlanTag;
        let steps = [
            Step::Admitted(4094),
            Step::SourceKnown,
            Step::SourceNew,
            Step::SourceMoves(1023),
            Step::SourceIgnored,
            Step::Found(0),
            Step::Unknown,
            Step::Group,
            Step::Message,
            Step::Delivered { port: 3, cut: true, put: 0x8100_0fff },
            Step::Withheld { port: 3, reason },
            Step::Dropped(reason),
            Step::Held,
            Step::Copied { mirror: 7, port: 1023 },
        ];
        for step in steps {
            let report = Report::from_bytes(&step.report(7).to_bytes()).unwrap();
            assert_eq!((Step::of(&report), report.seq), (Some(step), 7));
        }
        let no = |step: Step, change: fn(&mut Report)| {
            let mut report = step.report(7);
            change(&mut report);
            assert_eq!(Step::of(&report), None, "{step:?}");
        };
        no(Step::Admitted(1), |report| report.value = 4096);
        no(Step::Found(0), |report| report.port = 1024);
        no(Step::Delivered { port: 0, cut: false, put: 0 }, |report| report.detail = 1 << 32);
        no(Step::Dropped(reason), |report| report.value = 999);
        no(Step::Copied { mirror: 0, port: 0 }, |report| report.value = 8);
        no(Step::SourceKnown, |report| report.ring = 14);
    }
}
