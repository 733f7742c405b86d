//! A network of the kernel's behind a guest in software: what the kernel sends, the guest's driver puts on its rings, and
//! what the driver receives, the kernel gets. So a kernel's TCP speaks through vrings without a virtual machine.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Namespace, Tap};
use crate::failure::{Failure, Result};
use crate::frames::mac;
use crate::guest::{Guest, Shape};

/// The interface in the network.
const TAP: &str = "eth0";
/// How soon it is seen that all is over.
const GLANCE: Duration = Duration::from_millis(20);

/// A network and its guest, which is a client of a switch.
pub struct Station {
    network: Namespace,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Station {
    /// Connects guest NUMBER, whose network has the address 10.9.0.NUMBER and the Ethernet address of that station (see
    /// [`mac`]). All offloads are on.
    pub fn connect(socket: &Path, number: u8) -> Result<Station> {
        let network = Namespace::new()?;
        let address = mac(number).map(|octet| format!("{octet:02x}")).join(":");
        network.make_tap(TAP, &address, &format!("10.9.0.{number}/24"), "")?;
        let tap = Tap::open(&network, TAP, false)?;
        let (over, socket) = (Arc::new(AtomicBool::new(false)), socket.to_owned());
        let until = over.clone();
        let thread = std::thread::spawn(move || serve(&socket, &tap, &until));
        Ok(Station { network, over, thread: Some(thread) })
    }

    /// Its network.
    pub fn network(&self) -> &Namespace {
        &self.network
    }

    /// Ends it in order: each chain that the guest sent must have come back.
    pub fn finish(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        self.over.store(true, SeqCst);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(Failure::new("a guest found the device to be wrong")))
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn serve(socket: &Path, tap: &Tap, over: &AtomicBool) -> Result<()> {
    let mut guest = Guest::connect(socket);
    while !over.load(SeqCst) {
        while let Some((hdr, frame)) = tap.receive()? {
            guest.send_with(&hdr, &frame, Shape::default());
        }
        while let Some(received) = guest.try_receive() {
            tap.send(&received.hdr, &received.frame)?;
        }
        guest.await_used_or(&[0], &[tap.as_fd()], GLANCE);
    }
    guest.await_sent();
    guest.disconnect();
    Ok(())
}
