//! Bits, taken from virtio 1.3 and vhost-user.rst independently of sv3, so that a wrong bit in sv3 shows.
#![allow(missing_docs, reason = "the specifications' names")]

/// Virtio and vhost features.
pub const CSUM: u64 = 1 << 0;
pub const GUEST_CSUM: u64 = 1 << 1;
pub const GUEST_TSO4: u64 = 1 << 7;
pub const GUEST_TSO6: u64 = 1 << 8;
pub const GUEST_ECN: u64 = 1 << 9;
pub const HOST_TSO4: u64 = 1 << 11;
pub const HOST_TSO6: u64 = 1 << 12;
pub const HOST_ECN: u64 = 1 << 13;
pub const MRG_RXBUF: u64 = 1 << 15;
pub const MQ: u64 = 1 << 22;
pub const INDIRECT_DESC: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
pub const VERSION_1: u64 = 1 << 32;
pub const RING_PACKED: u64 = 1 << 34;
pub const IN_ORDER: u64 = 1 << 35;
pub const GUEST_USO4: u64 = 1 << 54;
pub const GUEST_USO6: u64 = 1 << 55;
pub const HOST_USO: u64 = 1 << 56;

/// All offloads of a sender, and all of a receiver.
pub const HOST_OFFLOADS: u64 = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
pub const GUEST_OFFLOADS: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN;
/// UDP segmentation, which QEMU hides from guests of a vhost-user device.
pub const USO: u64 = HOST_USO | GUEST_USO4 | GUEST_USO6;
/// What Linux's driver takes of a modern device, but for that.
pub const LINUX: u64 = HOST_OFFLOADS | GUEST_OFFLOADS | MRG_RXBUF | MQ | INDIRECT_DESC | EVENT_IDX | VERSION_1;

/// vhost-user protocol features.
pub const PROTOCOL_MQ: u64 = 1 << 0;
pub const PROTOCOL_RARP: u64 = 1 << 2;
pub const PROTOCOL_REPLY_ACK: u64 = 1 << 3;
pub const PROTOCOL_MTU: u64 = 1 << 4;
pub const PROTOCOL_RESET_DEVICE: u64 = 1 << 13;
pub const PROTOCOL_MEM_SLOTS: u64 = 1 << 15;
pub const PROTOCOL_STATUS: u64 = 1 << 16;
