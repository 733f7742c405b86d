//! Guest memory that is shorter than announced is refused with both lengths. If it is truncated later, its client loses
//! its port.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, frame, mac, noise};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::wire::*;
use sv3_tests::guest::{Config, Guest};
use sv3_tests::honest::Honest;
use sv3_tests::patience::until;

const TX: u16 = 1;
/// `VHOST_F_LOG_ALL`: the back-end marks pages that it writes.
const LOG_ALL: u64 = 1 << 26;
const PAGE: u64 = 4096;

/// Whole tables, and single regions.
const WAYS: [u64; 2] = [!PROTOCOL_MEM_SLOTS, u64::MAX];

fn memfd(octets: u64) -> Result<OwnedFd> {
    let fd = memfd_create("sv3-guest", MFdFlags::MFD_CLOEXEC)?;
    ftruncate(&fd, octets.cast_signed())?;
    Ok(fd)
}

/// A front-end that has negotiated and given no memory yet.
fn without_memory(honest: &Honest) -> Result<Guest> {
    let mut guest = Config::default().ring_size(16).build(honest.socket())?;
    guest.raw().get(GET_FEATURES)?;
    let protocol_features = PROTOCOL_REPLY_ACK | PROTOCOL_MEM_SLOTS;
    guest.raw().set(SET_PROTOCOL_FEATURES, &protocol_features.to_ne_bytes(), &[])?;
    guest.raw().set(SET_FEATURES, &(VERSION_1 | PROTOCOL_FEATURES).to_ne_bytes(), &[])?;
    Ok(guest)
}

#[test]
fn a_file_shorter_than_its_region_is_refused() -> Result<()> {
    let mut honest = Honest::new()?;
    for (way, short) in WAYS.into_iter().zip([1, PAGE]) {
        let config = Guest::config().regions(2).protocol_features(way);
        let mut guest = config.build(honest.socket())?;
        let region = &guest.memory().regions()[1];
        let (needed, size) = (region.offset + region.size, region.size);
        region.truncate(needed - short);
        let refused = guest.bring_up().err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(refused.contains("was refused"), "it must be told: {refused}");
        guest.raw().await_close()?;
        // The region by its number or address, what it has, what it needs.
        honest.await_event(&["refuse", &(needed - short).to_string(), &needed.to_string(), &size.to_string()])?;
    }
    honest.assert_undisturbed()
}

#[test]
fn regions_that_cannot_be() -> Result<()> {
    let mut honest = Honest::new()?;
    let size = 16 * PAGE;
    let cases = [
        ("empty", region(0, 0, 0, 0)),
        ("beyond the file", region(0, size, 0, size)),
        ("an offset that overflows", region(0, size, 0, u64::MAX - PAGE + 1)),
        ("guest addresses that overflow", region(u64::MAX - PAGE + 1, size, 0, 0)),
        ("user addresses that overflow", region(0, size, u64::MAX - PAGE + 1, 0)),
        ("larger than anything", region(0, u64::MAX, 0, 0)),
        ("larger than any file", region(0, 1 << 62, 0, 0)),
    ];
    let file = memfd(size)?;
    for (what, region) in &cases {
        let mut guest = without_memory(&honest)?;
        let table = region_table(std::slice::from_ref(region));
        assert_ne!(guest.raw().set_and_ask(SET_MEM_TABLE, &table, &[file.as_fd()])?, 0, "{what}");
        guest.raw().await_close()?;
        let mut guest = without_memory(&honest)?;
        let single = single_region(region);
        assert_ne!(guest.raw().set_and_ask(ADD_MEM_REG, &single, &[file.as_fd()])?, 0, "{what}");
        guest.raw().await_close()?;
    }
    honest.assert_undisturbed()
}

#[test]
fn regions_that_overlap() -> Result<()> {
    let mut honest = Honest::new()?;
    let file = memfd(16 * PAGE)?;
    let first = region(0x10_0000, 4 * PAGE, 0x7000_0000, 0);
    for second in [
        region(0x10_0000, 4 * PAGE, 0x9000_0000, 0),
        region(0x10_0000 + 3 * PAGE, PAGE, 0x9000_0000, 0),
        region(0x10_0000 - PAGE, 16 * PAGE, 0x9000_0000, 0),
        region(0x20_0000, 4 * PAGE, 0x7000_0000 + PAGE, 0),
    ] {
        let mut guest = without_memory(&honest)?;
        let table = region_table(&[first.clone(), second.clone()]);
        assert_ne!(guest.raw().set_and_ask(SET_MEM_TABLE, &table, &[file.as_fd(), file.as_fd()])?, 0);
        guest.raw().await_close()?;
        let mut guest = without_memory(&honest)?;
        assert_eq!(guest.raw().set_and_ask(ADD_MEM_REG, &single_region(&first), &[file.as_fd()])?, 0);
        assert_ne!(guest.raw().set_and_ask(ADD_MEM_REG, &single_region(&second), &[file.as_fd()])?, 0);
        guest.raw().await_close()?;
    }
    honest.await_event(&["overlaps"])?;
    honest.assert_undisturbed()
}

#[test]
fn tables_that_contradict_their_fds() -> Result<()> {
    let mut honest = Honest::new()?;
    let file = memfd(16 * PAGE)?;
    let regions = |count: u64| (0..count).map(|n| region(n << 20, PAGE, n << 20, 0)).collect::<Vec<_>>();
    for (told, given, fds) in [(2u32, 1u64, 1), (1, 2, 2), (2, 2, 1), (1, 1, 2), (0, 1, 1), (9, 8, 8), (u32::MAX, 1, 1)]
    {
        let mut guest = without_memory(&honest)?;
        let mut table = region_table(&regions(given));
        table[..4].copy_from_slice(&told.to_ne_bytes());
        guest.raw().send(SET_MEM_TABLE, 9, &table, &vec![file.as_fd(); fds])?;
        guest.raw().await_close()?;
    }
    let mut guest = without_memory(&honest)?;
    guest.raw().send(ADD_MEM_REG, 9, &single_region(&regions(1)[0]), &[])?;
    guest.raw().await_close()?;
    let mut guest = without_memory(&honest)?;
    assert_ne!(guest.raw().set_and_ask(REM_MEM_REG, &single_region(&regions(1)[0]), &[])?, 0, "there is none");
    guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn as_many_slots_as_are_told_and_no_more() -> Result<()> {
    let mut honest = Honest::new()?;
    let file = memfd(PAGE)?;
    let mut guest = without_memory(&honest)?;
    let most = guest.raw().get(GET_MAX_MEM_SLOTS)?;
    assert!(most >= 509, "QEMU's memory hotplug asks for 509");
    for n in 0..=most {
        let region = single_region(&region(n * PAGE, PAGE, n * PAGE, 0));
        let refused = guest.raw().set_and_ask(ADD_MEM_REG, &region, &[file.as_fd()])? != 0;
        assert_eq!(refused, n == most, "slot {n} of {most}");
    }
    guest.vanish();
    honest.remember()?;
    honest.assert_undisturbed()
}

#[test]
fn files_that_could_stall_a_page_fault() -> Result<()> {
    let mut honest = Honest::new()?;
    let (pipe, _other_end) = nix::unistd::pipe()?;
    let files: [(&str, OwnedFd); 4] = [
        ("a device", File::open("/dev/zero")?.into()),
        ("a program", File::open("/proc/self/exe")?.into()),
        ("a file in /proc", File::open("/proc/self/maps")?.into()),
        ("a pipe", pipe),
    ];
    for (what, file) in &files {
        let mut guest = without_memory(&honest)?;
        let table = region_table(&[region(0, PAGE, 0, 0)]);
        assert_ne!(guest.raw().set_and_ask(SET_MEM_TABLE, &table, &[file.as_fd()])?, 0, "{what}");
        guest.raw().await_close()?;
    }
    honest.assert_undisturbed()
}

/// The rings of this guest end where its first region ends; its buffers are behind.
fn victim(honest: &Honest) -> Guest {
    Guest::config().rings_at_region_end().ring_size(16).connect(honest.socket())
}

/// When the memory is gone the worker may die and the guest may lose its port; no other guest loses anything.
fn assert_only_the_victim_suffers(honest: &mut Honest, victim: Guest) -> Result<()> {
    assert_only_it_suffers(honest, victim, "memory of p2")
}

/// The same, and the worker dies of what is named so.
fn assert_only_it_suffers(honest: &mut Honest, victim: Guest, of: &str) -> Result<()> {
    for n in 0..20u8 {
        // Floods reach the guest for as long as it has a port.
        honest.guest(0).send(&frame(BROADCAST, mac(9), &[n; 60]));
        honest.talk();
    }
    let restarts = honest.status()?.worker.restarts;
    assert!((1..=3).contains(&restarts), "{restarts} workers died");
    // The reason names the client and its memory.
    honest.await_event(&["crash", "SIGBUS", of])?;
    // No further worker dies of it.
    for n in 0..20u8 {
        honest.guest(0).send(&frame(BROADCAST, mac(9), &[n; 60]));
        honest.talk();
    }
    assert_eq!(honest.status()?.worker.restarts, restarts);
    victim.vanish();
    honest.assert_unharmed()
}

#[test]
fn memory_that_is_truncated_under_received_frames() -> Result<()> {
    let mut honest = Honest::new()?;
    let victim = victim(&honest);
    victim.memory().regions()[1].truncate(0);
    assert_only_the_victim_suffers(&mut honest, victim)
}

#[test]
fn memory_that_is_truncated_under_sent_frames() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut victim = victim(&honest);
    let base = victim.stop_ring(TX);
    for n in 0..10 {
        victim.send(&noise(BROADCAST, mac(1), 500, n));
    }
    victim.memory().regions()[1].truncate(PAGE);
    victim.start_ring(TX, base);
    assert_only_the_victim_suffers(&mut honest, victim)
}

#[test]
fn memory_that_is_truncated_under_rings() -> Result<()> {
    let mut honest = Honest::new()?;
    let victim = victim(&honest);
    victim.memory().regions()[0].truncate(PAGE);
    victim.kick(TX);
    assert_only_the_victim_suffers(&mut honest, victim)
}

#[test]
fn a_log_of_dirty_pages_that_is_truncated() -> Result<()> {
    let mut honest = Honest::new()?;
    let (mut victim, octets) = (victim(&honest), 1 << 20);
    let log = memfd(octets)?;
    victim.raw().set(SET_LOG_BASE, &[octets, 0].map(u64::to_ne_bytes).concat(), &[log.as_fd()])?;
    let features = victim.features() | LOG_ALL;
    victim.raw().set(SET_FEATURES, &features.to_ne_bytes(), &[])?;
    honest.await_event(&["migration", "begun"])?;
    let log = File::from(log);
    until("a mark", || {
        honest.guest(0).send(&frame(BROADCAST, mac(9), &[1; 60]));
        honest.talk();
        let mut marks = vec![0; octets as usize];
        log.read_exact_at(&mut marks, 0)?;
        Ok(marks.iter().any(|octet| *octet != 0).then_some(()))
    })?;
    ftruncate(&log, 0)?;
    assert_only_it_suffers(&mut honest, victim, "log of dirty pages of p2")?;
    honest.await_event(&["refuse", "log of dirty pages (1048576 octets): its file was truncated to 0"]).map(drop)
}

#[test]
fn memory_with_holes_is_memory() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut guest = victim(&honest);
    for region in guest.memory().regions() {
        let all = (region.offset.cast_signed(), region.size.cast_signed());
        fallocate(
            region.file(),
            FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
            all.0,
            all.1,
        )?;
    }
    honest.guest(0).send(&frame(BROADCAST, mac(9), &[7; 60]));
    guest.kick(TX);
    honest.talk();
    // A new driver finds everything in order.
    guest.reset_device(LINUX);
    let hello = frame(BROADCAST, mac(1), &[1; 60]);
    guest.send(&hello);
    assert_eq!(honest.guest(0).receive_frame(), hello);
    guest.vanish();
    honest.assert_undisturbed()
}
