//! Files that clients opened: no process of sv3 waits for their last close, and fds that are in flight in other sockets
//! prevent no start of a worker.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::Guest;
use sv3_tests::guest::wire::*;
use sv3_tests::honest::Honest;
use sv3_tests::lingering::lingering;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, fds};

/// Upper bound for a status, a take-over and some frames, if nothing waits for a file that lingers.
const PROMPT: Duration = Duration::from_secs(3);

/// Closes them in a thread of its own, since this may be the last close of some, which waits.
fn close_elsewhere(sockets: Vec<OwnedFd>) {
    std::thread::spawn(move || drop(sockets));
}

/// A client sends the first half of a message with files, closes its own fds of them, and sends the other half. So the
/// last close is the switch's.
fn give(honest: &Honest, request: u32, payload: &[u8], sockets: Vec<OwnedFd>) -> Result<Guest> {
    let mut guest = Guest::config().build(honest.socket())?;
    let message = [&header(request, 1, payload.len() as u32), payload].concat();
    let (begin, rest) = message.split_at(4);
    guest.raw().send_octets(begin, &sockets.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    // The switch keeps files that came with half a message, unless it refuses them at once.
    match sockets.len() {
        0..=8 => drop(sockets),
        _ => close_elsewhere(sockets),
    }
    // A client that was refused already gets an error here.
    let _ = guest.raw().send_octets(rest, &[]);
    Ok(guest)
}

/// The switch answers and replaces a killed worker within [`PROMPT`].
fn is_prompt(honest: &mut Honest) -> Result<()> {
    let start = Instant::now();
    honest.status()?;
    honest.kill_worker("KILL")?;
    honest.talk();
    let took = start.elapsed();
    if took < PROMPT { Ok(()) } else { Err(Failure::new(format!("it took {took:?}"))) }
}

#[test]
fn a_socket_that_lingers_delays_no_one() -> Result<()> {
    let mut honest = Honest::new()?;
    // More lingering sockets than closers, by every way in which a file comes to the supervisor.
    let mut peers = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..4 {
        // With a message that takes no fd.
        let (socket, peer) = lingering()?;
        clients.push(give(&honest, SET_OWNER, &[], vec![socket])?);
        peers.push(peer);
        // More fds on one message than any request takes.
        let (sockets, others): (Vec<_>, Vec<_>) =
            (0..20).map(|_| lingering()).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        clients.push(give(&honest, SET_MEM_TABLE, &[], sockets)?);
        peers.extend(others);
        // As memory, as a kick, and in flight in a connection that is over.
        for request in [ADD_MEM_REG, SET_VRING_KICK] {
            let (socket, peer) = lingering()?;
            give(&honest, request, &[0; 8], vec![socket])?;
            peers.push(peer);
        }
        // At the control socket.
        let (socket, peer) = lingering()?;
        let mut control = UnixStream::connect(honest.control())?;
        let (octets, fd) = ([IoSlice::new(b"stat")], [socket.as_raw_fd()]);
        let rights = [ControlMessage::ScmRights(&fd)];
        sendmsg::<()>(control.as_raw_fd(), &octets, &rights, MsgFlags::empty(), None)?;
        drop(socket);
        control.write_all(b"us\n")?;
        peers.push(peer);
    }
    is_prompt(&mut honest)?;
    is_prompt(&mut honest)?;
    drop(clients);
    // All is closed while the peers are still connected and have read nothing.
    honest.assert_unharmed()?;
    drop(peers);
    Ok(())
}

/// Keeps fds of the switch's user in flight until it is dropped.
struct InFlight(Child);

impl InFlight {
    fn new(home: &Home, count: usize) -> Result<InFlight> {
        let mut command = home.attacker(env!("CARGO_BIN_EXE_in_flight"))?;
        command.arg(count.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("no output").map_err(Failure::new)?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let attacker = InFlight(child);
        if line.is_empty() { Err(Failure::new("no fds are in flight")) } else { Ok(attacker) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn fds_in_flight_elsewhere_prevent_no_start_of_a_worker() -> Result<()> {
    let files = 400;
    let home = Home::new()?;
    let switch = home.start_limited(&[], files)?;
    let [mut a, mut b] = [(), ()].map(|()| Guest::connect(switch.socket()));
    let hello = sv3_tests::frames::frame(sv3_tests::frames::BROADCAST, sv3_tests::frames::mac(1), &[7; 60]);
    let mut talk = |a: &mut Guest| {
        a.send(&hello);
        assert_eq!(b.receive_frame(), hello);
    };
    talk(&mut a);
    let attacker = InFlight::new(&home, 2 * files as usize)?;
    // From the second death on, the next worker is one that was started, and told everything, meanwhile.
    for _ in 0..4 {
        switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
        switch.kill_worker("KILL")?;
        talk(&mut a);
    }
    // A client's request waits until the kernel has room again. The supervisor takes no worker for dead.
    let mut late = Guest::config().build(switch.socket())?;
    late.raw().send(GET_FEATURES, 1, &[], &[])?;
    drop(attacker);
    drop(late);
    let mut late = Guest::connect(switch.socket());
    talk(&mut a);
    late.receive();
    assert_eq!(switch.status()?.worker.restarts, 4);
    let pid = switch.supervisor_pid()?;
    until("few files", || Ok((fds(pid)?.len() < 60).then_some(())))
}
