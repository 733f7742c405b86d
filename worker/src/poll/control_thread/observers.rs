//! Commands about captures and mirrors.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use sv3::capture::{CAPTURES_MAX, CaptureMap};
use sv3::mirror::MIRRORS_MAX;
use sv3::port_set::PortSet;

use super::ControlThread;
use crate::port::observers::{Mirror, Observers};

impl ControlThread {
    /// Begins a capture of no ports. To map its file makes no page.
    pub(super) fn open_capture(&mut self, capture: u8, snaplen: u32, fd: Option<OwnedFd>) -> nix::Result<()> {
        let capture = place(capture, CAPTURES_MAX)?;
        let map = CaptureMap::map(&fd.ok_or(Errno::EBADF)?);
        let map = Arc::new(map.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL)))?);
        self.observe(|observers, thread| observers.open_capture(capture, thread, snaplen, map.clone()));
        Ok(())
    }

    /// Sets the ports of a capture.
    pub(super) fn set_captured(&mut self, capture: u8, ports: PortSet) -> nix::Result<()> {
        let capture = place(capture, CAPTURES_MAX)?;
        self.observe(|observers, _| {
            observers.set_captured(capture, ports);
        });
        Ok(())
    }

    /// Ends a capture.
    pub(super) fn close_capture(&mut self, capture: u8) -> nix::Result<()> {
        let capture = place(capture, CAPTURES_MAX)?;
        self.observe(|observers, _| observers.close_capture(capture));
        Ok(())
    }

    /// Begins, changes or ends a mirror. When this returns, no thread forwards a frame that the mirror's port sends.
    pub(super) fn set_mirror(&mut self, mirror: u8, now: Option<Mirror>) -> nix::Result<()> {
        let at = place(mirror, MIRRORS_MAX)?;
        let ports = &self.threads.ports;
        let before = ports.observers.mirror_ports();
        self.observe(|observers, _| {
            observers.set_mirror(at, now);
        });
        self.note_mirrors(&before);
        let Some(Mirror { to, .. }) = now else { return Ok(()) };
        // A burst that is under way does not know of the mirror.
        for queue in self.port(to).into_iter().flat_map(crate::port::Port::used).filter(|queue| queue.transmits()) {
            drop(self.queue(queue));
        }
        if !self.standby {
            self.poller.forwarder.forget(to);
        }
        Ok(())
    }

    /// The port in this slot goes: nobody observes the next one.
    pub(super) fn forget_observed(&mut self, slot: u16) {
        let ports = &self.threads.ports;
        if ports.observers.is_on() {
            let before = ports.observers.mirror_ports();
            self.observe(|observers, _| observers.forget(slot));
            self.note_mirrors(&before);
        }
    }

    /// Notes which ports get copies, after a change.
    fn note_mirrors(&self, before: &[u16]) {
        let ports = &self.threads.ports;
        let after = ports.observers.mirror_ports();
        before.iter().filter(|slot| !after.contains(slot)).for_each(|slot| ports.set_mirror(*slot, false));
        after.iter().for_each(|slot| ports.set_mirror(*slot, true));
    }

    fn observe(&self, change: impl Fn(&mut Observers, usize)) {
        let threads = self.threads;
        threads.ports.observers.change(threads.count(), || self.poller.beat(), change);
    }
}

fn place(number: u8, most: usize) -> nix::Result<usize> {
    Some(usize::from(number)).filter(|at| *at < most).ok_or(Errno::EINVAL)
}
