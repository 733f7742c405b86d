//! An Intel 82599 in software: registers, descriptors and offloads of the physical function and of a virtual function,
//! written from the data sheet's facts. sv3's driver runs against it in process; Linux and DPDK drive it as a vfio-user
//! device, which shows that it is what they take for an 82599.

pub mod vfio_user;

/// The memory that the card reaches by DMA, by the addresses that its driver gave it.
pub trait Memory {
    /// Reads octets. False: the card may not read there; nothing is read.
    fn read(&mut self, iova: u64, to: &mut [u8]) -> bool;

    /// Writes octets. False: the card may not write there; nothing is written.
    fn write(&mut self, iova: u64, from: &[u8]) -> bool;
}

/// What the test, or whoever runs the model, sees of a card. All that the card does happens inside of these calls.
pub trait Card {
    /// The driver reads `size` octets (1, 2, 4 or 8) at `at` of BAR 0.
    fn read(&mut self, at: u32, size: u8) -> u64;

    /// The driver writes to BAR 0. A doorbell makes the card send.
    fn write(&mut self, at: u32, size: u8, value: u64, memory: &mut dyn Memory);

    /// A frame comes from the wire. False: the card dropped it (no link, filtered, no descriptor).
    fn receive(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool;

    /// The next frame that the card has sent to the wire.
    fn sent(&mut self) -> Option<Vec<u8>>;

    /// MSI-X vectors that the card has raised since the last call, a bit each.
    fn interrupts(&mut self) -> u32;

    /// The wire is plugged in or pulled out.
    fn set_link(&mut self, up: bool, memory: &mut dyn Memory);

    /// Registers that a driver has touched and the model does not know, and other errors of the driver: DMA where the
    /// card may not, a descriptor that the data sheet forbids, writes to a ring that runs.
    fn complaints(&self) -> &[String];
}
