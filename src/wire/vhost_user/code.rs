//! Ids, names and payload sizes of the requests.

use std::fmt;

use super::PAYLOAD_MAX;
use crate::wire::Refuse;

/// A request's id that the specification knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(u32);

macro_rules! codes {
    ($($name:ident = $id:literal,)*) => {
        #[allow(missing_docs, reason = "the specification's names")]
        impl Code {
            $(pub const $name: Code = Code($id);)*
            const NAMES: &[(u32, &str)] = &[$(($id, stringify!($name))),*];
        }
    };
}

codes! {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    RESET_OWNER = 4,
    SET_MEM_TABLE = 5,
    SET_LOG_BASE = 6,
    SET_LOG_FD = 7,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    SEND_RARP = 19,
    NET_SET_MTU = 20,
    SET_BACKEND_REQ_FD = 21,
    IOTLB_MSG = 22,
    SET_VRING_ENDIAN = 23,
    GET_CONFIG = 24,
    SET_CONFIG = 25,
    CREATE_CRYPTO_SESSION = 26,
    CLOSE_CRYPTO_SESSION = 27,
    POSTCOPY_ADVISE = 28,
    POSTCOPY_LISTEN = 29,
    POSTCOPY_END = 30,
    GET_INFLIGHT_FD = 31,
    SET_INFLIGHT_FD = 32,
    GPU_SET_SOCKET = 33,
    RESET_DEVICE = 34,
    VRING_KICK = 35,
    GET_MAX_MEM_SLOTS = 36,
    ADD_MEM_REG = 37,
    REM_MEM_REG = 38,
    SET_STATUS = 39,
    GET_STATUS = 40,
    GET_SHARED_OBJECT = 41,
    SET_DEVICE_STATE_FD = 42,
    CHECK_DEVICE_STATE = 43,
}

impl Code {
    /// The request with this id, if the specification knows it.
    pub fn from_id(id: u32) -> Option<Code> {
        Code::NAMES.iter().any(|(known, _)| *known == id).then_some(Code(id))
    }

    /// The id.
    pub fn id(self) -> u32 {
        self.0
    }

    /// Refuses a payload size that is wrong for the request.
    pub(super) fn check_size(self, size: usize) -> Result<(), Refuse> {
        let right = match self.size() {
            Size::Exactly(wanted) => size == wanted,
            Size::Table => (TABLE_HEAD + REGION_LEN..=TABLE_HEAD + REGIONS_MAX * REGION_LEN).contains(&size),
            Size::Any => size <= PAYLOAD_MAX,
        };
        if right { Ok(()) } else { Err(Refuse(format!("{self}: a payload of {size} octets"))) }
    }

    fn size(self) -> Size {
        match self {
            Code::GET_FEATURES
            | Code::SET_OWNER
            | Code::RESET_OWNER
            | Code::GET_PROTOCOL_FEATURES
            | Code::GET_QUEUE_NUM
            | Code::RESET_DEVICE
            | Code::GET_MAX_MEM_SLOTS
            | Code::SET_LOG_FD
            | Code::GET_STATUS => Size::Exactly(0),
            Code::SET_FEATURES
            | Code::SET_PROTOCOL_FEATURES
            | Code::SET_VRING_NUM
            | Code::SET_VRING_BASE
            | Code::GET_VRING_BASE
            | Code::SET_VRING_KICK
            | Code::SET_VRING_CALL
            | Code::SET_VRING_ERR
            | Code::SET_VRING_ENABLE
            | Code::SEND_RARP
            | Code::NET_SET_MTU
            | Code::SET_STATUS => Size::Exactly(8),
            Code::SET_LOG_BASE => Size::Exactly(16),
            Code::SET_VRING_ADDR => Size::Exactly(40),
            Code::ADD_MEM_REG | Code::REM_MEM_REG => Size::Exactly(8 + REGION_LEN),
            Code::SET_MEM_TABLE => Size::Table,
            _ => Size::Any,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Code::NAMES.iter().find(|(id, _)| *id == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "request {}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

enum Size {
    Exactly(usize),
    Table,
    Any,
}

const TABLE_HEAD: usize = 8;
pub(super) const REGION_LEN: usize = 32;
const REGIONS_MAX: usize = 8;
