//! `sv3 uplink` with a real program of the trees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};

use sv3::status::Link;

use crate::failure::{Failure, Result};
use crate::image::{Suite, tree};
use crate::switch::{Home, Switch};

/// The tool, which keeps the program running. It ends with the thread that started it, and the program with it.
pub struct Uplink(pub Child);

impl Uplink {
    /// `sv3 uplink NAME` with the program `file` and more options, as the user of the switch. The port is `internet`.
    pub fn start(switch: &Switch, name: &str, file: &str, options: &[&str]) -> Result<Uplink> {
        let home = switch.home();
        let (program, control) = (readable(home, Suite::Uplinks, file)?, switch.control().display().to_string());
        let mut command = home.sv3(&["uplink", name, "--program", &program, "--control", &control]);
        command.args(options).env("XDG_RUNTIME_DIR", home.path(".")).stderr(fs::File::create(home.path("said"))?);
        let mut uplink = Uplink(command.spawn()?);
        Uplink::await_up(switch).map_err(|failure| {
            let ended =
                uplink.0.try_wait().ok().flatten().map_or(String::new(), |status| format!("; it ended: {status}"));
            let said = fs::read_to_string(home.path("said")).unwrap_or_default();
            Failure::new(format!("{failure}; sv3 uplink: {said}{ended}"))
        })?;
        Ok(uplink)
    }

    /// Waits until the port runs.
    pub fn await_up(switch: &Switch) -> Result<()> {
        switch.await_status("the uplink", |status| {
            status.ports.iter().any(|port| port.name == "internet" && port.link == Link::Up)
        })
    }

    /// The process of the program, which is the tool's only child.
    pub fn program(&self) -> Result<u32> {
        let pid = self.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        children.trim().parse().map_err(|_| Failure::new(format!("children of the uplink: {children:?}")))
    }
}

/// A program of a tree where the user of the switch may read it.
pub fn readable(home: &Home, suite: Suite, file: &str) -> Result<String> {
    let (from, copy, wrapper) = (tree(suite)?, home.path("tree"), home.path(file));
    // Links are as good as copies and cost nothing, but do not cross file systems.
    let copied = ["-al", "-a"].iter().any(|how| {
        let _ = fs::remove_dir_all(&copy);
        let status = Command::new("cp").arg(how).args([&from, &copy]).stderr(std::process::Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    });
    if !copied {
        return Err(Failure::new(format!("{} cannot be copied", from.display())));
    }
    let at = |path: &str| copy.join(path).display().to_string();
    let (loader, libraries) = (at("lib64/ld-linux-x86-64.so.2"), at("usr/lib/x86_64-linux-gnu"));
    let program = at(&format!("usr/bin/{file}"));
    fs::write(&wrapper, format!("#!/bin/sh\nexec {loader} --library-path {libraries} {program} \"$@\"\n"))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(wrapper.display().to_string())
}

/// Serves a page on this host's loopback, as long as the process runs. Returns its port.
pub fn serve(page: &'static str) -> Result<u16> {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        }
    });
    Ok(port)
}
