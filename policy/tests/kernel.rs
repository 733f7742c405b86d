//! The kernel enforces the rules: children install the worker's policy and make syscalls.
#![allow(unsafe_code)] // fork, and the raw syscalls under test
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use libc::c_long;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Uid, fork, setuid};
use sv3_policy::{steps, syscall_name};

/// A child's exit status if it survives its syscall.
const ALIVE: i32 = 7;
const PAGE: usize = 4096;

/// Runs `act` in a child, as the user `user`, under the worker's policy.
fn confined(user: Uid, act: impl FnOnce()) -> WaitStatus {
    child(move || {
        setuid(user).unwrap();
        steps::drop_privileges().unwrap();
        steps::restrict_syscalls(sv3_policy::worker(sv3_policy::WorkerRole::Plain)).unwrap();
        act();
    })
}

fn child(act: impl FnOnce()) -> WaitStatus {
    // SAFETY: the child has only the thread that this test runs in, uses no lock of another thread, and leaves by
    // _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        ForkResult::Child => {
            act();
            // SAFETY: only ends the process.
            unsafe { libc::_exit(ALIVE) }
        }
    }
}

fn raw(number: c_long, args: [c_long; 6]) {
    let [a, b, c, d, e, f] = args;
    // SAFETY: made in a child that dies of it or ends soon, with arguments that name none of its memory.
    unsafe { libc::syscall(number, a, b, c, d, e, f) };
}

fn trapped(status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _))
}

fn alive(status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Exited(_, ALIVE))
}

/// The user of this process, and an ordinary user if that is root.
fn users() -> Vec<Uid> {
    let me = Uid::effective();
    if me.is_root() { vec![me, Uid::from_raw(65534)] } else { vec![me] }
}

#[test]
fn every_syscall_without_a_rule_is_trapped_and_so_is_its_x32_form() {
    const X32_BIT: c_long = 0x4000_0000;
    // uretprobe and uprobe: newer kernels exempt them from every filter, since only the kernel's own trampolines can
    // use them. For other callers they are a SIGILL or an error.
    const UPROBES: [i32; 2] = [335, 336];
    let has_rule =
        |name| sv3_policy::worker(sv3_policy::WorkerRole::Plain).rules().iter().any(|rule| rule.syscall == name);
    for user in users() {
        for number in 0..512 {
            if syscall_name(number).is_none_or(|name| !has_rule(name)) {
                let status = confined(user, || raw(number.into(), [0; 6]));
                assert!(trapped(status) || UPROBES.contains(&number), "{number}: {status:?}");
            }
        }
        for number in [libc::SYS_read, libc::SYS_mmap, libc::SYS_execve] {
            assert!(trapped(confined(user, || raw(number | X32_BIT, [0; 6]))));
        }
    }
}

#[test]
fn memory_can_be_mapped_but_never_executed_nor_placed() {
    let fd = memfd_create(c"guest", MFdFlags::empty()).unwrap();
    nix::unistd::ftruncate(&fd, PAGE as i64).unwrap();
    let fd: c_long = fd.as_fd().as_raw_fd().into();
    let mmap = |prot: i32, flags: i32, fd: c_long| {
        let args = [0, PAGE as c_long, prot.into(), flags.into(), fd, 0];
        move || raw(libc::SYS_mmap, args)
    };
    use libc::{
        MAP_ANONYMOUS, MAP_FIXED, MAP_GROWSDOWN, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE,
        PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE,
    };
    const RW: i32 = PROT_READ | PROT_WRITE;
    for user in users() {
        for (prot, flags, fd) in [
            (RW, MAP_SHARED, fd),
            (RW, MAP_SHARED | MAP_NORESERVE, fd),
            (PROT_NONE, MAP_SHARED, fd),
            (RW, MAP_PRIVATE | MAP_ANONYMOUS, -1),
        ] {
            assert!(alive(confined(user, mmap(prot, flags, fd))), "{prot:#x} {flags:#x}");
        }
        for (prot, flags) in [
            (PROT_READ | PROT_EXEC, MAP_SHARED),
            (RW | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS),
            (PROT_EXEC, MAP_SHARED),
            (RW, MAP_SHARED | MAP_FIXED),
            (RW, MAP_SHARED | MAP_FIXED | MAP_NORESERVE),
            (RW, MAP_SHARED_VALIDATE),
            (RW, MAP_PRIVATE),
            (RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN),
        ] {
            assert!(trapped(confined(user, mmap(prot, flags, fd))), "{prot:#x} {flags:#x}");
        }
    }
}

#[test]
fn a_holder_of_a_memory_file_can_neither_resize_nor_seal_it_nor_grow_it_by_writing() {
    let memfd = memfd_create(c"guest", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let fd: c_long = memfd.as_raw_fd().into();
    let fcntl = |command: i32, arg: i32| move || raw(libc::SYS_fcntl, [fd, command.into(), arg.into(), 0, 0, 0]);
    let user = Uid::effective();
    assert!(alive(confined(user, fcntl(libc::F_SETFD, libc::FD_CLOEXEC))));
    assert!(trapped(confined(user, fcntl(libc::F_SETFD, 0))));
    assert!(trapped(confined(user, fcntl(libc::F_ADD_SEALS, libc::F_SEAL_SHRINK))));
    assert!(trapped(confined(user, fcntl(libc::F_SETFL, libc::O_APPEND))));
    assert!(trapped(confined(user, fcntl(libc::F_DUPFD, 0))));
    assert!(trapped(confined(user, || raw(libc::SYS_ftruncate, [fd, 0, 0, 0, 0, 0]))));
    assert!(trapped(confined(user, || raw(libc::SYS_fallocate, [fd, 3, 0, 1, 0, 0]))));
    // At the file's end and inside of it. Writes to anything but files still work.
    let (_reader, pipe) = std::io::pipe().unwrap();
    // SAFETY: makes an fd.
    let event: c_long = unsafe { libc::eventfd(0, 0) }.into();
    let (socket, _peer) = UnixStream::pair().unwrap();
    let write = |fd: c_long| {
        move || {
            steps::write_no_files().unwrap();
            raw(libc::SYS_write, [fd, COUNT.as_ptr() as c_long, 8, 0, 0, 0]);
        }
    };
    static COUNT: [u8; 8] = 1u64.to_ne_bytes();
    let mut file = File::from(memfd);
    file.set_len(PAGE as u64).unwrap();
    for at in [0, PAGE as u64, PAGE as u64 + 9] {
        file.seek(SeekFrom::Start(at)).unwrap();
        assert!(matches!(child(write(fd)), WaitStatus::Signaled(_, Signal::SIGXFSZ, _)));
    }
    assert_eq!(file.metadata().unwrap().len(), PAGE as u64);
    for fd in [pipe.as_raw_fd().into(), event, socket.as_raw_fd().into()] {
        assert!(alive(child(write(fd))));
    }
}
