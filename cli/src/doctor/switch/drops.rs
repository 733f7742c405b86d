//! Dropped frames: what each reason means for the person who runs the port, and what to do.

use sv3::drop_reason::DropReason;
use sv3::status::{PortStatus, Status};

use crate::doctor::finding::{Cost, Finding};

/// One frame of so many may be dropped before it is told.
const FEW: u64 = 1000;

/// Looks.
pub fn probe(status: &Status) -> Vec<Finding> {
    let mut found = Vec::new();
    for port in &status.ports {
        found.extend(DropReason::ALL.into_iter().filter_map(|reason| {
            let count = port.drops.get(reason.name()).copied().filter(|count| *count > 0)?;
            of(port, reason, count)
        }));
    }
    if found.is_empty() && !status.ports.is_empty() {
        found.push(Finding::good("drops", "no port drops frames that it should not"));
    }
    found
}

/// What to say of the drops for one reason, if they are worth a word.
fn of(port: &PortStatus, reason: DropReason, count: u64) -> Option<Finding> {
    let (cost, what, act) = remedy(reason)?;
    let passed = match is_receivers(reason) {
        true => port.to_guest.frames,
        false => port.from_guest.frames,
    };
    if count.saturating_mul(FEW) < passed.saturating_add(count) {
        return None;
    }
    let message = format!("{count} frames dropped ({}) beside {passed} that passed: {what}", reason.name());
    Some(Finding::advice("drops", message).of(&port.name).to(cost, act.replace("NAME", &port.name)))
}

/// Whether the reason counts at the port that should have got the frame.
fn is_receivers(reason: DropReason) -> bool {
    use DropReason::*;
    matches!(reason, RxNoBuffers | RxDown | RxTooSmall | RxBadChain | RxLimit)
}

/// What the reason means and what to do; `None` if such drops are as they should be on any network.
fn remedy(reason: DropReason) -> Option<(Cost, &'static str, &'static str)> {
    use DropReason::*;
    const DRIVER: &str = "update the guest's driver; `sv3 capture NAME` shows the frames";
    const RULE: &str =
        "`sv3 capture NAME` shows the frames; if they are meant, `sv3 port set NAME` or the file changes the rule";
    Some(match reason {
        RxNoBuffers => (
            Cost::Guest,
            "the guest is too slow to take them",
            "give it longer rings (`rx_queue_size=1024` at the device), more queues, or a processor of its own",
        ),
        RxTooSmall => (
            Cost::Guest,
            "they are larger than its buffers, and its driver does not join buffers",
            "let its driver negotiate mergeable buffers (`mrg_rxbuf=on`), or lower the senders' MTU",
        ),
        RxBadChain => (Cost::Guest, "its driver offers malformed buffers", DRIVER),
        BadChain => (Cost::Guest, "its driver sends malformed chains", DRIVER),
        ShortFrame => (Cost::Guest, "its driver sends frames without a whole header", DRIVER),
        LongFrame => (Cost::Guest, "it sends frames that are longer than the switch forwards", "lower its MTU"),
        BadOffload => (Cost::Guest, "its driver asks for an offload that contradicts the frame", DRIVER),
        BadSource => (Cost::Guest, "it sends from a group's address, or from none", DRIVER),
        UplinkEcho => (
            Cost::Host,
            "the network sends guests' own frames back",
            "look for a loop behind this uplink, or a switch there that reflects frames",
        ),
        AddressConflict => (
            Cost::Guest,
            "it sends from an address that another port has",
            "give one of the two machines another address (MAC); `sv3 fdb` shows who has it",
        ),
        VlanTag => (Cost::Command, "it sends tags, or no tag, against its rule", RULE),
        VlanHop => (
            Cost::Guest,
            "it sends a second tag behind the first",
            "find the program that does so: this is how VLANs are left",
        ),
        Isolated => (Cost::Command, "it speaks to ports that it is isolated from", RULE),
        GuardMac => (Cost::Command, "it sends from an address (MAC) that is not its own", RULE),
        GuardIp => (Cost::Command, "it sends from, or claims, an IP address that is not its own", RULE),
        GuardRole => (Cost::Command, "it acts as a DHCP server, a router or a bridge, and may not", RULE),
        Storm => (Cost::Command, "it sends too many frames to all, to groups or to unknown addresses", RULE),
        AddressLimit => (Cost::Command, "more addresses are behind it than it may have", RULE),
        RxLimit => (Cost::Command, "it has got as much as its limit lets it", RULE),
        MirrorPort => {
            (Cost::Command, "it gets a mirror's copies, and so may send nothing", "`sv3 mirror remove` ends the mirror")
        }
        PortAbsent => (
            Cost::Guest,
            "it sends to a static address at whose port nobody is attached",
            "start the guest of that port, or take the address away: `sv3 fdb` shows both",
        ),
        RxDown | Hairpin | LinkLocal | NoDestination | LoopProbe => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::State;
    use crate::doctor::switch::example::healthy;

    fn said(reason: DropReason, count: u64, passed: u64) -> Vec<Finding> {
        let mut status = healthy();
        let port = &mut status.ports[0];
        (port.from_guest.frames, port.to_guest.frames) = (passed, passed);
        port.drops.insert(reason.name().to_string(), count);
        probe(&status)
    }

    #[test]
    fn each_reason_has_a_sentence_or_is_as_it_should_be() {
        for reason in DropReason::ALL {
            let found = said(reason, 5, 100);
            match remedy(reason) {
                None => assert_eq!((found.len(), found[0].state), (1, State::Good), "{found:?}"),
                Some(_) => {
                    let act = &found[0].remedy.as_ref().unwrap().act;
                    assert!(found[0].message.contains(reason.name()) && !act.contains("NAME"), "{found:?}");
                    assert_eq!((found.len(), found[0].port.as_deref()), (1, Some("p0")));
                }
            }
        }
    }

    #[test]
    fn a_few_drops_among_many_frames_are_of_no_account() {
        assert_eq!(said(DropReason::RxNoBuffers, 1, 10_000)[0].state, State::Good);
        assert_eq!(said(DropReason::RxNoBuffers, 100, 10_000)[0].state, State::Advice);
    }
}
