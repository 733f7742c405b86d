//! `sv3 fdb`: which addresses are where, and static addresses.

use std::fmt::Write;

use clap::{Args, Subcommand};
use sv3::config::{PortConfig, StaticAddress};
use sv3::control::ControlRequest;
use sv3::fdb::{FdbAnswer, FlushAnswer, KnownAddress, Which, parse_mac};
use sv3::frame::MacAddr;
use sv3::rules::Vid;

use crate::control::Control;
use crate::declare::{give, one_port};
use crate::output::{harmless, print};
use crate::status::duration;

/// Show which addresses the switch knows, and at which port; add and remove static ones.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Fdb {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    control: Control,
    /// Print JSON; its fields are described in docs/use/fdb.md
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Forget addresses that were learnt: all, or those of a port, of a VLAN, or one address
    Flush {
        /// Of this port only
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
        /// In this VLAN only; 0: the network of ports that know none
        #[arg(long, value_name = "VLAN", value_parser = clap::value_parser!(u16).range(..=4094))]
        vlan: Option<Vid>,
        /// This address only
        #[arg(long, value_name = "ADDRESS", value_parser = address)]
        address: Option<MacAddr>,
        #[command(flatten)]
        control: Control,
    },
    /// Let addresses be at a declared port whatever it says; no other port takes them
    Add(Named),
    /// The opposite
    Del(Named),
}

/// Static addresses of a port.
#[derive(Args)]
struct Named {
    /// The port's name
    port: String,
    /// The addresses
    #[arg(required = true, value_name = "ADDRESS", value_parser = address)]
    addresses: Vec<MacAddr>,
    /// Their VLAN; without it, that of the port's frames without a tag
    #[arg(long, value_name = "VLAN", value_parser = clap::value_parser!(u16).range(..=4094))]
    vlan: Option<Vid>,
    #[command(flatten)]
    control: Control,
}

fn address(text: &str) -> Result<MacAddr, String> {
    parse_mac(text).ok_or("an address is like 52:54:00:12:34:56".to_string())
}

impl Fdb {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let (port, vlan, address, control) = match &self.verb {
            None => return self.show(),
            Some(Verb::Add(named)) => return named.exec(true),
            Some(Verb::Del(named)) => return named.exec(false),
            Some(Verb::Flush { port, vlan, address, control }) => (port, vlan, address, control),
        };
        let which = Which { port: port.clone(), vlan: *vlan, mac: *address };
        let answer = control.ask(&ControlRequest::FdbFlush(which))?;
        let FlushAnswer { flushed } = serde_json::from_value(answer).map_err(other_version)?;
        print(&format!("{flushed} {} forgotten\n", if flushed == 1 { "address is" } else { "addresses are" }))
    }

    fn show(&self) -> Result<(), String> {
        let answer = self.control.ask(&ControlRequest::Fdb)?;
        if self.json {
            let text = serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())?;
            return print(&(text + "\n"));
        }
        let FdbAnswer { addresses } = serde_json::from_value(harmless(answer)).map_err(other_version)?;
        print(&table(&addresses))
    }
}

impl Named {
    /// Adds the addresses to what is declared of the port, or takes them from it.
    fn exec(&self, adds: bool) -> Result<(), String> {
        let Named { port, control, .. } = self;
        let before = give::in_force(control)?;
        let mut declared = one_port::declared(control, &before, port)?;
        let all = self.of(&declared)?;
        for at in &all {
            let holder = before.config.ports.iter().find(|(_, other)| other.addresses.contains(at));
            match holder.map(|(name, _)| name) {
                Some(name) if name != port => {
                    return Err(format!(
                        "{at} is a static address of {name}: `sv3 fdb del {name} {}` first",
                        words(at)
                    ));
                }
                None if !adds => {
                    return Err(format!(
                        "{at} is no static address of {port}; `sv3 fdb` shows all, `sv3 fdb flush` forgets those that \
                         were learnt"
                    ));
                }
                _ => {}
            }
        }
        let (known, list) = (declared.addresses.len(), &mut declared.addresses);
        list.retain(|at| !all.contains(at));
        if adds {
            list.extend(&all);
            list.sort_unstable();
            list.dedup();
        }
        if list.len() == known {
            return print("nothing differs\n");
        }
        let mut config = before.config.clone();
        config.ports.insert(port.clone(), declared);
        give::declare(control, &before, config, None)?;
        let what = if adds { "is static at" } else { "is no longer static at" };
        all.iter().try_for_each(|at| print(&format!("{at} {what} {port}\n")))
    }

    /// The addresses, in the VLAN that was named or that is the port's usual one.
    fn of(&self, declared: &PortConfig) -> Result<Vec<StaticAddress>, String> {
        let Named { port, addresses, vlan, .. } = self;
        let vid = vlan.or(declared.usual_vid()).unwrap_or(0);
        let all = addresses.iter().map(|mac| StaticAddress { vid, mac: mac.octets() });
        let checked = all.map(|at| at.check(&declared.rules.vlan).map(|()| at));
        checked.collect::<Result<_, _>>().map_err(|why| match (declared.usual_vid(), vlan) {
            (None, None) => format!("port {port}: it has several VLANs and no native one: name one by --vlan"),
            _ => format!("port {port}: {why}"),
        })
    }
}

/// An address as these commands take it.
fn words(at: &StaticAddress) -> String {
    let mac = MacAddr::new(at.mac);
    if at.vid == 0 { mac.to_string() } else { format!("{mac} --vlan {}", at.vid) }
}

fn other_version(error: serde_json::Error) -> String {
    format!("the switch is of another version ({error}); use --json")
}

fn table(addresses: &[KnownAddress]) -> String {
    if addresses.is_empty() {
        return "no address is known\n".to_string();
    }
    let width = addresses.iter().map(|known| known.port.chars().count()).max().unwrap_or(0).max(4);
    let mut out = format!("{:width$}  VLAN  {:17}  AGE\n", "PORT", "ADDRESS");
    for KnownAddress { port, vlan, address, age_s, is_static } in addresses {
        let vlan = if *vlan == 0 { "-".to_string() } else { vlan.to_string() };
        let age = if *is_static { "static".to_string() } else { duration(*age_s) };
        let _ = writeln!(out, "{port:width$}  {vlan:>4}  {address:17}  {age}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document's example is what programs get, and what people see of it.
    #[test]
    fn the_document_s_example_is_shown_as_the_document_says() {
        let document = include_str!("../../docs/use/fdb.md");
        let block = |begin: &str| document.split_once(begin).unwrap().1.split_once("```").unwrap().0;
        let FdbAnswer { addresses } = serde_json::from_str(block("```json\n")).unwrap();
        assert_eq!(table(&addresses), block("$ sv3 fdb\n"));
        assert_eq!(table(&[]), "no address is known\n");
    }
}
