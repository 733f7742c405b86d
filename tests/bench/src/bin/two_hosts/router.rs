//! FRR on a host: it tells the other host which addresses it hears on its bridge, by BGP (EVPN, RFC 8365).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;

use serde_json::Value;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::image::{self, Suite};
use sv3_tests::network::Namespace;
use sv3_tests::patience::{PATIENCE, until};
use tempfile::TempDir;

use crate::host::underlay;

/// FRR's daemons. They end with this, or with the thread that starts them.
pub struct Router {
    process: Child,
    folder: TempDir,
}

impl Router {
    /// FRR on host 1 or 2; does not wait until it serves.
    pub fn start(namespace: &Namespace, number: u8) -> Result<Router> {
        let folder = tempfile::Builder::new().prefix("sv3-router-").tempdir()?;
        let at = folder.path();
        fs::create_dir(at.join("run"))?;
        fs::write(at.join("zebra.conf"), format!("hostname host{number}\n"))?;
        fs::write(at.join("bgpd.conf"), configuration(number))?;
        let script = at.join("router.sh");
        fs::write(&script, include_str!("router.sh"))?;
        let mut command = namespace.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh"]);
        command.arg(&script).arg(image::tree(Suite::Routers)?).arg(at);
        command.stdout(File::create(at.join("script.log"))?).stderr(File::create(at.join("script.err"))?);
        Ok(Router { process: command.spawn()?, folder })
    }

    /// Waits until the other host's FRR talks with this one.
    pub fn await_peer(&self, other: u8) -> Result<()> {
        let peer = format!("/peers/{}/state", underlay(other));
        until("the hosts' FRR to talk with each other", || {
            // Its socket is not there from the start.
            let Ok(text) = self.ask("bgpd", "show bgp l2vpn evpn summary json") else { return Ok(None) };
            let answer: Value = serde_json::from_str(&text).unwrap_or_default();
            Ok(answer.pointer(&peer).is_some_and(|state| state == "Established").then_some(()))
        })
        .map_err(|failure| Failure::new(format!("FRR: {failure}\n{}", last_words(self.folder.path()))))
    }

    /// What a daemon answers to a command of FRR's shell.
    pub fn ask(&self, daemon: &str, command: &str) -> Result<String> {
        let mut socket = UnixStream::connect(self.folder.path().join(format!("run/{daemon}.vty")))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(format!("{command}\0").as_bytes())?;
        // The answer's end: three zeros and a status.
        let (mut answer, mut octets) = (Vec::new(), [0; 4096]);
        loop {
            let count = socket.read(&mut octets)?;
            answer.extend_from_slice(octets.get(..count).unwrap_or_default());
            match answer.as_slice() {
                [text @ .., 0, 0, 0, _] => return Ok(String::from_utf8_lossy(text).into_owned()),
                text if count == 0 => return Err(Failure::new(format!("{daemon} answered {text:?} and left"))),
                _ => {}
            }
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// bgpd's configuration; that of docs/operate/hosts.md, but for timers: it tries to connect each second.
fn configuration(number: u8) -> String {
    let (own, other) = (underlay(number), underlay(3 - number));
    format!(
        "hostname host{number}
router bgp 65000
 bgp router-id {own}
 no bgp default ipv4-unicast
 neighbor {other} remote-as 65000
 neighbor {other} timers connect 1
 neighbor {other} advertisement-interval 0
 address-family l2vpn evpn
  neighbor {other} activate
  advertise-all-vni
 exit-address-family
"
    )
}

fn last_words(folder: &Path) -> String {
    let logs = ["script.err", "mgmtd.log", "zebra.log", "bgpd.log"];
    let said = logs.into_iter().map(|name| {
        let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("libyang")).collect();
        format!("-- {name} --\n{}", lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n"))
    });
    said.collect::<Vec<_>>().join("\n")
}
