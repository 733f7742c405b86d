//! Files that clients opened: nobody waits for their last close, and what is under way in other sockets keeps nobody from
//! starting a worker.

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

/// Time in which everything here is done that waits for nobody.
const PROMPT: Duration = Duration::from_secs(3);

/// Closes them in a thread of its own, where the wait for a socket whose last close this is after all harms nobody.
fn close_elsewhere(sockets: Vec<OwnedFd>) {
    std::thread::spawn(move || drop(sockets));
}

/// A client that sends a request with files which are its only ones from then on: the message is whole when they are closed
/// here, so that the last close is the switch's.
fn give(honest: &Honest, request: u32, payload: &[u8], sockets: Vec<OwnedFd>) -> Result<Guest> {
    let mut guest = Guest::config().build(honest.socket())?;
    let message = [&header(request, 1, payload.len() as u32), payload].concat();
    let (begin, rest) = message.split_at(4);
    guest.raw().send_octets(begin, &sockets.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    // The switch holds what came with half a message, unless it is refused at once.
    match sockets.len() {
        0..=8 => drop(sockets),
        _ => close_elsewhere(sockets),
    }
    // One that was refused already hears nothing more.
    let _ = guest.raw().send_octets(rest, &[]);
    Ok(guest)
}

/// The switch answers, and replaces a worker that dies, at once.
fn is_prompt(honest: &mut Honest) -> Result<()> {
    let start = Instant::now();
    honest.status()?;
    honest.kill_worker("KILL")?;
    honest.talk();
    let took = start.elapsed();
    if took < PROMPT { Ok(()) } else { Err(Failure::new(format!("it took {took:?}"))) }
}

#[test]
fn a_socket_that_lingers_holds_up_nobody() -> Result<()> {
    let mut honest = Honest::new()?;
    // More of them than there are closers, by every way in which a file comes to the supervisor.
    let mut peers = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..4 {
        // With a message that wants none.
        let (socket, peer) = lingering()?;
        clients.push(give(&honest, SET_OWNER, &[], vec![socket])?);
        peers.push(peer);
        // More on one message than any has.
        let (sockets, others): (Vec<_>, Vec<_>) =
            (0..20).map(|_| lingering()).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        clients.push(give(&honest, SET_MEM_TABLE, &[], sockets)?);
        peers.extend(others);
        // As memory, as a kick, and unread in a connection that is over.
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
    // While the peers are still there, and have read nothing, all is closed and nothing is left.
    honest.assert_unharmed()?;
    drop(peers);
    Ok(())
}

/// Keeps fds of the switch's user under way until it is dropped.
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
        if line.is_empty() { Err(Failure::new("no fds are under way")) } else { Ok(attacker) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn fds_under_way_elsewhere_keep_nobody_from_starting_workers() -> Result<()> {
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
    // The second and all further deaths meet workers that were started, and told everything, meanwhile.
    for _ in 0..4 {
        switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
        switch.kill_worker("KILL")?;
        talk(&mut a);
    }
    // What a client asks for now waits, and is done when the kernel has room again. No worker was taken for dead.
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
