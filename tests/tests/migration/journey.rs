//! A guest that stays, one that moves, and what they say to each other meanwhile.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sv3::attachment::Transport;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::network::Namespace;
use sv3_tests::network::ports::uplink;
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Attachment, Config, Job, Moved, Ping, Stage, Vm};

/// Memory of a guest that moves: QEMU looks at all of it in each round.
pub const MIB: u32 = 256;

/// A guest that moves. `device`: properties of its device.
pub fn traveller_with(device: &str) -> Config {
    let config = Vm::number(2).memory_mib(MIB);
    if device.is_empty() { config } else { config.device(device) }
}

/// A guest that stays, and one that moves.
pub struct Journey {
    pub neighbour: Vm,
    pub config: Config,
    pub traveller: Option<Vm>,
}

impl Journey {
    /// Both have booted. `device`: properties of the traveller's.
    pub fn begin(neighbour: &Switch, traveller: &Switch, device: &str) -> Result<Journey> {
        Journey::of(traveller_with(device), neighbour.socket(), traveller.socket())
    }

    /// The same, of a traveller that is configured so.
    pub fn of(config: Config, neighbour: &Path, traveller: &Path) -> Result<Journey> {
        Journey::on(config, &Attachment::VhostUser(neighbour), &Attachment::VhostUser(traveller))
    }

    /// The same at any attachments.
    pub fn on(config: Config, neighbour: &Attachment, traveller: &Attachment) -> Result<Journey> {
        let (first, second) = (Vm::number(1).start_on(neighbour)?, config.clone().start_on(traveller)?);
        Ok(Journey { neighbour: first.booted()?, config, traveller: Some(second.booted()?) })
    }

    pub fn traveller(&mut self) -> Result<&mut Vm> {
        self.traveller.as_mut().ok_or_else(|| Failure::new("the guest is lost"))
    }

    /// The traveller leaves: what it is to arrive as must be kept.
    pub fn depart(&mut self) -> Result<Vm> {
        self.traveller.take().ok_or_else(|| Failure::new("the guest is lost"))
    }

    /// The guest moves to another QEMU on this socket.
    pub fn go(&mut self, socket: PathBuf, meanwhile: impl FnMut() -> Result<()>) -> Result<Moved> {
        self.go_to(&Attachment::VhostUser(&socket), meanwhile)
    }

    /// The same at any attachment.
    pub fn go_to(&mut self, attachment: &Attachment, meanwhile: impl FnMut() -> Result<()>) -> Result<Moved> {
        let to = self.config.clone().await_guest_on(attachment)?;
        let (arrived, moved) = self.depart()?.migrate(to, meanwhile)?;
        self.traveller = Some(arrived);
        Ok(moved)
    }

    /// The same, and how many pages of the guest's memory differ, while it stands still in between.
    pub fn go_compared(&mut self, attachment: &Attachment) -> Result<(Moved, usize)> {
        let to = self.config.clone().await_guest_on(attachment)?;
        let (arrived, moved, different) = self.depart()?.migrate_and_compare(to, || Ok(()))?;
        self.traveller = Some(arrived);
        Ok((moved, different))
    }

    /// The same by a migration that waits at each stage for what `at` does.
    pub fn go_in_stages(&mut self, socket: &Path, at: impl FnMut(Stage) -> Result<()>) -> Result<Moved> {
        let to = self.config.clone().await_guest(socket)?;
        let (arrived, moved) = self.depart()?.migrate_in_stages(to, at)?;
        self.traveller = Some(arrived);
        Ok(moved)
    }

    /// Both guests send to each other by TCP, without an end: noise, whose checksum the receiver answers.
    pub fn talk(&mut self) -> Result<Vec<Job>> {
        let (here, there) = (self.neighbour.address(), self.traveller()?.address());
        serve_checksums(&mut self.neighbour)?;
        serve_checksums(self.traveller()?)?;
        Ok(vec![send_noise(self.traveller()?, &here)?, send_noise(&mut self.neighbour, &there)?])
    }

    /// All that was sent came whole, both ways.
    pub fn assert_whole(&mut self, mut jobs: Vec<Job>) -> Result<()> {
        let patience = Duration::from_secs(60);
        for guest in [true, false] {
            let vm = if guest { self.traveller()? } else { &mut self.neighbour };
            vm.sh("touch /tmp/enough")?;
        }
        let (here, there) = (jobs.pop(), jobs.pop());
        for (job, guest) in [(here, false), (there, true)] {
            let vm = if guest { self.traveller()? } else { &mut self.neighbour };
            let Some(job) = job else { continue };
            let said = vm.finish(job, patience)?.text;
            let (good, bad) = (said.matches("good").count(), said.matches("bad").count());
            assert!(good > 0 && bad == 0, "{good} streams were whole, {bad} were not: {said}");
        }
        Ok(())
    }

    /// The neighbour starts to ping the traveller.
    pub fn ping(&mut self, count: u32) -> Result<Job> {
        let address = self.traveller()?.address();
        self.neighbour.start_ping(&address, count)
    }

    /// What these pings saw while so many workers were killed. At most `gap` of them in a row have no answer. What a killed
    /// worker has delivered and not given back is delivered again.
    pub fn assert_pinged(&mut self, job: Job, count: u32, gap: u32, deaths: u32) -> Result<Ping> {
        let ping = self.neighbour.finish_ping(job, count)?;
        println!("{ping:?}");
        assert!(ping.longest_gap <= gap && ping.duplicates <= deaths, "{ping:?}");
        Ok(ping)
    }
}

/// Answers each stream by its checksum.
fn serve_checksums(vm: &mut Vm) -> Result<()> {
    vm.start("while :; do nc -l -p 7000 -e sha256sum; done")?;
    vm.sh("until netstat -ltn | grep -q :7000; do usleep 20000; done").map(drop)
}

/// Sends streams to another guest, one after the other, until there is a file `/tmp/enough`; at least one.
pub fn send_noise(vm: &mut Vm, to: &str) -> Result<Job> {
    vm.sh("dd if=/dev/urandom of=/tmp/noise bs=1M count=4 2>/dev/null")?;
    // The server is away for a moment after each stream.
    vm.start(&format!(
        "want=$(sha256sum </tmp/noise); until [ -e /tmp/enough -a -n \"$got\" ]; do \
         got=$(nc {to} 7000 </tmp/noise 2>&1); \
         case $got in *refused | *unreachable | *\" to host\") got=; usleep 20000; continue;; esac; \
         [ \"$got\" = \"$want\" ] && echo good || echo \"bad $got\"; done"
    ))
}

/// The uplinks of two switches, joined.
pub fn join(first: &Switch, second: &Switch) -> Result<()> {
    let (one, other) = std::os::unix::net::UnixStream::pair()?;
    for (switch, end, name) in [(first, one, "there"), (second, other, "here")] {
        use std::os::fd::AsFd;
        switch.attach(&uplink(Transport::Stream, name), &[end.as_fd()])?;
    }
    Ok(())
}

/// Three taps on a bridge of the kernel's, in a network of their own: for the neighbour, and two for the traveller. QEMU
/// moves the frames itself where there is no vhost-net.
pub fn on_taps<T: Send>(act: impl FnOnce([Attachment; 3]) -> Result<T> + Send) -> Result<T> {
    let network = Namespace::new()?;
    network.ip("link add name bridge type bridge")?;
    network.ip("link set bridge up")?;
    let taps = ["tap0", "tap1", "tap2"];
    for tap in taps {
        network.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
        network.ip(&format!("link set {tap} master bridge up"))?;
    }
    let vhost = Path::new("/dev/vhost-net").exists();
    network.inside(|| act(taps.map(|name| Attachment::Tap { name, vhost })))
}
