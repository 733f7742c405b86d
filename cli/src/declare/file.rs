//! Reads a file of declarations. What is wrong is told with its line and column, and all of it at once.
//!
//! The tables: `[ports.NAME]`, `[users.USER]` for guests at the front door by user, `[guests]` for those of all other
//! users, and `[defaults]`: rules of each of these that says nothing else, except ports of kind `attached`. `[snooping]` is the
//! switch's own.

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

use sv3::config::{Config, PortConfig};
use sv3::snooping::Switched;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draft::Draft;
use super::keys::{self, Key, Of, nearest};
use super::snooping::SnoopingDraft;
use super::words;

/// Most octets of a file.
const LENGTH_MAX: u64 = 8 << 20;
/// Most faults that are told.
const TOLD: usize = 20;
/// The tables that there are.
const TABLES: [&str; 5] = ["ports", "users", "guests", "defaults", "snooping"];

/// Reads a file. The error has a line for each fault.
pub fn read(path: &Path) -> Result<Config, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if length > LENGTH_MAX {
        return Err(format!("{shown}: {length} octets, of {LENGTH_MAX} at most"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    parse(&text).map_err(|faults| {
        let mut told = String::new();
        for Fault { at, why } in faults.iter().take(TOLD) {
            let (line, column) = position(&text, *at);
            let gap = if told.is_empty() { "" } else { "\n" };
            let _ = write!(told, "{gap}{shown}:{line}:{column}: {why}");
        }
        if faults.len() > TOLD {
            let _ = write!(told, "\n{shown}: and {} more", faults.len() - TOLD);
        }
        told
    })
}

/// Something that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, in octets from the beginning.
    pub at: usize,
    /// What, and what would be right.
    pub why: String,
}

type Table<'t> = DeTable<'t>;
type Value<'t> = Spanned<DeValue<'t>>;

/// Reads the text of a file.
pub fn parse(text: &str) -> Result<Config, Vec<Fault>> {
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            return Err(vec![Fault { at, why: error.message().to_string() }]);
        }
    };
    let mut reader = Reader::default();
    let config = reader.whole(table.get_ref());
    if reader.faults.is_empty()
        && let Err(why) = config.check()
    {
        let place = |(name, _): &&(String, usize)| why.starts_with(&format!("port {name}: "));
        let at = reader.places.iter().find(place).map_or(0, |(_, at)| *at);
        reader.faults.push(Fault { at, why });
    }
    reader.faults.sort_by_key(|fault| fault.at);
    if reader.faults.is_empty() { Ok(config) } else { Err(reader.faults) }
}

#[derive(Default)]
struct Reader {
    faults: Vec<Fault>,
    /// Where each port's table begins.
    places: Vec<(String, usize)>,
}

impl Reader {
    fn fault(&mut self, span: Range<usize>, why: impl Into<String>) {
        self.faults.push(Fault { at: span.start, why: why.into() });
    }

    fn whole(&mut self, table: &Table<'_>) -> Config {
        for (name, _) in table.iter() {
            if !TABLES.contains(&&**name.get_ref()) {
                let like = nearest(name.get_ref(), TABLES.into_iter());
                let hint = like.map_or(format!("there are {}", TABLES.join(", ")), |like| format!("is it [{like}]?"));
                self.fault(name.span(), format!("there is no table {:?}; {hint}", name.get_ref()));
            }
        }
        let mut config = Config::default();
        let defaults = self.section(table, "defaults");
        // Faults of defaults are told once, at their own place.
        let mut draft = Draft::default();
        self.settings(&mut draft, defaults, "[defaults]", |key| key.of != Of::Port);
        self.finish(draft.clone(), table.get("defaults").map_or(0..0, Spanned::span));
        let base = draft;
        let mut guests = base.clone();
        let section = self.section(table, "guests");
        self.settings(&mut guests, section, "[guests]", |key| key.of == Of::Rule);
        config.guests = self.finish(guests, table.get("guests").map_or(0..0, Spanned::span)).rules;
        for (name, value) in self.section(table, "users").into_iter().flat_map(|users| users.iter()) {
            let mut draft = base.clone();
            let users = self.table(name.get_ref(), value);
            self.settings(&mut draft, users, "[users]", |key| key.of == Of::Rule);
            let rules = self.finish(draft, name.span()).rules;
            match words::user(name.get_ref()) {
                Ok(uid) if config.users.insert(uid, rules).is_none() => {}
                Ok(uid) => self.fault(name.span(), format!("user {uid} has rules already")),
                Err(why) => self.fault(name.span(), why),
            }
        }
        for (name, value) in self.section(table, "ports").into_iter().flat_map(|ports| ports.iter()) {
            let port = self.port(&base, name, value);
            config.ports.insert(name.get_ref().to_string(), port);
        }
        config.snooping = self.section(table, "snooping").map(|settings| self.snooping(settings));
        config
    }

    fn port(&mut self, base: &Draft, name: &Spanned<std::borrow::Cow<'_, str>>, value: &Value<'_>) -> PortConfig {
        self.places.push((name.get_ref().to_string(), name.span().start));
        let table = self.table(name.get_ref(), value);
        let kind = table.and_then(|table| table.get("kind")).and_then(|kind| kind.get_ref().as_str());
        let mut draft = if kind == Some("attached") { Draft::default() } else { base.clone() };
        self.settings(&mut draft, table, "[ports]", |_| true);
        self.finish(draft, name.span())
    }

    fn snooping(&mut self, table: &Table<'_>) -> Switched {
        let mut draft = SnoopingDraft::default();
        for (name, value) in table.iter() {
            let set = number_or_values(value.get_ref()).and_then(|words| draft.set(name.get_ref(), &words));
            if let Err(why) = set {
                self.fault(name.span(), why);
            }
        }
        draft.finish()
    }

    fn finish(&mut self, draft: Draft, span: Range<usize>) -> PortConfig {
        draft.finish().unwrap_or_else(|why| {
            self.fault(span, why);
            PortConfig::default()
        })
    }

    /// A table within the whole.
    fn section<'t, 'i>(&mut self, whole: &'t Table<'i>, name: &str) -> Option<&'t Table<'i>> {
        whole.get(name).and_then(|value| self.table(name, value))
    }

    fn table<'t, 'i>(&mut self, name: &str, value: &'t Value<'i>) -> Option<&'t Table<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let what = value.get_ref().type_str();
            self.fault(value.span(), format!("{name:?} is a table with settings, and this is of type {what}"));
        }
        table
    }

    /// Gives a draft the settings of a table.
    fn settings(&mut self, draft: &mut Draft, table: Option<&Table<'_>>, whose: &str, may: impl Fn(&Key) -> bool) {
        let Some(table) = table else { return };
        let mut said: Vec<&str> = Vec::new();
        for (name, _) in table.iter() {
            let name_of = name.get_ref();
            match keys::find(name_of) {
                None => {
                    let known = keys::all().filter(|key| may(key)).map(|key| key.name);
                    let hint = nearest(name_of, known).map_or(String::new(), |like| format!("; is it `{like}`?"));
                    self.fault(name.span(), format!("there is no setting `{name_of}`{hint}"));
                }
                Some(key) if !may(key) => {
                    self.fault(name.span(), format!("`{name_of}` is a port's own: {whose} cannot have it"));
                }
                Some(key) => {
                    if let Some(other) = keys::excluded(&said, key.name) {
                        self.fault(name.span(), format!("`{name_of}` and `{other}` exclude each other: keep one"));
                    }
                    said.push(key.name);
                }
            }
        }
        // In the order of the keys, since some stand for others.
        for key in keys::all().filter(|key| may(key)) {
            let Some(value) = table.get(key.name) else { continue };
            let read = if key.name == "mode" { mode(value.get_ref()) } else { values(value.get_ref()) };
            let set = read.and_then(|values| draft.set(key.name, &values));
            if let Err(why) = set {
                self.fault(value.span(), format!("{}: {why}", key.name));
            }
        }
    }
}

/// Permissions as words, which are octal: in a file, 660 is another number than 0o660.
fn mode(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::Integer(number) if number.radix() == 8 => Ok(vec![number.as_str().to_string()]),
        DeValue::Integer(_) => Err("is octal: write \"0660\" or 0o660".to_string()),
        other => values(other),
    }
}

/// A value as words.
fn values(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::String(text) => Ok(vec![text.to_string()]),
        DeValue::Boolean(is) => Ok(vec![is.to_string()]),
        DeValue::Integer(number) => {
            let parsed = u64::from_str_radix(number.as_str(), number.radix());
            Ok(vec![parsed.map_err(|_| format!("{} is no number for this", number.as_str()))?.to_string()])
        }
        DeValue::Array(list) => {
            let single = |value: &Value<'_>| match value.get_ref() {
                DeValue::Array(_) => Err("is a list within a list".to_string()),
                value => values(value),
            };
            Ok(list.iter().map(single).collect::<Result<Vec<_>, _>>()?.concat())
        }
        other => Err(format!("cannot be of type {}", other.type_str())),
    }
}

/// A value as a word; a time in seconds may be a fraction.
fn number_or_values(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::Float(number) => Ok(number.as_str().to_string()),
        DeValue::Array(_) => Err("is a list, and wants one value".to_string()),
        value => values(value).map(|words| words.concat()),
    }
}

/// Line and column, from 1, of an octet.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::super::show;
    use super::*;
    use sv3::rules::{Isolation, Sources, Vlan};

    const EXAMPLE: &str = r#"
# What each guest gets that says nothing else.
[defaults]
no_dhcp_server = true

[guests]
isolated = true

[users.1001]
vlan = 7

[ports.web]
vlan = 10
mac = ["52:54:00:00:00:01"]
guard = "strict"
isolated = true
mode = "0660"
rate_from_port = "100M"
static = ["52:54:00:00:00:01"]

[ports.router]
trunk = "10,20-30"
native = 10

[ports.up0]
kind = "attached"
trunk = [10, "20-30"]
"#;

    #[test]
    fn a_file_is_read_and_what_is_shown_is_read_as_the_same() {
        let config = parse(EXAMPLE).unwrap();
        let web = &config.ports["web"];
        assert_eq!(web.rules.vlan, Vlan::Access { vid: 10 });
        assert_eq!(web.rules.guard.macs, Sources::Listed(vec![[0x52, 0x54, 0, 0, 0, 1]]));
        assert_eq!((web.rules.isolation, web.socket.mode), (Isolation::Isolated, 0o660));
        assert!(config.ports["router"].rules.guard.no_dhcp_server && !config.ports["up0"].rules.guard.no_dhcp_server);
        assert!(config.rules_of(1001).guard.no_dhcp_server && config.rules_of(5).isolation == Isolation::Isolated);
        let shown = show::file(&config);
        assert_eq!(parse(&shown).unwrap_or_else(|faults| panic!("{faults:?}\n{shown}")), config);
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_column() {
        let told = |text: &str| {
            let faults = parse(text).unwrap_err();
            let tell = |fault: &Fault| format!("{:?} {}", position(text, fault.at), fault.why);
            faults.iter().map(tell).collect::<Vec<_>>()
        };
        for (text, whole) in [
            ("[ports.web]\nvlna = 10", "(2, 1) there is no setting `vlna`; is it `vlan`?"),
            ("[ports.web]\nvlan = 4095", "(2, 8) vlan: VLAN \"4095\": VLANs have the numbers 1 to 4094"),
            ("[port.web]", "(1, 2) there is no table \"port\"; is it [ports]?"),
            ("[ports.p7]", "(1, 8) port p7: a name has"),
            ("[ports.web]\nvlan = 1\ntrunk = \"2\"", "`vlan` and `trunk` exclude each other"),
            ("[guests]\nstatic = []", "`static` is a port's own"),
            ("[ports]\nweb = 3", "(2, 7) \"web\" is a table"),
            ("guests = []", "(1, 10) \"guests\" is a table with settings, and this is of type array"),
            ("defaults = []", "(1, 12) \"defaults\" is a table"),
            ("ports = []", "(1, 9) \"ports\" is a table"),
            ("users = 1", "(1, 9) \"users\" is a table"),
            ("[[snooping]]", "\"snooping\" is a table"),
            ("[ports.web\n", "(1, 11) "),
            ("[ports.web]\nmac = [\"01:00:00:00:00:01\"]", "(2, 7) mac: \"01:00:00:00:00:01\" is no address of one"),
            ("[ports.web]\nmac = []", "(2, 7) mac: an empty list lets nothing pass: name one, or write \"any\""),
            ("[ports.web]\ntrunk = []", "(2, 9) trunk: an empty list"),
            ("[ports.web]\nvlan = \"\"", "(2, 8) vlan: VLAN \"\""),
            ("[ports.web]\nip = []", "(2, 6) ip: an empty list"),
            ("[ports.web]\nipv4 = \"\"", "(2, 8) ipv4: \"\" is no address or prefix"),
            ("[ports.web]\nfirst_macs = 2\nmac = [\"52:54:00:00:00:01\"]", "`mac` and `first_macs` exclude each other"),
            (
                "[ports.web]\nisolated = true\nisolation_group = 2",
                "`isolation_group` and `isolated` exclude each other",
            ),
            ("[ports.web]\nmode = 660", "(2, 8) mode: is octal: write \"0660\" or 0o660"),
            ("[ports.web]\nowner = 4294967295", "(2, 9) owner: this machine has no user"),
            ("[ports.web]\nvlan = 1.5", "(2, 8) vlan: cannot be of type float"),
            ("[users.nobody-here]", "(1, 8) this machine has no user"),
            ("[ports.a]\nstatic = \"52:54:00:00:00:01\"\n[ports.b]\nstatic = \"52:54:00:00:00:01\"", "(3, 8) port b"),
        ] {
            let all = told(text);
            assert!(all.len() == 1 && all[0].contains(whole), "{all:?} {whole}");
        }
        assert_eq!(told("[ports.a]\nx = 1\n[ports.b]\ny = 1").len(), 2);
        assert_eq!(parse("[ports.web]\nmode = 0o660").unwrap().ports["web"].socket.mode, 0o660);
        let none = parse("[ports.web]\nipv4 = []\nipv6 = []\nstatic = []").unwrap();
        assert_eq!(none.ports["web"].rules.guard.ipv4, Some(vec![]));
    }
}
