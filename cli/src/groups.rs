//! `sv3 groups`: who is a member of which multicast group; `sv3 snooping`: whether the switch looks.

use std::fmt::Write;
use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use sv3::control::ControlRequest;
use sv3::group_status::{GroupsStatus, Holds};
use sv3::snooping::Snooping;

use crate::control::Control;
use crate::output::{harmless, print};

/// Show multicast groups, their members' ports, routers, and who asks for members.
#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    control: Control,
    /// Print JSON; its fields are described in docs/use/multicast.md
    #[arg(long)]
    json: bool,
}

impl Show {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let answer = self.control.ask(&ControlRequest::Groups)?;
        if self.json {
            let text = serde_json::to_string_pretty(&answer).map_err(|e| e.to_string())?;
            return print(&(text + "\n"));
        }
        let status = serde_json::from_value(harmless(answer))
            .map_err(|e| format!("the switch is of another version ({e}); use --json"))?;
        print(&text(&status))
    }
}

/// Let the switch snoop on IGMP and MLD, so that frames to a multicast group go to its members only.
#[derive(Args)]
pub struct Snoop {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Snoop from now on
    On {
        #[command(flatten)]
        wanted: Wanted,
        #[command(flatten)]
        control: Control,
    },
    /// Flood all multicast frames, as without snooping
    Off {
        #[command(flatten)]
        control: Control,
    },
}

#[derive(Args)]
struct Wanted {
    /// Ask for members only if somebody else does not; without it the switch asks itself where nobody else does
    #[arg(long)]
    no_querier: bool,
    /// Source of the switch's IGMP queries [default: 0.0.0.0, which gives way to any other querier]
    #[arg(long, value_name = "IPV4")]
    address: Option<Ipv4Addr>,
    /// Seconds between two general queries [default: 125]
    #[arg(long, value_name = "SECONDS")]
    interval: Option<f64>,
    /// Seconds in which members answer a general query [default: 10]
    #[arg(long, value_name = "SECONDS")]
    response: Option<f64>,
    /// Seconds in which members answer after one has left [default: 1]
    #[arg(long, value_name = "SECONDS")]
    last_member: Option<f64>,
}

impl Snoop {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        match &self.verb {
            Verb::Off { control } => {
                control.ask(&ControlRequest::Snoop(None))?;
                print("the switch floods multicast frames\n")
            }
            Verb::On { wanted, control } => {
                let setting = wanted.setting();
                setting.check()?;
                control.ask(&ControlRequest::Snoop(Some(setting)))?;
                print("the switch snoops on IGMP and MLD; `sv3 groups` shows what it knows\n")
            }
        }
    }
}

impl Wanted {
    fn setting(&self) -> Snooping {
        let default = Snooping::default();
        // A number that does not fit is out of bounds, which the check tells.
        let ms = |seconds: Option<f64>, default| seconds.map_or(default, |seconds| (seconds * 1000.0) as u32);
        Snooping {
            querier: !self.no_querier,
            address: self.address.unwrap_or(default.address),
            interval_ms: ms(self.interval, default.interval_ms),
            response_ms: ms(self.response, default.response_ms),
            last_member_ms: ms(self.last_member, default.last_member_ms),
        }
    }
}

fn text(status: &GroupsStatus) -> String {
    let mut out = String::new();
    let Some(setting) = &status.snooping else {
        return "the switch does not snoop: it floods all multicast frames; `sv3 snooping on` changes that\n"
            .to_string();
    };
    let _ = writeln!(out, "snooping: {setting}");
    for querier in &status.queriers {
        let who = match (&querier.address, &querier.port) {
            (Some(address), Some(port)) => format!("{address} at {port}"),
            (Some(address), None) => address.clone(),
            _ if querier.querier == "self" => "this switch".to_string(),
            _ => "nobody".to_string(),
        };
        let how = if querier.filters { "members only" } else { "flooded for now" };
        let _ = writeln!(out, "vlan {:<4} {:<4} querier: {who}; groups: {how}", querier.vid, querier.protocol);
    }
    for router in &status.routers {
        let _ = writeln!(out, "vlan {:<4} {:<4} router: {}", router.vid, router.protocol, one(&router.port));
    }
    for group in &status.groups {
        let members: Vec<String> = group.members.iter().map(one).collect();
        let _ = writeln!(out, "vlan {:<4} {} members: {}", group.vid, group.group, members.join(", "));
    }
    for open in &status.open {
        let _ = writeln!(out, "{} gets all groups", one(open));
    }
    if status.left_out > 0 {
        let _ = writeln!(out, "and {} members more", status.left_out);
    }
    out
}

fn one(port: &Holds) -> String {
    let leaving = if port.leaving { ", leaving" } else { "" };
    format!("{} ({} s{leaving})", port.port, port.for_ms.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> serde_json::Value {
        let document = include_str!("../../docs/use/multicast.md");
        let (_, rest) = document.split_once("```json\n").unwrap();
        serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
    }

    #[test]
    fn the_document_shows_every_field() {
        let status: GroupsStatus = serde_json::from_value(example()).unwrap();
        assert_eq!(serde_json::to_value(&status).unwrap(), example());
    }

    #[test]
    fn people_see_lines() {
        let status: GroupsStatus = serde_json::from_value(example()).unwrap();
        let text = text(&status);
        for line in [
            "vlan 0    igmp querier: this switch; groups: members only",
            "vlan 0    mld  querier: fe80::1 at up0; groups: flooded for now",
            "vlan 0    mld  router: up0 (240 s)",
            "vlan 0    01:00:5e:01:01:01 members: p0 (251 s), p3 (2 s, leaving)",
            "p4 (7 s) gets all groups",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(super::text(&GroupsStatus::default()).starts_with("the switch does not snoop"));
    }

    #[test]
    fn seconds_are_milliseconds_of_the_setting() {
        let wanted =
            Wanted { no_querier: true, address: None, interval: Some(2.5), response: Some(0.1), last_member: None };
        let setting = wanted.setting();
        assert_eq!((setting.querier, setting.interval_ms, setting.response_ms), (false, 2500, 100));
        let wanted =
            Wanted { no_querier: false, address: None, interval: Some(-1.0), response: None, last_member: None };
        assert!(wanted.setting().check().is_err());
    }
}
