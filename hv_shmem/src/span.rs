//! Spans: the 32-byte names by which peers hand memory to each other.
//!
//! A [`PortalSpan`] is what travels in a ring slot. It is a *claim*: it names
//! bytes, it gives no access. Only resolving one (`PortalRegion::resolve`,
//! [`crate::arena::ArenaView::resolve`]) yields a [`SpanView`], after the
//! section, its epoch, the bounds, the rights and the block's generation were
//! checked; a span that does not resolve is never dereferenced.
//!
//! Distrusted: every byte of a span that came from a peer. Left out: where the
//! named section lies (`region`) and who allocates (`arena`).

use crate::mem::OutOfBounds;
use crate::mem::SharedMem;

/// Size of an encoded span in bytes.
pub const SPAN_BYTES: usize = 32;

/// The value of [`PortalSpan::section`] that names the common section. No arena
/// lies there: such a span has generation 0, starts at a multiple of 8, and is
/// checked for bounds only.
pub const COMMON_SECTION: u16 = 0xFFFF;

/// The name of some bytes in a region, as it travels between peers.
///
/// Little-endian, 32 bytes, 8-byte aligned in a slot:
///
/// | offset | width | field |
/// |---|---|---|
/// | 0 | 4 | region: the low 32 bits of the region's UUID |
/// | 4 | 2 | section: id of the peer that owns the memory, or `0xFFFF` |
/// | 6 | 2 | flags: none defined, must be 0 |
/// | 8 | 8 | offset of the first byte from the start of the section, bytes |
/// | 16 | 8 | length in bytes |
/// | 24 | 4 | generation of the block (odd: live; 0 in the common section) |
/// | 28 | 4 | low 32 bits of the owner's epoch |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct PortalSpan {
    /// Low 32 bits of the region's UUID.
    pub region: u32,
    /// Peer whose output section holds the bytes, or [`COMMON_SECTION`].
    pub section: u16,
    /// Reserved; a span with an unknown flag does not resolve.
    pub flags: u16,
    /// First byte, in bytes from the start of the section.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Generation of the block when the span was made.
    pub generation: u32,
    /// Low 32 bits of the owner's epoch when the span was made.
    pub epoch: u32,
}

const _: () = assert!(size_of::<PortalSpan>() == SPAN_BYTES);

impl PortalSpan {
    /// No bytes at all: what a ring entry carries that has no payload.
    pub const NONE: Self = Self {
        region: 0,
        section: 0,
        flags: 0,
        offset: 0,
        length: 0,
        generation: 0,
        epoch: 0,
    };

    /// Whether this is [`PortalSpan::NONE`].
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The encoding of the table above.
    #[inline]
    pub fn to_bytes(&self) -> [u8; SPAN_BYTES] {
        let mut to = [0; SPAN_BYTES];
        to[0..4].copy_from_slice(&self.region.to_le_bytes());
        to[4..6].copy_from_slice(&self.section.to_le_bytes());
        to[6..8].copy_from_slice(&self.flags.to_le_bytes());
        to[8..16].copy_from_slice(&self.offset.to_le_bytes());
        to[16..24].copy_from_slice(&self.length.to_le_bytes());
        to[24..28].copy_from_slice(&self.generation.to_le_bytes());
        to[28..32].copy_from_slice(&self.epoch.to_le_bytes());
        to
    }

    /// Decodes a claim. Every bit pattern is one; none is believed before it is
    /// resolved.
    #[inline]
    pub fn from_bytes(from: &[u8; SPAN_BYTES]) -> Self {
        Self {
            region: u32::from_le_bytes(part(from, 0)),
            section: u16::from_le_bytes(part(from, 4)),
            flags: u16::from_le_bytes(part(from, 6)),
            offset: u64::from_le_bytes(part(from, 8)),
            length: u64::from_le_bytes(part(from, 16)),
            generation: u32::from_le_bytes(part(from, 24)),
            epoch: u32::from_le_bytes(part(from, 28)),
        }
    }
}

/// `N` bytes from a constant offset that lies inside.
#[inline(always)]
fn part<const N: usize>(from: &[u8; SPAN_BYTES], at: usize) -> [u8; N] {
    let mut to = [0; N];
    to.copy_from_slice(&from[at..at + N]);
    to
}

/// What the holder of a view wants to do with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only: all that another peer's section allows.
    Read,
    /// Read and write: one's own section, and the common one.
    ReadWrite,
}

/// Why a span does not resolve. Every variant but the last is what a peer
/// claimed against what this side knows; none of them is a failure of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpanError {
    /// The span names another region.
    #[error("span of region {found:#010x}, but this is region {expected:#010x}")]
    OtherRegion {
        /// Region in the span.
        found: u32,
        /// The region that was asked.
        expected: u32,
    },
    /// No peer of that id, or it has no arena (yet).
    #[error("span of section {section}, which no peer with an arena owns")]
    NoSuchSection {
        /// Section in the span.
        section: u16,
    },
    /// Reserved flags are set.
    #[error("span with unknown flags {flags:#06x}")]
    UnknownFlags {
        /// Flags in the span.
        flags: u16,
    },
    /// The bytes do not lie inside the section's arena, or inside the block.
    #[error("span of {length} bytes at {offset:#x}, where {limit} bytes are the most")]
    OutOfBounds {
        /// Offset in the span.
        offset: u64,
        /// Length in the span.
        length: u64,
        /// The most that the place allows, in bytes.
        limit: u64,
    },
    /// No block starts at that offset.
    #[error("no block starts at {offset:#x}")]
    NotABlock {
        /// Offset in the span.
        offset: u64,
    },
    /// The owner has joined again (or died) since the span was made.
    #[error("span of epoch {found}, its owner is in epoch {current}")]
    StaleEpoch {
        /// Epoch in the span.
        found: u32,
        /// The owner's epoch now.
        current: u32,
    },
    /// The block was freed since the span was made.
    #[error("span of generation {found}, the block is in generation {current}")]
    StaleGeneration {
        /// Generation in the span.
        found: u32,
        /// The block's generation now (even: free).
        current: u32,
    },
    /// The block is live, but its owner did not grant it to this peer.
    #[error("the block at {offset:#x} is not granted to peer {peer}")]
    NotGranted {
        /// Offset in the span.
        offset: u64,
        /// The peer that resolved.
        peer: u16,
    },
    /// The peer that resolves may not read in this region.
    #[error("peer {peer} has no right to read")]
    NoRight {
        /// The peer that resolved.
        peer: u16,
    },
    /// Writing was asked for in a section that this peer may only read.
    #[error("section {section} is read-only to this peer")]
    ReadOnly {
        /// Section in the span.
        section: u16,
    },
    /// The memory behind the region is smaller than its layout says.
    #[error(transparent)]
    Memory(#[from] OutOfBounds),
}

/// The bytes of a span that resolved.
///
/// They may change under the reader (their owner is not trusted): copy, check
/// the copy, use the copy. The view stays inside the mapping whatever the owner
/// does; after the owner frees the block it shows whatever is there next.
#[derive(Debug, Clone)]
pub struct SpanView<M> {
    mem: M,
    access: Access,
}

impl<M: SharedMem> SpanView<M> {
    /// A view of exactly `mem`. For code that has done the checks.
    pub(crate) fn new(mem: M, access: Access) -> Self {
        Self { mem, access }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.mem.len()
    }

    /// Whether the span has no bytes.
    pub fn is_empty(&self) -> bool {
        self.mem.is_empty()
    }

    /// What may be done with the bytes.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Copies `to.len()` bytes from `at`; each is fetched exactly once.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range leaves the span.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), OutOfBounds> {
        self.fits(at, to.len())?;
        self.mem.read(at, to);
        Ok(())
    }

    /// Copies `from` to `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range leaves the span, or the view is read-only
    /// (then the limit is 0).
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        if self.access != Access::ReadWrite {
            return Err(OutOfBounds {
                at,
                len: from.len() as u64,
                limit: 0,
            });
        }
        self.fits(at, from.len())?;
        self.mem.write(at, from);
        Ok(())
    }

    /// The memory itself, exactly as long as the span, for code that works in
    /// place. A read-only view's memory may be mapped read-only: a store into it
    /// then faults.
    pub fn mem(&self) -> &M {
        &self.mem
    }

    fn fits(&self, at: u64, len: usize) -> Result<(), OutOfBounds> {
        let (len, limit) = (len as u64, self.mem.len());
        match at.checked_add(len) {
            Some(end) if end <= limit => Ok(()),
            _ => Err(OutOfBounds { at, len, limit }),
        }
    }
}
