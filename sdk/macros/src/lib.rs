//! The `#[consumer]` attribute of `linecook-sdk`.
