//! `sv3 trace`: what the switch would do with a frame, without sending it.

use std::fmt::Write;

use clap::Args;
use sv3::control::ControlRequest;
use sv3::trace::{FRAME_MAX, NamedStep, TraceAnswer};

use crate::control::Control;
use crate::output::{harmless, print};

/// Show what the switch would do with a frame from a port, and which rule decides; sends and learns nothing.
///
/// Give the frame's addresses, or the whole frame. See docs/use/trace.md.
#[derive(Args)]
pub struct Trace {
    /// The port that the frame would come from, as `sv3 status` shows it
    port: String,
    /// Source address
    #[arg(long, value_name = "MAC", value_parser = mac, required_unless_present = "hex")]
    from: Option<[u8; 6]>,
    /// Destination address
    #[arg(long, value_name = "MAC", value_parser = mac, required_unless_present = "hex")]
    to: Option<[u8; 6]>,
    /// The frame has an 802.1Q tag of this VLAN, 0 to 4095; 0: a priority tag
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(0..=4095), conflicts_with = "hex")]
    vlan: Option<u16>,
    /// EtherType in hexadecimal
    #[arg(long = "type", value_name = "HEX", default_value = "0800", value_parser = ethertype, conflicts_with = "hex")]
    ethertype: u16,
    /// The frame itself, in hexadecimal, from its destination address on; blanks and colons may stand between octets
    #[arg(long, value_name = "OCTETS", value_parser = octets, conflicts_with_all = ["from", "to"])]
    hex: Option<Octets>,
    #[command(flatten)]
    control: Control,
    /// Print JSON; its fields are described in docs/use/trace.md
    #[arg(long)]
    json: bool,
}

/// Octets as one value.
#[derive(Clone)]
struct Octets(Vec<u8>);

impl Trace {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let mut frame = self.frame();
        frame.truncate(FRAME_MAX);
        let answer = self.control.ask(&ControlRequest::Trace { port: self.port.clone(), frame })?;
        if self.json {
            return print(&(serde_json::to_string_pretty(&answer).map_err(|e| e.to_string())? + "\n"));
        }
        let answer = serde_json::from_value(harmless(answer))
            .map_err(|e| format!("the switch is of another version ({e}); use --json"))?;
        print(&in_words(&answer))
    }

    /// The frame, padded to what Ethernet asks for if only its head is given.
    fn frame(&self) -> Vec<u8> {
        let (Some(to), Some(from)) = (self.to, self.from) else {
            return self.hex.as_ref().map(|octets| octets.0.clone()).unwrap_or_default();
        };
        let mut frame = [to, from].concat();
        if let Some(vid) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(vid.to_be_bytes());
        }
        frame.extend(self.ethertype.to_be_bytes());
        frame.resize(60, 0);
        frame
    }
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let octets: Option<Vec<u8>> = parts.iter().map(|part| octet(part.as_bytes())).collect();
    octets.and_then(|octets| octets.try_into().ok()).ok_or_else(|| "an address is like 52:54:00:00:00:01".to_string())
}

fn ethertype(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u16::from_str_radix(digits, 16).map_err(|_| "an EtherType is like 0806 or 0x86dd".to_string())
}

fn octets(text: &str) -> Result<Octets, String> {
    let digits: Vec<u8> = text.bytes().filter(|octet| !octet.is_ascii_whitespace() && *octet != b':').collect();
    let octets: Option<Vec<u8>> = digits.chunks(2).map(octet).collect();
    octets.filter(|octets| octets.len() >= 14).map(Octets).ok_or_else(|| {
        "a frame has 14 octets at least, each of two hexadecimal digits: destination, source, EtherType".to_string()
    })
}

/// An octet of two hexadecimal digits, and nothing else.
fn octet(digits: &[u8]) -> Option<u8> {
    let [high, low] = *digits else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

fn in_words(answer: &TraceAnswer) -> String {
    let mut out = format!("a frame from {}\n", answer.port);
    let mut receivers = 0;
    for step in &answer.steps {
        receivers += usize::from(matches!(step, NamedStep::Delivered { .. }));
        let _ = writeln!(out, "  {}", words(step));
    }
    let is_dropped = answer.steps.iter().any(|step| matches!(step, NamedStep::Dropped { .. }));
    let is_message = answer.steps.contains(&NamedStep::Message);
    let verdict = match (is_dropped, receivers) {
        (false, 0) if is_message => "it goes where its kind of message goes: to routers, members, or all".to_string(),
        (true, _) | (false, 0) => "it goes to nobody".to_string(),
        (false, 1) => "it goes to 1 port".to_string(),
        (false, count) => format!("it goes to {count} ports"),
    };
    out + &verdict + "\n"
}

fn words(step: &NamedStep) -> String {
    match step {
        NamedStep::Held => "limit of the sender: reached, so it would wait in its ring, and then:".to_string(),
        NamedStep::Copied { mirror, port } => format!("mirror {mirror}: {port} gets a copy"),
        NamedStep::Admitted { vid: 0 } => "rules of the sender: let it in; the port knows no VLANs".to_string(),
        NamedStep::Admitted { vid } => format!("rules of the sender: let it in, into VLAN {vid}"),
        NamedStep::SourceKnown => "source: known at this port".to_string(),
        NamedStep::SourceNew => "source: new, would be learnt".to_string(),
        NamedStep::SourceMoves { port } => format!("source: known at {port}, would move here"),
        NamedStep::SourceIgnored => "source: would not be learnt, by the rules of the sender".to_string(),
        NamedStep::Found { port } => format!("destination: known at {port}"),
        NamedStep::Unknown => "destination: not known, so it is flooded".to_string(),
        NamedStep::Group => "destination: a group or all, so it is for many".to_string(),
        NamedStep::Message => "a message of IGMP or MLD, which the switch reads".to_string(),
        NamedStep::Delivered { port, cut, put } => format!("{port}: gets it{}", tag_words(*cut, put.as_deref())),
        NamedStep::Withheld { port, reason } => format!("{port}: does not get it: {reason}{}", explain(reason)),
        NamedStep::Dropped { reason } => format!("dropped: {reason}{}", explain(reason)),
    }
}

fn tag_words(cut: bool, put: Option<&str>) -> String {
    // Two octets of type, then priority and VLAN.
    let of = |tag: &str| {
        let tag = u32::from_str_radix(tag, 16).unwrap_or(0);
        format!("tag {:04x} of VLAN {}", tag >> 16, tag & 0xfff)
    };
    match (cut, put) {
        (false, None) => String::new(),
        (true, None) => ", its tag taken off".to_string(),
        (false, Some(tag)) => format!(", with a {}", of(tag)),
        (true, Some(tag)) => format!(", its tag changed to {}", of(tag)),
    }
}

/// What a reason for drops means, by the same words as docs/use/status.md.
fn explain(reason: &str) -> String {
    let document = include_str!("../../docs/use/status.md");
    let row = document.lines().find_map(|line| line.strip_prefix(&format!("| `{reason}` | ")));
    row.and_then(|row| row.split_once(" | "))
        .map_or(String::new(), |(_, meaning)| format!(" ({})", meaning.trim_end_matches(" |")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        trace: Trace,
    }

    fn frame(words: &[&str]) -> Result<Vec<u8>, String> {
        let line = Line::try_parse_from([&["trace", "p0"], words].concat()).map_err(|error| error.to_string())?;
        Ok(line.trace.frame())
    }

    #[test]
    fn frames_are_made_of_addresses_or_given() {
        let addresses = ["--from", "52:54:00:00:00:01", "--to", "ff-ff-ff-ff-ff-ff"];
        let plain = frame(&addresses).unwrap();
        assert_eq!(plain[..14], [255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0, 0, 1, 8, 0]);
        assert_eq!(plain.len(), 60);
        let tagged = frame(&[&addresses[..], &["--vlan", "10", "--type", "0x86dd"]].concat()).unwrap();
        assert_eq!(tagged[12..18], [0x81, 0, 0, 10, 0x86, 0xdd]);
        let hex = "ffffffffffff 525400000001 08:06 0001";
        assert_eq!(frame(&["--hex", hex]).unwrap()[12..], [8, 6, 0, 1]);
        for wrong in [
            &["--from", "52:54:00:00:00:01"][..],
            &["--from", "52:54:00:00:00", "--to", "ff:ff:ff:ff:ff:ff"],
            &["--from", "+1:54:00:00:00:01", "--to", "ff:ff:ff:ff:ff:ff"],
            &["--hex", "ff"],
            &["--hex", "fffffffffffff525400000001 0806"],
            &["--hex", "é00000000000000000000000000000"],
            &["--hex", hex, "--vlan", "1"],
            &[&addresses[..], &["--vlan", "4096"]].concat(),
        ] {
            assert!(frame(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn people_see_which_rule_decides() {
        let port = |name: &str| name.to_string();
        let steps = vec![
            NamedStep::Admitted { vid: 10 },
            NamedStep::SourceMoves { port: port("p3") },
            NamedStep::Unknown,
            NamedStep::Delivered { port: port("web"), cut: false, put: Some("8100000a".to_string()) },
            NamedStep::Withheld { port: port("p2"), reason: "isolated".to_string() },
            NamedStep::Copied { mirror: port("ids"), port: port("p9") },
        ];
        let text = in_words(&TraceAnswer { port: port("p0"), steps });
        for shown in [
            "a frame from p0",
            "into VLAN 10",
            "known at p3, would move here",
            "web: gets it, with a tag 8100 of VLAN 10",
            "p2: does not get it: isolated (the port and the receiver's may not speak to each other)",
            "mirror ids: p9 gets a copy",
            "it goes to 1 port",
        ] {
            assert!(text.contains(shown), "{shown}\n{text}");
        }
        for reason in sv3::drop_reason::DropReason::ALL {
            assert!(explain(reason.name()).len() > 10, "{}", reason.name());
        }
    }
}
