//! Compares admission with arithmetic that cannot overflow, for every combination of addresses, sizes and offsets near
//! a limit.

use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use sv3::wire::vhost_user::MemoryRegion;

use super::{CLIENT_MEMORY_MAX, Memory, admit};
use crate::ports::kernel::Kernel;

/// A file of `size`, or of the largest size that the kernel allows.
fn memfd(size: u128) -> OwnedFd {
    let fd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&fd, i64::try_from(size).unwrap_or(i64::MAX)).unwrap();
    fd
}

fn ranges(a: (u64, u64), b: (u64, u64)) -> bool {
    let end = |(start, size)| u128::from(start) + u128::from(size);
    u128::from(a.0) < end(b) && u128::from(b.0) < end(a)
}

/// Whether a region is valid beside `held`, if its file has `file` octets.
fn is_right(held: &[MemoryRegion], wanted: MemoryRegion, file: u128) -> bool {
    let MemoryRegion { guest_addr, size, user_addr, offset } = wanted;
    let end = |start: u64| u128::from(start) + u128::from(size);
    let fits = size > 0 && end(offset) <= file && [guest_addr, user_addr].iter().all(|start| end(*start) < 1 << 64);
    let apart = held.iter().all(|other| {
        !ranges((guest_addr, size), (other.guest_addr, other.size))
            && !ranges((user_addr, size), (other.user_addr, other.size))
    });
    let total = held.iter().map(|other| u128::from(other.size)).sum::<u128>() + u128::from(size);
    fits && apart && total <= u128::from(CLIENT_MEMORY_MAX)
}

#[test]
fn admission_is_plain_arithmetic() {
    const TOP: u64 = u64::MAX;
    let beside = MemoryRegion { guest_addr: 0x10_000, size: 0x2000, user_addr: 0x7f00_0000_0000, offset: 0 };
    let guest_addrs = [0, 0xf000, 0xffff, 0x10_000, 0x11_fff, 0x12_000, TOP - 0x1000, TOP];
    let user_addrs = [0, 0x7eff_ffff_f000, 0x7f00_0000_1fff, 0x7f00_0000_2000, TOP - 0x2000, TOP - 1];
    let sizes = [0, 1, 0x1000, 0x1001, CLIENT_MEMORY_MAX - 0x2000, CLIENT_MEMORY_MAX - 0x1fff, CLIENT_MEMORY_MAX, TOP];
    let offsets = [0, 1, 0x1000, (1 << 63) - 1, TOP - 0xfff, TOP];
    let held = [admit(&[], (0, beside), memfd(0x2000).into(), &Kernel).unwrap_or_else(|why| panic!("{}", why.0))];
    let (mut admitted, mut refused) = (0, 0);
    for (held, beside) in [(&[] as &[Memory], &[] as &[MemoryRegion]), (&held, &[beside])] {
        for guest_addr in guest_addrs {
            for (user_addr, size, offset) in all(&user_addrs, &sizes, &offsets) {
                let wanted = MemoryRegion { guest_addr, size, user_addr, offset };
                let needed = u128::from(offset) + u128::from(size);
                for file in [needed, needed.saturating_sub(1)].map(|size| size.min((1 << 63) - 1)) {
                    let outcome = admit(held, (0, wanted), memfd(file).into(), &Kernel);
                    let right = is_right(beside, wanted, file);
                    assert_eq!(outcome.is_ok(), right, "{wanted:x?} of a file of {file:#x}: {:?}", outcome.err());
                    *(if right { &mut admitted } else { &mut refused }) += 1;
                }
            }
        }
    }
    assert!(admitted > 100 && refused > 1000, "{admitted} and {refused}: the test covers too little");
}

fn all(a: &[u64], b: &[u64], c: &[u64]) -> Vec<(u64, u64, u64)> {
    a.iter().flat_map(|a| b.iter().flat_map(move |b| c.iter().map(move |c| (*a, *b, *c)))).collect()
}
