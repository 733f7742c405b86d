//! Ports of network cards at the real supervisor. There is no card here: these are the requests that it must refuse. A
//! machine with an IOMMU has the others (`tests/tests/nic.rs`).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use crate::files::{ask, error};
use crate::fixture::Fixture;

const CARD: &str = "attach-card nic0 0000:02:00.1";

#[test]
fn what_is_no_card_is_refused_in_words_and_leaves_nothing() {
    let fixture = Fixture::start();
    crate::fixture::until(|| fixture.status().worker.standby_pid.is_some());
    let before = fixture.fds();
    let null = File::open("/dev/null").unwrap();
    let files: Vec<File> = (0..22).map(|_| null.try_clone().unwrap()).collect();
    let fds = |count: usize| files.iter().take(count).map(AsFd::as_fd).collect::<Vec<BorrowedFd<'_>>>();
    let cases = [
        (CARD.to_string(), fds(6), "a container and a device of VFIO"),
        (CARD.to_string(), fds(5), "5 open files came"),
        (CARD.to_string(), vec![], "0 open files came"),
        (format!("{CARD} pairs=16"), fds(21), "a container and a device of VFIO"),
        (format!("{CARD} pairs=16"), fds(6), "which takes 21"),
        (format!("{CARD} pairs=17"), fds(21), "unknown request"),
        (format!("{CARD} descriptors=100"), fds(6), "unknown request"),
        ("attach-card p0 0000:02:00.1".to_string(), fds(6), "unknown request"),
        ("attach-card nic0 ../../etc".to_string(), fds(6), "unknown request"),
    ];
    for (request, fds, words) in cases {
        let answer = ask(&fixture, &request, &fds);
        assert!(error(&answer).contains(words), "{request} with {}: {answer}", fds.len());
    }
    assert!(fixture.status().ports.is_empty());
    crate::fixture::until(|| fixture.fds() <= before);
    assert!(error(&ask(&fixture, "detach nic0", &[])).contains("no port"));
    assert!(error(&ask(&fixture, "release nic0", &[])).contains("no port"));
}
