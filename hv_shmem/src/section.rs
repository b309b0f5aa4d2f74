//! A peer's output section: its header, and how the rest is divided.
//!
//! Static part, written by [`PortalRegion::join`](crate::region::PortalRegion::join)
//! and covered by a checksum:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0x00 | 8 | magic, `PORTALSC` |
//! | 0x08 | 4 | version, 1 |
//! | 0x0c | 2 | peer number |
//! | 0x0e | 2 | zero |
//! | 0x10 | 8 | epoch that the section was formatted under |
//! | 0x18 | 8 | generation of the region at that time |
//! | 0x20 | 8 | size of the section in bytes |
//! | 0x28 | 8 | offset of the ring directory |
//! | 0x30 | 4 | directory entries |
//! | 0x34 | 4 | size of a directory entry in bytes, 64 |
//! | 0x38 | 8 | offset of ring storage |
//! | 0x40 | 8 | size of ring storage in bytes |
//! | 0x48 | 8 | offset of the arena |
//! | 0x50 | 8 | size of the arena in bytes |
//! | 0x58 | 36 | zero |
//! | 0x7c | 4 | CRC-32 (ISO-HDLC) of the 124 bytes before |
//!
//! Moving part:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0x80 | 4 | state ([`SectionState`]) |
//! | 0x84 | 4 | rings made so far in this epoch |
//! | 0x88 | 8 | heartbeat, counts up while the peer is well |
//! | 0x90 | 8 | ring storage used, in bytes |
//! | 0x98 | 8 | used of this peer's slice of the common section, in bytes |
//! | 0xa0 | 96 | zero |
//!
//! Then the directory (at 0x100), ring storage (128-byte aligned) and the arena
//! (page-aligned, to the end). Offsets count from the section's first byte.
//! Every reader but the owner treats all of this as claims; the owner works
//! from private copies.

use crate::arena::MIN_ARENA;
use crate::claim::BadClaim;
use crate::claim::Fields;
use crate::claim::put;
use crate::header::CRC;
use crate::layout::PAGE;
use crate::layout::PeerId;

/// Size of the section header in bytes.
pub const SECTION_HEADER_BYTES: u64 = 256;
/// First eight bytes of a formatted section.
pub const SECTION_MAGIC: u64 = u64::from_le_bytes(*b"PORTALSC");
/// Version of the section's format.
pub const SECTION_VERSION: u32 = 1;
/// Size of a directory entry in bytes.
pub const DIRECTORY_ENTRY_BYTES: u64 = 64;
/// Most directory entries of a section: two rings each way with every other of
/// 1024 peers. Also what bounds a search in a hostile peer's directory.
pub const MAX_DIRECTORY: u32 = 4096;
/// Alignment of ring storage, of producer's and of consumer's lines, in bytes:
/// two cache lines, because the adjacent-line prefetcher moves pairs.
pub const RING_ALIGN: u64 = 128;
/// Bytes of the static part.
pub(crate) const STATIC_BYTES: usize = 0x80;

pub(crate) mod at {
    pub(crate) const MAGIC: u64 = 0x00;
    pub(crate) const VERSION: u64 = 0x08;
    pub(crate) const PEER: u64 = 0x0c;
    pub(crate) const EPOCH: u64 = 0x10;
    pub(crate) const GENERATION: u64 = 0x18;
    pub(crate) const SIZE: u64 = 0x20;
    pub(crate) const DIRECTORY: u64 = 0x28;
    pub(crate) const ENTRIES: u64 = 0x30;
    pub(crate) const ENTRY_BYTES: u64 = 0x34;
    pub(crate) const RINGS: u64 = 0x38;
    pub(crate) const RING_BYTES: u64 = 0x40;
    pub(crate) const ARENA: u64 = 0x48;
    pub(crate) const ARENA_BYTES: u64 = 0x50;
    pub(crate) const CRC: u64 = 0x7c;
    pub(crate) const STATE: u64 = 0x80;
    pub(crate) const INSTANCES: u64 = 0x84;
    pub(crate) const HEARTBEAT: u64 = 0x88;
    pub(crate) const RINGS_USED: u64 = 0x90;
    pub(crate) const COMMON_USED: u64 = 0x98;
}

/// What a peer says about its section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SectionState {
    /// Never formatted, or being formatted.
    Empty = 0,
    /// In use.
    Ready = 1,
    /// Takes no new work.
    Quiescing = 2,
    /// Left in good order.
    Closed = 3,
}

impl SectionState {
    /// The state with this number.
    pub const fn from_u32(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::Empty),
            1 => Some(Self::Ready),
            2 => Some(Self::Quiescing),
            3 => Some(Self::Closed),
            _ => None,
        }
    }
}

/// How a peer wants its section divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionConfig {
    /// Directory entries: one for each ring that the peer sends or receives on.
    pub directory: u32,
    /// Bytes for ring storage: slots of the rings it sends on, and 128 bytes
    /// for each ring it sends or receives on.
    pub ring_bytes: u64,
}

/// The section cannot be divided like that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SectionConfigError {
    /// No entries or too many.
    #[error("directory is {value} entries; it has to be 1 to {MAX_DIRECTORY}")]
    Directory {
        /// Number given.
        value: u32,
    },
    /// Header, directory and rings leave no room for an arena.
    #[error(
        "ring_bytes is {value}; a section of {section} bytes takes at most {limit} beside its directory and the smallest arena"
    )]
    RingBytes {
        /// Bytes given.
        value: u64,
        /// Size of the section in bytes.
        section: u64,
        /// Most that fits, in bytes.
        limit: u64,
    },
}

/// A checked, private copy of the static part of a section header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionHeader {
    /// Whose section it is.
    pub peer: PeerId,
    /// Epoch that it was formatted under.
    pub epoch: u32,
    /// Generation of the region at that time.
    pub generation: u64,
    /// Size of the section in bytes.
    pub size: u64,
    /// Offset of the ring directory, from the section's start.
    pub directory: u64,
    /// Number of directory entries.
    pub entries: u32,
    /// Offset of ring storage.
    pub rings: u64,
    /// Size of ring storage in bytes.
    pub ring_bytes: u64,
    /// Offset of the arena.
    pub arena: u64,
    /// Size of the arena in bytes.
    pub arena_bytes: u64,
}

impl SectionHeader {
    /// Divides a section of `size` bytes.
    ///
    /// # Errors
    /// [`SectionConfigError`] names the field that does not fit.
    pub fn divide(
        peer: PeerId,
        epoch: u32,
        generation: u64,
        size: u64,
        config: &SectionConfig,
    ) -> Result<Self, SectionConfigError> {
        let entries = config.directory;
        if entries == 0 || entries > MAX_DIRECTORY {
            return Err(SectionConfigError::Directory { value: entries });
        }
        let directory = SECTION_HEADER_BYTES;
        // At most 256 KiB: no overflow.
        let rings =
            (directory + DIRECTORY_ENTRY_BYTES * u64::from(entries)).next_multiple_of(RING_ALIGN);
        let limit = size.saturating_sub(MIN_ARENA).saturating_sub(rings) / RING_ALIGN * RING_ALIGN;
        if config.ring_bytes > limit {
            return Err(SectionConfigError::RingBytes {
                value: config.ring_bytes,
                section: size,
                limit,
            });
        }
        let ring_bytes = config.ring_bytes.next_multiple_of(RING_ALIGN);
        let arena = (rings + ring_bytes).next_multiple_of(PAGE);
        if arena + MIN_ARENA > size {
            return Err(SectionConfigError::RingBytes {
                value: config.ring_bytes,
                section: size,
                limit: limit.saturating_sub(PAGE),
            });
        }
        Ok(Self {
            peer,
            epoch,
            generation,
            size,
            directory,
            entries,
            rings,
            ring_bytes,
            arena,
            arena_bytes: size - arena,
        })
    }

    /// The static part, checksum included.
    pub(crate) fn to_bytes(self) -> [u8; STATIC_BYTES] {
        let mut out = [0; STATIC_BYTES];
        put(&mut out, at::MAGIC, &SECTION_MAGIC.to_le_bytes());
        put(&mut out, at::VERSION, &SECTION_VERSION.to_le_bytes());
        put(&mut out, at::PEER, &self.peer.0.to_le_bytes());
        put(&mut out, at::EPOCH, &u64::from(self.epoch).to_le_bytes());
        put(&mut out, at::GENERATION, &self.generation.to_le_bytes());
        put(&mut out, at::SIZE, &self.size.to_le_bytes());
        put(&mut out, at::DIRECTORY, &self.directory.to_le_bytes());
        put(&mut out, at::ENTRIES, &self.entries.to_le_bytes());
        put(
            &mut out,
            at::ENTRY_BYTES,
            &(DIRECTORY_ENTRY_BYTES as u32).to_le_bytes(),
        );
        put(&mut out, at::RINGS, &self.rings.to_le_bytes());
        put(&mut out, at::RING_BYTES, &self.ring_bytes.to_le_bytes());
        put(&mut out, at::ARENA, &self.arena.to_le_bytes());
        put(&mut out, at::ARENA_BYTES, &self.arena_bytes.to_le_bytes());
        let crc = CRC.checksum(&out[..at::CRC as usize]);
        put(&mut out, at::CRC, &crc.to_le_bytes());
        out
    }

    /// Checks a private copy of the static part against the section that it
    /// was found in.
    ///
    /// # Errors
    /// [`BadClaim`]: the first field that cannot be meant.
    pub(crate) fn from_bytes(
        bytes: &[u8; STATIC_BYTES],
        peer: PeerId,
        size: u64,
    ) -> Result<Self, BadClaim> {
        let f = Fields(bytes);
        BadClaim::exactly("section magic", at::MAGIC, f.u64(at::MAGIC), SECTION_MAGIC)?;
        let version = f.u32(at::VERSION).into();
        BadClaim::exactly(
            "section version",
            at::VERSION,
            version,
            SECTION_VERSION.into(),
        )?;
        let crc = CRC.checksum(&bytes[..at::CRC as usize]);
        BadClaim::exactly("section CRC", at::CRC, f.u32(at::CRC).into(), crc.into())?;
        BadClaim::exactly(
            "section's peer",
            at::PEER,
            f.u16(at::PEER).into(),
            peer.0.into(),
        )?;
        BadClaim::exactly("section size", at::SIZE, f.u64(at::SIZE), size)?;
        let epoch = f.u64(at::EPOCH);
        let epoch = BadClaim::at_most("section epoch", at::EPOCH, epoch, u32::MAX.into())? as u32;
        let entries = f.u32(at::ENTRIES);
        let ring_bytes = f.u64(at::RING_BYTES);
        let config = SectionConfig {
            directory: entries,
            ring_bytes,
        };
        // There is one way to divide a section for given sizes: whatever else
        // the header says has to be that.
        let this = Self::divide(peer, epoch, f.u64(at::GENERATION), size, &config).map_err(
            |e| match e {
                SectionConfigError::Directory { value } => BadClaim {
                    what: "directory entries",
                    at: at::ENTRIES,
                    value: value.into(),
                    limit: MAX_DIRECTORY.into(),
                },
                SectionConfigError::RingBytes { value, limit, .. } => BadClaim {
                    what: "ring storage",
                    at: at::RING_BYTES,
                    value,
                    limit,
                },
            },
        )?;
        let entry_bytes = f.u32(at::ENTRY_BYTES).into();
        BadClaim::exactly(
            "entry size",
            at::ENTRY_BYTES,
            entry_bytes,
            DIRECTORY_ENTRY_BYTES,
        )?;
        for (what, at, only) in [
            ("directory offset", at::DIRECTORY, this.directory),
            ("ring storage offset", at::RINGS, this.rings),
            ("ring storage size", at::RING_BYTES, this.ring_bytes),
            ("arena offset", at::ARENA, this.arena),
            ("arena size", at::ARENA_BYTES, this.arena_bytes),
        ] {
            BadClaim::exactly(what, at, f.u64(at), only)?;
        }
        Ok(this)
    }
}
