//! The watch as lines, for a file, a pipe or a terminal without a screen.

use std::io::stdout;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::figures::figure;
use super::screen::{cells, header, heads, plain};
use super::watch::{Port, Watch};

/// A table of all ports, with the reasons for drops. An empty line ends it.
pub fn table(watch: &Watch) -> String {
    let mut rows = header(watch);
    let width = watch.ports().iter().map(|port| plain(&port.name).len()).max().unwrap_or(0).max(4);
    let [groups, names] = heads(width);
    rows.extend([groups, format!("{names}  DROPS BY REASON")]);
    rows.extend(watch.ports().iter().map(|port| format!("{}  {}", cells(port, width), reasons(port))));
    rows.iter().map(|row| row.trim_end().to_string() + "\n").collect::<String>() + "\n"
}

/// Why frames were dropped: `no_rx_buffers 12 (3/s)`.
pub fn reasons(port: &Port) -> String {
    let of = |reason: &super::watch::Reason| {
        let rate = if reason.rate > 0.0 { format!(" ({}/s)", figure(reason.rate)) } else { String::new() };
        format!("{} {}{rate}", plain(&reason.name), reason.count)
    };
    let all: Vec<String> = port.reasons.iter().map(of).collect();
    if all.is_empty() { "none".to_string() } else { all.join(", ") }
}

/// Whether stdout is a pipe whose reader has gone.
pub fn nobody_reads() -> bool {
    let stdout = stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && fds.iter().any(|fd| fd.revents().is_some_and(|is| is.contains(PollFlags::POLLERR)))
}
