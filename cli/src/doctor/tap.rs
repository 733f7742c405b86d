//! Taps: whether this user may use them, and which are its own.

use super::finding::{Cost, Finding};
use super::machine::Machine;

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    if !machine.has("dev/net/tun") {
        let finding = Finding::advice("tap", "there is no /dev/net/tun: taps cannot be ports");
        return vec![finding.to(Cost::Host, "only for taps: `sudo modprobe tun`; in a container, pass the device in")];
    }
    if !machine.may_use("dev/net/tun") {
        let finding = Finding::advice("tap", "this user may not use /dev/net/tun: taps cannot be ports");
        return vec![
            finding.to(Cost::Host, "only for taps: `sudo chmod 666 /dev/net/tun`, which is the kernel's own default"),
        ];
    }
    let own = |name: &String| machine.number(format!("sys/class/net/{name}/owner")) == Some(u64::from(machine.uid));
    let taps: Vec<String> = machine.list("sys/class/net").into_iter().filter(own).collect();
    let message = match taps.is_empty() {
        true => "taps can be ports; none belongs to this user yet (`sudo ip tuntap add dev tap0 mode tap user USER`)"
            .to_string(),
        false => format!("taps of this user: {}; `sv3 attach tap NAME` makes one a port", taps.join(", ")),
    };
    vec![Finding::good("tap", message)]
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    #[test]
    fn taps_of_this_user_are_named() {
        let fake = Fake::with(&[]);
        assert!(probe(&fake.machine)[0].message.contains("no /dev/net/tun"));
        fake.write("dev/net/tun", "");
        assert!(probe(&fake.machine)[0].message.contains("none belongs to this user yet"));
        fake.write("sys/class/net/tap7/owner", &fake.machine.uid.to_string());
        fake.write("sys/class/net/tap8/owner", &(fake.machine.uid + 1).to_string());
        fake.write("sys/class/net/eth0/mtu", "1500");
        let found = probe(&fake.machine);
        assert_eq!((found[0].state, found.len()), (State::Good, 1));
        assert!(found[0].message.contains("taps of this user: tap7;"), "{found:?}");
    }
}
