//! Target `ipc`: what the worker reads from the supervisor, and what the supervisor reads from a hostile worker.

use crate::ipc::{Envelope, FRAME_MAX, FRAME_PREFIX, Report, RingFault};

/// Octets: the body of an envelope. The same octets are also read as reports.
pub fn ipc(octets: &[u8]) {
    if let Ok(envelope) = Envelope::decode(octets) {
        assert!(envelope.fds() <= 1);
        let frame = envelope.encode().unwrap();
        assert!(frame.len() <= FRAME_PREFIX + FRAME_MAX);
        assert_eq!(Envelope::decode(&frame[FRAME_PREFIX..]).unwrap(), envelope);
        // Each meaning has one form: the decoder skipped no octets.
        assert_eq!(&frame[FRAME_PREFIX..], octets);
    }
    for octets in octets.as_chunks::<{ Report::SIZE }>().0 {
        let Some(report) = Report::from_bytes(octets) else { continue };
        assert_eq!(Report::from_bytes(&report.to_bytes()), Some(report));
        assert_eq!(u64::from(report.version()) | u64::from(report.landlock_abi()) << 32, report.detail);
        if let Some(fault) = RingFault::from_value(report.value) {
            assert_eq!(fault as u64, report.value);
        }
    }
}
