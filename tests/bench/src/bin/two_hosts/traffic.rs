//! Traffic between two guests, and how long it stands still while something happens.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::network::exchange::Exchange;

use crate::station::Station;

/// Between two datagrams, and between two looks at the connection.
const STEP: Duration = Duration::from_millis(1);

/// The longest times in which nothing came.
#[derive(Clone, Copy, Default)]
pub struct Gap {
    /// Of a TCP connection, whichever direction stood longer.
    pub tcp: Duration,
    /// Of datagrams that one guest sends to the other every millisecond.
    pub datagrams: Duration,
}

/// Lets a TCP connection run both ways between two guests, and datagrams one way, while something happens. The
/// connection must go on and end in order, and each octet must be right.
pub fn gap_during(from: &Station, to: &Station, act: impl FnOnce() -> Result<()>) -> Result<Gap> {
    let exchange = Exchange::start(from.namespace(), to.namespace(), &to.address())?;
    let over = AtomicBool::new(false);
    let sender = from.namespace().inside(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    let receiver = to.namespace().inside(|| Ok(UdpSocket::bind((to.address(), 0))?))?;
    sender.connect(receiver.local_addr()?)?;
    exchange.await_progress()?;
    let gap = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send_until(&over, &sender));
        let datagrams = scope.spawn(|| longest_silence(&over, &receiver));
        let tcp = scope.spawn(|| longest_standstill(&over, &exchange));
        let acted = act().and_then(|()| exchange.await_progress()).and_then(|()| exchange.await_progress());
        over.store(true, SeqCst);
        sending.join().map_err(|_| panicked())?;
        let gap =
            Gap { tcp: tcp.join().map_err(|_| panicked())?, datagrams: datagrams.join().map_err(|_| panicked())?? };
        acted.map(|()| gap)
    })?;
    exchange.finish()?;
    Ok(gap)
}

fn panicked() -> Failure {
    Failure::new("a thread that measures panicked")
}

fn send_until(over: &AtomicBool, socket: &UdpSocket) {
    while !over.load(SeqCst) {
        // It fails while the other guest refuses, for example.
        let _ = socket.send(b"probe");
        std::thread::sleep(STEP);
    }
}

fn longest_silence(over: &AtomicBool, socket: &UdpSocket) -> Result<Duration> {
    socket.set_read_timeout(Some(STEP))?;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !over.load(SeqCst) {
        let came = socket.recv(&mut [0; 64]).is_ok();
        longest = longest.max(last.elapsed());
        if came {
            last = Instant::now();
        }
    }
    Ok(longest)
}

fn longest_standstill(over: &AtomicBool, exchange: &Exchange) -> Duration {
    let mut seen = exchange.came().map(|count| (count, Instant::now()));
    let mut longest = Duration::ZERO;
    while !over.load(SeqCst) {
        for ((count, since), now) in seen.iter_mut().zip(exchange.came()) {
            longest = longest.max(since.elapsed());
            if now != *count {
                (*count, *since) = (now, Instant::now());
            }
        }
        std::thread::sleep(STEP);
    }
    longest
}

/// What a TCP connection that runs both ways carried.
#[derive(Clone, Copy)]
pub struct Carried {
    /// Of both directions.
    pub bits_per_second: f64,
    /// Octets of a frame that the second guest received, on average.
    pub octets_a_frame: f64,
}

/// Lets a TCP connection run both ways between two guests for that long.
pub fn carried(from: &Station, to: &Station, time: Duration) -> Result<Carried> {
    let exchange = Exchange::start(from.namespace(), to.namespace(), &to.address())?;
    exchange.await_progress()?;
    let (before, came, began) = (to.received()?, exchange.came(), Instant::now());
    std::thread::sleep(time);
    let (after, now, took) = (to.received()?, exchange.came(), began.elapsed());
    exchange.finish()?;
    let octets: u64 = now.iter().zip(came).map(|(now, before)| now.saturating_sub(before)).sum();
    let frames = after.0.saturating_sub(before.0).max(1);
    Ok(Carried {
        bits_per_second: octets as f64 * 8.0 / took.as_secs_f64(),
        octets_a_frame: after.1.saturating_sub(before.1) as f64 / frames as f64,
    })
}
