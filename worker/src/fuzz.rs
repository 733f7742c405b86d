//! Fuzz targets of the worker; see [`sv3::fuzz`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target panics when something is wrong")]

mod card;
mod framing;
pub(crate) mod guard;
mod kinds;
mod offload;
mod packed;
mod reference;
mod registers;
mod ring;
mod switch;

pub use card::card;
pub use framing::framing;
pub use guard::guard;
pub use kinds::kinds;
pub use offload::offload;
pub use packed::packed;
pub use registers::registers;
pub use ring::ring;
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
        replay("offload", super::offload);
        replay("packed", super::packed);
        replay("registers", super::registers);
        replay("ring", super::ring);
        replay("switch", super::switch);
    }
}
