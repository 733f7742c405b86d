//! Fuzz targets of the worker; see [`sv3::fuzz`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target panics when something is wrong")]

mod card;
mod framing;
pub(crate) mod guard;
mod kinds;
mod marks;
mod offload;
mod packed;
mod reference;
mod registers;
mod ring;
mod snooping;
mod switch;

pub use card::card;
pub use framing::framing;
pub use guard::guard;
pub use kinds::kinds;
pub use marks::marks;
pub use offload::offload;
pub use packed::packed;
pub use registers::registers;
pub use ring::ring;
pub use snooping::snooping;
pub use switch::switch;

#[cfg(test)]
mod tests {
    use sv3::fuzz::replay;

    #[test]
    fn corpora() {
        replay("card", super::card);
        replay("framing", super::framing);
        replay("guard", super::guard);
        replay("kinds", super::kinds);
        replay("marks", super::marks);
        replay("offload", super::offload);
        replay("packed", super::packed);
        replay("registers", super::registers);
        replay("ring", super::ring);
        replay("snooping", super::snooping);
        replay("switch", super::switch);
    }

    #[test]
    fn marks_of_random_guests() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        for _ in 0..100 {
            let input: Vec<u8> = (0..600).map(|_| next()).collect();
            super::marks(&input);
        }
    }

    /// `SV3_INPUTS=NUMBER` inputs of target `switch` whose ports have rules, from a seed that it prints. For machines
    /// without libFuzzer.
    #[test]
    #[ignore = "a long run"]
    fn switch_with_rules_at_random() {
        let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
        let seed = number("SV3_SEED").unwrap_or(std::process::id().into());
        println!("SV3_SEED={seed}");
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        for _ in 0..number("SV3_INPUTS").unwrap_or(1000) {
            let mut input: Vec<u8> = (0..100 + usize::from(next()) * 4).map(|_| next()).collect();
            (input[1], input[8]) = (input[1] | 0x80, input[8] | 0x40);
            super::switch(&input);
        }
    }
}
