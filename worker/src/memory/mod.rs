//! Guests' memory: mapped, looked up, viewed and copied. All that is read here may come from a hostile guest.

pub mod checksum;
pub mod copy;
pub mod deferred;
pub mod dirty_log;
pub mod dma;
pub mod edited_head;
pub mod file_io;
pub mod frame_head;
pub mod guest_memory;
pub mod mapping;
pub mod meddling;
pub mod shared;
pub mod slice;
pub mod slice_list;
