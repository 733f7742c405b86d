//! Opens a network card by VFIO: container, group and device; makes its memory and maps that for the card's DMA.
//!
//! The crate `vfio-ioctls` opens them by the device's place in sysfs, and checks that the group is viable. The switch
//! gets the open files. The mapping lives as long as the container's file, so it outlives this process.
#![allow(unsafe_code)] // DMA memory, and files of the crate

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sv3::card::{CardModel, CardState, GUESTS};
use sv3::card_attachment::{CardAttachment, IOVA, is_address};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioOps};

/// Where the kernel lists PCI devices.
const DEVICES: &str = "/sys/bus/pci/devices";
/// Where it lists the nodes of groups.
const NODES: &str = "/dev/vfio";

/// An open card.
pub struct Nic {
    container: Arc<VfioContainer>,
    device: VfioDevice,
    memory: OwnedFd,
    events: Vec<EventFd>,
    /// Where the memory is mapped here, until the kernel has pinned it for the card.
    _map: MmapRaw,
}

impl Nic {
    /// Opens the card and makes its memory. The error says what to do.
    pub fn open(card: &CardAttachment) -> Result<Nic, String> {
        let address = &card.address;
        let place = find(address)?;
        let container = Arc::new(VfioContainer::new(None).map_err(|error| no_container(&error))?);
        let ops: Arc<dyn VfioOps> = container.clone();
        let device = VfioDevice::new(&place, ops, false).map_err(|error| no_device(address, &place, &error))?;
        // Which card it is matters to the switch alone: the memory is the same for all.
        let settings = card.settings(CardModel::Ixgbe, (0, 0), 1);
        may_lock(settings.dma_size() as u64)?;
        let (memory, map) = memory(settings.file_size()).map_err(|error| format!("the card's memory: {error}"))?;
        let dma = map.as_mut_ptr().wrapping_add(size_of::<CardState>());
        // SAFETY: the card reads and writes this memory at any time. This process touches it no more.
        let mapped = unsafe { container.vfio_dma_map(IOVA, settings.dma_size(), dma) };
        mapped.map_err(|error| not_mapped(&error, settings.dma_size() as u64))?;
        if card.zero_copy {
            has_room_for_guests(&container, dma)?;
        }
        let event = |_| EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let events = (3..card.files()).map(event).collect::<nix::Result<_>>();
        let events = events.map_err(|error| format!("eventfd: {error}"))?;
        Ok(Nic { container, device, memory, events, _map: map })
    }

    /// Its open files, in the order of [`CardAttachment::files`].
    pub fn files(&self) -> Vec<BorrowedFd<'_>> {
        // SAFETY: both values own their files and live as long as `self`.
        let [container, device] = [self.container.as_raw_fd(), self.device.as_raw_fd()]
            .map(|number| unsafe { BorrowedFd::borrow_raw(number) });
        [container, device, self.memory.as_fd()].into_iter().chain(self.events.iter().map(AsFd::as_fd)).collect()
    }
}

/// Whether the IOMMU has the addresses at which a card sees guests' memory: tries the first and the last page.
fn has_room_for_guests(container: &VfioContainer, page: *mut u8) -> Result<(), String> {
    const PAGE: usize = 4096;
    for iova in [GUESTS, 2 * GUESTS - PAGE as u64] {
        // SAFETY: the page is of the card's memory, which the card reaches already. The mapping ends at once.
        let tried = unsafe { container.vfio_dma_map(iova, PAGE, page) };
        tried.and_then(|()| container.vfio_dma_unmap(iova, PAGE)).map_err(|error| {
            format!("the IOMMU has no address {iova:#x} for guests' memory ({error}): attach it without --zero-copy")
        })?;
    }
    Ok(())
}

/// The device's place in sysfs.
fn find(address: &str) -> Result<PathBuf, String> {
    if !is_address(address) {
        return Err(format!("{address:?} is no address of a PCI device, such as 0000:02:00.1 (`lspci -D` lists them)"));
    }
    let place = Path::new(DEVICES).join(address);
    if !place.exists() {
        return Err(format!("there is no PCI device {address}: `lspci -D` lists those of this host"));
    }
    if !place.join("iommu_group").exists() {
        return Err(format!(
            "{address} has no IOMMU group: switch the IOMMU on (BIOS: VT-d or AMD-Vi; kernel: intel_iommu=on); \
             `scripts/vfio-rebind --check {address}` says what is missing"
        ));
    }
    match std::fs::read_link(place.join("driver"))
        .ok()
        .and_then(|driver| driver.file_name().map(|name| name.to_owned()))
    {
        Some(driver) if driver == "vfio-pci" => Ok(place),
        driver => {
            let has = driver.map_or("no driver".to_string(), |driver| format!("the driver {}", driver.display()));
            Err(format!(
                "{address} has {has}, and sv3 needs vfio-pci: run `sudo scripts/vfio-rebind {address} $USER` first"
            ))
        }
    }
}

fn no_container(error: &VfioError) -> String {
    match error {
        VfioError::OpenContainer(error) => {
            format!("{NODES}/vfio cannot be opened ({error}): load the module (`sudo modprobe vfio-pci`)")
        }
        VfioError::VfioExtension => {
            "this host's VFIO has no type 1 IOMMU: load the module (`sudo modprobe vfio_iommu_type1`)".to_string()
        }
        other => format!("VFIO: {other}"),
    }
}

fn no_device(address: &str, place: &Path, error: &VfioError) -> String {
    let group = std::fs::read_link(place.join("iommu_group")).ok();
    let group = group.and_then(|group| Some(group.file_name()?.to_string_lossy().into_owned())).unwrap_or_default();
    match error {
        VfioError::OpenGroup(error, _) if error.raw_os_error() == Some(libc::EBUSY) => format!(
            "{address}: the group {NODES}/{group} is in use: another program, such as another switch, has the card"
        ),
        VfioError::OpenGroup(error, _) => format!(
            "{address}: {NODES}/{group} cannot be opened ({error}): give it to this user \
             (`sudo scripts/vfio-rebind {address} $USER`)"
        ),
        VfioError::GroupViable => format!(
            "{address}: other devices of its IOMMU group {group} still have their drivers: \
             `scripts/vfio-rebind --check {address}` names them"
        ),
        other => format!("{address}: {other}; `scripts/vfio-rebind --check {address}` says what is missing"),
    }
}

fn not_mapped(error: &VfioError, octets: u64) -> String {
    format!(
        "{} KiB cannot be mapped for the card ({error}): raise the limit of locked memory (`ulimit -l`, \
         /etc/security/limits.d), or take fewer queues or descriptors",
        octets.div_ceil(1024)
    )
}

/// Raises the limit of locked memory as far as this user may. Errs if that is too little.
fn may_lock(octets: u64) -> Result<(), String> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else { return Ok(()) };
    if soft < octets && hard > soft {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
    // Root is not limited.
    if hard >= octets || nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(format!(
        "the card needs {} KiB of locked memory, and this user may have {} KiB: raise the limit \
         (`ulimit -l`, /etc/security/limits.d), or take fewer queues or descriptors",
        octets.div_ceil(1024),
        hard / 1024
    ))
}

/// A memfd of this size that can neither grow nor shrink, mapped.
fn memory(size: usize) -> std::io::Result<(OwnedFd, MmapRaw)> {
    let file = memfd_create(c"sv3-card", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&file, i64::try_from(size).unwrap_or(i64::MAX))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    let map = MmapOptions::new().len(size).map_raw(file.as_raw_fd())?;
    Ok((file, map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_told_in_words() {
        let why = |address| find(address).unwrap_err();
        assert!(why("eth0").contains("lspci -D"));
        assert!(why("ffff:ff:1f.7").contains("there is no PCI device"));
    }

    #[test]
    fn the_memory_cannot_change_its_size() {
        let (file, map) = memory(1 << 20).unwrap();
        assert_eq!(map.len(), 1 << 20);
        assert!(nix::unistd::ftruncate(&file, 0).is_err() && nix::unistd::ftruncate(&file, 2 << 20).is_err());
    }
}
