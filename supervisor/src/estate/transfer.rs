//! Passes a record and its files from one supervisor to the next, over a connection at the control socket.
//!
//! The successor asks by a line, `succeed VERSION`. The old supervisor answers with an error (a line of JSON), or with
//! a preamble: [`MAGIC`], the number of files, and the number of octets of the record. Then come the files, up to
//! [`MOST_FILES`] with each octet of padding, and the record. From then on each side sends single octets: see [`Word`].

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sv3::foreign::ForeignFd;

use super::{Heirlooms, Record, Unfit, unfit};
use crate::ancillary;

/// Begins a preamble. No error begins so.
const MAGIC: &[u8; 8] = b"sv3heir\x01";
/// Octets of a preamble.
const PREAMBLE: usize = 16;
/// Most files of one message (net/scm.h: `SCM_MAX_FD`).
const MOST_FILES: usize = 253;
/// Most octets of a record: 1,024 ports with 32,000 regions have some 12 MiB.
const RECORD_MAX: usize = 64 << 20;
/// Most files that go with a record.
const FILES_MAX: usize = 1 << 20;
/// How long the old supervisor may be silent.
pub const SILENCE: Duration = Duration::from_secs(5);
/// Most octets of an error.
const ERROR_MAX: usize = 4096;
/// Most octets of one write, so that a supervisor never writes for long.
const PIECE: usize = 256 << 10;
/// Most writes in one turn.
const WRITES: usize = 64;

/// What one side tells the other after the record, an octet each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The successor: its worker waits on standby. Its link to the worker comes along.
    Ready,
    /// The old supervisor: its workers are dead, and it will not serve again. This is the commit point.
    Go,
    /// The successor: its worker serves.
    Done,
}

impl Word {
    const ALL: [Word; 3] = [Word::Ready, Word::Go, Word::Done];

    fn octet(self) -> u8 {
        match self {
            Word::Ready => b'r',
            Word::Go => b'g',
            Word::Done => b'd',
        }
    }
}

/// What was heard.
#[derive(Debug)]
pub enum Heard {
    /// Nothing for now.
    Nothing,
    /// A word, and the file that came with it.
    Word(Word, Option<ForeignFd>),
    /// The other side has closed its end, or said something else.
    End,
}

/// Says a word. It is so short that the socket always has room for it.
pub fn say(socket: impl AsFd, word: Word, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let sent = send(socket, &[word.octet()], file.as_slice())?;
    if sent == 1 { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

/// Hears the next word.
pub fn hear(socket: impl AsFd) -> Heard {
    let mut octet = [0];
    match ancillary::receive(socket, &mut octet) {
        Ok(mut received) => match Word::ALL.into_iter().find(|word| received.count == 1 && word.octet() == octet[0]) {
            Some(word) => Heard::Word(word, received.fds.pop()),
            None => Heard::End,
        },
        Err(error) if ancillary::is_later(&error) || error.kind() == ErrorKind::Interrupted => Heard::Nothing,
        Err(_) => Heard::End,
    }
}

/// What the old supervisor has still to send.
pub struct Outbox {
    preamble: Vec<u8>,
    /// Files that are sent, of so many.
    files: (usize, usize),
    octets: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// A record, and how many files go with it.
    pub fn new(octets: Vec<u8>, files: usize) -> Result<Outbox, Unfit> {
        if octets.len() > RECORD_MAX || files > FILES_MAX {
            return unfit(format!("a record of {} octets and {files} files is too large", octets.len()));
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        let preamble = [MAGIC.as_slice(), &number(files), &number(octets.len())].concat();
        Ok(Outbox { preamble, files: (0, files), octets, sent: 0 })
    }

    /// Sends as much as there is room for. `files` are all files of the record. Returns whether everything is sent.
    pub fn flush(&mut self, socket: impl AsFd, files: &[BorrowedFd<'_>]) -> io::Result<bool> {
        for _ in 0..WRITES {
            if self.is_sent() {
                break;
            }
            match self.send_next(&socket, files) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if ancillary::is_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.is_sent())
    }

    fn send_next(&mut self, socket: impl AsFd, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        if !self.preamble.is_empty() {
            let sent = send(socket, &self.preamble, &[])?;
            self.preamble.drain(..sent.min(self.preamble.len()));
            return Ok(());
        }
        let (sent, all) = self.files;
        if files.len() != all {
            return Err(io::Error::other("the files have changed"));
        }
        if sent < all {
            let next = files.get(sent..all.min(sent + MOST_FILES)).unwrap_or_default();
            send(socket, &[0], next)?;
            self.files.0 = sent + next.len();
            return Ok(());
        }
        let rest = self.octets.get(self.sent..).unwrap_or_default();
        self.sent += send(socket, rest.get(..PIECE).unwrap_or(rest), &[])?;
        Ok(())
    }

    fn is_sent(&self) -> bool {
        self.preamble.is_empty() && self.files.0 == self.files.1 && self.sent >= self.octets.len()
    }
}

fn send(socket: impl AsFd, octets: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(socket, &[IoSlice::new(octets)], &mut ancillary, flags)?)
}

/// Asks for the estate and receives it. Waits, but for no more than [`SILENCE`] at a time. The error is for people.
pub fn receive(socket: &OwnedFd) -> Result<(Record, Heirlooms), String> {
    let mut inbox = Inbox { socket, octets: VecDeque::new(), files: Vec::new(), ended: false };
    let ask = format!("succeed {}\n", super::VERSION);
    ancillary::send(socket, ask.as_bytes()).map_err(|error| format!("the running switch cannot be asked: {error}"))?;
    let preamble = inbox.read(PREAMBLE)?;
    let number = |at: usize| preamble.get(at..at + 4).and_then(|octets| octets.try_into().ok()).map(u32::from_le_bytes);
    let (Some(MAGIC), Some(files), Some(octets)) = (preamble.first_chunk(), number(8), number(12)) else {
        return Err(inbox.refusal(preamble));
    };
    let (files, octets) = (files as usize, octets as usize);
    if files > FILES_MAX || octets > RECORD_MAX {
        return Err("the running switch announces a record that is too large".to_string());
    }
    inbox.read(files.div_ceil(MOST_FILES))?;
    let record = inbox.read(octets)?;
    if inbox.files.len() != files {
        return Err(format!("{} files came with the record, and {files} were announced", inbox.files.len()));
    }
    let record = Record::decode(&record).map_err(|why| why.to_string())?;
    Ok((record, Heirlooms::new(inbox.files)))
}

/// What has come so far.
struct Inbox<'s> {
    socket: &'s OwnedFd,
    octets: VecDeque<u8>,
    files: Vec<ForeignFd>,
    ended: bool,
}

impl Inbox<'_> {
    /// The next octets. If fewer come before the end, returns these.
    fn read(&mut self, count: usize) -> Result<Vec<u8>, String> {
        while self.octets.len() < count && !self.ended {
            self.wait()?;
            // Not beyond what is asked for: a word of the other side may follow.
            let mut space = vec![0; (count - self.octets.len()).min(64 << 10)];
            match ancillary::receive(self.socket, &mut space) {
                Ok(received) if received.truncated => {
                    return Err("this process may not open as many files as the running switch has; raise the limit \
                                of open files (`ulimit -Hn`)"
                        .to_string());
                }
                Ok(received) => {
                    self.ended = received.count == 0;
                    self.octets.extend(space.get(..received.count).unwrap_or_default());
                    self.files.extend(received.fds);
                }
                Err(error) if ancillary::is_later(&error) || error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the connection to the running switch failed: {error}")),
            }
            if self.files.len() > FILES_MAX {
                return Err("the running switch sends too many files".to_string());
            }
        }
        let count = count.min(self.octets.len());
        Ok(self.octets.drain(..count).collect())
    }

    fn wait(&self) -> Result<(), String> {
        let due = Instant::now() + SILENCE;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("the running switch was silent for {} s", SILENCE.as_secs()));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0) {
                return Ok(());
            }
        }
    }

    /// The words of an answer that is no preamble.
    fn refusal(&mut self, mut answer: Vec<u8>) -> String {
        answer.extend(self.read(ERROR_MAX).unwrap_or_default());
        let json: Option<serde_json::Value> = serde_json::from_slice(&answer).ok();
        let words = json.as_ref().and_then(|json| json.get("error")?.as_str());
        match words {
            Some(words) => words.chars().filter(|c| !c.is_control()).collect(),
            None => "the running switch gave no answer that this version understands".to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::estate::record::{CrashLogRecord, DoorRecord, DoorsRecord, TelemetryRecord};
    use crate::estate::{FileNumber, Files};

    fn record(files: usize) -> Record {
        let null = File::open("/dev/null").unwrap();
        let (mut numbers, mut number) = (Files::default(), None);
        (0..files.max(1)).for_each(|_| number = Some(numbers.add(&null)));
        let file: FileNumber = number.unwrap();
        let door = || DoorRecord { file, place: "/a".repeat(1000), lent: false };
        let crash_log = CrashLogRecord { deaths: vec![], causes: vec![], classes: vec![], gaps: 0, gaps_ns: 0 };
        Record {
            version: "1".into(),
            pid: 7,
            ledger: file,
            free_area: 1,
            doors: DoorsRecord {
                front: door(),
                control: door(),
                http: None,
                streams: Vec::new(),
                declared: Vec::new(),
            },
            declared: Default::default(),
            clients: vec![],
            files: vec![],
            cards: vec![],
            mirrors: vec![],
            snooping: None,
            blames: vec![],
            classes: vec![],
            telemetry: TelemetryRecord { started: -1, events_lost: 0, restarts: 3, last_death: None, crash_log },
        }
    }

    #[test]
    fn a_record_and_its_files_arrive_and_then_words() {
        for count in [0, 1, 253, 254, 700] {
            let record = record(count);
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (theirs, expected) = (OwnedFd::from(theirs), record.clone());
            let receiver = std::thread::spawn(move || {
                let (heard, files) = receive(&theirs).unwrap();
                (heard == expected, files.left(), theirs)
            });
            let null = File::open("/dev/null").unwrap();
            let files = vec![null.as_fd(); count];
            let mut outbox = Outbox::new(record.encode().unwrap(), count).unwrap();
            while !outbox.flush(&ours, &files).unwrap() {
                std::thread::yield_now();
            }
            say(&ours, Word::Go, Some(null.as_fd())).unwrap();
            let (is_same, left, theirs) = receiver.join().unwrap();
            assert!(is_same && left == count, "{count}");
            assert!(matches!(hear(&theirs), Heard::Word(Word::Go, Some(_))));
            assert!(matches!(hear(&theirs), Heard::Nothing));
            drop(ours);
            assert!(matches!(hear(&theirs), Heard::End));
        }
    }

    #[test]
    fn the_words_of_a_refusal_reach_people_and_nonsense_is_an_error() {
        let answers: [(&[u8], &str); 8] = [
            (b"{\"error\":\"a handover is under way; try again\"}\n", "a handover is under way; try again"),
            (b"{\"error\":\"x\"}\n", "x"),
            (b"", "no answer that this version understands"),
            (b"\xff\xff\xff\xff", "no answer that this version understands"),
            (b"sv3heir\x01\x00\x00\x00\x00\xff\xff\xff\xff", "too large"),
            (b"sv3heir\x01\xff\xff\xff\xff\x02\x00\x00\x00", "too large"),
            (b"sv3heir\x01\x01\x00\x00\x00\x02\x00\x00\x00\x00{}", "0 files came"),
            (b"sv3heir\x01\x00\x00\x00\x00\x02\x00\x00\x00{}", "the record cannot be read"),
        ];
        for (answer, words) in answers {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(answer).unwrap();
            ours.shutdown(std::net::Shutdown::Write).unwrap();
            let why = receive(&OwnedFd::from(theirs)).unwrap_err();
            assert!(why.contains(words), "{why}");
            let mut asked = String::new();
            ours.read_to_string(&mut asked).unwrap();
            assert_eq!(asked, format!("succeed {}\n", super::super::VERSION));
        }
    }

    #[test]
    fn files_that_change_meanwhile_are_an_error() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        let mut outbox = Outbox::new(vec![0; 1 << 20], 2).unwrap();
        assert!(outbox.flush(&ours, &[null.as_fd()]).is_err());
    }
}
