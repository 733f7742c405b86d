//! The guest's second serial port, on which `scripts/guest/init` takes commands.
//!
//! A command is a line `ID SECONDS COMMAND`; the answer is a line `ID STATUS BYTES`, then that many bytes of output.
//! The guest says `ready` once after each boot.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// How long what a job has said may take.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// What a command in the guest left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 137 when it ran past its deadline.
    pub status: i32,
    /// Standard output and standard error, as they came.
    pub text: String,
}

impl Output {
    /// The text when the command succeeded.
    pub fn ok(self) -> Result<String> {
        if self.status != 0 {
            return Err(Failure::new(format!("exit status {}: {}", self.status, self.text.trim_end())));
        }
        Ok(self.text)
    }
}

/// A command that runs in the guest's background.
#[derive(Debug, PartialEq, Eq)]
pub struct Job(u32);

/// One end of the serial line.
pub struct Agent {
    line: UnixStream,
    received: Vec<u8>,
    last_id: u32,
    jobs: u32,
}

impl Agent {
    /// Uses `line`; the guest need not run yet.
    pub fn new(line: UnixStream) -> Agent {
        Agent { line, received: Vec::new(), last_id: 0, jobs: 0 }
    }

    /// The guest that another agent spoke with is now at this one's line.
    pub fn go_on_from(&mut self, before: &Agent) {
        (self.last_id, self.jobs) = (before.last_id, before.jobs);
    }

    /// Waits until the guest has booted.
    pub fn ready(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !self.line_until(deadline)?.ends_with("ready") {}
        Ok(())
    }

    /// Runs a shell command in the guest, which kills it after `patience`.
    pub fn run(&mut self, command: &str, patience: Duration) -> Result<Output> {
        let id = self.send(command, patience)?;
        let deadline = Instant::now() + patience + Duration::from_secs(20);
        loop {
            let line = self.line_until(deadline)?;
            let mut words = line.split(' ').map(str::parse::<i64>);
            if let (Some(Ok(answered)), Some(Ok(status)), Some(Ok(bytes))) = (words.next(), words.next(), words.next())
            {
                let text = self.bytes_until(usize::try_from(bytes)?, deadline)?;
                if answered == i64::from(id) {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return Ok(Output { status: i32::try_from(status)?, text });
                }
            }
        }
    }

    /// Starts a shell command in the background.
    pub fn start(&mut self, command: &str, patience: Duration) -> Result<Job> {
        self.jobs += 1;
        let job = self.jobs;
        let line = format!("(({command}) >/tmp/job{job}.output 2>&1; echo $? >/tmp/job{job}.status) >/dev/null 2>&1 &");
        self.run(&line, patience)?.ok()?;
        Ok(Job(job))
    }

    /// Waits until a background command has ended.
    pub fn finish(&mut self, Job(job): Job, patience: Duration) -> Result<Output> {
        let command = format!("until [ -s /tmp/job{job}.status ]; do usleep 50000; done; cat /tmp/job{job}.output");
        let output = self.run(&format!("{command}; exit $(cat /tmp/job{job}.status)"), patience)?;
        match output.status {
            137 => {
                let said = self.run(&format!("tail -n 30 /tmp/job{job}.output"), LAST_WORDS)?.text;
                Err(Failure::new(format!("job {job} runs past its deadline: {said}")))
            }
            _ => Ok(output),
        }
    }

    /// Sends a command without waiting for an answer, which may never come; the id that the answer would bear.
    pub fn send(&mut self, command: &str, patience: Duration) -> Result<u32> {
        if command.contains('\n') {
            return Err(Failure::new(format!("a command must be one line: {command:?}")));
        }
        self.last_id += 1;
        self.line.write_all(format!("{} {} {command}\n", self.last_id, patience.as_secs().max(1)).as_bytes())?;
        Ok(self.last_id)
    }

    fn line_until(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.receive(deadline)?;
        }
    }

    fn bytes_until(&mut self, bytes: usize, deadline: Instant) -> Result<Vec<u8>> {
        while self.received.len() < bytes {
            self.receive(deadline)?;
        }
        Ok(self.received.drain(..bytes).collect())
    }

    fn receive(&mut self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.line.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut chunk = [0; 4096];
        match self.line.read(&mut chunk) {
            Ok(0) => Err(Failure::new("QEMU has ended")),
            Ok(read) => {
                self.received.extend(chunk.iter().take(read));
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Failure::new("the guest does not answer")),
            Err(error) => Err(error.into()),
        }
    }
}
