//! Scenarios that need the machine for themselves, or a namespace of their own. A plain `cargo test` ignores them;
//! `scripts/check` runs one module after the other: `cargo test --test alone qemu:: -- --ignored --test-threads=1`.

mod card_traffic;
mod crash_points;
mod drift;
mod guest_changes;
mod handing_over;
mod hugepages;
mod internet_of_taps;
mod iommu;
mod kernel_bridge;
mod leaks;
mod linux_segments;
mod migration;
mod multicast_hosts;
mod nic_oracles;
mod qemu;
mod qemu_rules;
mod rules_of_taps;
mod succession_of_taps;
mod taps;
mod testpmd;
