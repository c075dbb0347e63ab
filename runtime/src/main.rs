//! The `linecook` binary.
fn main() {}
