//! flowey
fn main() {}
