//! The internet without root: `sv3 uplink` with the real slirp4netns and gvproxy gives guests addresses and the world.
//! The guests are kernels of their own namespaces behind taps, so this needs root; the server listens on this host's
//! loopback, which both programs lead to.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use sv3::attachment::Transport;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::image::{Suite, tree};
use sv3_tests::network::Namespace;
use sv3_tests::network::ports::{attach_tap, attachment};
use sv3_tests::patience::until;
use sv3_tests::switch::{Switch, send};
use sv3_tests::uplink::{Uplink, serve};

const PAGE: &str = "a page";
/// Where a guest serves it.
const GUEST_PORT: u16 = 8080;
/// What udhcpc runs: takes the lease, and prints the address.
const LEASE: &str = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip address flush dev $interface scope global\n\
                     ip address add $ip/$mask dev $interface\nip route replace default via $router dev $interface\n\
                     echo lease $ip dns $dns\n";

/// A switch with a program as its uplink, and guests.
struct World {
    switch: Switch,
    uplink: Uplink,
    script: String,
}

impl World {
    fn new(name: &str, file: &str, options: &[&str]) -> Result<World> {
        let switch = Switch::start()?;
        let script = switch.home().path("lease");
        fs::write(&script, LEASE)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let uplink = Uplink::start(&switch, name, file, options)?;
        Ok(World { switch, uplink, script: script.display().to_string() })
    }

    /// A guest with a lease; its address.
    fn guest(&self, name: &str, mac: &str) -> Result<(Namespace, String)> {
        let network = Namespace::new()?;
        network.make_tap("tap0", mac, "", "")?;
        attach_tap(&self.switch, &network, "tap0", &attachment(Transport::Tap, name))?;
        let words = format!("udhcpc -i tap0 -f -n -q -t 20 -T 1 -s {}", self.script);
        let said = network.run(&busybox()?, &words)?;
        let lease =
            said.lines().find_map(|line| line.strip_prefix("lease ")).ok_or("no lease").map_err(Failure::new)?;
        let (address, dns) = lease.split_once(" dns ").ok_or("no name server").map_err(Failure::new)?;
        assert!(!dns.is_empty());
        Ok((network, address.to_string()))
    }
}

fn busybox() -> Result<String> {
    Ok(tree(Suite::Bookworm)?.join("bin/busybox").display().to_string())
}

/// Fetches the page once.
fn fetch(network: &Namespace, url: &str) -> Result<bool> {
    let output = network.command("timeout").args(["3", &busybox()?, "wget", "-q", "-O", "-", url]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout) == PAGE)
}

/// A port of this host's loopback that nobody listens at.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Serves [`PAGE`] at a guest, as long as the process runs.
fn serve_at(network: &Namespace, folder: &Path) -> Result<Killed> {
    fs::create_dir(folder)?;
    fs::write(folder.join("index.html"), PAGE)?;
    let mut command = network.command(&busybox()?);
    command.args(["httpd", "-f", "-p", &GUEST_PORT.to_string(), "-h"]).arg(folder);
    Ok(Killed(command.spawn()?))
}

/// A process that ends with this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// What a server at this port of the loopback answers; nothing while nobody listens.
fn answer_at(port: u16) -> Result<String> {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return Ok(String::new()) };
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    Ok(answer)
}

/// Two guests get leases and fetch a page while worker and program die, and one serves a page to the host. `lease` is
/// the first address that the program gives.
fn guests_reach_the_host(name: &str, file: &str, host: &str, lease: &str) -> Result<()> {
    let published = free_port()?;
    let publish = format!("{published}:{lease}:{GUEST_PORT}");
    let mut world = World::new(name, file, &["--publish", &publish])?;
    let url = format!("http://{host}:{}/", serve(PAGE)?);
    let (first, one) = world.guest("g1", "52:54:00:00:01:01")?;
    let (second, two) = world.guest("g2", "52:54:00:00:01:02")?;
    assert!(one == lease && two != lease, "each guest has an address of its own: {one}, {two}");
    let _server = serve_at(&first, &world.switch.home().path("www"))?;
    until("the guest's page", || Ok(answer_at(published)?.contains(PAGE).then_some(())))?;
    assert!(fetch(&first, &url)? && fetch(&second, &url)?);
    for _ in 0..3 {
        world.switch.kill_worker("KILL")?;
        assert!(fetch(&first, &url)?);
    }
    let before = world.uplink.program()?;
    send(before, "KILL")?;
    let between = first.ping(&two, 5)?;
    assert_eq!(between.answered, 5, "guests talk to each other meanwhile");
    until("another program", || Ok(world.uplink.program().ok().filter(|pid| *pid != before).map(drop)))?;
    Uplink::await_up(&world.switch)?;
    // The addresses are the same: no guest asks again.
    until("the page", || Ok(fetch(&first, &url)?.then_some(())))?;
    assert!(fetch(&second, &url)?);
    until("the guest's page again", || Ok(answer_at(published)?.contains(PAGE).then_some(())))?;
    let program = world.uplink.program()?;
    world.switch.hand_over(&[])?;
    assert!(fetch(&first, &url)?);
    assert_eq!(world.uplink.program()?, program, "the next supervisor has the same connection");
    send(world.uplink.0.id(), "TERM")?;
    assert!(world.uplink.0.wait()?.success());
    until("the program to end", || Ok((!fs::exists(format!("/proc/{program}"))?).then_some(())))?;
    assert!(world.switch.status()?.ports.iter().all(|port| port.name != "internet"));
    Ok(())
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn guests_reach_the_host_by_slirp4netns() -> Result<()> {
    guests_reach_the_host("slirp", "slirp4netns", "10.0.2.2", "10.0.2.15")
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn guests_reach_the_host_by_gvproxy() -> Result<()> {
    guests_reach_the_host("gvproxy", "gvproxy", "192.168.127.254", "192.168.127.3")
}
