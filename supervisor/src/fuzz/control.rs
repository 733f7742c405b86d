//! Target `control`: an exchange on the control socket, and one with a scraper of metrics.

use std::cell::RefCell;
use std::io::{IoSlice, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sv3::fuzz::{Fds, Input};

use crate::doors::control::Control;
use crate::doors::http::{Ask, read_request, response};
use crate::doors::listener::{Listener, Peer};

/// Octets: pieces, each its length (1), the number of its fds (1) and its octets. The same octets go to both.
pub fn control(octets: &[u8]) {
    thread_local! {
        static CONTROL: RefCell<Control> = RefCell::new({
            let name = format!("sv3-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
            let listener = Listener::bind(&std::env::temp_dir().join(name), true).unwrap();
            // No other process may connect: the target makes the connections.
            listener.remove();
            Control::new(listener)
        });
    }
    CONTROL.with_borrow_mut(|control| converse(control, octets));
    scrape(octets);
}

fn converse(control: &mut Control, octets: &[u8]) {
    let fds = Fds::default();
    let (mut client, stream) = UnixStream::pair().unwrap();
    stream.set_nonblocking(true).unwrap();
    client.set_nonblocking(true).unwrap();
    let uid = nix::unistd::geteuid().as_raw();
    let index = control.admit(Peer { stream: std::os::fd::OwnedFd::from(stream).into(), pid: 1, uid }).unwrap();
    let mut input = Input::new(octets);
    let (mut said, mut sent_fds, mut answer) = (Vec::new(), 0, None);
    while !input.is_empty() && control.fd(index).is_some() {
        let (len, count) = (usize::from(input.u8()), input.below(4));
        let piece = input.take(len);
        if piece.is_empty() || !send(&client, piece, count, &fds) {
            continue;
        }
        said.extend_from_slice(piece);
        sent_fds += count;
        let Some((line, fds)) = control.proceed(index) else { continue };
        let expected = said.split(|octet| *octet == b'\n').next().unwrap();
        assert_eq!(line, String::from_utf8_lossy(expected).trim());
        assert_eq!(fds.len(), sent_fds);
        // Longer than the socket takes at once.
        let text = line.repeat(usize::from(input.u8()) * 20);
        match input.below(4) {
            0 => {
                let ticket = control.defer(index).unwrap();
                assert!(ticket.index() == index && control.awaits(&ticket));
            }
            _ => drop(control.answer(index, text.clone().into_bytes())),
        }
        answer = Some(text + "\n");
        break;
    }
    let mut heard = Vec::new();
    // A peer that sends more after its request loses nothing but its own exchange, and a peer that is answered gets the
    // whole answer.
    for _ in 0..100 {
        let _ = client.read_to_end(&mut heard);
        if control.fd(index).is_none() {
            break;
        }
        control.proceed(index);
    }
    let _ = client.read_to_end(&mut heard);
    let text = answer.unwrap_or_default().into_bytes();
    assert!(heard.is_empty() || heard == text, "{} octets of {}", heard.len(), text.len());
    drop(client);
    control.expire(Instant::now() + Duration::from_secs(3600));
    assert!(control.fd(index).is_none() && control.due().is_none());
    fds.assert_closed();
}

fn send(client: &UnixStream, piece: &[u8], count: usize, fds: &Fds) -> bool {
    let given: Vec<_> = (0..count).map(|_| fds.one()).collect();
    let given: Vec<_> = given.iter().map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); 64];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if count > 0 {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&given)));
    }
    sendmsg(client, &[IoSlice::new(piece)], &mut ancillary, SendFlags::NOSIGNAL) == Ok(piece.len())
}

/// The first request is found as soon as it is complete, and octets after it change nothing.
fn scrape(octets: &[u8]) {
    let Some(ask) = read_request(octets) else { return };
    let short = octets.len().min(200);
    let end = (0..short).find(|end| read_request(&octets[..*end]).is_some());
    if let Some(end) = end {
        assert_eq!(read_request(&octets[..end]).as_ref(), Some(&ask));
    }
    let (metrics, whole) = (matches!(ask, Ask::Metrics | Ask::Head), ask != Ask::Head);
    let text = String::from_utf8(response(ask, "sv3_ports 0\n# EOF\n".to_string())).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(head.starts_with("HTTP/1.1 200 OK\r\n"), metrics);
    assert!(!whole || head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
    assert_eq!(body.ends_with("# EOF\n"), metrics && whole);
}
