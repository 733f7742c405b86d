//! Ports of open files at the real supervisor, with a worker that moves no frames.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
};
use sv3::status::{FilesStatus, Link, PortStatus};
use vhost::VhostBackend;

use crate::fixture::{Fixture, Guest, until};

/// Asks with open files.
pub fn ask(fixture: &Fixture, request: &str, fds: &[BorrowedFd<'_>]) -> serde_json::Value {
    let control = UnixStream::connect(&fixture.control).unwrap();
    let mut space = [MaybeUninit::uninit(); 1024];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let line = format!("{request}\n");
    sendmsg(&control, &[IoSlice::new(line.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    let mut answer = String::new();
    let _ = (&control).read_to_string(&mut answer);
    serde_json::from_str(&answer).unwrap_or_default()
}

pub fn error(answer: &serde_json::Value) -> &str {
    answer["error"].as_str().unwrap_or_default()
}

fn packets() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn files(port: &PortStatus) -> &FilesStatus {
    port.files.as_ref().unwrap()
}

/// The port of this name, once there is one.
fn port(fixture: &Fixture, name: &str) -> PortStatus {
    let mut found = None;
    until(|| {
        found = fixture.status().ports.into_iter().find(|port| port.name == name);
        found.is_some()
    });
    found.unwrap()
}

fn names(fixture: &Fixture) -> Vec<String> {
    fixture.status().ports.into_iter().map(|port| port.name).collect()
}

#[test]
fn a_socket_is_attached_under_its_name_and_detached() {
    let fixture = Fixture::start();
    let guest = Guest::attach(&fixture);
    until(|| fixture.status().worker.standby_pid.is_some());
    let before = fixture.fds();
    let (ours, theirs) = packets();
    let attached = ask(&fixture, "attach packets up0 mtu=9000 learning=uplink", &[theirs.as_fd()]);
    assert_eq!(attached, serde_json::json!({ "name": "up0", "slot": 1, "resumed": false }));
    drop(theirs);
    let shown = port(&fixture, "up0");
    assert_eq!((shown.link, shown.mtu, shown.slot), (Link::Up, Some(9000), 1));
    let told = files(&shown);
    assert_eq!((&*told.transport, &*told.learning, told.queues), ("packets", "uplink", 1));
    assert!(fixture.ask("metrics").contains("sv3_port_link{port=\"up0\",sv3_port_link=\"up\"} 1"));
    // The first such port lets a worker serve that may use files, and guests do not notice.
    until(|| !fixture.events("handover").is_empty());
    assert_eq!(fixture.port(0).link, Link::Up);

    let again = ask(&fixture, "attach packets up0", &[ours.as_fd()]);
    assert!(error(&again).contains("sv3 detach up0"), "{again}");
    assert!(error(&ask(&fixture, "detach p0", &[])).contains("no port"), "a client is not detached");
    assert_eq!(ask(&fixture, "detach up0", &[]), serde_json::json!({ "detached": "up0" }));
    until(|| names(&fixture) == ["p0"]);
    // Workers that started meanwhile have as many files as those before.
    until(|| fixture.fds() <= before);
    assert!(fixture.events("file_fault").is_empty());
    guest.frontend.get_features().unwrap();
}

#[test]
fn what_cannot_be_a_port_is_refused_in_words_and_closed() {
    let fixture = Fixture::start();
    until(|| fixture.status().worker.standby_pid.is_some());
    let before = fixture.fds();
    let folder = tempfile::tempdir().unwrap();
    let memory = nix::sys::memfd::memfd_create("x", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
    let (pipe, _other) = nix::unistd::pipe().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let dir = std::fs::File::open("/").unwrap();
    let path = std::fs::File::options().read(true).custom_flags(libc::O_PATH).open("/dev/null").unwrap();
    let event = nix::sys::eventfd::EventFd::new().unwrap();
    let odd = [memory.as_fd(), pipe.as_fd(), listener.as_fd(), tcp.as_fd(), null.as_fd(), dir.as_fd(), path.as_fd()];
    for fd in odd.into_iter().chain([event.as_fd()]) {
        for transport in ["tap", "packets", "stream"] {
            let told = ask(&fixture, &format!("attach {transport} up0"), &[fd]);
            assert!(error(&told).starts_with("up0: "), "{fd:?} as a {transport}: {told}");
        }
    }
    let (stream, _peer) = UnixStream::pair().unwrap();
    for (request, fds, why) in [
        ("attach stream up0", vec![], "0 open files"),
        ("attach stream up0", vec![stream.as_fd(); 2], "one file"),
        ("restart", vec![stream.as_fd()], "1 open files"),
        ("detach up0", vec![stream.as_fd()], "1 open files"),
        ("attach stream p3", vec![stream.as_fd()], "unknown request"),
        ("attach stream up0 mtu=7", vec![stream.as_fd()], "unknown request"),
    ] {
        let told = ask(&fixture, request, &fds);
        assert!(error(&told).contains(why), "{request}: {told}");
    }
    assert!(names(&fixture).is_empty());
    until(|| fixture.fds() <= before);
}

#[test]
fn a_peer_that_leaves_is_noticed_and_the_port_waits_for_new_files() {
    let fixture = Fixture::start();
    let (ours, theirs) = packets();
    ask(&fixture, "attach packets up0", &[theirs.as_fd()]);
    drop((ours, theirs));
    // This worker reports nothing, so the supervisor ends it after its bound.
    until(|| !fixture.events("file_fault").is_empty());
    let shown = port(&fixture, "up0");
    assert_eq!((shown.link, files(&shown).queues), (Link::Down, 0));
    assert!(shown.hint.unwrap().contains("sv3 detach up0"));
    let (_ours, theirs) = packets();
    let wrong = ask(&fixture, "attach stream up0", &[theirs.as_fd()]);
    assert!(error(&wrong).contains("another kind"), "{wrong}");
    let resumed = ask(&fixture, "attach packets up0", &[theirs.as_fd()]);
    assert_eq!(resumed["resumed"], true);
    assert_eq!(port(&fixture, "up0").link, Link::Up);
}

#[test]
fn the_first_octet_at_the_front_door_tells_a_stream() {
    let fixture = Fixture::start();
    let mut stream = UnixStream::connect(&fixture.socket).unwrap();
    until(|| fixture.status().pending_clients == 1);
    stream.write_all(&[0, 0, 0, 60]).unwrap();
    let shown = port(&fixture, "p0");
    assert_eq!((&*files(&shown).transport, &*files(&shown).learning), ("stream", "guarded"));
    assert_eq!(shown.client_pid, std::process::id() as i32);
    assert_eq!(fixture.status().pending_clients, 0);
    let guest = Guest::attach(&fixture);
    assert_eq!(port(&fixture, "p1").link, Link::Up);
    drop(stream);
    until(|| names(&fixture) == ["p1"]);
    guest.frontend.get_features().unwrap();
}

#[test]
fn a_client_at_a_door_for_streams_has_a_port_at_once() {
    let fixture = Fixture::start_with_streams(&["t", "v,vnet,mtu=9000"]);
    let _plain = UnixStream::connect(fixture.path("t")).unwrap();
    assert_eq!(files(&port(&fixture, "p0")).form, "plain");
    let large = UnixStream::connect(fixture.path("v")).unwrap();
    let shown = port(&fixture, "p1");
    assert_eq!((&*files(&shown).form, shown.mtu), ("net-header", Some(9000)));
    assert!(fixture.events("handover").is_empty(), "workers have the role from the start");
    // A client that leaves loses its port, and the next one gets one. It is another one if the worker has not forgotten
    // the first by then.
    drop(large);
    until(|| names(&fixture) == ["p0"]);
    let _next = UnixStream::connect(fixture.path("v")).unwrap();
    until(|| names(&fixture).len() == 2);
    assert!(fixture.end().success());
    assert!(!fixture.path("t").exists() && !fixture.path("v").exists());
}

#[test]
fn many_streams_come_and_go_and_nothing_is_left() {
    let fixture = Fixture::start_with_streams(&["t"]);
    let guest = Guest::attach(&fixture);
    until(|| fixture.status().worker.standby_pid.is_some());
    let before = fixture.fds();
    let mut streams: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(fixture.path("t")).unwrap()).collect();
    until(|| fixture.status().ports.len() == 201);
    for stream in &mut streams {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(&[0, 0]).unwrap();
    }
    drop(streams);
    until(|| fixture.status().ports.len() == 1 && fixture.fds() <= before);
    guest.frontend.get_features().unwrap();
}
