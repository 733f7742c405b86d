//! Asks the switch for the page server: one octet is a question, and nothing else can be asked.

use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use sv3::control::ControlRequest;

use crate::control::Control;

/// Longest time to wait for each part of an answer.
const TIME: Duration = Duration::from_secs(3);
/// Most octets of an answer: that of 1,024 ports has some 2 MiB.
pub const ANSWER_MAX: u32 = 8 << 20;
/// Octets before an answer: the question, whether the switch answered, and the length of what follows.
pub const HEAD: usize = 6;

/// What the page server may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `status`.
    Status,
    /// `crashes`.
    Crashes,
}

impl Question {
    /// All.
    pub const ALL: [Question; 2] = [Question::Status, Question::Crashes];

    /// The octet that asks.
    pub fn octet(self) -> u8 {
        match self {
            Question::Status => b's',
            Question::Crashes => b'c',
        }
    }

    /// What an octet asks for.
    pub fn of(octet: u8) -> Option<Question> {
        Question::ALL.into_iter().find(|question| question.octet() == octet)
    }

    fn request(self) -> ControlRequest {
        match self {
            Question::Status => ControlRequest::Status,
            Question::Crashes => ControlRequest::Crashes,
        }
    }
}

/// Answers questions until the page server ends, which is an error.
pub fn serve(control: &Control, page: &UnixStream) -> Result<(), String> {
    loop {
        let mut octet = [0];
        match recv(page.as_raw_fd(), &mut octet, MsgFlags::empty()) {
            Ok(0) => return Err("the page server has ended".to_string()),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(format!("the page server has ended: {errno}")),
        }
        let [octet] = octet;
        let question = Question::of(octet).ok_or_else(|| format!("the page server asks for {octet}"))?;
        let (good, text) = ask(control, question).map_or_else(|problem| (0, problem), |text| (1, text));
        let mut answer = vec![question.octet(), good];
        answer.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
        answer.extend_from_slice(text.as_bytes());
        send_all(page, &answer).map_err(|errno| format!("the page server has ended: {errno}"))?;
    }
}

/// Asks at the control socket. An error is in words.
fn ask(control: &Control, question: Question) -> Result<String, String> {
    let path = control.path();
    let socket = UnixStream::connect(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => "no switch runs".to_string(),
        _ => format!("the switch cannot be asked: {error}"),
    })?;
    control.check_owner(&socket, &path)?;
    let silent = |_| "the switch does not answer".to_string();
    socket.set_read_timeout(Some(TIME)).map_err(silent)?;
    send_all(&socket, format!("{}\n", question.request()).as_bytes()).map_err(|errno| silent(errno.into()))?;
    let mut text = String::new();
    let count = socket.take(u64::from(ANSWER_MAX) + 1).read_to_string(&mut text).map_err(silent)?;
    match count {
        0 => Err("the switch ended before it answered".to_string()),
        _ if text.len() > ANSWER_MAX as usize => Err("the switch's answer is too long".to_string()),
        _ => Ok(text),
    }
}

/// One syscall, whatever version of the standard library this is built with.
fn send_all(socket: &UnixStream, mut octets: &[u8]) -> Result<(), Errno> {
    while !octets.is_empty() {
        match send(socket.as_raw_fd(), octets, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => octets = octets.get(sent..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
