//! What a card says by the vector that is no queue pair's, and what a port does about it.

/// See [`super::device::Device::service`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing that a port has to know.
    Nothing,
    /// The link changed: its speed in Mbit/s; 0: no link.
    Link(u32),
    /// The card, or its physical function, has made a reset. All queues are off and know no ring. The port prepares them
    /// as when it was opened, and starts the device again.
    Reset,
}
