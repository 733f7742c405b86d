//! What a front-end has said so far, and what it may ask for.

use sv3::virtio::OFFERED;

use crate::ports::device::Device;
use crate::ports::holdings::Holdings;

/// The protocol's state, and the device behind it.
#[derive(Debug)]
pub struct Frontend {
    /// The device that its requests change.
    pub device: Device,
    /// Acknowledged vhost-user protocol features.
    pub protocol_features: u64,
    /// MTU that the front-end told.
    pub mtu: Option<u64>,
    /// Device status that the front-end told.
    pub status: u64,
    /// Virtio features that it may acknowledge.
    pub offers: u64,
    /// What it may hold.
    pub allowance: Holdings,
}

impl Frontend {
    /// A front-end that has said nothing.
    pub fn new(slot: u16) -> Frontend {
        Frontend {
            device: Device::new(slot),
            protocol_features: 0,
            mtu: None,
            status: 0,
            offers: OFFERED,
            allowance: Holdings::UNBOUNDED,
        }
    }

    /// What it holds, including its connection.
    pub fn holdings(&self) -> Holdings {
        let device = self.device.holdings();
        Holdings { fds: device.fds + 1, ..device }
    }
}
