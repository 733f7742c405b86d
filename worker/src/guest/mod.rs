//! One guest's memory and rings. Everything read here was written by somebody who may wish us ill.

pub mod chain;
pub mod memory;
pub mod shared;
pub mod split;

#[cfg(test)]
pub mod driver;
