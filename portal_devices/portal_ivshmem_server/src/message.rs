//! One message of the protocol.
//!
//! Specification: QEMU, `docs/specs/ivshmem-spec`, "Interrupt via eventfd: the
//! client-server protocol"; protocol version 0.

use hv_shmem::layout::PeerId;

/// The only protocol version there is.
pub const VERSION: i64 = 0;

/// The number that comes with the memory's fd.
pub const MEMORY: i64 = -1;

/// What goes with a message's number, in the place of its one fd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed<B> {
    /// No fd.
    Nothing,
    /// The region's memory.
    Memory,
    /// A bell.
    Bell(B),
}

/// A signed 64-bit number, little-endian on the wire, and at most one fd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<B> {
    /// The number: [`VERSION`], [`MEMORY`] or a peer id.
    pub number: i64,
    /// The fd that is passed with it.
    pub passed: Passed<B>,
}

impl<B> Message<B> {
    /// The message's 8 bytes.
    pub const fn bytes(&self) -> [u8; 8] {
        self.number.to_le_bytes()
    }

    pub(crate) const fn version() -> Self {
        Self::bare(VERSION)
    }

    pub(crate) const fn memory() -> Self {
        Self {
            number: MEMORY,
            passed: Passed::Memory,
        }
    }

    /// A peer's id with nothing: to a newcomer, who it is; later, who is gone.
    pub(crate) fn id(peer: PeerId) -> Self {
        Self::bare(peer.0.into())
    }

    pub(crate) fn bell(peer: PeerId, bell: B) -> Self {
        Self {
            number: peer.0.into(),
            passed: Passed::Bell(bell),
        }
    }

    const fn bare(number: i64) -> Self {
        Self {
            number,
            passed: Passed::Nothing,
        }
    }
}
