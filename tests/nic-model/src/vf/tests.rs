//! The virtual function, driven by hand.

use super::access::{LINKS_UP, RST, VFCTRL, VTIVAR_MISC};
use super::*;
use crate::testing::{Driver, frame};

const MAILBOX: u32 = 0x02FC;
const BUFFER: u32 = 0x0200;
const SUCCESS: u32 = 1 << 31;
const CTS: u32 = 1 << 29;

/// A message and its answer, as a driver does it: take the buffer, write, REQ, wait, read, ACK.
fn ask(driver: &mut Driver<Vf>, words: &[u32]) -> Option<Vec<u32>> {
    driver.write(MAILBOX, 1 << 2);
    assert_ne!(driver.get(MAILBOX) & 1 << 2, 0);
    (0..).zip(words).for_each(|(at, word)| driver.write(BUFFER + 4 * at, *word));
    driver.write(MAILBOX, 1);
    let seen = (0..10).fold(0, |seen, _| seen | driver.get(MAILBOX));
    if seen & 0x30 != 0x30 {
        return None;
    }
    let answer = (0..5).map(|at| driver.get(BUFFER + 4 * at)).collect();
    driver.write(MAILBOX, 1 << 1);
    Some(answer)
}

fn vf(settings: VfSettings) -> Driver<Vf> {
    Driver::of(Vf::new(settings), [0x1000, 0x2000])
}

fn running(settings: VfSettings) -> Driver<Vf> {
    let mut driver = vf(settings);
    driver.get(MAILBOX);
    driver.write(VFCTRL, RST);
    assert_eq!(ask(&mut driver, &[1]).unwrap()[0], 1 | SUCCESS);
    driver.start_queues();
    driver
}

/// A frame to the function or from it.
fn own(len: usize, from: bool) -> Vec<u8> {
    let mut it = frame(len);
    let at = if from { 6 } else { 0 };
    it[at..at + 6].copy_from_slice(&VfSettings::default().mac.unwrap());
    it
}

#[test]
fn frames_go_both_ways_after_a_reset_by_mail() {
    let mut driver = running(VfSettings::default());
    for len in [60, 1000, 1514] {
        assert!(driver.arrives(&own(len, false)));
        assert_eq!(driver.received().unwrap().frame, own(len, false));
        assert_eq!(driver.sends(&own(len, true)).unwrap(), own(len, true));
    }
    assert_eq!((driver.get(0x101C), driver.get(0x1020), driver.get(0x201C)), (3, 60 + 1000 + 1514 + 12, 3));
    assert_eq!(driver.get(0x101C), 3, "they are not cleared");
    driver.content();
}

#[test]
fn nothing_runs_before_the_reset_by_mail() {
    let mut driver = vf(VfSettings::default());
    driver.start_queues();
    assert_eq!((driver.arrives(&own(60, false)), driver.sends(&own(60, true))), (false, None));
    assert_eq!(driver.get(0x10), LINKS_UP);
}

#[test]
fn foreign_frames_are_neither_taken_nor_sent() {
    let mut driver = running(VfSettings::default());
    assert!(!driver.arrives(&frame(60)));
    assert_eq!((driver.sends(&frame(60)), driver.card.spoofed()), (None, 1));
    let mut driver = running(VfSettings { spoof_check: false, ..VfSettings::default() });
    assert!(driver.sends(&frame(60)).is_some());
}

#[test]
fn messages_are_answered_after_some_reads_or_never() {
    let mut driver = running(VfSettings { slow: 5, ..VfSettings::default() });
    assert_eq!(ask(&mut driver, &[8, 6]).unwrap()[0], 8 | SUCCESS | CTS);
    assert_eq!(ask(&mut driver, &[9]).unwrap()[..3], [9 | SUCCESS | CTS, 2, 2]);
    assert_eq!(driver.card.pool().api, 6);
    let mut driver = vf(VfSettings { slow: u32::MAX, ..VfSettings::default() });
    assert_eq!(ask(&mut driver, &[1]), None);
}

#[test]
fn an_answer_waits_until_the_buffer_is_free() {
    let mut driver = running(VfSettings::default());
    driver.write(MAILBOX, 1 << 2);
    driver.write(BUFFER, 8);
    driver.write(MAILBOX, 1 << 2 | 1);
    assert_eq!(driver.get(MAILBOX) & 0x30, 0x20, "acknowledged, not answered");
    driver.write(MAILBOX, 0);
    assert_eq!(driver.get(MAILBOX) & 0x30, 0x10);
    driver.write(BUFFER, 8);
    assert!(driver.card.complaints()[0].contains("VFU"));
}

#[test]
fn a_reset_of_the_physical_function_is_told_and_stops_all() {
    let mut driver = running(VfSettings::default());
    driver.write(VTIVAR_MISC, 0x81);
    driver.write(0x108, 1 << 1);
    driver.card.pf_resets();
    assert_eq!((driver.card.interrupts(), driver.arrives(&own(60, false))), (1 << 1, false));
    assert_eq!(driver.get(MAILBOX) & 0xD0, 1 << 6 | 1 << 4);
    assert_eq!(driver.get(BUFFER), 0x100, "a message without CTS");
    assert_eq!(driver.get(MAILBOX) & 0xC0, 1 << 6);
    assert_eq!(ask(&mut driver, &[1]), None);
    driver.card.pf_is_back();
    assert_eq!(driver.get(MAILBOX) & 0xC0, 1 << 7);
    assert_eq!(driver.get(MAILBOX) & 0xC0, 0);
    assert_eq!(ask(&mut driver, &[8, 3]).unwrap()[0] & (SUCCESS | CTS), 0);
    assert_eq!(ask(&mut driver, &[1]).unwrap()[0], 1 | SUCCESS);
}

#[test]
fn a_change_of_the_link_is_told_by_mail() {
    let mut driver = running(VfSettings::default());
    assert_eq!(driver.get(0x10), LINKS_UP);
    driver.card.set_link(false, &mut driver.ram);
    assert_eq!((driver.get(0x10), driver.get(MAILBOX) & 0x10, driver.get(BUFFER)), (0, 0x10, 0x100 | CTS));
    driver.content();
}

#[test]
fn vectors_are_chosen_by_the_driver() {
    let mut driver = running(VfSettings::default());
    driver.write(0x120, 0x8081);
    driver.write(0x114, 7);
    driver.write(0x110, 7);
    driver.write(0x108, 7);
    driver.arrives(&own(60, false));
    assert_eq!((driver.card.interrupts(), driver.get(0x108)), (1 << 1, 5));
    driver.sends(&own(60, true));
    assert_eq!(driver.card.interrupts(), 1);
    driver.content();
}

#[test]
fn registers_of_the_physical_function_are_not_there() {
    let mut driver = vf(VfSettings::default());
    for at in [0x0018, 0x5080, 0x1030, 0x3FFC, 0x8000] {
        driver.get(at);
    }
    assert_eq!(driver.card.complaints().len(), 5);
}
