//! Traffic patterns: for each transmit ring, which receive rings its next burst is for.

/// A pattern of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Port 2n to port 2n + 1 and back.
    Pairs,
    /// The benchmark's: port n and port n + `ports` / 2, which are one thread's if there are as many.
    HalfApart,
    /// Each burst to so many ports chosen at random.
    AllToAll(usize),
    /// The benchmark's: each to all others in turn.
    Round,
    /// As `measure.rs` measures it: four senders, a frame to each of so many ports.
    Several(usize),
    /// All to port 0.
    AllToOne,
    /// Half of each burst to port 0, half to a neighbour; port 0 to 8 ports a burst. It has so many queue pairs, and
    /// the ring that it receives by is chosen by the sender's queue pair (`false`), of which a guest has one, or by its
    /// port.
    Uplink(usize, bool),
}

impl Pattern {
    /// For a table.
    pub fn words(self) -> String {
        match self {
            Pattern::Pairs => "pairs: each port with one other".to_string(),
            Pattern::HalfApart => "two pairs".to_string(),
            Pattern::Round => "each to three others in turn".to_string(),
            Pattern::AllToAll(1) => "all to all, a burst to one port".to_string(),
            Pattern::AllToAll(count) => format!("all to all, a burst to {count} ports"),
            Pattern::Several(count) => format!("a frame to {count} ports"),
            Pattern::AllToOne => "all to one port".to_string(),
            Pattern::Uplink(1, _) => "half of all to an uplink that has 1 queue pair".to_string(),
            Pattern::Uplink(pairs, false) => {
                format!(
                    "half of all to an uplink that has {pairs} queue pairs, chosen by the sender's queue pair, as it is"
                )
            }
            Pattern::Uplink(pairs, true) => {
                format!("half of all to an uplink that has {pairs} queue pairs, chosen by the sender's port")
            }
        }
    }
}

/// A transmit ring.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// Its port.
    pub port: usize,
    /// Its queue pair.
    pub pair: usize,
}

/// The rings of a pattern among so many ports.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The pattern.
    pub pattern: Pattern,
    /// Ports.
    pub ports: usize,
}

impl Traffic {
    /// The transmit rings that are busy.
    pub fn senders(self) -> Vec<Sender> {
        let first = usize::from(self.pattern == Pattern::AllToOne);
        let of = |port| {
            let pairs = if let (Pattern::Uplink(pairs, _), 0) = (self.pattern, port) { pairs } else { 1 };
            (0..pairs).map(move |pair| Sender { port, pair })
        };
        let last = if let Pattern::Several(_) = self.pattern { 4 } else { self.ports };
        (first..last).flat_map(of).collect()
    }

    /// How many receive rings there are: one a port, and then the uplink's.
    pub fn receivers(self) -> usize {
        self.ports + if let Pattern::Uplink(pairs, _) = self.pattern { pairs } else { 0 }
    }

    /// How many receive rings a burst of a sender is for.
    pub fn spread(self, from: Sender) -> usize {
        let most = self.ports.saturating_sub(1).max(1);
        match (self.pattern, from.port) {
            (Pattern::AllToAll(count) | Pattern::Several(count), _) => count.min(most),
            (Pattern::Uplink(..), 0) => 8.min(most),
            (Pattern::Uplink(..), _) => 2.min(most),
            (Pattern::Round, _) => most,
            _ => 1,
        }
    }

    /// The receive rings of a burst, all of them different.
    pub fn burst(self, from: Sender, dice: &mut Dice, into: &mut Vec<usize>) {
        into.clear();
        let (port, ports, spread) = (from.port, self.ports, self.spread(from));
        let neighbour = if port ^ 1 < ports { port ^ 1 } else { port - 1 };
        match self.pattern {
            Pattern::AllToOne => into.push(0),
            Pattern::HalfApart => into.push((port + ports / 2) % ports),
            Pattern::Round => into.extend((1..ports).map(|ahead| (port + ahead) % ports)),
            Pattern::Uplink(pairs, by_port) if port != 0 => {
                into.push(ports + if by_port { port % pairs } else { from.pair % pairs });
                if spread > 1 {
                    into.push(if neighbour == 0 { ports - 1 - usize::from(port == ports - 1) } else { neighbour });
                }
            }
            Pattern::AllToAll(_) | Pattern::Several(_) | Pattern::Uplink(..) => {
                while into.len() < spread {
                    let to = dice.below(ports);
                    if (to != port || matches!(self.pattern, Pattern::Several(_))) && !into.contains(&to) {
                        into.push(to);
                    }
                }
            }
            Pattern::Pairs => into.push(neighbour),
        }
    }
}

/// Numbers that look random, the same in each run.
pub struct Dice(u64);

impl Dice {
    /// From a number other than 0.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        // xorshift64*, Marsaglia and Vigna.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }
}
