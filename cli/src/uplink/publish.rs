//! Ports of guests that are reachable from this host.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::program::{Program, api};

/// How long a program may take until it can be asked.
const API_TIME: Duration = Duration::from_secs(5);
const ANSWER_MAX: u64 = 64 << 10;

/// A port of a guest, and the port of this host's loopback that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// TCP port of the loopback.
    pub host_port: u16,
    /// The guest's address. The programs publish IPv4 alone.
    pub guest: Ipv4Addr,
    /// Its TCP port.
    pub guest_port: u16,
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host_port, self.guest, self.guest_port)
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Publish, String> {
        let form = || format!("{text:?} must be HOSTPORT:GUEST:PORT, such as 2222:10.0.2.15:22");
        let (host_port, rest) = text.split_once(':').ok_or_else(form)?;
        let (guest, guest_port) = rest.rsplit_once(':').ok_or_else(form)?;
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(form);
        let guest = guest.parse::<Ipv4Addr>().map_err(|_| {
            format!("{guest:?} must be the guest's IPv4 address: `ip address` in the guest shows what it got by DHCP")
        })?;
        Ok(Publish { host_port: port(host_port)?, guest, guest_port: port(guest_port)? })
    }
}

/// Asks the program to publish a port.
pub fn publish(program: Program, folder: &Path, one: &Publish) -> Result<(), String> {
    let failed = |why: String| format!("port {} cannot be published: {why}", one.host_port);
    let request = match program {
        Program::Slirp => slirp(one),
        Program::Gvproxy => gvproxy(one),
        Program::Passt | Program::Pasta => {
            return Err(failed(format!("{program} publishes only at its start; take slirp4netns or gvproxy")));
        }
    };
    let answer = ask(&api(folder), &request).map_err(|error| failed(error.to_string()))?;
    match refusal(program, &answer) {
        None => Ok(()),
        Some(why) => Err(failed(occupied(one.host_port).unwrap_or(why))),
    }
}

/// Why the program refuses, if it does.
fn refusal(program: Program, answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    match program {
        Program::Slirp => {
            let answer = serde_json::from_str::<serde_json::Value>(answer).unwrap_or_default();
            let error = answer.pointer("/error/desc").and_then(|desc| desc.as_str()).unwrap_or("no answer");
            answer.get("return").is_none().then(|| error.to_string())
        }
        _ if head.split(' ').nth(1) == Some("200") => None,
        _ => Some(if body.is_empty() { head } else { body }.trim().to_string()),
    }
}

/// Why nobody can listen at this port of the loopback, if that is so: the programs do not always say it.
fn occupied(port: u16) -> Option<String> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).err()?.kind() {
        ErrorKind::AddrInUse => Some("another program has it: choose another one".to_string()),
        ErrorKind::PermissionDenied => Some("ports below 1024 are root's: choose a higher one".to_string()),
        _ => None,
    }
}

/// slirp4netns(1), API socket.
fn slirp(Publish { host_port, guest, guest_port }: &Publish) -> String {
    let guest = guest.to_string();
    json!({ "execute": "add_hostfwd", "arguments": {
        "proto": "tcp", "host_addr": "127.0.0.1", "host_port": host_port, "guest_addr": guest, "guest_port": guest_port,
    } })
    .to_string()
}

/// gvproxy's HTTP interface.
fn gvproxy(Publish { host_port, guest, guest_port }: &Publish) -> String {
    let remote = format!("{guest}:{guest_port}");
    let body = json!({ "local": format!("127.0.0.1:{host_port}"), "remote": remote, "protocol": "tcp" }).to_string();
    format!(
        "POST /services/forwarder/expose HTTP/1.1\r\nHost: sv3\r\nContent-Type: application/json\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn ask(path: &Path, request: &str) -> std::io::Result<String> {
    let until = Instant::now() + API_TIME;
    let mut socket = loop {
        match UnixStream::connect(path) {
            Ok(socket) => break socket,
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error),
        }
    };
    socket.set_read_timeout(Some(API_TIME))?;
    socket.write_all(request.as_bytes())?;
    socket.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    socket.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_read_and_asked_for_in_each_program_s_words() {
        let one: Publish = "2222:10.0.2.15:22".parse().unwrap();
        assert_eq!((one.host_port, one.guest_port), (2222, 22));
        for wrong in ["", "2222", "2222:22", "0:10.0.2.15:22", "2222:10.0.2.15:", "2222:guest:22", "2222:fd00::1:22"] {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong}");
        }
        let asked: serde_json::Value = serde_json::from_str(&slirp(&one)).unwrap();
        assert_eq!(asked["arguments"]["guest_addr"], "10.0.2.15");
        let http = gvproxy(&one);
        let (head, body) = http.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{http}");
    }

    #[test]
    fn a_refusal_is_told_in_words() {
        let no = r#"{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#;
        assert!(refusal(Program::Slirp, no).unwrap().contains("add_hostfwd failed"));
        assert_eq!(refusal(Program::Slirp, r#"{"return":{"id":1}}"#), None);
        assert_eq!(refusal(Program::Slirp, "").as_deref(), Some("no answer"));
        let no = "HTTP/1.1 500 Internal Server Error\r\nDate: x\r\n\r\nproxy already running\n";
        assert_eq!(refusal(Program::Gvproxy, no).as_deref(), Some("proxy already running"));
        assert_eq!(refusal(Program::Gvproxy, "HTTP/1.1 200 OK\r\n\r\n"), None);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(occupied(taken.local_addr().unwrap().port()).unwrap().contains("another program"));
    }
}
