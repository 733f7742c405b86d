//! Which ports may speak to one another within a VLAN.

use serde::{Deserialize, Serialize};

/// Which ports a port may speak to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// All.
    #[default]
    Open,
    /// Those that are [`Isolation::Open`], such as uplinks.
    Isolated,
    /// Those that are [`Isolation::Open`], and those of the same group (a community, as RFC 5517 has it).
    Group(u32),
}

impl Isolation {
    /// Whether two ports may speak to each other.
    #[inline]
    pub fn permits(self, other: Isolation) -> bool {
        match (self, other) {
            (Isolation::Open, _) | (_, Isolation::Open) => true,
            (Isolation::Group(one), Isolation::Group(two)) => one == two,
            _ => false,
        }
    }
}
