//! What the machine sees of the card: the answers to the client's commands.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::libc;

use super::Function;
use super::config_space::{self, ConfigSpace};
use super::dma::Dma;
use super::message::{Fields, MOST_DATA, MOST_FILES, Message};
use super::wire::Wire;
use crate::Card;

/// Commands of the protocol.
pub(super) mod command {
    pub const VERSION: u16 = 1;
    pub const DMA_MAP: u16 = 2;
    pub const DMA_UNMAP: u16 = 3;
    pub const DEVICE_GET_INFO: u16 = 4;
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub const DEVICE_SET_IRQS: u16 = 8;
    pub const REGION_READ: u16 = 9;
    pub const REGION_WRITE: u16 = 10;
    pub const DEVICE_RESET: u16 = 13;
}

// linux/vfio.h
const REGIONS: u32 = 9;
const CONFIG_REGION: u32 = 7;
const IRQS: u32 = 5;
const MSIX_IRQ: u32 = 2;
const DEVICE_FLAGS_RESET: u32 = 1 << 0;
const DEVICE_FLAGS_PCI: u32 = 1 << 1;
const REGION_READ_WRITE: u32 = 0b11;
const IRQ_EVENTFD: u32 = 1 << 0;
const IRQ_NORESIZE: u32 = 1 << 3;
const IRQ_DATA_NONE: u32 = 1 << 0;
const DMA_WRITE: u32 = 1 << 1;
const UNMAP_ALL: u32 = 1 << 1;

/// The card, and what the machine sees of it.
pub(super) struct Device {
    function: Function,
    pub card: Box<dyn Card + Send>,
    config: ConfigSpace,
    pub dma: Dma,
    vectors: Vec<Option<File>>,
    /// How many of the card's complaints were told.
    told: usize,
}

impl Device {
    pub fn new(function: Function, card: Box<dyn Card + Send>) -> Device {
        let vectors = (0..function.vectors()).map(|_| None).collect();
        let (config, dma) = (ConfigSpace::new(function), Dma::default());
        let mut device = Device { function, card, config, dma, vectors, told: 0 };
        device.set_bus_master(false);
        device
    }

    /// The client is gone, and what it gave.
    pub fn forget_client(&mut self) {
        self.dma = Dma::default();
        self.vectors.iter_mut().for_each(|vector| *vector = None);
        self.reset();
    }

    fn reset(&mut self) {
        self.card.reset();
        self.config = ConfigSpace::new(self.function);
        self.set_bus_master(false);
    }

    fn set_bus_master(&mut self, on: bool) {
        self.dma.bus_master = on;
        self.card.set_bus_master(on, &mut self.dma);
    }

    /// What the card has complained about since the last call.
    pub fn complaints(&mut self) -> Vec<String> {
        let all = self.card.complaints();
        let new = all.get(self.told..).unwrap_or_default().to_vec();
        self.told = all.len();
        new
    }

    /// Gives the card what has come and the time that has passed, and takes what it has sent and wants.
    pub fn turn(&mut self, wire: &mut Wire, passed: Duration) {
        self.card.pass_time(u32::try_from(passed.as_micros()).unwrap_or(u32::MAX), &mut self.dma);
        self.card.set_paused(wire.is_full(), &mut self.dma);
        while let Some(frame) = wire.take() {
            self.card.receive(&frame, &mut self.dma);
        }
        self.card.take_sent(&mut |frame| wire.send(frame));
        let raised = self.card.interrupts();
        let raised = self.vectors.iter().enumerate().filter(|(vector, _)| raised >> vector & 1 != 0);
        for mut eventfd in raised.filter_map(|(_, eventfd)| eventfd.as_ref()) {
            // A counter that is full has raised the interrupt already.
            let _ = eventfd.write(&1_u64.to_ne_bytes());
        }
    }

    /// Does what the client wants, and answers. An error: the client is gone, or out of step.
    pub fn serve(&mut self, message: &mut Message, socket: &mut UnixStream) -> io::Result<()> {
        match self.answer(message) {
            Ok(body) => message.reply(socket, &body),
            Err(errno) => message.refuse(socket, errno),
        }
    }

    fn answer(&mut self, message: &mut Message) -> Result<Vec<u8>, i32> {
        let files = std::mem::take(&mut message.files);
        let fields = message.fields();
        match message.command {
            command::VERSION => Ok(version()),
            command::DMA_MAP => self.map(fields, &files).ok_or(libc::EINVAL),
            command::DMA_UNMAP => self.unmap(fields).ok_or(libc::EINVAL),
            command::DEVICE_GET_INFO => Ok(numbers(&[16, DEVICE_FLAGS_RESET | DEVICE_FLAGS_PCI, REGIONS, IRQS])),
            command::DEVICE_GET_REGION_INFO => self.region_info(fields).ok_or(libc::EINVAL),
            command::DEVICE_GET_IRQ_INFO => self.irq_info(fields).ok_or(libc::EINVAL),
            command::DEVICE_SET_IRQS => self.set_irqs(fields, files).ok_or(libc::EINVAL),
            command::REGION_READ => self.read(fields).ok_or(libc::EINVAL),
            command::REGION_WRITE => self.write(fields).ok_or(libc::EINVAL),
            command::DEVICE_RESET => {
                self.reset();
                Ok(Vec::new())
            }
            _ => Err(libc::ENOTSUP),
        }
    }

    fn map(&mut self, fields: Fields<'_>, files: &[File]) -> Option<Vec<u8>> {
        let (flags, offset, iova, size) = (fields.u32(4)?, fields.u64(8)?, fields.u64(16)?, fields.u64(24)?);
        // Memory without a file, such as the firmware, is nothing that a card reads.
        if let Some(file) = files.first() {
            self.dma.map(iova, size, offset, flags & DMA_WRITE != 0, file).ok()?;
        }
        Some(Vec::new())
    }

    fn unmap(&mut self, fields: Fields<'_>) -> Option<Vec<u8>> {
        let (flags, iova, size) = (fields.u32(4)?, fields.u64(8)?, fields.u64(16)?);
        match flags & UNMAP_ALL != 0 {
            true => self.dma.unmap_all(),
            false => self.dma.unmap(iova, size),
        }
        Some(fields.rest(0)?.to_vec())
    }

    fn region_info(&self, fields: Fields<'_>) -> Option<Vec<u8>> {
        let index = fields.u32(8).filter(|index| *index < REGIONS)?;
        let size = match index {
            CONFIG_REGION => config_space::SIZE as u64,
            bar => self.function.bar_size(bar as usize),
        };
        let flags = if size > 0 { REGION_READ_WRITE } else { 0 };
        Some([numbers(&[32, flags, index, 0]), [size, 0].map(u64::to_le_bytes).concat()].concat())
    }

    fn irq_info(&self, fields: Fields<'_>) -> Option<Vec<u8>> {
        let index = fields.u32(8).filter(|index| *index < IRQS)?;
        let count = if index == MSIX_IRQ { self.vectors.len() as u32 } else { 0 };
        Some(numbers(&[16, IRQ_EVENTFD | IRQ_NORESIZE, index, count]))
    }

    fn set_irqs(&mut self, fields: Fields<'_>, files: Vec<File>) -> Option<Vec<u8>> {
        let (flags, index, start, count) = (fields.u32(4)?, fields.u32(8)?, fields.u32(12)?, fields.u32(16)?);
        if index != MSIX_IRQ {
            return Some(Vec::new());
        }
        let first = start as usize;
        let end = first.checked_add(count as usize).filter(|end| *end <= self.vectors.len())?;
        match flags & IRQ_DATA_NONE != 0 {
            // So many vectors, none: all are given back.
            true if count == 0 => self.vectors.iter_mut().for_each(|vector| *vector = None),
            // The client raises them itself.
            true => {}
            false => {
                let mut files = files.into_iter();
                self.vectors.get_mut(first..end)?.iter_mut().for_each(|vector| *vector = files.next());
            }
        }
        Some(Vec::new())
    }

    fn read(&mut self, fields: Fields<'_>) -> Option<Vec<u8>> {
        let (at, region, count) = (fields.u64(0)?, fields.u32(8)?, fields.u32(12)? as usize);
        let mut octets = vec![0; Some(count).filter(|count| *count <= MOST_DATA)?];
        match region {
            CONFIG_REGION => self.config.read(usize::try_from(at).ok()?, &mut octets),
            0 => {
                let size = access(at, count, self.function)?;
                let value = self.card.read(u32::try_from(at).ok()?, size).to_le_bytes();
                octets.copy_from_slice(value.get(..count)?);
            }
            // The table of MSI-X is the client's, and nothing is pending for long.
            _ => {}
        }
        Some([fields.rest(0)?.get(..16)?, &octets].concat())
    }

    fn write(&mut self, fields: Fields<'_>) -> Option<Vec<u8>> {
        let (at, region, count) = (fields.u64(0)?, fields.u32(8)?, fields.u32(12)? as usize);
        let octets = fields.rest(16)?.get(..count)?;
        match region {
            CONFIG_REGION => {
                if self.config.write(usize::try_from(at).ok()?, octets) {
                    self.reset();
                }
                if self.dma.bus_master != self.config.is_bus_master() {
                    self.set_bus_master(self.config.is_bus_master());
                }
            }
            0 => {
                let size = access(at, count, self.function)?;
                let mut value = [0; 8];
                value.get_mut(..count)?.copy_from_slice(octets);
                self.card.write(u32::try_from(at).ok()?, size, u64::from_le_bytes(value), &mut self.dma);
            }
            _ => {}
        }
        Some(fields.rest(0)?.get(..16)?.to_vec())
    }
}

/// The size of an access to a register, if it is one.
fn access(at: u64, count: usize, function: Function) -> Option<u8> {
    let size = u8::try_from(count).ok().filter(|size| matches!(size, 1 | 2 | 4 | 8))?;
    (at.checked_add(u64::from(size))? <= function.bar_size(0)).then_some(size)
}

/// Protocol 0.0, and what this side takes.
fn version() -> Vec<u8> {
    let capabilities = format!(r#"{{"capabilities":{{"max_msg_fds":{MOST_FILES},"max_data_xfer_size":{MOST_DATA}}}}}"#);
    [&[0; 4], capabilities.as_bytes(), b"\0"].concat()
}

pub(super) fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
