//! What a guest's network device is attached to.

use std::path::Path;

use crate::image::Suite;

/// The other end of a guest's cable.
#[derive(Debug, Clone, Copy)]
pub enum Attachment<'a> {
    /// The socket of a vhost-user back-end.
    VhostUser(&'a Path),
    /// A socket on which QEMU listens, and to which a vhost-user back-end connects.
    VhostUserListen(&'a Path),
    /// A socket of a program that takes frames behind their lengths, such as gvproxy.
    Stream(&'a Path),
    /// A socket on which QEMU listens for such a program.
    StreamListen(&'a Path),
    /// A tap device that exists in QEMU's network namespace.
    Tap {
        /// The interface's name.
        name: &'a str,
        /// The kernel moves the frames; else QEMU does.
        vhost: bool,
    },
}

impl Attachment<'_> {
    /// QEMU's arguments for a back-end `net`.
    pub(super) fn arguments(&self, qemu: Suite, queue_pairs: u8) -> Vec<String> {
        match self {
            Attachment::VhostUser(socket) => {
                let reconnect = match qemu {
                    Suite::Bookworm => "reconnect=1",
                    _ => "reconnect-ms=100",
                };
                vhost_user(socket, reconnect, queue_pairs)
            }
            Attachment::VhostUserListen(socket) => vhost_user(socket, "server=on,wait=off", queue_pairs),
            Attachment::Stream(socket) => stream(socket, "off"),
            Attachment::StreamListen(socket) => stream(socket, "on"),
            Attachment::Tap { name, vhost } => {
                let vhost = if *vhost { "on" } else { "off" };
                let netdev = format!("tap,id=net,ifname={name},script=no,downscript=no,vhost={vhost}");
                vec!["-netdev".into(), netdev]
            }
        }
    }
}

fn stream(socket: &Path, server: &str) -> Vec<String> {
    let netdev = format!("stream,id=net,server={server},addr.type=unix,addr.path={}", socket.display());
    vec!["-netdev".into(), netdev]
}

fn vhost_user(socket: &Path, options: &str, queue_pairs: u8) -> Vec<String> {
    let chardev = format!("socket,id=switch,path={},{options}", socket.display());
    let netdev = format!("vhost-user,id=net,chardev=switch,queues={queue_pairs}");
    vec!["-chardev".into(), chardev, "-netdev".into(), netdev]
}
