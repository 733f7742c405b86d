//! How each request changes the front-end's state and its device, and the commands that tell the worker.

use std::os::fd::AsFd;
use std::rc::Rc;

use sv3::foreign::ForeignFd;
use sv3::ipc::Command;
use sv3::virtio::{Feature, VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED};
use sv3::wire::Refuse;
use sv3::wire::vhost_user::*;
use sv3::{MAX_MEM_SLOTS, MAX_QUEUE_PAIRS, MAX_RING_SIZE, MAX_RINGS};

use super::frontend::Frontend;
use crate::ports::admission::{admit, admit_log, aliased};
use crate::ports::kernel::Inspect;
use crate::ports::ring::Ring;
use crate::workers::command::WorkerCommand;

/// Smallest MTU of IPv4 (RFC 791) and largest that a u16 config field holds.
const MTU_RANGE: std::ops::RangeInclusive<u64> = 68..=65535;

/// `VHOST_VRING_F_LOG`: the device area is to be marked in the log.
const VRING_F_LOG: u32 = 1;

/// The result of a request that is served.
pub enum Served {
    /// The answer is this value.
    Value(u64),
    /// These commands go to the worker.
    Told(Vec<WorkerCommand>),
    /// These commands go to the worker, and then the answer is the base of this ring.
    Base(u16, Vec<WorkerCommand>),
}

/// Why a request is not served.
pub enum Refusal {
    /// The client gets an error reply, if it asked for a reply, and stays connected.
    Stay(String),
    /// The client gets an error reply, and the connection is closed.
    Close(String),
}

impl From<Refuse> for Refusal {
    fn from(refuse: Refuse) -> Refusal {
        Refusal::Close(refuse.0)
    }
}

fn close<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal::Close(why))
}

/// The protocol feature that must have been acknowledged for a request to be legal. `GET_QUEUE_NUM` and
/// `SET_VRING_ENABLE` only need theirs to be offered; QEMU enables rings before it acknowledges features.
fn permit(code: Code) -> Option<Feature> {
    match code {
        Code::SET_LOG_BASE | Code::SET_LOG_FD => Some(VHOST_USER_PROTOCOL_F_LOG_SHMFD),
        Code::SEND_RARP => Some(VHOST_USER_PROTOCOL_F_RARP),
        Code::NET_SET_MTU => Some(VHOST_USER_PROTOCOL_F_NET_MTU),
        Code::GET_MAX_MEM_SLOTS | Code::ADD_MEM_REG | Code::REM_MEM_REG => {
            Some(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)
        }
        Code::RESET_DEVICE => Some(VHOST_USER_PROTOCOL_F_RESET_DEVICE),
        Code::SET_STATUS | Code::GET_STATUS => Some(VHOST_USER_PROTOCOL_F_STATUS),
        _ => None,
    }
}

impl Frontend {
    /// Serves a request.
    pub fn serve(&mut self, request: Request, kernel: &dyn Inspect) -> Result<Served, Refusal> {
        let code = request.code();
        match permit(code) {
            Some(feature) if !feature.of(self.protocol_features) => {
                return close(format!("{code} without {}", feature.name));
            }
            _ => {}
        }
        self.check_allowance(&request)?;
        let commands = match request {
            Request::GetFeatures => return Ok(Served::Value(self.offers)),
            Request::GetProtocolFeatures => return Ok(Served::Value(OFFERED_PROTOCOL_FEATURES)),
            Request::GetQueueNum => return Ok(Served::Value(MAX_QUEUE_PAIRS as u64)),
            Request::GetMaxMemSlots => return Ok(Served::Value(MAX_MEM_SLOTS as u64)),
            Request::GetStatus => return Ok(Served::Value(self.status)),
            Request::GetVringBase { ring } => return Ok(Served::Base(ring, self.device.stop(ring))),
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetProtocolFeatures(features) => self.set_protocol_features(features)?,
            Request::SetOwner => Vec::new(),
            Request::ResetOwner | Request::ResetDevice => self.reset(),
            Request::SetStatus(status) => self.set_status(status)?,
            Request::NetSetMtu(mtu) => self.set_mtu(mtu)?,
            Request::SendRarp { mac } => vec![Command::SendRarp { port: self.device.port.slot, mac }.into()],
            Request::SetMemTable(table) => self.set_mem_table(table, kernel)?,
            Request::AddMemReg(region, fd) => self.add_mem_reg(region, fd, kernel)?,
            Request::RemMemReg(region) => self.rem_mem_reg(region)?,
            Request::SetVringNum { .. } | Request::SetVringAddr { .. } | Request::SetVringBase { .. } => {
                self.set_up_ring(request)?
            }
            Request::SetLogBase { size, offset, fd } => self.device.set_log(admit_log((offset, size), fd, kernel)?),
            Request::SetLogFd => Vec::new(),
            Request::SetVringEnable { ring, num } => self.enable(ring, num)?,
            Request::SetVringKick { ring, fd } => self.set_kick(ring, fd, kernel)?,
            Request::SetVringCall { ring, fd } => {
                self.ring(ring)?.call = claim(code, ring, fd, kernel)?;
                vec![self.device.ring_call(ring)]
            }
            Request::SetVringErr { ring, fd } => {
                self.ring(ring)?.err = claim(code, ring, fd, kernel)?;
                Vec::new()
            }
            Request::Unserved(code) => {
                return Err(Refusal::Stay(format!("{code} belongs to a feature that is not offered")));
            }
        };
        Ok(Served::Told(commands))
    }

    /// Refuses a request by which the client would hold more than its share.
    fn check_allowance(&self, request: &Request) -> Result<(), Refusal> {
        let (held, ring) = (self.holdings(), |index: &u16| self.device.known_ring(*index));
        let memory = self.device.memory.len();
        let new = |place: Option<&Option<Rc<ForeignFd>>>| usize::from(place.is_none_or(Option::is_none));
        let (fds, regions) = match request {
            Request::SetMemTable(table) => (table.len().saturating_sub(memory), table.len() + held.regions - memory),
            Request::SetLogBase { .. } => (usize::from(self.device.log.is_none()), memory + 1),
            Request::AddMemReg(..) => (1, held.regions + 1),
            Request::SetVringKick { ring: index, fd: Some(_) } => (new(ring(index).map(|ring| &ring.kick)), 0),
            Request::SetVringCall { ring: index, fd: Some(_) } => (new(ring(index).map(|ring| &ring.call)), 0),
            Request::SetVringErr { ring: index, fd: Some(_) } => (new(ring(index).map(|ring| &ring.err)), 0),
            _ => return Ok(()),
        };
        let (fds, most) = (held.fds + fds, self.allowance);
        let code = request.code();
        if fds > most.fds.max(held.fds) {
            return close(format!(
                "{code}: with it the client would hold {fds} files, and its share is {} of the switch's `ulimit -n`",
                most.fds
            ));
        }
        if regions > most.regions.max(held.regions) {
            return close(format!(
                "{code}: with it the client would hold {regions} memory regions, and its share is {}",
                most.regions
            ));
        }
        Ok(())
    }

    fn set_features(&mut self, features: u64) -> Result<Vec<WorkerCommand>, Refusal> {
        if features & !self.offers != 0 {
            return close(format!("SET_FEATURES: {:#x} was not offered", features & !self.offers));
        }
        if features == self.device.features {
            return Ok(Vec::new());
        }
        let logs = VHOST_F_LOG_ALL.of(features) && VHOST_USER_PROTOCOL_F_LOG_SHMFD.of(self.protocol_features);
        if (features ^ self.device.features) == VHOST_F_LOG_ALL.mask() {
            self.device.features = features;
            return Ok(self.device.set_logs(logs));
        }
        if self.device.is_running() {
            return close("SET_FEATURES: other features while rings run".to_string());
        }
        self.device.features = features;
        // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled state."
        self.device.starts_enabled = !VHOST_USER_F_PROTOCOL_FEATURES.of(features);
        let mut commands = vec![self.device.port_features()];
        commands.extend(self.device.set_logs(logs));
        Ok(commands)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<Vec<WorkerCommand>, Refusal> {
        if features & !OFFERED_PROTOCOL_FEATURES != 0 {
            let extra = features & !OFFERED_PROTOCOL_FEATURES;
            return close(format!("SET_PROTOCOL_FEATURES: {extra:#x} was not offered"));
        }
        self.protocol_features = features;
        Ok(Vec::new())
    }

    fn set_status(&mut self, status: u64) -> Result<Vec<WorkerCommand>, Refusal> {
        if status > u8::MAX.into() {
            return close(format!("SET_STATUS: {status:#x} is not a device status"));
        }
        self.status = status;
        Ok(Vec::new())
    }

    fn set_mtu(&mut self, mtu: u64) -> Result<Vec<WorkerCommand>, Refusal> {
        if !MTU_RANGE.contains(&mtu) {
            return Err(Refusal::Stay(format!("NET_SET_MTU: {mtu} is not within 68 to 65535")));
        }
        self.mtu = Some(mtu);
        Ok(Vec::new())
    }

    /// "Disable all rings and reset all internal device state to the initial state." The memory stays: QEMU sends only
    /// differences to what it has told. So do call and err, which QEMU tells once, and the negotiated features.
    fn reset(&mut self) -> Vec<WorkerCommand> {
        self.status = 0;
        self.device.reset()
    }

    fn set_mem_table(
        &mut self,
        table: Vec<(MemoryRegion, ForeignFd)>,
        kernel: &dyn Inspect,
    ) -> Result<Vec<WorkerCommand>, Refusal> {
        let mut memory = Vec::new();
        for (index, (region, fd)) in table.into_iter().enumerate() {
            memory.push(admit(&memory, (index, region), fd, kernel)?);
        }
        if let Some(why) = aliased(memory.iter()) {
            return Err(Refusal::Stay(format!("SET_MEM_TABLE: {why}")));
        }
        Ok(self.device.replace_memory(memory))
    }

    fn add_mem_reg(
        &mut self,
        region: MemoryRegion,
        fd: ForeignFd,
        kernel: &dyn Inspect,
    ) -> Result<Vec<WorkerCommand>, Refusal> {
        let held = &self.device.memory;
        if held.len() >= MAX_MEM_SLOTS {
            return close(format!("ADD_MEM_REG: all {MAX_MEM_SLOTS} slots are in use"));
        }
        let memory = admit(held, (held.len(), region), fd, kernel)?;
        if let Some(why) = aliased(held.iter().chain([&memory])) {
            return Err(Refusal::Stay(format!("ADD_MEM_REG: {why}")));
        }
        Ok(self.device.add_memory(memory))
    }

    /// "Identified by its guest address, user address and size. The mmap offset is ignored."
    fn rem_mem_reg(&mut self, wanted: MemoryRegion) -> Result<Vec<WorkerCommand>, Refusal> {
        let key = |addr, user, size| (addr, user, size);
        let wanted = key(wanted.guest_addr, wanted.user_addr, wanted.size);
        let at =
            self.device.memory.iter().position(|memory| {
                key(memory.region.guest_addr, memory.region.user_addr, memory.region.size) == wanted
            });
        match at {
            Some(at) => Ok(vec![self.device.remove_memory(at)]),
            None => close(format!("REM_MEM_REG: no region at guest address {:#x} of {} octets", wanted.0, wanted.2)),
        }
    }

    /// The ring of a request. The decoder has checked that its index is below [`MAX_RINGS`].
    fn ring(&mut self, index: u16) -> Result<&mut Ring, Refusal> {
        self.device.ring(index).ok_or_else(|| Refusal::Close(format!("ring {index}: there are at most {MAX_RINGS}")))
    }

    /// Size, addresses and base cannot change while a ring runs (CVE-2026-5747). Whether its device area is marked in the
    /// log can, and does when a migration begins.
    fn set_up_ring(&mut self, request: Request) -> Result<Vec<WorkerCommand>, Refusal> {
        let code = request.code();
        let packed = VIRTIO_F_RING_PACKED.of(self.device.features);
        let (Request::SetVringNum { ring: index, .. }
        | Request::SetVringAddr { ring: index, .. }
        | Request::SetVringBase { ring: index, .. }) = request
        else {
            return Ok(Vec::new());
        };
        let known_flags = if VHOST_USER_PROTOCOL_F_LOG_SHMFD.of(self.protocol_features) { VRING_F_LOG } else { 0 };
        let ring = self.ring(index)?;
        let (mut size, mut addr, mut base, mut log) = (ring.size, ring.addr, ring.base, ring.log);
        match request {
            Request::SetVringNum { num, .. } => match u16::try_from(num) {
                Ok(num) if (1..=MAX_RING_SIZE).contains(&num) && (packed || num.is_power_of_two()) => size = Some(num),
                _ => {
                    return close(format!(
                        "{code}: ring {index} of {num} entries; a ring has 1 to 32768, and a split ring a power of two"
                    ));
                }
            },
            Request::SetVringAddr { flags, .. } if flags & !known_flags != 0 => {
                return close(format!(
                    "{code}: ring {index} has flags {flags:#x}, but {known_flags:#x} were negotiated"
                ));
            }
            Request::SetVringAddr { flags, addr: wanted, log: wanted_log, .. } => {
                (addr, log) = (Some(wanted), (flags & VRING_F_LOG != 0).then_some(wanted_log));
            }
            // A packed ring's base has the used index in its upper half; in sv3 it always equals the available index.
            Request::SetVringBase { base: wanted, .. } => {
                base = match u16::try_from(if packed { wanted & 0xffff } else { wanted }) {
                    Ok(base) => base,
                    Err(_) => {
                        return close(format!(
                            "{code}: ring {index}: a split ring's base is at most 0xffff, not {wanted:#x}"
                        ));
                    }
                }
            }
            _ => {}
        }
        if ring.started && (size, addr, base) != (ring.size, ring.addr, ring.base) {
            return close(format!("{code}: ring {index} runs; GET_VRING_BASE must stop it first"));
        }
        let other_log = log != ring.log;
        (ring.size, ring.addr, ring.base, ring.log) = (size, addr, base, log);
        let log = other_log.then(|| self.device.ring_log(index));
        Ok(log.into_iter().chain(self.device.start_rings()).collect())
    }

    fn enable(&mut self, ring: u16, num: u32) -> Result<Vec<WorkerCommand>, Refusal> {
        if num > 1 {
            return close(format!("SET_VRING_ENABLE: ring {ring}: {num} is neither 0 nor 1"));
        }
        self.ring(ring)?.enable = Some(num == 1);
        Ok(vec![self.device.ring_enable(ring)])
    }

    /// A new kick fd starts the ring, or starts it anew.
    fn set_kick(
        &mut self,
        index: u16,
        fd: Option<ForeignFd>,
        kernel: &dyn Inspect,
    ) -> Result<Vec<WorkerCommand>, Refusal> {
        let Some(kick) = claim(Code::SET_VRING_KICK, index, fd, kernel)? else {
            return close(format!("SET_VRING_KICK: ring {index} has no fd; sv3 sleeps when idle and needs kicks"));
        };
        let ring = self.ring(index)?;
        ring.kick = Some(kick);
        if !ring.started {
            return Ok(self.device.start_rings());
        }
        ring.fault = None;
        Ok(self.device.ring_start(index))
    }
}

fn claim(code: Code, ring: u16, fd: Option<ForeignFd>, kernel: &dyn Inspect) -> Result<Option<Rc<ForeignFd>>, Refusal> {
    match fd {
        Some(fd) if !kernel.claim_eventfd(fd.as_fd()) => {
            close(format!("{code}: ring {ring}: the fd is not an eventfd"))
        }
        // The last close of an eventfd never waits.
        fd => Ok(fd.map(ForeignFd::prompt).map(Rc::new)),
    }
}
