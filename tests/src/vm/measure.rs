//! What ping and iperf3 in the guest say, as numbers.

use serde_json::Value;

use crate::failure::{Failure, Result};

/// The outcome of a busybox `ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered at least once.
    pub answered: u32,
    /// Answers beyond the first.
    pub duplicates: u32,
    /// The most requests in a row without an answer.
    pub longest_gap: u32,
}

impl Ping {
    /// Reads what busybox's `ping` printed.
    pub fn parse(text: &str) -> Result<Ping> {
        let sent = text
            .lines()
            .find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok())
            .ok_or_else(|| Failure::new(format!("not the output of ping: {text}")))?;
        let mut answers = vec![0_u32; usize::try_from(sent)?];
        for line in text.lines().filter(|line| line.contains("bytes from")) {
            let sequence = line.split_once("seq=").and_then(|(_, rest)| rest.split(' ').next()?.parse::<usize>().ok());
            if let Some(count) = sequence.and_then(|sequence| answers.get_mut(sequence)) {
                *count += 1;
            }
        }
        let mut ping = Ping { sent, ..Ping::default() };
        let mut gap = 0;
        for count in answers {
            gap = if count == 0 { gap + 1 } else { 0 };
            ping.longest_gap = ping.longest_gap.max(gap);
            ping.answered += count.min(1);
            ping.duplicates += count.saturating_sub(1);
        }
        Ok(ping)
    }

    /// Requests without an answer.
    pub fn lost(&self) -> u32 {
        self.sent - self.answered
    }
}

/// The outcome of an `iperf3 -J` client over TCP.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Mean rate at the receiver, in bits per second.
    pub bits_per_second: f64,
    /// Segments that the sender sent again; 0 where the kernel does not tell.
    pub retransmits: u64,
    /// Rate of each second at the client, in bits per second.
    pub intervals: Vec<f64>,
}

impl Stream {
    /// Reads what `iperf3 -J` printed.
    pub fn parse(text: &str) -> Result<Stream> {
        let json = text.find('{').and_then(|start| text.get(start..)).unwrap_or_default();
        let report: Value =
            serde_json::from_str(json).map_err(|_| Failure::new(format!("not the output of iperf3 -J: {text}")))?;
        if let Some(error) = report.get("error") {
            return Err(Failure::new(format!("iperf3: {error}")));
        }
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
        let intervals = report.get("intervals").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(Stream {
            bits_per_second: number("/end/sum_received/bits_per_second")
                .ok_or_else(|| Failure::new(format!("iperf3 tells no rate: {text}")))?,
            retransmits: report.pointer("/end/sum_sent/retransmits").and_then(Value::as_u64).unwrap_or_default(),
            intervals: intervals.iter().filter_map(|it| it.pointer("/sum/bits_per_second")?.as_f64()).collect(),
        })
    }

    /// How many seconds passed without a byte transferred.
    pub fn stalled_seconds(&self) -> usize {
        self.intervals.iter().filter(|rate| **rate == 0.0).count()
    }
}
