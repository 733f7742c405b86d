//! Causes, masks and timers.

use super::*;

/// Queue 0 receives by vector 1 and sends by vector 2; the others have vector 3.
fn msix() -> Interrupts {
    let mut it = Interrupts::default();
    let complaints = &mut Complaints::default();
    it.write(0x0900, 0x8281, complaints);
    it.write(0x0A00, 0x8300, complaints);
    it.write(0x0898, MSIX | EIAME, complaints);
    it.write(0x0810, 0xFFFF, complaints);
    it
}

#[test]
fn what_is_pending_survives_its_mask() {
    let mut it = msix();
    it.queue(0, false);
    assert_eq!(it.take(), 0);
    it.write(0x0AA0, 1 << 1, &mut Complaints::default());
    assert_eq!((it.take(), it.take()), (1 << 1, 0));
    it.queue(0, true);
    it.other(LSC);
    assert_eq!((it.take(), it.read(0x0808)), (0, Some(1 << 2 | LSC | 1 << 31)));
    it.write(0x0880, 1 << 2 | LSC, &mut Complaints::default());
    assert_eq!(it.take(), 1 << 2 | 1 << 3);
    // The queue's cause cleared itself (EIAC), the link's did not.
    assert_eq!((it.read(0x0800), it.read(0x0800)), (Some(LSC | 1 << 31), Some(0)));
}

#[test]
fn a_vector_masks_itself_if_the_driver_wants_it() {
    let mut it = msix();
    it.write(0x0AD0, 1 << 1, &mut Complaints::default());
    it.write(0x0AA0, 1 << 1, &mut Complaints::default());
    it.queue(0, false);
    it.queue(0, false);
    assert_eq!((it.take(), it.read(0x0AA0)), (1 << 1, Some(0)));
    it.write(0x0AA0, 1 << 1, &mut Complaints::default());
    assert_eq!(it.take(), 1 << 1, "the second one was pending");
}

#[test]
fn timers_hold_vectors_back_once_time_passes() {
    let mut it = msix();
    it.write(0x0824, 125 << 3, &mut Complaints::default());
    it.write(0x0AA0, 1 << 1, &mut Complaints::default());
    it.pass_time(1);
    it.queue(0, false);
    it.queue(0, false);
    assert_eq!(it.take(), 1 << 1);
    it.pass_time(255);
    assert_eq!(it.take(), 0);
    it.pass_time(1);
    assert_eq!(it.take(), 1 << 1);
}

#[test]
fn one_vector_serves_all_without_msix() {
    let mut it = msix();
    it.write(0x0898, 0, &mut Complaints::default());
    it.write(0x0880, LSC | 1 << 1, &mut Complaints::default());
    it.other(LSC);
    it.queue(0, false);
    assert_eq!(it.take(), 1);
    assert_eq!(it.read(0x0800), Some(LSC | 1 << 1));
}
