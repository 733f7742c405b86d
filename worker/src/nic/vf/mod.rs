//! Virtual functions: what the families have in common, which is nearly all. Each family says where its registers are
//! and in which words it asks its physical function ([`family::Family`]).

pub mod family;
mod filters;
pub mod function;
pub mod mailbox;
mod registers;
mod statistics;
#[cfg(test)]
mod tests;

pub use registers::Registers;
