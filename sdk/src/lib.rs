//! Write a Linecook consumer as a small Rust function.
