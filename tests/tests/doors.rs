//! Callers that connect and close without pause at a socket do not keep others from being served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::honest::Honest;

/// Callers at each socket.
const CALLERS: usize = 3;
/// Longest time of an honest client's attachment and of a status: 50 ms where each process has a processor, and forty
/// times as much where ten processes and other tests share two.
const SOON: Duration = Duration::from_secs(2);

/// Threads that do one thing without pause until they are dropped.
struct Callers {
    over: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    callers: Vec<JoinHandle<()>>,
}

impl Callers {
    fn of(callers: usize, call: impl Fn() + Clone + Send + 'static) -> Callers {
        let mut all = Callers { over: Arc::default(), calls: Arc::default(), callers: Vec::new() };
        for _ in 0..callers {
            let (over, calls, call) = (all.over.clone(), all.calls.clone(), call.clone());
            all.callers.push(std::thread::spawn(move || {
                while !over.load(Relaxed) {
                    call();
                    calls.fetch_add(1, Relaxed);
                }
            }));
        }
        all
    }

    fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for caller in self.callers.drain(..) {
            let _ = caller.join();
        }
    }
}

fn metrics_address(honest: &Honest) -> Result<SocketAddr> {
    let event = honest.await_event(&["\"metrics\"", "address"])?;
    Ok(event["address"].as_str().unwrap_or_default().parse()?)
}

/// Three callers at each socket.
fn callers_at_each_door(honest: &Honest) -> Result<Vec<Callers>> {
    let at = |path: &std::path::Path| {
        let path = path.to_path_buf();
        Callers::of(CALLERS, move || drop(UnixStream::connect(&path)))
    };
    let address = metrics_address(honest)?;
    let scrapers = Callers::of(CALLERS, move || drop(TcpStream::connect(address)));
    Ok(vec![at(honest.socket()), at(honest.control()), scrapers])
}

/// The longest of so many attachments, each from connect(2) to the first frame received.
fn slowest_attachment(honest: &mut Honest, count: u32) -> Duration {
    let attach = |n| {
        let start = Instant::now();
        let mut guest = Guest::config().memory(4 << 20).ring_size(16).connect(honest.socket());
        guest.send(&noise(mac(202), mac(9), 200, n));
        guest.await_sent();
        start.elapsed()
    };
    (0..count).map(attach).max().unwrap_or_default()
}

#[test]
fn callers_that_come_and_go_keep_no_one_out() -> Result<()> {
    let mut honest = Honest::with(&["--metrics", "127.0.0.1:0"])?;
    let callers = callers_at_each_door(&honest)?;
    let attached = slowest_attachment(&mut honest, 20);

    let start = Instant::now();
    honest.status()?;
    let told = start.elapsed();

    let mut gaps = Vec::new();
    for _ in 0..3 {
        let shot = honest.shoot_worker("KILL")?;
        let restart = honest.await_event(&["\"restart\"", &format!("\"before_pid\":{}", shot.pid)])?;
        gaps.push(Duration::from_micros(restart["gap_us"].as_u64().ok_or_else(|| Failure::new("no gap"))?));
        honest.await_restart(shot)?;
        honest.await_status("a worker on standby", |status| status.worker.standby_pid.is_some())?;
    }
    let calls: Vec<u64> = callers.iter().map(Callers::calls).collect();
    let figures = format!("attached in {attached:?}, status in {told:?}, gaps {gaps:?}; {calls:?} calls");
    if std::env::var_os("SV3_TEST_FIGURES").is_some() {
        eprintln!("{figures}");
    }
    assert!(calls.iter().all(|calls| *calls > 100), "too few calls: {figures}");
    assert!(attached < SOON && told < SOON && gaps.iter().all(|gap| *gap < SOON), "{figures}");
    drop(callers);
    honest.assert_unharmed()
}

#[test]
fn callers_that_ask_nothing_at_the_control_socket_keep_no_one_out() -> Result<()> {
    let mut honest = Honest::new()?;
    let path = honest.control().to_path_buf();
    // Each has more connections than there are places, and closes one only when it has another.
    let callers = Callers::of(CALLERS, move || {
        let silent: Vec<_> = (0..50).filter_map(|_| UnixStream::connect(&path).ok()).collect();
        std::thread::sleep(Duration::from_millis(1));
        drop(silent);
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        let mut caller = UnixStream::connect(honest.control())?;
        caller.write_all(b"status\n")?;
        let mut answer = String::new();
        caller.read_to_string(&mut answer)?;
        assert!(answer.starts_with('{'), "{answer:?}");
        slowest = slowest.max(start.elapsed());
    }
    if std::env::var_os("SV3_TEST_FIGURES").is_some() {
        eprintln!("status in {slowest:?}; {} times fifty callers", callers.calls());
    }
    assert!(slowest < SOON, "{slowest:?}");
    drop(callers);
    honest.assert_undisturbed()
}

#[test]
fn a_message_octet_by_octet_is_read_for_a_turn_only() -> Result<()> {
    let mut honest = Honest::new()?;
    let path = honest.socket().to_path_buf();
    // The longest message, over and over.
    let callers = Callers::of(CALLERS, move || {
        let Ok(mut client) = UnixStream::connect(&path) else { return };
        let message: Vec<u8> = [1u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        client.set_nonblocking(true).unwrap_or(());
        for octet in message.iter().cycle().take(12 * 50) {
            while client.write(&[*octet]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {}
            let _ = client.read(&mut [0; 64]);
        }
    });
    let attached = slowest_attachment(&mut honest, 10);
    assert!(attached < SOON && callers.calls() > 0, "{attached:?}, {} calls", callers.calls());
    drop(callers);
    honest.assert_undisturbed()
}
