//! How the switch snoops on IGMP and MLD (RFC 4541): a switch's setting, typed for the command line, a file of
//! configuration, and the control socket. docs/use/multicast.md explains it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The setting of a switch that snoops. All times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Snooping {
    /// The switch asks for members itself where nobody else does.
    pub querier: bool,
    /// The source of its IGMP queries. 0.0.0.0 never displaces another querier (RFC 4541, 2.1.1). Its MLD queries have a
    /// link-local address that is made of the switch's Ethernet address.
    pub address: Ipv4Addr,
    /// Between two general queries (RFC 3376, 8.2; RFC 3810, 9.2).
    pub interval_ms: u32,
    /// In which members answer a general query (RFC 3376, 8.3; RFC 3810, 9.3).
    pub response_ms: u32,
    /// In which the members at a port answer after one of them has left (RFC 3376, 8.8; RFC 3810, 9.8).
    pub last_member_ms: u32,
}

impl Default for Snooping {
    /// The values of the RFCs.
    fn default() -> Snooping {
        Snooping {
            querier: true,
            address: Ipv4Addr::UNSPECIFIED,
            interval_ms: 125_000,
            response_ms: 10_000,
            last_member_ms: 1000,
        }
    }
}

/// What a configuration says of snooping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Switched {
    /// The switch floods frames to groups.
    Off,
    /// It snoops in this way.
    On(Snooping),
}

impl Switched {
    /// As a setting that may be absent.
    pub fn setting(self) -> Option<Snooping> {
        match self {
            Switched::Off => None,
            Switched::On(setting) => Some(setting),
        }
    }
}

/// A setting that is in force. Its number is not 0 and differs from that of any other time that snooping was switched on:
/// what was learnt before tells nothing of those who came and left meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnoopingRun {
    /// The setting.
    pub settings: Snooping,
    /// The number.
    pub run: u32,
}

impl SnoopingRun {
    /// With a number of its own.
    pub fn begin(settings: Snooping) -> SnoopingRun {
        SnoopingRun { settings, run: RandomState::new().hash_one(0) as u32 | 1 }
    }
}

impl Snooping {
    /// Least and most of [`Snooping::interval_ms`]: an hour.
    pub const INTERVAL_MS: (u32, u32) = (200, 3_600_000);
    /// Least and most of [`Snooping::response_ms`], which is less than the interval.
    pub const RESPONSE_MS: (u32, u32) = (100, 60_000);
    /// Least and most of [`Snooping::last_member_ms`].
    pub const LAST_MEMBER_MS: (u32, u32) = (100, 10_000);

    /// What is wrong with the values, if something is.
    pub fn check(&self) -> Result<(), String> {
        let bounded = [
            ("interval", self.interval_ms, Snooping::INTERVAL_MS),
            ("response", self.response_ms, Snooping::RESPONSE_MS),
            ("last-member", self.last_member_ms, Snooping::LAST_MEMBER_MS),
        ];
        for (name, value, (least, most)) in bounded {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} is {value} ms and must be {least} to {most} ms"));
            }
        }
        if self.response_ms >= self.interval_ms {
            return Err("response must be shorter than interval".to_string());
        }
        if self.address.is_multicast() || self.address.is_broadcast() || self.address.is_loopback() {
            return Err(format!("{} is no address of a querier", self.address));
        }
        Ok(())
    }

    /// Reads the words that [`fmt::Display`] writes, in any order; what is left out has its default.
    pub fn parse(words: &str) -> Result<Snooping, String> {
        let mut it = Snooping::default();
        for word in words.split_whitespace() {
            let unknown = || format!("{word:?} says nothing of snooping");
            let (name, value) = word.split_once('=').ok_or_else(unknown)?;
            let number = || value.parse().map_err(|_| format!("{word:?}: that is no number of milliseconds"));
            match (name, value) {
                ("querier", "on") => it.querier = true,
                ("querier", "off") => it.querier = false,
                ("address", _) => it.address = value.parse().map_err(|_| format!("{word:?}: no IPv4 address"))?,
                ("interval", _) => it.interval_ms = number()?,
                ("response", _) => it.response_ms = number()?,
                ("last-member", _) => it.last_member_ms = number()?,
                _ => return Err(unknown()),
            }
        }
        it.check().map(|()| it)
    }
}

impl fmt::Display for Snooping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Snooping { querier, address, interval_ms, response_ms, last_member_ms } = self;
        let querier = if *querier { "on" } else { "off" };
        write!(f, "querier={querier} address={address} interval={interval_ms} response={response_ms} ")?;
        write!(f, "last-member={last_member_ms}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let other = Snooping {
            querier: false,
            address: Ipv4Addr::new(192, 0, 2, 1),
            interval_ms: 400,
            response_ms: 100,
            last_member_ms: 150,
        };
        for snooping in [Snooping::default(), other] {
            assert_eq!(Snooping::parse(&snooping.to_string()), Ok(snooping));
        }
        assert_eq!(Snooping::parse(""), Ok(Snooping::default()));
        assert_eq!(Snooping::parse("querier=off").map(|snooping| snooping.querier), Ok(false));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for words in [
            "on",
            "querier=maybe",
            "address=224.0.0.1",
            "address=255.255.255.255",
            "address=::1",
            "interval=199",
            "interval=3600001",
            "interval=5000 response=5000",
            "response=99",
            "last-member=-1",
            "last-member=10001",
            "speed=1",
        ] {
            assert!(Snooping::parse(words).is_err(), "{words}");
        }
    }
}
