//! Helpers of the scenarios in `tests/tests/`: the real switch, a front-end in software, real guests.

#[allow(clippy::panic, clippy::expect_used)]
pub mod bridge;
pub mod capture;
pub mod distance;
pub mod failure;
#[allow(clippy::panic)]
pub mod flow;
pub mod frames;
// These assert what a scenario relies on, at the scenario's line.
#[allow(clippy::panic, clippy::expect_used)]
pub mod guest;
pub mod honest;
pub mod hostile;
pub mod hugepages;
pub mod image;
pub mod leaving_memory;
pub mod libvirt;
pub mod lingering;
pub mod machine;
pub mod neighbour;
pub mod network;
pub mod newcomer;
pub mod nic;
pub mod patience;
pub mod peers;
pub mod pingpong;
pub mod schema;
pub mod screen;
#[allow(clippy::panic)]
pub mod silence;
#[allow(clippy::panic)]
pub mod steady;
pub mod stopped;
pub mod switch;
pub mod sysfs;
pub mod testpmd;
pub mod uplink;
pub mod vm;
