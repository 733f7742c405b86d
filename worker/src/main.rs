//! sv3.
fn main() {}
