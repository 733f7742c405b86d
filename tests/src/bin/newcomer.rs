//! A guest in a process of its own, until its standard input ends. `newcomer SOCKET WHAT`, where WHAT is
//!
//! - `cut`: truncates its memory under the worker at once,
//! - `sealed`: has memory that cannot be truncated, and sends one frame,
//! - `open`: has memory that can be truncated, and sends one frame.

use std::io::{Read, Write};
use std::path::Path;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;

const TX: u16 = 1;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, what] = arguments.as_slice() else { return Err(Failure::new("newcomer SOCKET WHAT")) };
    let config = Guest::config().ring_size(16);
    let config = if what == "cut" { config.rings_at_region_end() } else { config };
    let mut guest = config.build(Path::new(socket))?;
    if what == "sealed" {
        for region in guest.memory().regions() {
            fcntl(region.file(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
        }
    }
    guest.bring_up()?;
    match what.as_str() {
        "cut" => {
            guest.memory().regions()[0].truncate(0);
            guest.kick(TX);
        }
        _ => guest.send(&frame(BROADCAST, mac(9), what.as_bytes())),
    }
    println!("{what}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
