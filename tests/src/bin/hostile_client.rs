//! A hostile client of a switch, for `hostile_cases.rs`: makes one attack and stays until its stdin ends, so that the
//! test can look meanwhile. `hostile_client SOCKET CASE SEED`. It attacks sv3 only, see [`Target`].

use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::hostile::attacker;
use sv3_tests::hostile::case::Target;
use sv3_tests::hostile::cases;

/// How long it waits for the switch.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a race or a flood goes on.
const DURATION: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, name, seed] = arguments.as_slice() else {
        return Err(Failure::new("a socket, a case and a seed are needed"));
    };
    let case = cases::all().into_iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| Failure::new(format!("there is no case {name}")))?;
    // Some cases have hundreds of connections.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    attacker::serve(&Target::new(Path::new(socket), PATIENCE, DURATION, seed.parse()?)?, &case)
}
