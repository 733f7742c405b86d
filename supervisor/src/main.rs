//! sv3.
mod admission;
mod record;
mod session;
fn main() {}
