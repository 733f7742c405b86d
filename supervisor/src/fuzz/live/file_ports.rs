//! Ports of open files of target `live`: streams at both doors, and what is attached at the control socket.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use sv3::fuzz::Input;

use super::Files;
use crate::supervisor::live::Live;

/// Most streams, and most attached sockets, at a time.
const MOST: usize = 4;
/// Names of ports.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The other sides.
#[derive(Default)]
pub struct FilePorts {
    streams: Vec<UnixStream>,
    attached: Vec<UnixStream>,
}

impl FilePorts {
    /// Connects or disconnects a stream, or attaches or detaches something.
    pub fn step(&mut self, input: &mut Input<'_>, live: &mut Live, files: &Files) {
        let name = NAMES[input.below(NAMES.len())];
        match input.below(8) {
            at @ 0..3 if self.streams.len() < MOST => {
                let mut stream = UnixStream::connect(if at < 2 { live.door() } else { live.stream_door() }).unwrap();
                // At the front door the first octet makes it a stream, or something else.
                let octets = if at == 0 { vec![0; 4] } else { input.take(4).to_vec() };
                stream.write_all(&octets).unwrap();
                self.streams.push(stream);
            }
            0..4 => drop(self.streams.pop()),
            4 | 5 if self.attached.len() < MOST => self.attach(name, input, live),
            4..6 => drop(self.attached.pop()),
            6 => {
                let transport = ["tap", "packets", "stream"][input.below(3)];
                let fds = (0..input.below(4)).map(|_| files.odd()).collect();
                assert!(!live.attach(&format!("attach {transport} {name}"), fds), "a pipe became a port");
            }
            _ => live.detach(name),
        }
    }

    fn attach(&mut self, name: &str, input: &mut Input<'_>, live: &mut Live) {
        let learning = ["", " learning=uplink", " learning=guarded mtu=9000"][input.below(3)];
        let (ours, theirs) = UnixStream::pair().unwrap();
        live.attach(&format!("attach stream {name}{learning}"), vec![theirs.into()]);
        self.attached.push(ours);
    }

    /// Ends all of them. What is attached and whose other side is there still has to be closed by the supervisor.
    pub fn close(&mut self, live: &mut Live) -> Ends {
        self.streams.clear();
        NAMES.iter().for_each(|name| live.detach(name));
        Ends(std::mem::take(&mut self.attached))
    }
}

/// Other sides of sockets that nobody may have open any more.
pub struct Ends(Vec<UnixStream>);

impl Ends {
    /// Panics unless the supervisor has closed all of them.
    pub fn assert_closed(self) {
        for mut end in self.0 {
            end.set_nonblocking(true).unwrap();
            assert_eq!(end.read(&mut [0]).ok(), Some(0), "a socket is leaked: {:?}", OwnedFd::from(end));
        }
    }
}
