//! The agents of the examples, built from source as flat images.

/// The agent of `host_and_partition`.
pub const CALLER: &[u8] = include_bytes!(env!("CALLER_IMAGE"));
/// The agent of `own_agent`.
pub const PRIMES: &[u8] = include_bytes!(env!("PRIMES_IMAGE"));
