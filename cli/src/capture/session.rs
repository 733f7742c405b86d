//! The connection of a capture. The switch tells there which ports it captures, and ends the capture when it is closed.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use sv3::capture::CaptureRequest;
use sv3::control::ControlRequest;
use sv3::status::CaptureAnswer;

use super::rings::Rings;
use crate::control::Control;
use crate::output::complain;

/// How long to look for the switch's successor.
const LOOK: Duration = Duration::from_secs(10);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Most octets of one line: 1,024 ports with long names.
const LINE_MAX: usize = 256 << 10;

/// A capture that the switch knows of.
pub struct Session<'c> {
    control: &'c Control,
    request: CaptureRequest,
    rings: &'c Rings,
    socket: UnixStream,
    heard: Vec<u8>,
    /// By slot: number of the interface that the port is.
    interfaces: BTreeMap<u16, usize>,
    /// Names of the interfaces.
    names: Vec<String>,
}

impl<'c> Session<'c> {
    /// Begins a capture.
    pub fn open(control: &'c Control, request: CaptureRequest, rings: &'c Rings) -> Result<Session<'c>, String> {
        let (socket, answer, heard) = connect(control, &request, rings)?;
        let (interfaces, names) = (BTreeMap::new(), Vec::new());
        let mut session = Session { control, request, rings, socket, heard, interfaces, names };
        session.name(answer);
        Ok(session)
    }

    /// The interface of a slot, and its name.
    pub fn interface(&mut self, slot: u16) -> (usize, &str) {
        let interface = match self.interfaces.get(&slot) {
            Some(interface) => *interface,
            None => self.add(slot, format!("p{slot}")),
        };
        (interface, self.names.get(interface).map_or("", String::as_str))
    }

    /// Hears what the switch says. False: it has ended, and no other one has taken over from it.
    pub fn goes_on(&mut self) -> Result<bool, String> {
        let mut octets = [0; 4096];
        loop {
            match self.socket.read(&mut octets) {
                Ok(0) => break,
                Ok(count) => self.heard.extend_from_slice(octets.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.lines(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            if self.heard.len() > LINE_MAX {
                return Err("the switch says too much".to_string());
            }
            self.lines()?;
        }
        self.reconnect()
    }

    fn lines(&mut self) -> Result<bool, String> {
        while let Some(end) = self.heard.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            self.name(answer(&line)?);
        }
        Ok(true)
    }

    /// Another supervisor may have taken over: it gets the same rings.
    fn reconnect(&mut self) -> Result<bool, String> {
        let until = Instant::now() + LOOK;
        loop {
            match connect(self.control, &self.request, self.rings) {
                Ok((socket, answer, heard)) => {
                    (self.socket, self.heard) = (socket, heard);
                    self.name(answer);
                    return Ok(true);
                }
                Err(why) if why.starts_with("no switch runs") || Instant::now() > until => {
                    complain("the switch has ended");
                    return Ok(false);
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// A slot has another port now: that is another interface.
    fn name(&mut self, CaptureAnswer { ports }: CaptureAnswer) {
        for (slot, name) in ports {
            let known = self.interfaces.get(&slot).and_then(|interface| self.names.get(*interface));
            if known != Some(&name) {
                self.add(slot, name);
            }
        }
    }

    fn add(&mut self, slot: u16, name: String) -> usize {
        let interface = self.names.iter().position(|known| *known == name).unwrap_or(self.names.len());
        if interface == self.names.len() {
            self.names.push(name);
        }
        self.interfaces.insert(slot, interface);
        interface
    }
}

/// The connection, the first line, and what came behind it.
fn connect(
    control: &Control,
    request: &CaptureRequest,
    rings: &Rings,
) -> Result<(UnixStream, CaptureAnswer, Vec<u8>), String> {
    let mut socket = control.open(&ControlRequest::Capture(request.clone()), &[rings.as_fd()])?;
    let (mut heard, mut octets) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = heard.iter().position(|octet| *octet == b'\n') {
            break end;
        }
        match socket.read(&mut octets) {
            Ok(0) => return Err("the switch has closed the connection".to_string()),
            Ok(count) => heard.extend_from_slice(octets.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("the switch does not answer: {error}")),
        }
        if heard.len() > LINE_MAX {
            return Err("the switch says too much".to_string());
        }
    };
    let line: Vec<u8> = heard.drain(..=end).collect();
    let answer = answer(&line)?;
    socket.set_nonblocking(true).map_err(|error| format!("the connection: {error}"))?;
    Ok((socket, answer, heard))
}

fn answer(line: &[u8]) -> Result<CaptureAnswer, String> {
    let value = crate::control::parse(&String::from_utf8_lossy(line))?;
    serde_json::from_value(value).map_err(|error| format!("the switch is of another version ({error})"))
}
