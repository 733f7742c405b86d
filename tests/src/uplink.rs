//! `sv3 uplink` with a real program of the trees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use sv3::status::Link;

use crate::failure::{Failure, Result};
use crate::image::{Suite, program};
use crate::switch::Switch;

/// The tool, which keeps the program running. It ends with the thread that started it, and the program with it.
pub struct Uplink(pub Child);

impl Uplink {
    /// `sv3 uplink NAME` with the program `file`, as the user of the tests, who may read the program's tree. The port
    /// is `internet`.
    pub fn start(switch: &Switch, name: &str, file: &str) -> Result<Uplink> {
        let wrapper = switch.home().path(file);
        let run = program(Suite::Uplinks, file)?;
        let words = [run.get_program()].into_iter().chain(run.get_args());
        let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        fs::write(&wrapper, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(switch.home().path("bin/sv3")).args([
            "uplink",
            name,
            "--program",
        ]);
        command.arg(&wrapper).arg("--control").arg(switch.control());
        let folder = switch.home().path("run");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        command
            .env("XDG_RUNTIME_DIR", folder)
            .stdin(Stdio::null())
            .stderr(fs::File::create(switch.home().path("said"))?);
        let uplink = Uplink(command.spawn()?);
        Uplink::await_up(switch)?;
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
