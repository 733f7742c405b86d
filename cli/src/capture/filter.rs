//! Expressions in tcpdump's language. tcpdump compiles them (`tcpdump -ddd`) into a program for a small machine (classic
//! BPF: McCanne and Jacobson, 1993), which runs here, frame by frame.
//!
//! The machine cannot loop: a jump goes forward only. A load from outside of the frame ends the program, and the frame
//! does not pass, as in the kernel.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

/// Words of the machine's memory.
const MEMORY: usize = 16;
/// Most instructions of a program (BPF_MAXINSNS).
const PROGRAM_MAX: usize = 4096;
/// An empty capture of Ethernet frames (pcap, little-endian): tcpdump takes the link type from it, and opens no device.
const NOTHING: [u8; 24] = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];

/// A compiled expression. The empty one lets every frame pass.
#[derive(Debug, Default)]
pub struct Filter(Vec<Instruction>);

#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    k: u32,
}

impl Filter {
    /// Has tcpdump compile an expression.
    pub fn compile(expression: &str) -> Result<Filter, String> {
        if expression.is_empty() {
            return Ok(Filter::default());
        }
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-ddd", "-r", "-", "--", expression]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = tcpdump.stderr(Stdio::piped()).spawn().map_err(|error| match error.kind() {
            // A folder of PATH that may not be read looks the same.
            ErrorKind::NotFound | ErrorKind::PermissionDenied => format!(
                "{expression:?} is no port of this switch, and an expression needs tcpdump, which is not installed: sudo \
                 apt install tcpdump"
            ),
            _ => format!("tcpdump: {error}"),
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(&NOTHING);
        }
        let output = child.wait_with_output().map_err(|error| format!("tcpdump: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let why = said.lines().last().unwrap_or_default().trim_start_matches("tcpdump: ");
            return Err(format!("{expression:?} is neither a port of this switch nor an expression: {why}"));
        }
        Filter::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Reads what `tcpdump -ddd` prints: the number of instructions, then a line for each.
    fn parse(text: &str) -> Result<Filter, String> {
        let instruction = |line: &str| {
            let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
            let mut next = || numbers.next().flatten();
            let (code, if_true, if_false, k) = (next()?, next()?, next()?, next()?);
            Some(Instruction {
                code: code.try_into().ok()?,
                if_true: if_true.try_into().ok()?,
                if_false: if_false.try_into().ok()?,
                k,
            })
        };
        let all: Option<Vec<Instruction>> = text.lines().skip(1).map(instruction).collect();
        match all {
            Some(all) if (1..=PROGRAM_MAX).contains(&all.len()) => Ok(Filter(all)),
            _ => Err("tcpdump -ddd printed something that is no program".to_string()),
        }
    }

    /// Whether a frame of `len` octets passes, of which these are known.
    pub fn passes(&self, frame: &[u8], len: u32) -> bool {
        self.0.is_empty() || self.run(frame, len).is_some_and(|kept| kept != 0)
    }

    /// What the program returns. `None`: it went wrong.
    fn run(&self, frame: &[u8], len: u32) -> Option<u32> {
        let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; MEMORY], 0usize);
        loop {
            let Instruction { code, if_true, if_false, k } = *self.0.get(at)?;
            at += 1;
            let operand = if code & 0x08 == 0 { k } else { x };
            match code & 0x07 {
                // BPF_LD, BPF_LDX.
                kind @ (0 | 1) => {
                    let value = match (code & 0xe0, kind) {
                        (0x00, _) => k,
                        (0x20, 0) => load(frame, k, code)?,
                        (0x40, 0) => load(frame, x.checked_add(k)?, code)?,
                        (0x60, _) => *memory.get(k as usize)?,
                        (0x80, _) => len,
                        (0xa0, 1) => 4 * (load(frame, k, 0x10)? & 0xf),
                        _ => return None,
                    };
                    if kind == 0 { a = value } else { x = value }
                }
                // BPF_ST, BPF_STX.
                kind @ (2 | 3) => *memory.get_mut(k as usize)? = if kind == 2 { a } else { x },
                // BPF_ALU.
                4 => a = alu(code & 0xf0, a, operand)?,
                // BPF_JMP.
                5 => {
                    let is = match code & 0xf0 {
                        0x00 => {
                            at = at.checked_add(k as usize)?;
                            continue;
                        }
                        0x10 => a == operand,
                        0x20 => a > operand,
                        0x30 => a >= operand,
                        0x40 => a & operand != 0,
                        _ => return None,
                    };
                    at += usize::from(if is { if_true } else { if_false });
                }
                // BPF_RET.
                6 => return Some(if code & 0x18 == 0x10 { a } else { k }),
                // BPF_MISC: TAX, TXA.
                _ => match code & 0xf8 {
                    0x00 => x = a,
                    0x80 => a = x,
                    _ => return None,
                },
            }
        }
    }
}

fn alu(operation: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.checked_shl(operand).unwrap_or(0),
        0x70 => a.checked_shr(operand).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(operand)?,
        0xa0 => a ^ operand,
        _ => return None,
    })
}

/// Four, two or one octets of the frame, by the code's size.
fn load(frame: &[u8], at: u32, code: u16) -> Option<u32> {
    let rest = frame.get(at as usize..)?;
    Some(match code & 0x18 {
        0x00 => u32::from_be_bytes(*rest.first_chunk()?),
        0x08 => u16::from_be_bytes(*rest.first_chunk()?).into(),
        0x10 => (*rest.first()?).into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `tcpdump -ddd` prints for `udp port 53 or vlan` of Ethernet: written by hand for IPv4 only.
    const UDP_53: &str = "12\n40 0 0 12\n21 0 9 2048\n48 0 0 23\n21 0 7 17\n40 0 0 20\n69 5 0 8191\n177 0 0 14\n72 0 0 14\n\
                          21 1 0 53\n72 0 0 16\n6 0 0 262144\n6 0 0 0\n";

    #[test]
    fn a_program_decides_by_the_octets_of_the_frame() {
        let text = "6\n40 0 0 12\n21 0 3 2048\n48 0 0 23\n21 0 1 17\n6 0 0 262144\n6 0 0 0\n";
        let filter = Filter::parse(text).unwrap();
        let mut frame = [0u8; 60];
        assert!(!filter.passes(&frame, 60));
        (frame[12], frame[13], frame[23]) = (8, 0, 17);
        assert!(filter.passes(&frame, 60));
        assert!(!filter.passes(&frame[..20], 60), "a load from outside of the frame");
        assert!(Filter::default().passes(&[], 0));
        assert!(Filter::parse(UDP_53).is_ok() && Filter::parse("").is_err() && Filter::parse("1\n6 0 0\n").is_err());
    }

    proptest! {
        #[test]
        fn any_program_ends(
            lines in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>(), any::<bool>()), 1..60),
            frame in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let all = lines.into_iter().map(|(code, if_true, if_false, k, small)| Instruction {
                code: if small { code & 0xff } else { code },
                if_true: if small { if_true % 8 } else { if_true },
                if_false: if small { if_false % 8 } else { if_false },
                k: if small { k % 80 } else { k },
            });
            Filter(all.collect()).passes(&frame, frame.len() as u32);
        }
    }
}
