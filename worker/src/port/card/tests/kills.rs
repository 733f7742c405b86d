//! Workers that die at any store, while frames go both ways. All that was accepted arrives, in order but for what is sent
//! again, and at most twice.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::fixture::*;
use crate::process::crash_points::armed;

const FRAMES: u32 = 40;

/// The numbers of frames.
pub fn numbers<'f>(frames: impl IntoIterator<Item = &'f Vec<u8>>) -> Vec<u32> {
    frames.into_iter().map(|frame| u32::from_be_bytes(frame[14..18].try_into().unwrap())).collect()
}

/// Each number below `count` is there, at most as often as workers have seen it, and what comes first is in order.
pub fn assert_all(numbers: &[u32], count: u32, most: usize, what: &str) {
    let mut firsts = Vec::new();
    for number in numbers {
        assert!(numbers.iter().filter(|other| *other == number).count() <= most, "{what}: {number} in {numbers:?}");
        if !firsts.contains(number) {
            firsts.push(*number);
        }
    }
    assert_eq!(firsts, (0..count).collect::<Vec<_>>(), "{what}");
}

/// One worker after the other, each of which dies after some passes, until one lives.
fn live(settings: sv3::card::CardSettings, deaths: &[u32]) -> bool {
    let mut fixture = Fixture::new(settings, GUEST_ALL);
    let len = |number: u32| 60 + (number * 397 % 5000) as usize;
    for number in 0..FRAMES {
        assert!(fixture.model.receive(&frame(GUEST, OUTSIDE, number, len(number))));
        fixture.guest_sends(frame(OUTSIDE, GUEST, number, len(number)));
    }
    let (mut sent, mut died) = (Vec::new(), 0);
    for passes in deaths {
        armed::arm(*passes);
        let outcome = catch_unwind(AssertUnwindSafe(|| fixture.serve()));
        armed::arm(u32::MAX);
        sent.extend(fixture.model.sent());
        if outcome.is_ok() {
            break;
        }
        died += 1;
        fixture.replace();
        fixture.start();
    }
    fixture.serve();
    sent.extend(fixture.model.sent());
    let received: Vec<_> = fixture.guest_got().into_iter().map(|(_, frame)| frame).collect();
    let most = 1 + died;
    assert_all(&numbers(&received), FRAMES, most, &format!("in, {deaths:?}"));
    assert_all(&numbers(&sent), FRAMES, most, &format!("out, {deaths:?}"));
    for (number, frame_) in numbers(&received).into_iter().zip(&received) {
        assert_eq!(*frame_, frame(GUEST, OUTSIDE, number, len(number)));
    }
    for (number, frame_) in numbers(&sent).into_iter().zip(&sent) {
        assert_eq!(*frame_, frame(OUTSIDE, GUEST, number, len(number)));
    }
    // The card goes on, and no octet went astray.
    assert!(fixture.model.receive(&frame(GUEST, OUTSIDE, 99, 70)));
    fixture.guest_sends(frame(OUTSIDE, GUEST, 99, 70));
    fixture.serve();
    assert_eq!((fixture.guest_got().len(), fixture.model.sent().len()), (1, 1));
    fixture.model.assert_content();
    died == deaths.len()
}

#[test]
fn a_death_at_any_point_costs_no_frame() {
    let [physical, function] = both();
    for settings in [physical, sv3::card::CardSettings { lro: true, ..physical }, function] {
        let points = (0..).take_while(|passes| live(settings, &[*passes])).count();
        assert!(points > 50, "{points}");
    }
}

#[test]
fn deaths_in_a_row_cost_no_frame() {
    for seed in 0..150u32 {
        let deaths: Vec<u32> = (0..4).map(|n| seed.wrapping_mul(2_654_435_761).rotate_left(n * 7) % 130).collect();
        live(settings(), &deaths);
    }
}

#[test]
fn frames_wait_while_the_card_is_off() {
    let mut fixture = Fixture::new(settings(), GUEST_ALL);
    (0..10).for_each(|number| assert!(fixture.model.receive(&frame(GUEST, OUTSIDE, number, 100))));
    fixture.replace();
    (0..10).for_each(|number| fixture.guest_sends(frame(OUTSIDE, GUEST, number, 100)));
    // The card has not started. What it received is forwarded; what is to be sent waits.
    fixture.serve();
    assert_eq!((fixture.guest_got().len(), fixture.model.sent().len()), (10, 0));
    fixture.start();
    fixture.serve();
    assert_eq!(numbers(&fixture.model.sent()), (0..10).collect::<Vec<_>>());
    fixture.model.assert_content();
}
