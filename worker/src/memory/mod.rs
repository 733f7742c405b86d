//! Guests' memory: mapped, looked up, viewed and copied. Whatever is read here was written by somebody who may be hostile.

pub mod copy;
pub mod deferred;
pub mod frame_head;
pub mod guest_memory;
pub mod mapping;
pub mod meddling;
pub mod shared;
pub mod slice;
pub mod slice_list;
