//! Two networks of the kernel, and what joins them: sv3, or the least that could.

use std::process::{Child, Command, Stdio};

use sv3::attachment::Transport;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::NetHdr;
use sv3_tests::image::{Suite, program};
use sv3_tests::network::ports::{attach_tap, attachment};
use sv3_tests::network::{Namespace, RawSocket, Tap};
use sv3_tests::patience::until;
use sv3_tests::switch::Switch as Sv3;
use sv3_tests::vm::Stream;

use crate::relay::Relay;
use crate::turns::threads_of;

/// The tap in either network.
pub const TAP: &str = "tap0";
const ADDRESSES: [&str; 2] = ["10.9.0.1", "10.9.0.2"];
const MACS: [[u8; 6]; 2] = [[0x52, 0x54, 0, 0, 9, 1], [0x52, 0x54, 0, 0, 9, 2]];

/// What joins the networks.
enum Between {
    Sv3(Sv3),
    Bare(Relay),
}

/// The networks, a tap in each with an address, and servers of iperf3 and netperf in the second.
pub struct Link {
    /// As tables call it.
    pub name: &'static str,
    between: Between,
    servers: Vec<Child>,
    ends: [Namespace; 2],
}

impl Link {
    /// By sv3.
    pub fn sv3() -> Result<Link> {
        let ends = networks()?;
        let switch = Sv3::start()?;
        for (end, name) in ends.iter().zip(["left", "right"]) {
            attach_tap(&switch, end, TAP, &attachment(Transport::Tap, name))?;
        }
        Link::new("sv3", Between::Sv3(switch), ends)
    }

    /// By one thread that reads and writes.
    pub fn bare() -> Result<Link> {
        let ends = networks()?;
        let [a, b] = &ends;
        let taps = [Tap::open(a, TAP, false)?, Tap::open(b, TAP, false)?];
        Link::new("bare relay", Between::Bare(Relay::between_taps(taps)?), ends)
    }

    fn new(name: &'static str, between: Between, ends: [Namespace; 2]) -> Result<Link> {
        let mut link = Link { name, between, servers: Vec::new(), ends };
        let mut iperf3 = program(Suite::Bookworm, "iperf3")?;
        iperf3.arg("-s");
        let mut netserver = program(Suite::Sid, "netserver")?;
        netserver.arg("-D");
        let [_, second] = &link.ends;
        for server in [iperf3, netserver] {
            let mut server = second.enclose(&server);
            link.servers.push(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        let ports = [":1451", ":3241"]; // 5201 and 12865
        until("iperf3 and netserver to listen", || {
            let listening = link.ends[1].inside(|| {
                let all =
                    ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")));
                Ok(all.into_iter().flatten().collect::<String>())
            })?;
            Ok(ports.iter().all(|port| listening.contains(port)).then_some(()))
        })?;
        Ok(link)
    }

    /// Threads of what joins them.
    pub fn threads(&self) -> Result<Vec<u32>> {
        match &self.between {
            Between::Sv3(switch) => threads_of(&processes(switch)?),
            Between::Bare(relay) => Ok(vec![relay.id()]),
        }
    }

    /// TCP from the first network to the second, in bits per second.
    pub fn tcp(&self, seconds: f64) -> Result<f64> {
        let mut iperf3 = program(Suite::Bookworm, "iperf3")?;
        iperf3.args(["-J", "-c", ADDRESSES[1], "-t", &whole(seconds)]);
        let text = self.ask(&iperf3)?;
        Ok(Stream::parse(&text)?.bits_per_second)
    }

    /// Requests of one octet over TCP and answers, a second.
    pub fn requests(&self, seconds: f64) -> Result<f64> {
        let mut netperf = program(Suite::Sid, "netperf")?;
        netperf.args(["-H", ADDRESSES[1], "-t", "TCP_RR", "-l", &whole(seconds), "-P", "0", "--", "-k", "THROUGHPUT"]);
        let text = self.ask(&netperf)?;
        let value = text.lines().find_map(|line| line.strip_prefix("THROUGHPUT=")?.trim().parse().ok());
        value.ok_or_else(|| Failure::new(format!("netperf: {text}")))
    }

    /// A socket that sends from the first network, and a frame of so many octets for the second.
    pub fn flood(&self, octets: usize) -> Result<(RawSocket, Vec<u8>)> {
        let [first, second] = MACS;
        let mut frame = [second.as_slice(), &first, &[0x88, 0xb5]].concat();
        frame.resize(octets, 0);
        Ok((RawSocket::open(&self.ends[0], TAP)?, RawSocket::encode(&NetHdr::default(), &frame)))
    }

    /// Frames that have come to the second network.
    pub fn came(&self) -> Result<u64> {
        self.ends[1].figure(TAP, "rx_packets")
    }

    fn ask(&self, command: &Command) -> Result<String> {
        let output = self.ends[0].enclose(command).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Failure::new(format!("{command:?}: {}", String::from_utf8_lossy(&output.stdout)))),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Two networks, each with a tap that has an address.
fn networks() -> Result<[Namespace; 2]> {
    let ends = [Namespace::new()?, Namespace::new()?];
    for ((end, mac), address) in ends.iter().zip(MACS).zip(ADDRESSES) {
        let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
        end.make_tap(TAP, &mac, &format!("{address}/24"), "")?;
    }
    Ok(ends)
}

/// The processes of a switch of ours.
pub fn processes(switch: &Sv3) -> Result<Vec<u32>> {
    let status = switch.status()?;
    let workers = [status.worker.pid, status.worker.standby_pid];
    Ok([status.supervisor.pid].into_iter().chain(workers.into_iter().flatten()).collect())
}

/// What programs take: whole seconds, at least one.
fn whole(seconds: f64) -> String {
    format!("{:.0}", seconds.max(1.0))
}
