//! From sv3 to other back-ends and back: Open vSwitch with DPDK, and DPDK's vhost alone. The neighbour stays on sv3, which
//! a wire of DPDK's joins to them.

use std::path::{Path, PathBuf};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::peers::Peer;
use sv3_tests::switch::Switch;
use sv3_tests::testpmd::{self, Testpmd};

use super::journey::{Journey, traveller_with};

/// What only one of sv3 and DPDK's vhost offers. A guest that is to move between them must not use it.
const DPDK: &str = "host_tso4=off,host_tso6=off,host_ufo=off,host_uso=off,guest_ufo=off,guest_uso4=off,guest_uso6=off";
/// The same of sv3 and Open vSwitch as it comes, which computes no checksums for guests.
const OVS: &str =
    "csum=off,host_tso4=off,host_tso6=off,host_ufo=off,host_uso=off,guest_ufo=off,guest_uso4=off,guest_uso6=off";

/// There and back and there, under TCP both ways and pings.
fn moves_to_and_fro(switch: &Switch, other: &Path, device: &str) -> Result<()> {
    let device = std::env::var("SV3_DEVICE").unwrap_or_else(|_| device.to_string());
    let mut journey = Journey::of(traveller_with(&device), switch.socket(), switch.socket())?;
    let jobs = journey.talk()?;
    let job = journey.ping(PINGS)?;
    for socket in [other, switch.socket(), other] {
        let moved = journey.go(socket.to_path_buf(), || Ok(()))?;
        let features = journey.traveller()?.features()?;
        println!("to {}: {moved:?}, features {features:#x}", socket.display());
    }
    journey.assert_whole(jobs)?;
    journey.assert_pinged(job, PINGS, 50, 0)?;
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

const PINGS: u32 = 200;

#[test]
#[ignore = "it takes long"]
fn a_guest_moves_to_open_vswitch_and_back() -> Result<()> {
    let (switch, ovs) = (Switch::start()?, Peer::ovs_dpdk(2)?);
    let [place, end]: [PathBuf; 2] = ovs.sockets().to_vec().try_into().map_err(|_| Failure::new("two ports"))?;
    let mut wire = Testpmd::clients([switch.socket(), &end], testpmd::Config::default())?;
    wire.command("start")?;
    moves_to_and_fro(&switch, &place, OVS)
}

#[test]
#[ignore = "it takes long"]
fn a_guest_moves_to_dpdks_vhost_and_back() -> Result<()> {
    let switch = Switch::start()?;
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("vhost.sock");
    let _wire = Testpmd::extension(switch.socket(), &place, testpmd::Config::default())?;
    moves_to_and_fro(&switch, &place, DPDK)
}
