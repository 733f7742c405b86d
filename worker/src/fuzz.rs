//! Fuzz targets of the worker; see [`sv3::fuzz`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target panics when something is wrong")]

mod card;
mod framing;
mod kinds;
mod offload;
mod packed;
mod reference;
mod registers;
mod ring;
mod snooping;
mod switch;

pub use card::card;
pub use framing::framing;
pub use kinds::kinds;
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
        replay("kinds", super::kinds);
        replay("offload", super::offload);
        replay("packed", super::packed);
        replay("registers", super::registers);
        replay("ring", super::ring);
        replay("snooping", super::snooping);
        replay("switch", super::switch);
    }
}
