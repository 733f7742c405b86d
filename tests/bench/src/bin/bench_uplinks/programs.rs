//! Programs that take frames to the network, and servers that guests talk to.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use sv3_tests::failure::Result;
use sv3_tests::image::{Suite, program};
use sv3_tests::network::Namespace;
use sv3_tests::patience::until;

/// A process that is killed when this is dropped.
pub struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Result<Program> {
        Ok(Program(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }

    /// iperf3's server and netperf's in a network.
    pub fn servers(network: &Namespace) -> Result<[Program; 2]> {
        let mut iperf3 = program(Suite::Bookworm, "iperf3")?;
        iperf3.arg("-s");
        let mut netserver = program(Suite::Sid, "netserver")?;
        netserver.arg("-D");
        Ok([Program::start(&mut network.enclose(&iperf3))?, Program::start(&mut network.enclose(&netserver))?])
    }

    /// gvproxy, which listens on a socket for one client that speaks as QEMU does.
    pub fn gvproxy(socket: &Path, mtu: u32) -> Result<Program> {
        let mut command = program(Suite::Uplinks, "gvproxy")?;
        command.arg("-listen-qemu").arg(format!("unix://{}", socket.display())).args(["-mtu", &mtu.to_string()]);
        // It may not take a port of the host for its own SSH.
        command.args(["-ssh-port", "-1"]);
        let program = Program::start(command.stdin(Stdio::null()))?;
        until("gvproxy to listen", || Ok(socket.exists().then_some(())))?;
        Ok(program)
    }

    /// slirp4netns, and the socket on which it takes a frame a message.
    pub fn slirp(mtu: u32) -> Result<(Program, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let slirp = program(Suite::Uplinks, "slirp4netns")?;
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 3<&0 </dev/null", "sh"]).arg(slirp.get_program()).args(slirp.get_args());
        command.arg("--netns-type=tapfd").arg(format!("--mtu={mtu}")).arg("3").stdin(theirs);
        Ok((Program::start(&mut command)?, ours))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects to a program that listens.
pub fn connect(socket: &Path) -> Result<UnixStream> {
    until("a socket that listens", || Ok(UnixStream::connect(socket).ok()))
}
