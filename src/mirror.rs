//! A mirror: a port that gets copies of what other ports send or get.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most mirrors at a time.
pub const MIRRORS_MAX: usize = 8;
/// Most octets of a mirror's name.
const NAME_MAX: usize = 32;
/// Most ports that one request names: a request is one short line.
pub const SOURCES_MAX: usize = 16;

/// Which frames of a port are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorDirection {
    /// Those that come from it.
    In,
    /// Those that are delivered to it.
    Out,
    /// Both.
    Both,
}

impl MirrorDirection {
    /// Reads `in`, `out` or `both`.
    pub fn parse(word: &str) -> Option<MirrorDirection> {
        [MirrorDirection::In, MirrorDirection::Out, MirrorDirection::Both].into_iter().find(|one| one.word() == word)
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            MirrorDirection::In => "in",
            MirrorDirection::Out => "out",
            MirrorDirection::Both => "both",
        }
    }

    /// Whether frames from the ports are copied.
    pub fn has_in(self) -> bool {
        self != MirrorDirection::Out
    }

    /// Whether frames to the ports are copied.
    pub fn has_out(self) -> bool {
        self != MirrorDirection::In
    }
}

/// A mirror as people ask for it: `NAME TO in|out|both FROM[,FROM]`. Ports are named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Its name.
    pub name: String,
    /// The port that gets the copies.
    pub to: String,
    /// Which frames.
    pub direction: MirrorDirection,
    /// The ports whose frames are copied.
    pub from: Vec<String>,
}

impl Mirror {
    /// Reads what [`Mirror`] writes.
    pub fn parse(words: &str) -> Option<Mirror> {
        let [name, to, direction, from] = words.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let direction = MirrorDirection::parse(direction)?;
        let from: Vec<String> = from.split(',').map(str::to_string).collect();
        let is_name =
            |name: &str| !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(|c| c.is_ascii_graphic());
        let good =
            is_name(name) && !to.is_empty() && from.len() <= SOURCES_MAX && from.iter().all(|name| !name.is_empty());
        good.then(|| Mirror { name: name.to_string(), to: to.to_string(), direction, from })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.name, self.to, self.direction.word(), self.from.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for words in ["ids p2 both p0,p1", "m up0 in p3", "m up0 out web"] {
            assert_eq!(Mirror::parse(words).map(|mirror| mirror.to_string()).as_deref(), Some(words));
        }
        let many = format!("m p0 in {}", ["p1"; SOURCES_MAX + 1].join(","));
        for words in ["", "m", "m p0 in", "m p0 sideways p1", "m p0 in p1,", " p0 in p1", "m p0 in p1 p2", &many] {
            assert_eq!(Mirror::parse(words), None, "{words}");
        }
    }
}
