//! A cable between two sockets, on which frames are behind their lengths: octets go as they are.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

/// Two cards on one wire. Cut when it is dropped.
pub struct Cable {
    ends: [UnixStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Joins the other ends of two wires.
    pub fn join(one: UnixStream, other: UnixStream) -> io::Result<Cable> {
        let mut threads = Vec::new();
        for (from, to) in [(&one, &other), (&other, &one)] {
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            threads.push(std::thread::spawn(move || {
                // An end that is gone takes the other one along.
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            }));
        }
        Ok(Cable { ends: [one, other], threads })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
