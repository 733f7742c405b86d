//! A software guest that sends large segments to a tap and receives them from it, beside one write or read a frame.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sv3::attachment::Transport;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::{Guest as Driver, NetHdr};
use sv3_tests::network::ports::attachment;
use sv3_tests::network::{Namespace, RawSocket, Tap};
use sv3_tests::switch::Switch as Sv3;

use crate::clock::{cycles, cycles_of};
use crate::frame::{Shape, Station};
use crate::guest::{BATCH, Guest};
use crate::link::{TAP, processes};
use crate::memory::Memory;
use crate::options::Options;
use crate::relay::Relay;
use crate::report::{Case, Figure};
use crate::split::Split;
use crate::turns::{Effort, Player, by_turns, threads_of};
use crate::uplink::case_of;

const FIGURES: &[Figure] = &[
    Figure { name: "kframes/s", digits: 1 },
    Figure { name: "Gbit/s", digits: 1 },
    Figure { name: "CPU us/frame", digits: 2 },
];

/// Frames that come from the tap.
const DOWN: &[Figure] = &[
    Figure { name: "frames/CPU ms", digits: 1 },
    Figure { name: "Gbit/s", digits: 1 },
    Figure { name: "CPU us/frame", digits: 2 },
];

/// To the tap, and from it.
pub fn cases(options: &Options) -> Result<Vec<Case>> {
    Ok(vec![to_the_tap(options)?, from_the_tap(options)?])
}

/// A network with a tap that is open, and its address for frames.
fn network(port: usize) -> Result<(Namespace, Tap)> {
    let network = Namespace::new()?;
    network.make_tap(TAP, &format!("52:54:01:{port:02x}:00:00"), "", "")?;
    let tap = Tap::open(&network, TAP, false)?;
    Ok((network, tap))
}

/// sv3 with the tap as a port and a guest, each of which has spoken.
fn ours(options: &Options, more: &[&str]) -> Result<(Sv3, Namespace, Guest<Split>)> {
    let (network, tap) = network(1)?;
    let switch = Sv3::with(more)?;
    switch.attach(&attachment(Transport::Tap, "up"), &[tap.as_fd()])?;
    let shape = Shape::large_segment();
    let mut guest = Guest::new(options.plan(shape))?;
    guest.connect(switch.socket(), shape.features())?;
    introduce(&switch, &network, 1)?;
    Ok((switch, network, guest))
}

/// The network speaks, so that the switch knows its address.
fn introduce(switch: &Sv3, network: &Namespace, port: u8) -> Result<()> {
    let mut hello = [[0xff; 6], [0x52, 0x54, 1, port, 0, 0]].concat();
    hello.extend([0x88, 0xb5]);
    hello.resize(60, 0);
    let mut listener = Driver::connect(switch.socket());
    RawSocket::open(network, TAP)?.send(&NetHdr::default(), &hello)?;
    while listener.receive_frame() != hello {}
    Ok(())
}

fn to_the_tap(options: &Options) -> Result<Case> {
    let shape = Shape::large_segment();
    let (switch, network, mut guest) = ours(options, &[])?;
    let (bare_network, bare_tap) = self::network(1)?;
    let mut file = bare_tap.into_file();
    let octets = as_octets(shape)?;
    let seconds = options.seconds;
    let players = vec![
        Player::new("sv3", || {
            let threads = threads_of(&processes(&switch)?)?;
            let (effort, before) = (Effort::of(&threads)?, network.figure(TAP, "rx_packets")?);
            let (begin, end) = (cycles(), cycles_of(Duration::from_secs_f64(seconds)));
            while cycles().wrapping_sub(begin) < end {
                guest.send(BATCH.min(16), |_| (Station::new(1, 0), Station::new(0, 0)));
                std::hint::spin_loop();
            }
            figures(network.figure(TAP, "rx_packets")? - before, shape, effort.so_far(&threads)?)
        }),
        Player::new("one write a frame", || {
            let thread = [nix::unistd::gettid().as_raw().unsigned_abs()];
            let (effort, before) = (Effort::of(&thread)?, bare_network.figure(TAP, "rx_packets")?);
            let begin = Instant::now();
            while begin.elapsed().as_secs_f64() < seconds {
                file.write_all(&octets)?;
            }
            figures(bare_network.figure(TAP, "rx_packets")? - before, shape, effort.so_far(&thread)?)
        }),
    ];
    by_turns(options, case_of("TSO segments of 64 KiB from a guest to a tap", FIGURES), players)
}

/// The sender of these frames is slower than their reader, so their reader's processor time is what tells.
fn from_the_tap(options: &Options) -> Result<Case> {
    let shape = Shape::large_segment();
    let (switch, network, mut guest) = ours(options, &["--poll-us", "0"])?;
    let (bare_network, bare_tap) = self::network(1)?;
    let mut file = bare_tap.into_file();
    let reader = Relay::start(None, move |over| {
        let mut frame = vec![0; 70_000];
        while !over.load(Relaxed) {
            let mut ready = [nix::poll::PollFd::new(file.as_fd(), nix::poll::PollFlags::POLLIN)];
            let _ = nix::poll::poll(&mut ready, 100u16);
            while file.read(&mut frame).is_ok() {}
        }
    })?;
    // The guest speaks, so that the switch knows its address.
    guest.send(1, |_| (Station::ALL, Station::new(0, 0)));
    let octets = &as_octets(shape)?;
    let seconds = options.seconds;
    let players = vec![
        Player::new("sv3", || {
            let threads = threads_of(&processes(&switch)?)?;
            let over = &AtomicBool::new(false);
            let effort = Effort::of(&threads)?;
            let came = std::thread::scope(|scope| {
                let guest = &mut guest;
                let receiver = scope.spawn(move || {
                    let mut came = 0;
                    while !over.load(Relaxed) {
                        match guest.receive(|_, _, _| {}) {
                            0 => std::thread::sleep(Duration::from_micros(50)),
                            more => came += u64::from(more),
                        }
                    }
                    came
                });
                let sent = send_segments(&network, octets, seconds);
                over.store(true, Relaxed);
                let came = receiver.join().map_err(|_| Failure::new("the guest panicked"))?;
                sent.map(|()| came)
            })?;
            down_figures(came, shape, effort.so_far(&threads)?)
        }),
        Player::new("one read a frame", || {
            let (thread, before) = ([reader.id()], bare_network.figure(TAP, "tx_packets")?);
            let effort = Effort::of(&thread)?;
            send_segments(&bare_network, octets, seconds)?;
            down_figures(bare_network.figure(TAP, "tx_packets")? - before, shape, effort.so_far(&thread)?)
        }),
    ];
    by_turns(options, case_of("TSO segments of 64 KiB from a tap to a guest", DOWN), players)
}

/// Sends the same segment by the kernel for so many seconds.
fn send_segments(network: &Namespace, octets: &[u8], seconds: f64) -> Result<()> {
    let socket = RawSocket::open(network, TAP)?;
    // The kernel's header has two octets less, and the addresses are the other way round.
    let (header, frame) = octets.split_at(12);
    let mut frame = [header.get(..10).unwrap_or_default(), frame].concat();
    if let Some(addresses) = frame.get_mut(10..22) {
        addresses.rotate_left(6);
    }
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < seconds {
        socket.send_octets(&frame)?;
    }
    Ok(())
}

/// A segment as a guest composes it, header first.
fn as_octets(shape: Shape) -> Result<Vec<u8>> {
    let memory = Memory::new(shape.total() + 8, false)?;
    shape.fill(&memory, 0, 0);
    shape.compose(&memory, 0, (Station::new(1, 0), Station::new(0, 0)), 0);
    let words = (0..shape.total().div_ceil(8)).map(|word| memory.word64(8 * word).load(Relaxed).to_le_bytes());
    let mut octets: Vec<u8> = words.flatten().collect();
    octets.truncate(shape.total());
    Ok(octets)
}

fn figures(frames: u64, shape: Shape, (ran, seconds): (f64, f64)) -> Result<Vec<f64>> {
    if frames == 0 {
        return Err(Failure::new("not one frame came"));
    }
    let rate = frames as f64 / seconds;
    Ok(vec![rate / 1e3, rate * shape.octets as f64 * 8.0 / 1e9, ran * 1e6 / frames as f64])
}

fn down_figures(frames: u64, shape: Shape, effort: (f64, f64)) -> Result<Vec<f64>> {
    let mut values = figures(frames, shape, effort)?;
    if let Some(first) = values.first_mut() {
        *first = frames as f64 / (effort.0 * 1e3);
    }
    Ok(values)
}
