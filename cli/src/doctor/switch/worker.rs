//! The processes of a switch.

use sv3::status::{FlapStatus, Status};

use crate::doctor::finding::{Cost, Finding};

/// So many connections without a port are more than guests that start at once make.
const PENDING_MANY: usize = 64;

/// Looks.
pub fn probe(status: &Status) -> Vec<Finding> {
    let mut found = vec![version(status), serving(status)];
    found.extend(standby(status));
    let deaths = status.worker.restarts;
    if let Some(why) = status.worker.last_death.as_ref().filter(|_| deaths > 0) {
        let message = format!("workers that died and were replaced: {deaths}; the last one: {why}");
        found.push(
            Finding::advice("worker", message)
                .to(Cost::Command, "`sv3 crashes` shows by whose doing, and how long the gaps were"),
        );
    }
    found.extend(status.flaps.iter().map(flap));
    if status.pending_clients >= PENDING_MANY {
        let message = format!("{} connections have said nothing that needs a port", status.pending_clients);
        let act = "look for a program that connects and says nothing: `ss -xp` shows who it is; the switch ends such a \
                   connection after ten minutes";
        found.push(Finding::advice("switch", message).to(Cost::Command, act));
    }
    found
}

fn version(status: &Status) -> Finding {
    let (theirs, own) = (&status.version, env!("CARGO_PKG_VERSION"));
    match theirs == own {
        true => Finding::good("switch", format!("the switch is of version {own}, as this program is")),
        false => Finding::advice("switch", format!("the switch is of version {theirs}, and this program of {own}"))
            .to(Cost::Switch, "`sv3 run --take-over` with the same options puts the installed version in its place"),
    }
}

fn serving(status: &Status) -> Finding {
    match status.worker.pid {
        Some(pid) => Finding::good("worker", format!("the worker {pid} serves")),
        None => Finding::fault("worker", "no worker serves: no frame moves")
            .to(Cost::Command, "`sv3 crashes` shows why none stays; the event `backoff` says when the next one starts"),
    }
}

fn standby(status: &Status) -> Option<Finding> {
    status.worker.pid?;
    Some(match status.worker.standby_pid {
        Some(pid) => Finding::good("worker", format!("the standby {pid} is ready to take over")),
        None => Finding::advice("worker", "no standby is ready: a death of the worker leaves a longer gap").to(
            Cost::Switch,
            "start the switch without --no-standby; if that was not given, the event `standby_lost` says what is short",
        ),
    })
}

fn flap(flap: &FlapStatus) -> Finding {
    let FlapStatus { address, ports: [from, to], moves, .. } = flap;
    let message = format!(
        "the address {address} has moved between {from} and {to} {moves} times: the networks behind them \
                           are joined to a loop, or two machines have this address"
    );
    Finding::advice("switch", message).to(
        Cost::Host,
        format!(
            "join the two networks in one place only (`sv3 detach {to}` ends one), or give one machine another address"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::State;
    use crate::doctor::switch::example::healthy;

    fn said(change: impl FnOnce(&mut Status)) -> Vec<Finding> {
        let mut status = healthy();
        change(&mut status);
        probe(&status)
    }

    #[test]
    fn each_lack_is_told() {
        let flap = FlapStatus {
            address: "52:54:00:00:00:07".to_string(),
            vlan: 0,
            ports: ["p0".to_string(), "host".to_string()],
            moves: 40,
            ago_s: 1,
        };
        let cases: [(Vec<Finding>, State, &str); 6] = [
            (said(|status| status.worker.standby_pid = None), State::Advice, "no standby is ready"),
            (said(|status| status.worker.pid = None), State::Fault, "no worker serves"),
            (said(|status| status.version = "0.0.9".to_string()), State::Advice, "is of version 0.0.9"),
            (
                said(|status| {
                    (status.worker.restarts, status.worker.last_death) = (3, Some("killed by SIGBUS".to_string()))
                }),
                State::Advice,
                "replaced: 3; the last one: killed by SIGBUS",
            ),
            (said(|status| status.flaps.push(flap)), State::Advice, "between p0 and host 40 times"),
            (said(|status| status.pending_clients = 100), State::Advice, "100 connections have said nothing"),
        ];
        for (found, state, words) in cases {
            let one = found.iter().find(|one| one.message.contains(words));
            assert!(one.is_some_and(|one| one.state == state && one.remedy.is_some()), "{words}: {found:?}");
        }
    }
}
