//! Baselines of our own: what the machine can do without any library.

#[cfg(feature = "peers")]
pub(crate) mod arena;
pub(crate) mod eventfd;
pub(crate) mod flow;
pub(crate) mod memory;
pub(crate) mod socket;
