//! A change of what is declared, as the command line gives it: JSON in a sealed memfd, and the sockets of new doors.
//!
//! The memfd is sealed, so it is memory that nobody changes any more, and reading it never waits for another process.

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use sv3::config::{CHANGE_MAX, Change};
use sv3::foreign::ForeignFd;

use crate::ancillary;

/// The seals that it has at least.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW);
/// Most octets that are read from stdin; one line.
const LINE_MAX: usize = 256;

/// Reads a change. The error is for people.
pub fn read(file: &ForeignFd) -> Result<Change, String> {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    if !seals.is_ok_and(|seals| seals.contains(SEALS)) {
        return Err("the configuration did not come in sealed memory".to_string());
    }
    let mut octets = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        match rustix::io::read(file, &mut part) {
            Ok(0) => return decode(&octets),
            Ok(count) if octets.len() + count > CHANGE_MAX => return Err(too_long()),
            Ok(count) => octets.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("the configuration cannot be read: {error}")),
        }
    }
}

/// Reads a change from octets, and checks it. The error is for people.
pub fn decode(octets: &[u8]) -> Result<Change, String> {
    if octets.len() > CHANGE_MAX {
        return Err(too_long());
    }
    let change: Change =
        serde_json::from_slice(octets).map_err(|error| format!("the configuration cannot be read: {error}"))?;
    change.config.check()?;
    Ok(change)
}

/// Takes the first change, which `sv3 run` left in the socket that is this process's stdin. After that, stdin is empty.
pub fn receive() -> Result<(Change, Vec<ForeignFd>), String> {
    let fail = |error: io::Error| format!("the configuration did not come with the start: {error}");
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while !line.ends_with(b"\n") && line.len() < LINE_MAX {
        let mut octets = [0; LINE_MAX];
        let received = ancillary::receive(io::stdin().as_fd(), &mut octets).map_err(fail)?;
        if received.count == 0 || received.truncated {
            return Err(fail(io::ErrorKind::UnexpectedEof.into()));
        }
        line.extend_from_slice(octets.get(..received.count).unwrap_or_default());
        fds.extend(received.fds);
    }
    let null = std::fs::File::open("/dev/null").map_err(fail)?;
    nix::unistd::dup2_stdin(null).map_err(|errno| fail(errno.into()))?;
    let mut fds = fds.into_iter();
    let file = fds.next().ok_or_else(|| fail(io::ErrorKind::UnexpectedEof.into()))?;
    Ok((read(&file)?, fds.collect()))
}

fn too_long() -> String {
    format!("a configuration has {CHANGE_MAX} octets at most")
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::os::fd::OwnedFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use sv3::config::{Config, PortConfig, StaticAddress};
    use sv3::rules::{PortRules, Sources, Vlan};

    use super::*;

    fn file(octets: &[u8], seals: SealFlag) -> ForeignFd {
        let mut file = std::fs::File::from(memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        file.write_all(octets).unwrap();
        file.rewind().unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        OwnedFd::from(file).into()
    }

    #[test]
    fn what_the_command_line_writes_is_read() {
        let mut web = PortConfig::default();
        web.rules.vlan = Vlan::Access { vid: 10 };
        web.addresses = vec![StaticAddress { vid: 10, mac: [2, 0, 0, 0, 0, 1] }];
        web.rules.guard.macs = Sources::Listed(vec![[2, 0, 0, 0, 0, 1]]);
        let mut config = Config { ports: [("web".to_string(), web)].into(), ..Config::default() };
        config.users.insert(1001, PortRules { flood: false, ..PortRules::default() });
        let change = Change { config, doors: vec!["web".to_string()], file: Some("/etc/sv3.toml".to_string()) };
        let octets = serde_json::to_vec(&change).unwrap();
        assert_eq!(read(&file(&octets, SEALS)), Ok(change));
        assert_eq!(read(&file(b"{}", SEALS)), Ok(Change::default()));
    }

    #[test]
    fn what_may_change_or_is_too_long_is_refused() {
        assert!(read(&file(b"{}", SealFlag::F_SEAL_SHRINK)).unwrap_err().contains("sealed"));
        let (read_end, _write_end) = nix::unistd::pipe().unwrap();
        assert!(read(&read_end.into()).unwrap_err().contains("sealed"));
        assert!(read(&file(&vec![b' '; CHANGE_MAX + 1], SEALS)).unwrap_err().contains("at most"));
        for wrong in ["", "7", "{\"ports\":{\"p1\":{}}}", "{\"prots\":{}}"] {
            assert!(decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
