//! What an errno of a file means.

use nix::errno::Errno;
use sv3::drop_reason::DropReason;
use sv3::ipc::RingFault;

use crate::port::sink::Undelivered;

/// Whether a failed read means that an event will tell when there is more. False: another try may find something. A tap
/// whose link is down fails by EIO.
pub fn is_empty(errno: Errno) -> Result<bool, RingFault> {
    match errno {
        Errno::EAGAIN | Errno::EIO => Ok(true),
        Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS => Ok(false),
        other => Err(fault(other)),
    }
}

/// What a failed write of a frame means.
pub fn of_write(errno: Errno) -> Undelivered {
    match errno {
        Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS => Undelivered::Dropped(DropReason::RxNoBuffers),
        Errno::EIO => Undelivered::Dropped(DropReason::RxDown),
        Errno::EMSGSIZE => Undelivered::Dropped(DropReason::RxTooSmall),
        // The sender truncated its memory.
        Errno::EFAULT => Undelivered::Unsendable(DropReason::BadChain),
        // A tap checks more of the net header than sv3 does.
        Errno::EINVAL => Undelivered::Unsendable(DropReason::BadOffload),
        other => Undelivered::Fault(fault(other)),
    }
}

/// Why a file cannot be used any more.
pub fn fault(errno: Errno) -> RingFault {
    match errno {
        Errno::EPIPE
        | Errno::ECONNRESET
        | Errno::ECONNREFUSED
        | Errno::ENOTCONN
        | Errno::EBADFD
        | Errno::ENODEV
        | Errno::ENXIO => RingFault::Gone,
        _ => RingFault::BadFile,
    }
}
