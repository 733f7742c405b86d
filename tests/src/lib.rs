//! Helpers of the scenarios in `tests/tests/`: the real switch, a front-end in software, real guests.

pub mod failure;
pub mod image;
pub mod testpmd;
pub mod vm;
