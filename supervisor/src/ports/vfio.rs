//! What the kernel says of a network card that is to be a port (VFIO), and how the card is stopped and let go.
//!
//! The person's process has opened container and device, and has mapped the card's memory. The supervisor makes few
//! requests: it asks what the device is, connects interrupts to eventfds, and switches the card's bus master on and off
//! in its configuration space. It maps nothing and resets nothing.
#![allow(unsafe_code)] // ioctl has no safe form

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::readlink;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sv3::card::{CardModel, CardSettings};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DEVICE_FLAGS_PCI, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_TYPE, vfio_device_info, vfio_irq_info, vfio_region_info,
};

/// A request of VFIO: none has a direction or a size in its number (linux/vfio.h).
const fn request(number: u32) -> u32 {
    (VFIO_TYPE as u32) << 8 | (VFIO_BASE + number)
}

const DEVICE_GET_INFO: u32 = request(7);
const DEVICE_GET_REGION_INFO: u32 = request(8);
const DEVICE_GET_IRQ_INFO: u32 = request(9);
const DEVICE_SET_IRQS: u32 = request(10);
/// Where the kernel's vfio-pci puts the configuration space in the device's file. The policy permits no other place.
const CONFIG: u64 = (VFIO_PCI_CONFIG_REGION_INDEX as u64) << 40;
/// Offsets in the configuration space (PCI Express, 7.5.1.1).
const VENDOR_ID: u64 = 0;
const DEVICE_ID: u64 = 2;
const COMMAND: u64 = 4;
/// Bits of the command register.
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;
/// What a device that is gone reads as.
const GONE: u16 = u16::MAX;
/// Most interrupts of a port.
const VECTORS: usize = sv3::MAX_QUEUE_PAIRS + 1;
/// Octets of the registers that a driver reaches at least: the last one is the mailbox memory of a virtual function.
const BAR_MIN: u64 = 0x4000;
const BAR_MAX: u64 = 16 << 20;
const INTEL: u16 = 0x8086;

/// The cards that workers drive, by device id.
const MODELS: [(u16, CardModel, &str); 19] = [
    (0x10f7, CardModel::Ixgbe, "82599 (KX4)"),
    (0x10f8, CardModel::Ixgbe, "82599 (backplane)"),
    (0x10f9, CardModel::Ixgbe, "82599 (CX4)"),
    (0x10fb, CardModel::Ixgbe, "82599 (SFP+)"),
    (0x10fc, CardModel::Ixgbe, "82599 (XAUI)"),
    (0x1507, CardModel::Ixgbe, "82599 (SFP+)"),
    (0x1514, CardModel::Ixgbe, "82599 (KX4 mezzanine)"),
    (0x1517, CardModel::Ixgbe, "82599 (KR)"),
    (0x151c, CardModel::Ixgbe, "82599 (10GBASE-T)"),
    (0x1529, CardModel::Ixgbe, "82599 (SFP+)"),
    (0x154d, CardModel::Ixgbe, "82599 (SFP+)"),
    (0x1557, CardModel::Ixgbe, "82599 (SFP+)"),
    (0x1558, CardModel::Ixgbe, "82599 (QSFP+)"),
    (0x1528, CardModel::Ixgbe, "X540 (10GBASE-T)"),
    (0x1560, CardModel::Ixgbe, "X540 (10GBASE-T)"),
    (0x10ed, CardModel::IxgbeVf, "virtual function of an 82599"),
    (0x1515, CardModel::IxgbeVf, "virtual function of an X540"),
    (0x10ca, CardModel::IgbVf, "virtual function of an 82576"),
    (0x1520, CardModel::IgbVf, "virtual function of an I350"),
];

/// What the kernel says of a device that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Which card it is.
    pub model: CardModel,
    /// Its name, for people.
    pub name: &'static str,
    /// Offset and size of BAR 0 in the device's file.
    pub bar: (u64, u32),
}

/// Examines container and device. The error says what is wrong, and what to do.
pub fn admit(container: BorrowedFd<'_>, device: BorrowedFd<'_>, pairs: u16) -> Result<Admitted, String> {
    let names = [container, device].map(path);
    if names[0] != "/dev/vfio/vfio" || !names[1].starts_with("anon_inode:[vfio-device") {
        return Err(format!("a card is a container and a device of VFIO, and these files are {names:?}"));
    }
    let mut info = vfio_device_info { argsz: size_of::<vfio_device_info>() as u32, ..Default::default() };
    ioctl(device, DEVICE_GET_INFO, (&raw mut info).cast()).map_err(says("VFIO_DEVICE_GET_INFO"))?;
    if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 {
        return Err("it is no PCI device".to_string());
    }
    if region(device, VFIO_PCI_CONFIG_REGION_INDEX)?.offset != CONFIG {
        return Err("the kernel has its configuration space at a place that sv3 does not know".to_string());
    }
    let (vendor, id) = (config(device, VENDOR_ID)?, config(device, DEVICE_ID)?);
    if vendor == GONE {
        return Err("it does not answer: was it pulled out?".to_string());
    }
    let found = MODELS.iter().find(|(known, ..)| vendor == INTEL && *known == id);
    let Some((_, model, name)) = found.copied() else {
        return Err(format!(
            "sv3 has no driver for {vendor:04x}:{id:04x}: it drives the Intel 82599 and X540 and their virtual \
             functions, and those of the 82576 and I350"
        ));
    };
    let bar = region(device, VFIO_PCI_BAR0_REGION_INDEX)?;
    if bar.flags & VFIO_REGION_INFO_FLAG_MMAP == 0 || !(BAR_MIN..=BAR_MAX).contains(&bar.size) {
        return Err(format!("its registers cannot be mapped ({} octets)", bar.size));
    }
    let mut irqs = vfio_irq_info {
        argsz: size_of::<vfio_irq_info>() as u32,
        index: VFIO_PCI_MSIX_IRQ_INDEX,
        ..Default::default()
    };
    ioctl(device, DEVICE_GET_IRQ_INFO, (&raw mut irqs).cast()).map_err(says("VFIO_DEVICE_GET_IRQ_INFO"))?;
    if irqs.count <= u32::from(pairs) {
        return Err(format!("it has {} interrupts, and {pairs} queue pairs need one more each", irqs.count));
    }
    Ok(Admitted { model, name, bar: (bar.offset, u32::try_from(bar.size).unwrap_or(0)) })
}

/// Examines the memory: a sealed memfd of the right size, so that it never becomes shorter.
pub fn admit_memory(memory: BorrowedFd<'_>, settings: &CardSettings) -> Result<(), String> {
    let (size, seals) = (
        rustix::fs::fstat(memory).map_err(|error| format!("fstat: {error}"))?.st_size,
        rustix::fs::fcntl_get_seals(memory).map_err(|error| format!("its memory has no seals ({error})"))?,
    );
    if u64::try_from(size).ok() != Some(settings.file_size() as u64) {
        return Err(format!("its memory has {size} octets and must have {}", settings.file_size()));
    }
    let must = rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW;
    if !seals.contains(must) {
        return Err("its memory is not sealed against changes of its size".to_string());
    }
    Ok(())
}

/// Whether a file is an eventfd that does not block; makes it so.
pub fn admit_event(event: BorrowedFd<'_>) -> Result<(), String> {
    if path(event) != "anon_inode:[eventfd]" {
        return Err(format!("an interrupt needs an eventfd, and this file is {:?}", path(event)));
    }
    rustix::io::ioctl_fionbio(event, true).map_err(|error| format!("an eventfd cannot be made non-blocking: {error}"))
}

/// From now on `event` tells that the host wants the device back: somebody unbinds it or takes it out.
pub fn watch_requests(device: BorrowedFd<'_>, event: BorrowedFd<'_>) -> Result<(), String> {
    set_irqs(device, VFIO_PCI_REQ_IRQ_INDEX, &[event.as_raw_fd()]).map_err(says("VFIO_DEVICE_SET_IRQS"))
}

/// Stops a card: no interrupts, and no access to memory. Registers still answer, and the link stays.
pub fn stop(device: BorrowedFd<'_>) -> Result<(), String> {
    let command = config(device, COMMAND)?;
    if command == GONE {
        return Err("it does not answer".to_string());
    }
    set_config(device, (command | MEMORY_SPACE | INTX_DISABLE) & !BUS_MASTER)?;
    match set_irqs(device, VFIO_PCI_MSIX_IRQ_INDEX, &[]) {
        // The kernel refuses to disconnect interrupts that are not connected.
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(says("VFIO_DEVICE_SET_IRQS")(errno)),
    }
}

/// Lets a card reach its memory and raise its interrupts, one event each.
pub fn let_go(device: BorrowedFd<'_>, events: &[BorrowedFd<'_>]) -> Result<(), String> {
    let numbers: Vec<i32> = events.iter().take(VECTORS).map(AsRawFd::as_raw_fd).collect();
    set_irqs(device, VFIO_PCI_MSIX_IRQ_INDEX, &numbers).map_err(says("VFIO_DEVICE_SET_IRQS"))?;
    let command = config(device, COMMAND)?;
    set_config(device, command | MEMORY_SPACE | BUS_MASTER | INTX_DISABLE)
}

/// How many octets a worker may lock ([`may_lock`]).
static LOCKABLE: AtomicU64 = AtomicU64::new(0);

/// Memory that a card reads counts as locked by the worker, which inherits the limit: raises it as far as this process may,
/// and notes it. Later the policy has no syscall for that.
pub fn may_lock() -> Result<(), String> {
    let fail = |what: &'static str| move |error: Errno| format!("{what}: {error}");
    let (_, most) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(fail("cannot read RLIMIT_MEMLOCK"))?;
    setrlimit(Resource::RLIMIT_MEMLOCK, most, most).map_err(fail("cannot raise RLIMIT_MEMLOCK"))?;
    LOCKABLE.store(most, Relaxed);
    Ok(())
}

/// How many octets a worker may lock.
pub fn lockable() -> u64 {
    LOCKABLE.load(Relaxed)
}

fn path(fd: BorrowedFd<'_>) -> String {
    // The name comes from the kernel alone, so that no file system is asked.
    let path = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).unwrap_or_default();
    path.to_string_lossy().into_owned()
}

fn region(device: BorrowedFd<'_>, index: u32) -> Result<vfio_region_info, String> {
    let argsz = size_of::<vfio_region_info>() as u32;
    let mut info = vfio_region_info { argsz, index, ..Default::default() };
    ioctl(device, DEVICE_GET_REGION_INFO, (&raw mut info).cast()).map_err(says("VFIO_DEVICE_GET_REGION_INFO"))?;
    Ok(info)
}

fn config(device: BorrowedFd<'_>, at: u64) -> Result<u16, String> {
    let mut value = [0; 2];
    match rustix::io::pread(device, &mut value, CONFIG + at) {
        Ok(2) => Ok(u16::from_le_bytes(value)),
        Ok(_) => Err("its configuration space cannot be read".to_string()),
        Err(error) => Err(format!("its configuration space cannot be read: {error}")),
    }
}

fn set_config(device: BorrowedFd<'_>, command: u16) -> Result<(), String> {
    match rustix::io::pwrite(device, &command.to_le_bytes(), CONFIG + COMMAND) {
        Ok(2) => Ok(()),
        Ok(_) => Err("its command register cannot be written".to_string()),
        Err(error) => Err(format!("its command register cannot be written: {error}")),
    }
}

/// `struct vfio_irq_set` with room for all vectors.
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    events: [i32; VECTORS],
}

/// Connects the interrupts of an index to eventfds; without eventfds disconnects all.
fn set_irqs(device: BorrowedFd<'_>, index: u32, events: &[i32]) -> Result<(), Errno> {
    let kind = if events.is_empty() { VFIO_IRQ_SET_DATA_NONE } else { VFIO_IRQ_SET_DATA_EVENTFD };
    let mut set = IrqSet {
        argsz: size_of::<IrqSet>() as u32,
        flags: kind | VFIO_IRQ_SET_ACTION_TRIGGER,
        index,
        start: 0,
        count: events.len() as u32,
        events: [-1; VECTORS],
    };
    set.events.iter_mut().zip(events).for_each(|(place, event)| *place = *event);
    ioctl(device, DEVICE_SET_IRQS, (&raw mut set).cast())
}

fn ioctl(fd: BorrowedFd<'_>, request: u32, argument: *mut libc::c_void) -> Result<(), Errno> {
    // SAFETY: each request is given the address of a live structure that begins with its own size, beyond which the
    // kernel neither reads nor writes.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, argument) }).map(drop)
}

fn says(what: &'static str) -> impl Fn(Errno) -> String {
    move |errno| format!("{what}: {errno}")
}
