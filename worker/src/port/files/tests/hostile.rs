//! Lengths, positions and counts that no honest side would write.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;

use sv3::attachment::{FrameForm, Transport};
use sv3::drop_reason::DropReason;
use sv3::ipc::RingFault;
use sv3::ledger::INPUT_HALF;

use super::fixture::{Fixture, frame, framed, mac, settings, stream};
use crate::port::files::input::Input;
use crate::port::files::position::{FIRST, Position};
use crate::port::kind::WhenEmpty;

fn two_streams() -> Fixture {
    Fixture::new(&[settings(Transport::Stream, FrameForm::Plain); 2])
}

#[test]
fn frames_of_wrong_lengths_are_dropped_and_the_stream_goes_on() {
    for (len, reason) in [
        (0, DropReason::ShortFrame),
        (13, DropReason::ShortFrame),
        (65_598, DropReason::LongFrame),
        (69_632, DropReason::LongFrame),
    ] {
        let mut fixture = two_streams();
        let good = framed(&frame(mac(1), mac(0), 60));
        let octets = [good.clone(), framed(&frame(mac(1), mac(0), len)), good.clone()].concat();
        for part in octets.chunks(16 * 1024) {
            fixture.peer(0).write_all(part).unwrap();
            fixture.serve(0);
        }
        while fixture.serve(0).frames > 0 {}
        assert_eq!(stream(fixture.peer(1)), good.repeat(2), "{len}");
        assert_eq!(fixture.drops(0), [(reason, 1)], "{len}");
    }
}

#[test]
fn a_length_that_no_frame_has_breaks_the_stream_after_the_frames_before_it() {
    for length in [69_633u32, 1 << 24, u32::MAX] {
        let mut fixture = two_streams();
        let good = framed(&frame(mac(1), mac(0), 60));
        fixture.peer(0).write_all(&[&good[..], &length.to_be_bytes()].concat()).unwrap();
        assert_eq!(fixture.serve(0).frames, 1);
        assert_eq!(fixture.fails(0), Some(RingFault::BadLength));
        assert_eq!(stream(fixture.peer(1)), good);
    }
}

#[test]
fn a_frame_that_has_begun_has_a_time_and_what_is_between_frames_has_none() {
    let mut fixture = two_streams();
    let octets = framed(&frame(mac(1), mac(0), 60));
    // A read that took long ends its burst, and more may be there.
    let rest = |fixture: &mut Fixture| {
        let mut frames = fixture.serve(0).frames;
        while fixture.when_empty(0) == WhenEmpty::LooksAgain {
            frames += fixture.serve(0).frames;
        }
        frames
    };
    for end in [1, 4, 63] {
        fixture.peer(0).write_all(&octets[..end]).unwrap();
        rest(&mut fixture);
        let WhenEmpty::Rests(Some(until)) = fixture.when_empty(0) else { panic!("it rests for ever") };
        rest(&mut fixture);
        assert_eq!(fixture.when_empty(0), WhenEmpty::Rests(Some(until)), "the time was set anew");
        fixture.peer(0).write_all(&octets[end..]).unwrap();
        assert_eq!(rest(&mut fixture), 1);
        assert_eq!(fixture.when_empty(0), WhenEmpty::Rests(None));
    }
}

#[test]
fn an_octet_at_a_time_is_read_without_an_end_in_one_burst() {
    let mut fixture = two_streams();
    let octets = framed(&frame(mac(1), mac(0), 1500));
    let mut bursts = 0;
    for octet in &octets {
        fixture.peer(0).write_all(&[*octet]).unwrap();
        bursts += usize::from(fixture.serve(0).frames > 0);
    }
    assert_eq!((bursts, stream(fixture.peer(1))), (1, octets));
}

#[test]
fn a_worker_that_lied_breaks_its_stream_and_nothing_else() {
    let fixture = two_streams();
    let shared = &fixture.ledger.inputs[7];
    let word = |start, end, half, message| Position { start, end, half, message }.pack();
    let positions = [
        (word(0, 8, 0, 0), 0, false),
        (word(16, 8, 1, 0), 0, false),
        (word(FIRST, INPUT_HALF + 1, 0, 1), 0, false),
        (word(FIRST, INPUT_HALF, 0, 0), 1, false),
        (word(FIRST, FIRST, 0, 1), u64::from(u32::MAX), false),
        (u64::MAX, u64::MAX, false),
        (word(FIRST, INPUT_HALF - 1, 1, 1), 1, true),
        (word(INPUT_HALF, INPUT_HALF, 1, 1), 0, true),
    ];
    for (state, count, is_possible) in positions {
        shared.run.store(5, Relaxed);
        shared.state.store(state, Relaxed);
        shared.messages.iter().for_each(|message| message[7].store(count, Relaxed));
        assert_eq!(Input::open(shared, 5, 69_632).is_ok(), is_possible, "{state:#x} {count}");
    }
    // Another run believes nothing of it.
    let input = Input::open(shared, 6, 69_632).ok().unwrap();
    assert_eq!(input.start(), FIRST);
}
