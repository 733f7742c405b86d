//! The requests of a front-end: payloads and fds.

use super::Code;
use super::code::REGION_LEN;
use crate::MAX_RINGS;
use crate::foreign::ForeignFd;
use crate::ipc::RingAddr;
use crate::wire::Refuse;

/// "Bit 8 is the invalid FD flag. This flag is set when there is no file descriptor in the ancillary data."
const NO_FD: u64 = 1 << 8;

/// A memory region description. All fields in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Guest address.
    pub guest_addr: u64,
    /// Size in octets.
    pub size: u64,
    /// Address in the front-end.
    pub user_addr: u64,
    /// Offset of the region in its file.
    pub offset: u64,
}

/// A well-formed request: right size, right number of fds, ring index below [`MAX_RINGS`].
#[derive(Debug)]
#[allow(missing_docs, reason = "named and described by the specification")]
pub enum Request {
    GetFeatures,
    SetFeatures(u64),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    SetOwner,
    ResetOwner,
    ResetDevice,
    SetMemTable(Vec<(MemoryRegion, ForeignFd)>),
    GetMaxMemSlots,
    AddMemReg(MemoryRegion, ForeignFd),
    RemMemReg(MemoryRegion),
    SetVringNum {
        ring: u16,
        num: u32,
    },
    SetVringAddr {
        ring: u16,
        flags: u32,
        addr: RingAddr,
        log: u64,
    },
    SetVringBase {
        ring: u16,
        base: u32,
    },
    GetVringBase {
        ring: u16,
    },
    SetVringKick {
        ring: u16,
        fd: Option<ForeignFd>,
    },
    SetVringCall {
        ring: u16,
        fd: Option<ForeignFd>,
    },
    SetVringErr {
        ring: u16,
        fd: Option<ForeignFd>,
    },
    SetVringEnable {
        ring: u16,
        num: u32,
    },
    GetQueueNum,
    SendRarp {
        mac: [u8; 6],
    },
    NetSetMtu(u64),
    SetStatus(u64),
    GetStatus,
    SetLogBase {
        size: u64,
        offset: u64,
        fd: ForeignFd,
    },
    /// The eventfd is closed: nobody waits for it.
    SetLogFd,
    /// A request of the specification that belongs to a feature that sv3 does not offer.
    Unserved(Code),
}

impl Request {
    /// Decodes a payload whose size [`Code::check_size`] has accepted.
    pub(super) fn decode(code: Code, payload: &[u8], fds: Vec<ForeignFd>) -> Result<Request, Refuse> {
        let mut p = Fields { code, payload };
        let mut fds = Fds { code, fds };
        let request = match code {
            Code::GET_FEATURES => Request::GetFeatures,
            Code::SET_FEATURES => Request::SetFeatures(p.long()?),
            Code::GET_PROTOCOL_FEATURES => Request::GetProtocolFeatures,
            Code::SET_PROTOCOL_FEATURES => Request::SetProtocolFeatures(p.long()?),
            Code::SET_OWNER => Request::SetOwner,
            Code::RESET_OWNER => Request::ResetOwner,
            Code::RESET_DEVICE => Request::ResetDevice,
            Code::SET_MEM_TABLE => Request::SetMemTable(p.table(&mut fds)?),
            Code::GET_MAX_MEM_SLOTS => Request::GetMaxMemSlots,
            Code::ADD_MEM_REG => Request::AddMemReg(p.single_region()?, fds.exactly_one()?),
            Code::REM_MEM_REG => {
                // "the back-end MAY accept messages with one file descriptor [and] MUST close it"
                drop(fds.take());
                Request::RemMemReg(p.single_region()?)
            }
            Code::SET_VRING_NUM => Request::SetVringNum { ring: p.ring()?, num: p.word()? },
            Code::SET_VRING_ADDR => p.vring_addr()?,
            Code::SET_VRING_BASE => Request::SetVringBase { ring: p.ring()?, base: p.word()? },
            Code::GET_VRING_BASE => Request::GetVringBase { ring: p.ring()? },
            Code::SET_VRING_KICK => p.vring_fd(&mut fds).map(|(ring, fd)| Request::SetVringKick { ring, fd })?,
            Code::SET_VRING_CALL => p.vring_fd(&mut fds).map(|(ring, fd)| Request::SetVringCall { ring, fd })?,
            Code::SET_VRING_ERR => p.vring_fd(&mut fds).map(|(ring, fd)| Request::SetVringErr { ring, fd })?,
            Code::SET_VRING_ENABLE => Request::SetVringEnable { ring: p.ring()?, num: p.word()? },
            Code::GET_QUEUE_NUM => Request::GetQueueNum,
            // "The first 6 bytes of the payload contain the mac address"
            Code::SEND_RARP => Request::SendRarp { mac: p.octets()? },
            Code::NET_SET_MTU => Request::NetSetMtu(p.long()?),
            Code::SET_STATUS => Request::SetStatus(p.long()?),
            Code::GET_STATUS => Request::GetStatus,
            Code::SET_LOG_BASE => Request::SetLogBase { size: p.long()?, offset: p.long()?, fd: fds.exactly_one()? },
            Code::SET_LOG_FD => {
                drop(fds.take());
                Request::SetLogFd
            }
            _ => {
                fds.fds.clear();
                Request::Unserved(code)
            }
        };
        fds.none_left()?;
        Ok(request)
    }

    /// The request's id.
    pub fn code(&self) -> Code {
        match self {
            Request::GetFeatures => Code::GET_FEATURES,
            Request::SetFeatures(_) => Code::SET_FEATURES,
            Request::GetProtocolFeatures => Code::GET_PROTOCOL_FEATURES,
            Request::SetProtocolFeatures(_) => Code::SET_PROTOCOL_FEATURES,
            Request::SetOwner => Code::SET_OWNER,
            Request::ResetOwner => Code::RESET_OWNER,
            Request::ResetDevice => Code::RESET_DEVICE,
            Request::SetMemTable(_) => Code::SET_MEM_TABLE,
            Request::GetMaxMemSlots => Code::GET_MAX_MEM_SLOTS,
            Request::AddMemReg(..) => Code::ADD_MEM_REG,
            Request::RemMemReg(_) => Code::REM_MEM_REG,
            Request::SetVringNum { .. } => Code::SET_VRING_NUM,
            Request::SetVringAddr { .. } => Code::SET_VRING_ADDR,
            Request::SetVringBase { .. } => Code::SET_VRING_BASE,
            Request::GetVringBase { .. } => Code::GET_VRING_BASE,
            Request::SetVringKick { .. } => Code::SET_VRING_KICK,
            Request::SetVringCall { .. } => Code::SET_VRING_CALL,
            Request::SetVringErr { .. } => Code::SET_VRING_ERR,
            Request::SetVringEnable { .. } => Code::SET_VRING_ENABLE,
            Request::GetQueueNum => Code::GET_QUEUE_NUM,
            Request::SendRarp { .. } => Code::SEND_RARP,
            Request::NetSetMtu(_) => Code::NET_SET_MTU,
            Request::SetStatus(_) => Code::SET_STATUS,
            Request::GetStatus => Code::GET_STATUS,
            Request::SetLogBase { .. } => Code::SET_LOG_BASE,
            Request::SetLogFd => Code::SET_LOG_FD,
            Request::Unserved(code) => *code,
        }
    }
}

/// Takes fields from the front of the payload.
struct Fields<'a> {
    code: Code,
    payload: &'a [u8],
}

impl Fields<'_> {
    fn octets<const N: usize>(&mut self) -> Result<[u8; N], Refuse> {
        let (field, rest) =
            self.payload.split_first_chunk().ok_or_else(|| Refuse(format!("{}: payload too short", self.code)))?;
        self.payload = rest;
        Ok(*field)
    }

    fn word(&mut self) -> Result<u32, Refuse> {
        self.octets().map(u32::from_ne_bytes)
    }

    fn long(&mut self) -> Result<u64, Refuse> {
        self.octets().map(u64::from_ne_bytes)
    }

    fn ring(&mut self) -> Result<u16, Refuse> {
        let index = self.word()?;
        self.check_ring(index.into())
    }

    fn check_ring(&self, index: u64) -> Result<u16, Refuse> {
        match u16::try_from(index) {
            Ok(ring) if usize::from(ring) < MAX_RINGS => Ok(ring),
            _ => Err(Refuse(format!("{}: ring {index:#x}, but there are {MAX_RINGS}", self.code))),
        }
    }

    fn vring_addr(&mut self) -> Result<Request, Refuse> {
        let (ring, flags) = (self.ring()?, self.word()?);
        let (desc, used, avail, log) = (self.long()?, self.long()?, self.long()?, self.long()?);
        Ok(Request::SetVringAddr { ring, flags, addr: RingAddr { desc, avail, used }, log })
    }

    /// "Bits (0-7) of the payload contain the vring index. Bit 8 is the invalid FD flag."
    fn vring_fd(&mut self, fds: &mut Fds) -> Result<(u16, Option<ForeignFd>), Refuse> {
        let value = self.long()?;
        if value & !(NO_FD | 0xff) != 0 {
            return Err(Refuse(format!("{}: undefined bits in {value:#x}", self.code)));
        }
        let ring = self.check_ring(value & 0xff)?;
        let fd = if value & NO_FD == 0 { Some(fds.exactly_one()?) } else { None };
        Ok((ring, fd))
    }

    fn region(&mut self) -> Result<MemoryRegion, Refuse> {
        Ok(MemoryRegion { guest_addr: self.long()?, size: self.long()?, user_addr: self.long()?, offset: self.long()? })
    }

    fn single_region(&mut self) -> Result<MemoryRegion, Refuse> {
        self.long()?;
        self.region()
    }

    fn table(&mut self, fds: &mut Fds) -> Result<Vec<(MemoryRegion, ForeignFd)>, Refuse> {
        let (count, _padding) = (self.word()?, self.word()?);
        if usize::try_from(count).ok().and_then(|count| count.checked_mul(REGION_LEN)) != Some(self.payload.len()) {
            return Err(Refuse(format!("{}: {count} regions in {} octets", self.code, self.payload.len())));
        }
        if fds.fds.len() * REGION_LEN != self.payload.len() {
            return Err(Refuse(format!("{}: {count} regions and {} fds", self.code, fds.fds.len())));
        }
        std::mem::take(&mut fds.fds).into_iter().map(|fd| Ok((self.region()?, fd))).collect()
    }
}

/// The message's fds.
struct Fds {
    code: Code,
    fds: Vec<ForeignFd>,
}

impl Fds {
    fn take(&mut self) -> Option<ForeignFd> {
        self.fds.pop()
    }

    fn exactly_one(&mut self) -> Result<ForeignFd, Refuse> {
        match self.fds.len() {
            1 => self.take().ok_or_else(|| Refuse(format!("{}: no fd", self.code))),
            count => Err(Refuse(format!("{}: {count} fds where one belongs", self.code))),
        }
    }

    fn none_left(&self) -> Result<(), Refuse> {
        match self.fds.len() {
            0 => Ok(()),
            count => Err(Refuse(format!("{}: {count} fds that do not belong there", self.code))),
        }
    }
}
