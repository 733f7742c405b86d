//! `[snooping]` of a file: whether and how the switch snoops on IGMP and MLD.

use sv3::snooping::{Snooping, Switched};

use super::keys::nearest;
use super::show::Setting;

/// The settings that there are; docs/use/config.md has a row of each.
const KEYS: [&str; 6] = ["on", "querier", "address", "interval", "response", "last_member"];

/// What a file has said so far.
pub struct SnoopingDraft {
    is_on: bool,
    setting: Snooping,
}

impl Default for SnoopingDraft {
    fn default() -> SnoopingDraft {
        SnoopingDraft { is_on: true, setting: Snooping::default() }
    }
}

impl SnoopingDraft {
    /// Takes a setting. The error is for people.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let is = || value.parse().map_err(|_| format!("{name}: {value:?} is neither true nor false"));
        let SnoopingDraft { is_on, setting } = self;
        match name {
            "on" => *is_on = is()?,
            "querier" => setting.querier = is()?,
            "address" => {
                setting.address = value.parse().map_err(|_| format!("{name}: {value:?} is no IPv4 address"))?;
            }
            "interval" => setting.interval_ms = milliseconds(name, value)?,
            "response" => setting.response_ms = milliseconds(name, value)?,
            "last_member" => setting.last_member_ms = milliseconds(name, value)?,
            _ => {
                let hint = nearest(name, KEYS.into_iter())
                    .map_or(format!("there are {}", KEYS.join(", ")), |like| format!("is it `{like}`?"));
                return Err(format!("there is no setting `{name}` of snooping; {hint}"));
            }
        }
        Ok(())
    }

    /// What the file says.
    pub fn finish(self) -> Switched {
        if self.is_on { Switched::On(self.setting) } else { Switched::Off }
    }
}

fn milliseconds(name: &str, value: &str) -> Result<u32, String> {
    let seconds: f64 = value.parse().map_err(|_| format!("{name}: {value:?} is no number of seconds"))?;
    // A number that does not fit is out of bounds, which the check tells.
    Ok((seconds * 1000.0).round() as u32)
}

/// The settings that differ from the defaults, and whether it is on.
pub fn settings(switched: Option<Switched>) -> Vec<Setting> {
    let Some(setting) = switched.and_then(Switched::setting) else { return vec![("on", "false".to_string())] };
    let (default, seconds) = (Snooping::default(), |ms: u32| (f64::from(ms) / 1000.0).to_string());
    let mut all: Vec<Setting> = vec![("on", "true".to_string())];
    if !setting.querier {
        all.push(("querier", "false".to_string()));
    }
    if setting.address != default.address {
        all.push(("address", format!("\"{}\"", setting.address)));
    }
    for (name, value, usual) in [
        ("interval", setting.interval_ms, default.interval_ms),
        ("response", setting.response_ms, default.response_ms),
        ("last_member", setting.last_member_ms, default.last_member_ms),
    ] {
        if value != usual {
            all.push((name, seconds(value)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::{difference, file, show};
    use super::*;
    use sv3::config::Config;

    #[test]
    fn what_is_shown_is_read_again() {
        let text = "[snooping]\non = true\nquerier = false\naddress = \"192.0.2.1\"\ninterval = 2\nresponse = 0.1\n";
        let config = file::parse(text).unwrap();
        assert_eq!(show::file(&config), text);
        assert_eq!(file::parse("[snooping]").unwrap().snooping, Some(Switched::On(Snooping::default())));
        assert_eq!(file::parse("[snooping]\non = false").unwrap().snooping, Some(Switched::Off));
        assert_eq!(file::parse("").unwrap().snooping, None);
    }

    #[test]
    fn what_is_wrong_is_told_where_it_is() {
        for (text, told, at) in [
            ("[snooping]\nintervall = 3", "is it `interval`?", 11),
            ("[snooping]\non = 3", "neither true nor false", 11),
            ("[snooping]\naddress = \"::1\"", "no IPv4 address", 11),
            ("[snooping]\nresponse = [1]", "one value", 11),
            ("[snooping]\ninterval = 5000", "3600000 ms", 0),
            ("snooping = true", "is a table", 11),
            ("[snoopin]", "is it [snooping]?", 1),
        ] {
            let faults = file::parse(text).unwrap_err();
            assert!(faults[0].why.contains(told) && faults[0].at == at, "{text}: {faults:?}");
        }
    }

    #[test]
    fn a_file_without_it_changes_nothing() {
        let with = |snooping| Config { snooping, ..Config::default() };
        let on = Some(Switched::On(Snooping::default()));
        assert!(difference::lines(&with(on), &with(None)).is_empty());
        assert!(difference::lines(&with(None), &with(Some(Switched::Off))).is_empty());
        assert_eq!(difference::lines(&with(on), &with(Some(Switched::Off))), ["  snooping: on = false (was true)"]);
        assert_eq!(difference::lines(&with(None), &with(on)), ["  snooping: on = true (was false)"]);
    }

    #[test]
    fn the_document_has_a_row_of_every_setting() {
        let document = include_str!("../../../docs/use/config.md");
        KEYS.iter().for_each(|name| assert!(document.contains(&format!("| `{name}` |")), "{name}"));
    }
}
