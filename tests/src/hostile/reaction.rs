//! What a back-end did with a message or a chain, in words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What it did once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reaction {
    /// It closed the connection.
    Closed,
    /// It answered that the request failed.
    Refused,
    /// It answered that the request succeeded.
    Acknowledged,
    /// It answered with a value.
    Answered,
    /// It sent nothing and goes on listening.
    Wordless,
    /// It sent nothing, not even to the next request.
    Silent,
    /// It gave the chain back.
    Returned,
    /// It did not take the chain.
    Left,
}

impl Reaction {
    fn words(self) -> &'static str {
        match self {
            Reaction::Closed => "closed the connection",
            Reaction::Refused => "replied that the request failed",
            Reaction::Acknowledged => "replied that the request succeeded",
            Reaction::Answered => "answered",
            Reaction::Wordless => "sent nothing and listens",
            Reaction::Silent => "sends nothing more",
            Reaction::Returned => "returned the chain",
            Reaction::Left => "left the chain",
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Reaction::Closed | Reaction::Refused => Outcome::Refused,
            Reaction::Acknowledged | Reaction::Answered | Reaction::Returned => Outcome::Answered,
            Reaction::Wordless | Reaction::Silent | Reaction::Left => Outcome::Ignored,
        }
    }
}

/// The outcome of a case, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was refused, mostly.
    Refused,
    /// It was answered or executed, mostly.
    Answered,
    /// Nothing came of it, mostly.
    Ignored,
    /// The back-end does not offer what the case is about.
    NotOffered,
    /// Afterwards, or beside it, a well-behaved client was not served.
    Hung,
    /// The process ended, or its socket did.
    Died,
}

impl Outcome {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Refused => "refused",
            Outcome::Answered => "answered",
            Outcome::Ignored => "ignored",
            Outcome::NotOffered => "not offered",
            Outcome::Hung => "HUNG",
            Outcome::Died => "DIED",
        }
    }

    /// Whether a back-end failed.
    pub fn is_failure(self) -> bool {
        matches!(self, Outcome::Hung | Outcome::Died)
    }
}

/// How often it did what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally(BTreeMap<Reaction, u32>);

impl Tally {
    /// Once more.
    pub fn note(&mut self, reaction: Reaction) {
        *self.0.entry(reaction).or_default() += 1;
    }

    /// The most frequent kind of reaction; nothing at all is as good as ignored.
    pub fn outcome(&self) -> Outcome {
        let mut sums: BTreeMap<Outcome, u32> = BTreeMap::new();
        for (reaction, count) in &self.0 {
            *sums.entry(reaction.outcome()).or_default() += count;
        }
        // Among equals the first.
        sums.into_iter().rev().max_by_key(|(_, count)| *count).map_or(Outcome::Ignored, |(outcome, _)| outcome)
    }

    /// All of it, the most frequent first.
    pub fn words(&self) -> String {
        let mut counts: Vec<_> = self.0.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let alone = matches!(counts.as_slice(), [(_, 1)]);
        let one = |(reaction, count): &(&Reaction, &u32)| match (alone, count) {
            (true, _) => reaction.words().to_string(),
            (false, 1) => format!("{} once", reaction.words()),
            (false, count) => format!("{} {count} times", reaction.words()),
        };
        counts.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_reaction_decides_and_words_tell_all() {
        let mut tally = Tally::default();
        assert_eq!((tally.outcome(), tally.words()), (Outcome::Ignored, String::new()));
        tally.note(Reaction::Wordless);
        assert_eq!((tally.outcome(), tally.words().as_str()), (Outcome::Ignored, "sent nothing and listens"));
        for reaction in [Reaction::Closed, Reaction::Refused] {
            tally.note(reaction);
        }
        assert_eq!(tally.outcome(), Outcome::Refused);
        tally.note(Reaction::Closed);
        let words =
            "closed the connection 2 times, replied that the request failed once, sent nothing and listens once";
        assert_eq!(tally.words(), words);
    }
}
