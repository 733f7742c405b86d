//! DPDK's virtio-user as a client: an independent front-end that polls and sends bursts.
//!
//! Ignored by a plain `cargo test`, since it needs DPDK and both processors: `scripts/check` runs it.

use std::time::Duration;

use sv3_tests::failure::Result;
use sv3_tests::stopped::Freezer;
use sv3_tests::switch::Switch;
use sv3_tests::testpmd::{Config, Testpmd};

/// Two ports of testpmd send 128 frames each way to and fro, each port returning what it receives, until some hundred
/// thousand have passed; then they only receive, until no frame is missing.
fn frames_circulate(config: Config) -> Result<()> {
    let switch = Switch::start()?;
    let mut testpmd = Testpmd::clients([switch.socket(), switch.socket()], config)?;

    testpmd.command("start tx_first 4")?;
    testpmd.await_received(0, 300_000)?;
    testpmd.await_received(1, 300_000)?;
    testpmd.command("stop")?;
    let (transmitted0, transmitted1) = (testpmd.counters(0)?.transmitted, testpmd.counters(1)?.transmitted);

    testpmd.command("set fwd rxonly")?;
    testpmd.command("start")?;
    let (received0, received1) =
        (testpmd.await_received(0, transmitted1)?.received, testpmd.await_received(1, transmitted0)?.received);
    assert_eq!((received0, received1), (transmitted1, transmitted0), "no frame is lost, none comes twice");
    for port in switch.status()?.ports {
        assert!(port.drops.is_empty(), "{} dropped {:?}", port.name, port.drops);
    }
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn mergeable_buffers() -> Result<()> {
    frames_circulate(Config { mergeable: true, ..Config::default() })
}

#[test]
#[ignore = "scripts/check runs it"]
fn buffers_of_one_frame() -> Result<()> {
    frames_circulate(Config { mergeable: false, ..Config::default() })
}

#[test]
#[ignore = "scripts/check runs it"]
fn packed_rings() -> Result<()> {
    frames_circulate(Config { packed: true, ..Config::default() })?;
    frames_circulate(Config { packed: true, mergeable: true, ..Config::default() })
}

#[test]
#[ignore = "scripts/check runs it"]
fn two_queue_pairs() -> Result<()> {
    frames_circulate(Config { queue_pairs: 2, ..Config::default() })
}

/// The host does not let the worker run, again and again: no client is blamed, and no frame is lost.
#[test]
#[ignore = "scripts/check runs it"]
fn a_worker_that_is_not_let_run() -> Result<()> {
    let switch = Switch::start()?;
    let mut testpmd = Testpmd::clients([switch.socket(), switch.socket()], Config::default())?;
    testpmd.command("start tx_first 4")?;
    testpmd.await_received(0, 10_000)?;
    let worker = switch.worker_pid()?;
    let mut freezer = Freezer::around(worker)?;
    for _ in 0..3 {
        freezer.freeze()?;
        std::thread::sleep(Duration::from_millis(750));
        freezer.thaw()?;
        let before = testpmd.counters(0)?.received;
        testpmd.await_received(0, before + 10_000)?;
    }
    let status = switch.status()?;
    assert_eq!((status.worker.pid, status.worker.restarts), (Some(worker), 0));
    let blamed = switch.events()?.into_iter().find(|event| event["event"] == "blame");
    assert_eq!(blamed, None);
    Ok(())
}
