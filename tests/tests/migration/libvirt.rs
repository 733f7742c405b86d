//! A guest of libvirt's (`qemu:///session`): managed save and restore, moves between two daemons, and an interface that is
//! detached and attached. docs/operate/migration.md shows the same commands.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::image;
use sv3_tests::libvirt::Libvirt;
use sv3_tests::patience::until;
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Agent, Vm, has_kvm};

use super::journey::{join, send_noise};

/// As `Vm::number(2)`.
const NUMBER: u8 = 2;
const PATIENCE: Duration = Duration::from_secs(30);
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

/// A host: its libvirt and its switch.
struct Host {
    libvirt: Libvirt,
    switch: Switch,
}

impl Host {
    fn start(number: u8) -> Result<Host> {
        let host = Host { libvirt: Libvirt::start(number)?, switch: Switch::start()? };
        let (kernel, initrd) = image::kernel()?;
        fs::copy(kernel, host.libvirt.path("vmlinux"))?;
        fs::copy(initrd, host.libvirt.path("initrd"))?;
        Ok(host)
    }

    /// What the user writes for an interface on the switch.
    fn interface(&self) -> String {
        format!(
            "<interface type='vhostuser'><mac address='52:54:00:00:00:0{NUMBER}'/>\
             <source type='unix' path='{}' mode='client'><reconnect enabled='yes' timeout='1'/></source>\
             <model type='virtio'/><rom enabled='no'/></interface>",
            self.switch.socket().display()
        )
    }

    /// The guest as this host has it. Its kernel is that of `origin`, where it boots.
    fn domain(&self, origin: &Host) -> String {
        let (kind, processor) = match has_kvm() {
            true => ("kvm", "<cpu mode='host-passthrough'/>"),
            false => ("qemu", "<cpu mode='custom' match='exact' check='none'><model>qemu64</model></cpu>"),
        };
        let port = "<controller type='pci' model='pcie-root-port'/>".repeat(4);
        let path = |host: &Host, name: &str| host.libvirt.path(name).display().to_string();
        format!(
            "<domain type='{kind}'><name>web</name><uuid>8c0a5a4e-0000-4000-8000-0000000000ff</uuid>\
             <memory unit='MiB'>256</memory><vcpu>1</vcpu>{processor}\
             <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>\
             <cmdline>console=ttyS0 quiet panic=-1 no_timer_check mitigations=off sv3.address={NUMBER}</cmdline></os>\
             <features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
             <controller type='pci' model='pcie-root'/>{port}<controller type='usb' model='none'/>\
             <serial type='file'><source path='{console}'/><target port='0'/></serial>\
             <serial type='unix'><source mode='bind' path='{agent}'/><target port='1'/></serial>\
             {interface}<memballoon model='none'/></devices></domain>",
            kernel = path(origin, "vmlinux"),
            initrd = path(origin, "initrd"),
            console = path(self, "console"),
            agent = path(self, "agent"),
            interface = self.interface(),
        )
    }

    /// The guest's serial line, anew. `before`: the line at which it was.
    fn agent(&self, before: Option<&Agent>) -> Result<Agent> {
        let mut agent = Agent::new(connect(&self.libvirt.path("agent"))?);
        if let Some(before) = before {
            agent.go_on_from(before);
        }
        Ok(agent)
    }

    /// The guest moves to another host.
    fn migrate(&self, to: &Host, origin: &Host) -> Result<()> {
        let there = self.libvirt.file("there.xml", &to.domain(origin))?;
        let (address, line) = (to.libvirt.address(), format!("unix://{}", to.libvirt.path("incoming").display()));
        self.libvirt
            .virsh(&["migrate", "--live", "--verbose", "--xml", &there, "--migrateuri", &line, "web", &address])
            .map(drop)
    }
}

fn connect(path: &Path) -> Result<UnixStream> {
    until("the guest's serial line", || Ok(UnixStream::connect(path).ok()))
}

fn assert_pinged(from: &mut Vm) -> Result<()> {
    let ping = from.ping("10.0.0.2", 20)?;
    println!("{ping:?}");
    match ping.answered >= 15 {
        true => Ok(()),
        false => Err(Failure::new(format!("the guest is not there: {ping:?}"))),
    }
}

#[test]
#[ignore = "it takes long, and libvirt"]
fn a_guest_of_libvirt_sleeps_moves_and_changes() -> Result<()> {
    let (here, there) = (Host::start(1)?, Host::start(2)?);
    join(&here.switch, &there.switch)?;
    let neighbour = Vm::number(1).start(here.switch.socket())?;
    let domain = here.libvirt.file("web.xml", &here.domain(&here))?;
    here.libvirt.virsh(&["define", &domain])?;
    here.libvirt.virsh(&["start", "web"])?;
    let mut agent = here.agent(None)?;
    let mut neighbour = neighbour.booted()?;
    agent.ready(BOOT_PATIENCE)?;
    agent.start("while :; do nc -l -p 7000 -e sha256sum; done", PATIENCE)?;
    agent.run("until netstat -ltn | grep -q :7000; do usleep 20000; done", PATIENCE)?.ok()?;
    let noise = send_noise(&mut neighbour, "10.0.0.2")?;

    here.libvirt.virsh(&["managedsave", "web"])?;
    println!("saved: {}", here.libvirt.virsh(&["list", "--all", "--with-managed-save"])?);
    here.libvirt.virsh(&["start", "web"])?;
    agent = here.agent(Some(&agent))?;
    assert_pinged(&mut neighbour)?;

    here.migrate(&there, &here)?;
    agent = there.agent(Some(&agent))?;
    assert_pinged(&mut neighbour)?;
    neighbour.sh("touch /tmp/enough")?;
    let said = neighbour.finish(noise, Duration::from_secs(60))?.text;
    assert!(said.contains("good") && !said.contains("bad"), "{said}");

    let interface = there.libvirt.file("interface.xml", &there.interface())?;
    there.libvirt.virsh(&["detach-device", "web", &interface, "--live"])?;
    agent.run("while [ -e /sys/class/net/eth0 ]; do usleep 50000; done", PATIENCE)?.ok()?;
    // The uplink is left.
    there.switch.await_ports(1)?;
    there.libvirt.virsh(&["attach-device", "web", &interface, "--live"])?;
    agent.run("until [ -e /sys/class/net/eth0 ]; do usleep 50000; done; /configure 2", PATIENCE)?.ok()?;
    assert_pinged(&mut neighbour)?;

    there.migrate(&here, &here)?;
    agent = here.agent(Some(&agent))?;
    assert_pinged(&mut neighbour)?;
    agent.run("true", PATIENCE)?.ok()?;
    here.libvirt.virsh(&["destroy", "web"]).map(drop)
}
