//! Guests' memory: mapped, looked up, viewed and copied. Whatever is read here was written by somebody who may be hostile.

pub mod copy;
pub mod mapper;
pub mod mapping;
pub mod shared;
pub mod slice_list;
