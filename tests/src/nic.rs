//! A model of a card that a machine takes for a device ([`crate::machine::Config::vfio_user`]), with its wire.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use sv3_nic_model::Card;
use sv3_nic_model::vfio_user::{Function, Served};
use tempfile::TempDir;

use crate::failure::{Failure, Result};

/// A card that is served. It is gone when this is dropped.
pub struct Nic {
    served: Served,
    wire: Option<UnixStream>,
    folder: TempDir,
    /// Complaints that were looked at.
    checked: Cell<usize>,
}

impl Nic {
    /// Serves a card.
    pub fn start(function: Function, card: impl Card + Send + 'static) -> Result<Nic> {
        let folder = tempfile::Builder::new().prefix("sv3-nic-").tempdir()?;
        let (ours, theirs) = UnixStream::pair()?;
        let served = Served::start(function, Box::new(card), &folder.path().join("card"), theirs)?;
        Ok(Nic { served, wire: Some(ours), folder, checked: Cell::new(0) })
    }

    /// Where a machine finds it.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("card")
    }

    /// The other end of the wire, on which frames are behind their lengths; once.
    pub fn wire(&mut self) -> Result<UnixStream> {
        self.wire.take().ok_or_else(|| Failure::new("the wire is in use"))
    }

    /// Plugs the wire in, or pulls it out.
    pub fn set_link(&self, up: bool) {
        self.served.set_link(up);
    }

    /// Pulls the card out of its slot: all its registers read as ones from now on.
    pub fn pull_out(&self) {
        self.served.pull_out();
    }

    /// Fails if a driver did what the data sheet forbids, or touched a register that the model does not know.
    pub fn check(&self) -> Result<()> {
        self.check_but(&[])
    }

    /// The same, but for complaints with one of these texts: what a driver of others does, and a card puts up with. What
    /// was there at an earlier check does not count again.
    pub fn check_but(&self, harmless: &[&str]) -> Result<()> {
        if !self.served.is_alive() {
            return Err(Failure::new("the model has ended"));
        }
        let complaints = self.served.complaints();
        let matters = |complaint: &&String| !harmless.iter().any(|text| complaint.contains(text));
        let new = complaints.get(self.checked.replace(complaints.len())..).unwrap_or_default();
        match new.iter().filter(matters).collect::<Vec<_>>().as_slice() {
            [] => Ok(()),
            complaints => Err(Failure::new(format!("the card complains:\n{complaints:#?}"))),
        }
    }
}
