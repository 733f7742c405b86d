//! Why a frame was dropped. Each reason has a counter for each port, in the ledger and in `sv3 status`.
//!
//! ```
//! use sv3::drop_reason::DropReason;
//!
//! assert_eq!(DropReason::RxNoBuffers.name(), "no_rx_buffers");
//! assert_eq!(DropReason::ALL.len(), DropReason::COUNT);
//! ```

/// A reason for dropping a frame. "Charged to" names the port whose counter grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// The receiver had too few buffers for the whole frame. Charged to the receiver.
    RxNoBuffers,
    /// The receiver's ring is not started or not enabled. Charged to the receiver.
    RxDown,
    /// The frame is larger than one receive buffer and the receiver did not negotiate mergeable buffers. Charged to
    /// the receiver.
    RxTooSmall,
    /// The receiver offered a malformed buffer (bad address, not writable, loop). Charged to the receiver.
    RxBadChain,
    /// The sender's descriptor chain is malformed (bad address, loop, writable, too many descriptors). Charged to the
    /// sender.
    BadChain,
    /// Shorter than a virtio-net header and an Ethernet header. Charged to the sender.
    ShortFrame,
    /// Longer than [`crate::frame::MAX_FRAME`] octets. Charged to the sender.
    LongFrame,
    /// The virtio-net header's offload fields contradict the frame or the negotiated features. Charged to the sender.
    BadOffload,
    /// The source address is multicast or zero. Charged to the sender.
    BadSource,
    /// The destination is the port that the frame came from. Charged to the sender.
    Hairpin,
    /// A destination of the bridge group 01-80-C2-00-00-0x, which no bridge forwards (802.1Q, 8.6.3). Charged to the
    /// sender.
    LinkLocal,
    /// The frame would be flooded and no other port is up that it may go to; or the port of its destination is not in its
    /// VLAN. Charged to the sender.
    NoDestination,
    /// The frame came from an uplink, and its source is the address of a guest of this switch that runs: the network
    /// sent the guest's own frame back. Charged to the sender.
    UplinkEcho,
    /// The source address belongs to another port that runs, and the sender's port may not take it. Charged to the
    /// sender.
    AddressConflict,
    /// The frame looks for loops and is not for guests. Charged to the sender.
    LoopProbe,
    /// Its VLAN tag, or that it has none, is not what the sender's port may send ([`crate::rules::Vlan`]). Charged to the
    /// sender.
    VlanTag,
    /// The frame would leave without its tag, and what is behind the tag would then count as one (VLAN hopping). Charged
    /// to the sender.
    VlanHop,
    /// The sender's port and the receiver's may not speak to each other ([`crate::rules::Isolation`]). Charged to the
    /// sender.
    Isolated,
    /// Its Ethernet source, or a hardware address in its ARP or neighbour discovery, is not the port's
    /// ([`crate::rules::Guard`]). Charged to the sender.
    GuardMac,
    /// Its IPv4 or IPv6 source, or an address that its ARP or neighbour discovery claims, is not the port's. Charged to the
    /// sender.
    GuardIp,
    /// Only a DHCP server, a router or a bridge sends this, and the port may be none. Charged to the sender.
    GuardRole,
    /// Too many such frames to many ports ([`crate::rules::Storm`]). Charged to the sender.
    Storm,
    /// The sender's port has as many addresses as it may have ([`crate::rules::PortRules::max_addresses`]), and this is one
    /// more. Charged to the sender.
    AddressLimit,
    /// The receiver has got as much as it may ([`crate::rules::Limits::to_port`]). Charged to the receiver.
    RxLimit,
    /// The sender's port gets a mirror's copies, and sends nothing ([`crate::mirror`]). Charged to the sender.
    MirrorPort,
    /// The destination is a static address of a declared port at which nobody is attached. Charged to the sender.
    PortAbsent,
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = 26;

    /// All reasons, in the order of their counters.
    pub const ALL: [DropReason; DropReason::COUNT] = [
        DropReason::RxNoBuffers,
        DropReason::RxDown,
        DropReason::RxTooSmall,
        DropReason::RxBadChain,
        DropReason::BadChain,
        DropReason::ShortFrame,
        DropReason::LongFrame,
        DropReason::BadOffload,
        DropReason::BadSource,
        DropReason::Hairpin,
        DropReason::LinkLocal,
        DropReason::NoDestination,
        DropReason::UplinkEcho,
        DropReason::AddressConflict,
        DropReason::LoopProbe,
        DropReason::VlanTag,
        DropReason::VlanHop,
        DropReason::Isolated,
        DropReason::GuardMac,
        DropReason::GuardIp,
        DropReason::GuardRole,
        DropReason::Storm,
        DropReason::AddressLimit,
        DropReason::RxLimit,
        DropReason::MirrorPort,
        DropReason::PortAbsent,
    ];

    /// The reason's stable name, as in `sv3 status --json`.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::RxNoBuffers => "no_rx_buffers",
            DropReason::RxDown => "rx_down",
            DropReason::RxTooSmall => "rx_too_small",
            DropReason::RxBadChain => "rx_bad_chain",
            DropReason::BadChain => "bad_chain",
            DropReason::ShortFrame => "short_frame",
            DropReason::LongFrame => "long_frame",
            DropReason::BadOffload => "bad_offload",
            DropReason::BadSource => "bad_source",
            DropReason::Hairpin => "hairpin",
            DropReason::LinkLocal => "link_local",
            DropReason::NoDestination => "no_destination",
            DropReason::UplinkEcho => "uplink_echo",
            DropReason::AddressConflict => "address_conflict",
            DropReason::LoopProbe => "loop_probe",
            DropReason::VlanTag => "vlan_tag",
            DropReason::VlanHop => "vlan_hop",
            DropReason::Isolated => "isolated",
            DropReason::GuardMac => "guard_mac",
            DropReason::GuardIp => "guard_ip",
            DropReason::GuardRole => "guard_role",
            DropReason::Storm => "storm",
            DropReason::AddressLimit => "address_limit",
            DropReason::RxLimit => "rx_limit",
            DropReason::MirrorPort => "mirror_port",
            DropReason::PortAbsent => "port_absent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_counter() {
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
    }
}
