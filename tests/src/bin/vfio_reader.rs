//! `vfio_reader ADDRESS`: opens a device as a driver in user space does, and prints what its config space and its regions
//! say. Fails with the step that failed.
//!
//! The interface is linux/vfio.h: container, group, device.
#![allow(unsafe_code)] // ioctl

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use nix::libc;
use sv3_tests::failure::{Failure, Result};

// _IO(';', 100 + n), see linux/vfio.h.
const GET_API_VERSION: libc::c_ulong = 0x3b64;
const SET_IOMMU: libc::c_ulong = 0x3b66;
const GROUP_GET_STATUS: libc::c_ulong = 0x3b67;
const GROUP_SET_CONTAINER: libc::c_ulong = 0x3b68;
const GROUP_GET_DEVICE_FD: libc::c_ulong = 0x3b6a;
const DEVICE_GET_REGION_INFO: libc::c_ulong = 0x3b6c;

const TYPE1_IOMMU: libc::c_ulong = 1;
const GROUP_VIABLE: u32 = 1;
const CONFIG_REGION: u32 = 7;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vfio_reader: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// `struct vfio_group_status`.
#[repr(C)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

/// `struct vfio_region_info`.
#[repr(C)]
#[derive(Default)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

fn run() -> Result<()> {
    let address = std::env::args().nth(1).ok_or_else(|| Failure::new("usage: vfio_reader ADDRESS"))?;
    let link = fs::read_link(format!("/sys/bus/pci/devices/{address}/iommu_group"))
        .map_err(|error| Failure::new(format!("{address} has no IOMMU group: {error}")))?;
    let number = link.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let container = open("/dev/vfio/vfio")?;
    let version = number_ioctl(&container, "VFIO_GET_API_VERSION", GET_API_VERSION, 0)?;
    let group = open(&format!("/dev/vfio/{number}"))?;
    let mut status = GroupStatus { argsz: size_of::<GroupStatus>() as u32, flags: 0 };
    ioctl(&group, "VFIO_GROUP_GET_STATUS", GROUP_GET_STATUS, (&raw mut status).cast())?;
    if status.flags & GROUP_VIABLE == 0 {
        return Err(Failure::new(format!("group {number} is not viable")));
    }
    let mut fd = container.as_raw_fd();
    ioctl(&group, "VFIO_GROUP_SET_CONTAINER", GROUP_SET_CONTAINER, (&raw mut fd).cast())?;
    number_ioctl(&container, "VFIO_SET_IOMMU", SET_IOMMU, TYPE1_IOMMU)?;
    let name = CString::new(address)?;
    let device = ioctl(&group, "VFIO_GROUP_GET_DEVICE_FD", GROUP_GET_DEVICE_FD, name.as_ptr().cast_mut().cast())?;
    // SAFETY: the kernel has just made it for us.
    let device = unsafe { File::from_raw_fd(device) };
    let region = region(&device, CONFIG_REGION)?;
    let mut ids = [0; 4];
    device.read_exact_at(&mut ids, region.offset)?;
    let [vendor, device_id] = [[ids[0], ids[1]], [ids[2], ids[3]]].map(u16::from_le_bytes);
    let bar = self::region(&device, 0)?;
    println!("VFIO {version}, group {number}, {vendor:04x}:{device_id:04x}, BAR 0 of {} octets", bar.size);
    Ok(())
}

fn open(path: &str) -> Result<File> {
    File::options().read(true).write(true).open(path).map_err(|error| Failure::new(format!("{path}: {error}")))
}

fn region(device: &File, index: u32) -> Result<RegionInfo> {
    let mut region = RegionInfo { argsz: size_of::<RegionInfo>() as u32, index, ..RegionInfo::default() };
    ioctl(device, "VFIO_DEVICE_GET_REGION_INFO", DEVICE_GET_REGION_INFO, (&raw mut region).cast())?;
    Ok(region)
}

fn ioctl(file: &File, what: &str, request: libc::c_ulong, argument: *mut libc::c_void) -> Result<libc::c_int> {
    // SAFETY: each caller passes the address of what linux/vfio.h says for the request, alive and as long.
    done(what, unsafe { libc::ioctl(file.as_raw_fd(), request, argument) })
}

fn number_ioctl(file: &File, what: &str, request: libc::c_ulong, argument: libc::c_ulong) -> Result<libc::c_int> {
    // SAFETY: takes a number.
    done(what, unsafe { libc::ioctl(file.as_raw_fd(), request, argument) })
}

fn done(what: &str, result: libc::c_int) -> Result<libc::c_int> {
    let failed = || Failure::new(format!("{what}: {}", std::io::Error::last_os_error()));
    if result < 0 { Err(failed()) } else { Ok(result) }
}
