//! What each request does to the record, and what the worker has to be told of it.

use std::os::fd::AsFd;
use std::rc::Rc;

use sv3::foreign::ForeignFd;
use sv3::ipc::Command;
use sv3::virtio::{Feature, VIRTIO_F_RING_PACKED};
use sv3::wire::Refuse;
use sv3::wire::vhost_user::*;
use sv3::{MAX_MEM_SLOTS, MAX_QUEUE_PAIRS, MAX_RING_SIZE};

use super::Session;
use crate::clients::admission::{Inspect, Memory, admit, aliased};
use crate::clients::record::Order;

/// Smallest MTU of IPv4 (RFC 791) and largest that a u16 config field holds.
const MTU_RANGE: std::ops::RangeInclusive<u64> = 68..=65535;

/// How a request was obeyed.
pub(super) enum Done {
    Replied(u64),
    Ordered(Vec<Order>),
    /// The base of a ring, after these orders.
    Base(u16, Vec<Order>),
}

/// Why a request is not obeyed.
pub(super) enum No {
    /// The client is told, if it wants to know, and may go on.
    Stay(String),
    /// The client is told and the connection is closed.
    Close(String),
}

impl From<Refuse> for No {
    fn from(refuse: Refuse) -> No {
        No::Close(refuse.0)
    }
}

fn close<T>(why: String) -> Result<T, No> {
    Err(No::Close(why))
}

/// The protocol feature that must have been acknowledged for a request to be legal. `GET_QUEUE_NUM` and
/// `SET_VRING_ENABLE` only need theirs to be offered; QEMU enables rings before it acknowledges features.
fn permit(code: Code) -> Option<Feature> {
    match code {
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

impl Session {
    /// Does what a request asks for.
    pub(super) fn obey(&mut self, request: Request, kernel: &dyn Inspect) -> Result<Done, No> {
        let code = request.code();
        match permit(code) {
            Some(feature) if !feature.of(self.record.protocol_features) => {
                return close(format!("{code} without {}", feature.name));
            }
            _ => {}
        }
        self.check_allowance(&request)?;
        let orders = match request {
            Request::GetFeatures => return Ok(Done::Replied(self.offers)),
            Request::GetProtocolFeatures => return Ok(Done::Replied(OFFERED_PROTOCOL_FEATURES)),
            Request::GetQueueNum => return Ok(Done::Replied(MAX_QUEUE_PAIRS as u64)),
            Request::GetMaxMemSlots => return Ok(Done::Replied(MAX_MEM_SLOTS as u64)),
            Request::GetStatus => return Ok(Done::Replied(self.record.status)),
            Request::GetVringBase { ring } => return Ok(Done::Base(ring, self.stop(ring))),
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetProtocolFeatures(features) => self.set_protocol_features(features)?,
            Request::SetOwner => Vec::new(),
            Request::ResetOwner | Request::ResetDevice => self.reset(),
            Request::SetStatus(status) => self.set_status(status)?,
            Request::NetSetMtu(mtu) => self.set_mtu(mtu)?,
            Request::SendRarp { mac } => vec![Command::SendRarp { port: self.record.slot, mac }.into()],
            Request::SetMemTable(table) => self.set_mem_table(table, kernel)?,
            Request::AddMemReg(region, fd) => self.add_mem_reg(region, fd, kernel)?,
            Request::RemMemReg(region) => self.rem_mem_reg(region)?,
            Request::SetVringNum { .. } | Request::SetVringAddr { .. } | Request::SetVringBase { .. } => {
                self.set_up_ring(request)?
            }
            Request::SetVringEnable { ring, num } => self.enable(ring, num)?,
            Request::SetVringKick { ring, fd } => self.set_kick(ring, fd, kernel)?,
            Request::SetVringCall { ring, fd } => {
                self.record.ring(ring).call = claim(code, ring, fd, kernel)?;
                vec![self.record.ring_call(ring)]
            }
            Request::SetVringErr { ring, fd } => {
                self.record.ring(ring).err = claim(code, ring, fd, kernel)?;
                Vec::new()
            }
            Request::Unserved(code) => {
                return Err(No::Stay(format!("{code} belongs to a feature that is not offered")));
            }
        };
        Ok(Done::Ordered(orders))
    }

    /// Nobody may hold so much that too little is left for the others.
    fn check_allowance(&self, request: &Request) -> Result<(), No> {
        let (held, ring) = (self.record.holdings(), |index: &u16| self.record.known_ring(*index));
        let new = |place: Option<&Option<Rc<ForeignFd>>>| usize::from(place.is_none_or(Option::is_none));
        let (fds, regions) = match request {
            Request::SetMemTable(table) => (table.len().saturating_sub(held.regions), table.len()),
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
            return close(format!("{code}: {regions} memory regions, and the client's share is {}", most.regions));
        }
        Ok(())
    }

    fn set_features(&mut self, features: u64) -> Result<Vec<Order>, No> {
        if features & !self.offers != 0 {
            return close(format!("SET_FEATURES: {:#x} was not offered", features & !self.offers));
        }
        if features == self.record.features {
            return Ok(Vec::new());
        }
        if self.record.is_running() {
            return close("SET_FEATURES: other features while rings run".to_string());
        }
        self.record.features = features;
        Ok(vec![self.record.port_features()])
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<Vec<Order>, No> {
        if features & !OFFERED_PROTOCOL_FEATURES != 0 {
            let extra = features & !OFFERED_PROTOCOL_FEATURES;
            return close(format!("SET_PROTOCOL_FEATURES: {extra:#x} was not offered"));
        }
        self.record.protocol_features = features;
        Ok(Vec::new())
    }

    fn set_status(&mut self, status: u64) -> Result<Vec<Order>, No> {
        if status > u8::MAX.into() {
            return close(format!("SET_STATUS: {status:#x} is not a device status"));
        }
        self.record.status = status;
        Ok(Vec::new())
    }

    fn set_mtu(&mut self, mtu: u64) -> Result<Vec<Order>, No> {
        if !MTU_RANGE.contains(&mtu) {
            return Err(No::Stay(format!("NET_SET_MTU: {mtu} is not within 68 to 65535")));
        }
        self.record.mtu = Some(mtu);
        Ok(Vec::new())
    }

    /// "Disable all rings and reset all internal device state to the initial state." The memory stays: QEMU sends only
    /// differences to what it has told. So do call and err, which QEMU tells once, and the negotiated features.
    fn reset(&mut self) -> Vec<Order> {
        let rings: Vec<u16> = self.record.rings().map(|(index, _)| index).collect();
        let mut orders = Vec::new();
        for ring in rings {
            orders.extend(self.stop(ring));
            self.record.ring(ring).enable = None;
            orders.push(self.record.ring_enable(ring));
        }
        self.record.status = 0;
        orders
    }

    fn set_mem_table(&mut self, table: Vec<(MemoryRegion, ForeignFd)>, kernel: &dyn Inspect) -> Result<Vec<Order>, No> {
        let mut memory = Vec::new();
        for (index, (region, fd)) in table.into_iter().enumerate() {
            memory.push(admit(&memory, (index, region), fd, kernel)?);
        }
        if let Some(why) = aliased(memory.iter()) {
            return Err(No::Stay(format!("SET_MEM_TABLE: {why}")));
        }
        let old = std::mem::replace(&mut self.record.memory, memory);
        let mut orders = self.record.memory_table();
        if let Some(commit) = orders.last_mut() {
            commit.takes = self.record.lingering.take(old.into_iter().map(|memory| memory.fd).collect());
        }
        Ok(self.with_starts(orders))
    }

    fn add_mem_reg(&mut self, region: MemoryRegion, fd: ForeignFd, kernel: &dyn Inspect) -> Result<Vec<Order>, No> {
        let index = self.record.memory.len();
        if index >= MAX_MEM_SLOTS {
            return close(format!("ADD_MEM_REG: all {MAX_MEM_SLOTS} slots are in use"));
        }
        let memory = admit(&self.record.memory, (index, region), fd, kernel)?;
        if let Some(why) = aliased(self.record.memory.iter().chain([&memory])) {
            return Err(No::Stay(format!("ADD_MEM_REG: {why}")));
        }
        let command = Command::RegionAdd { port: self.record.slot, region: memory.region };
        let order = Order::with_fd(command, memory.fd.clone());
        self.record.memory.push(memory);
        Ok(self.with_starts(vec![order]))
    }

    /// "Identified by its guest address, user address and size. The mmap offset is ignored."
    fn rem_mem_reg(&mut self, wanted: MemoryRegion) -> Result<Vec<Order>, No> {
        let key = |addr, user, size| (addr, user, size);
        let wanted = key(wanted.guest_addr, wanted.user_addr, wanted.size);
        let at =
            self.record.memory.iter().position(|memory| {
                key(memory.region.guest_addr, memory.region.user_addr, memory.region.size) == wanted
            });
        let Some(at) = at else {
            return close(format!("REM_MEM_REG: no region at guest address {:#x} of {} octets", wanted.0, wanted.2));
        };
        let Memory { region, fd, .. } = self.record.memory.remove(at);
        let takes = self.record.lingering.take(vec![fd]);
        Ok(vec![Order { takes, ..Command::RegionRemove { port: self.record.slot, region }.into() }])
    }

    /// Size, addresses and base stand fast while a ring runs (CVE-2026-5747).
    fn set_up_ring(&mut self, request: Request) -> Result<Vec<Order>, No> {
        let code = request.code();
        let packed = VIRTIO_F_RING_PACKED.of(self.record.features);
        let (index, wanted) = match request {
            Request::SetVringNum { ring, num } => match u16::try_from(num) {
                Ok(size) if (1..=MAX_RING_SIZE).contains(&size) && (packed || size.is_power_of_two()) => {
                    (ring, (Some(size), self.record.ring(ring).addr, self.record.ring(ring).base))
                }
                _ => {
                    return close(format!(
                        "{code}: ring {ring} of {num} entries; 1 to 32768 belong, a power of two if split"
                    ));
                }
            },
            Request::SetVringAddr { ring, flags: 0, addr } => {
                (ring, (self.record.ring(ring).size, Some(addr), self.record.ring(ring).base))
            }
            Request::SetVringAddr { ring, flags, .. } => {
                return close(format!("{code}: ring {ring} with flags {flags:#x}, but logging was not offered"));
            }
            // A packed ring's base has the used half above; sv3 has both where the available one stands.
            Request::SetVringBase { ring, base } => match u16::try_from(if packed { base & 0xffff } else { base }) {
                Ok(base) => (ring, (self.record.ring(ring).size, self.record.ring(ring).addr, base)),
                Err(_) => return close(format!("{code}: ring {ring} at {base:#x}, beyond a split ring's indices")),
            },
            _ => return Ok(Vec::new()),
        };
        let ring = self.record.ring(index);
        if ring.started && wanted != (ring.size, ring.addr, ring.base) {
            return close(format!("{code}: ring {index} runs; GET_VRING_BASE must stop it first"));
        }
        (ring.size, ring.addr, ring.base) = wanted;
        Ok(self.with_starts(Vec::new()))
    }

    fn enable(&mut self, ring: u16, num: u32) -> Result<Vec<Order>, No> {
        if num > 1 {
            return close(format!("SET_VRING_ENABLE: ring {ring}: {num} is neither 0 nor 1"));
        }
        self.record.ring(ring).enable = Some(num == 1);
        Ok(vec![self.record.ring_enable(ring)])
    }

    /// A new kick fd starts the ring, or starts it anew.
    fn set_kick(&mut self, ring: u16, fd: Option<ForeignFd>, kernel: &dyn Inspect) -> Result<Vec<Order>, No> {
        let Some(kick) = claim(Code::SET_VRING_KICK, ring, fd, kernel)? else {
            return close(format!("SET_VRING_KICK: ring {ring} without an fd; sv3 sleeps when idle and needs kicks"));
        };
        self.record.ring(ring).kick = Some(kick);
        let orders = self.record.ring_start(ring);
        if !orders.is_empty() {
            self.record.ring(ring).fault = None;
            return Ok(orders);
        }
        Ok(self.with_starts(orders))
    }

    /// Appends the start of every ring that can run now: it has all that it needs, and either was not started or had
    /// stopped by itself (its memory may have come back).
    fn with_starts(&mut self, mut orders: Vec<Order>) -> Vec<Order> {
        let able: Vec<u16> = self
            .record
            .rings()
            .filter(|(_, ring)| ring.size.is_some() && ring.addr.is_some() && ring.kick.is_some())
            .filter(|(_, ring)| !ring.started || ring.fault.is_some())
            .map(|(index, _)| index)
            .collect();
        if self.record.memory.is_empty() {
            return orders;
        }
        for index in able {
            let ring = self.record.ring(index);
            ring.run += u32::from(!ring.started);
            ring.started = true;
            ring.fault = None;
            self.record.ever_started = true;
            orders.extend(self.record.ring_start(index));
        }
        orders
    }

    /// Stops a ring. One that does not run only forgets its kick fd.
    fn stop(&mut self, index: u16) -> Vec<Order> {
        let ring = self.record.ring(index);
        if !ring.started {
            let base = ring.base;
            self.record.ring_stopped(index, base);
            return Vec::new();
        }
        ring.stopping = true;
        vec![self.record.ring_stop(index)]
    }
}

fn claim(code: Code, ring: u16, fd: Option<ForeignFd>, kernel: &dyn Inspect) -> Result<Option<Rc<ForeignFd>>, No> {
    match fd {
        Some(fd) if !kernel.claim_eventfd(fd.as_fd()) => {
            close(format!("{code}: ring {ring}: the fd is not an eventfd"))
        }
        // Its last close never waits.
        fd => Ok(fd.map(ForeignFd::prompt).map(Rc::new)),
    }
}
