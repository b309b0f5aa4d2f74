//! Other libraries, measured in the same rounds as Portal (feature `peers`).
//!
//! Each is used the way its own documentation shows: a plain spin hint after
//! "empty" or "full", capacity equal to Portal's ring.

pub(crate) mod allocator;
pub(crate) mod iceoryx;
pub(crate) mod queues;
