//! Where things lie in a region.
//!
//! ```text
//! 0                    host pages (the host writes, peers read)
//!   0x0000  state table   one u32 a peer, one page
//!   0x1000  header        256 bytes, `header`
//!   0x2000  peer table    64 bytes a peer, `peers`
//! common.start         common section (every peer writes; may be empty)
//! common.end           output section of peer 0 (peer 0 writes, others read)
//!   ...
//!                      output section of peer max_peers - 1
//! ```
//!
//! The order is that of ivshmem v2 (Jailhouse's draft specification, "Shared
//! Memory Regions"): state table, read-write section, one output section a
//! peer. All parts are whole pages; above [`ALIGN_HUGE_ABOVE`] whole 2 MiB
//! pages, so that each can be mapped with huge pages of its own.
//!
//! Everything here is arithmetic on the host's numbers; nothing is read from
//! memory. A peer recomputes the layout from the header and compares.

use crate::name::Name;
use core::fmt;
use core::ops::Range;

/// A peer's number: index into the state table, the peer table and the
/// sections; the IVPosition of ivshmem. 0 to `max_peers - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct PeerId(pub u16);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Size of a small page in bytes.
pub const PAGE: u64 = 4096;
/// Size of a huge page in bytes.
pub const HUGE_PAGE: u64 = 2 << 20;
/// Regions larger than this many bytes align their parts to [`HUGE_PAGE`]: the
/// 4 MiB that alignment can waste are then at most a quarter of the region.
pub const ALIGN_HUGE_ABOVE: u64 = 16 << 20;
/// Smallest region in bytes: host pages and two sections of the smallest size.
pub const MIN_REGION: u64 = 64 << 10;
/// Largest region in bytes: half of what 46-bit physical addresses reach.
pub const MAX_REGION: u64 = 1 << 45;
/// Most peers of a region: their u32 states fill one page.
pub const MAX_PEERS: u16 = 1024;
/// Smallest output section in bytes: a page for header and directory, one for
/// rings, two for an arena.
pub const MIN_SECTION: u64 = 4 * PAGE;

/// Offset of the state table in bytes.
pub const STATE_TABLE_AT: u64 = 0;
/// Size of the state table in bytes.
pub const STATE_TABLE_BYTES: u64 = PAGE;
/// Offset of the header in bytes.
pub const HEADER_AT: u64 = 0x1000;
/// Offset of the peer table in bytes.
pub const PEER_TABLE_AT: u64 = 0x2000;
/// Size of one peer's entry in bytes.
pub const PEER_ENTRY_BYTES: u64 = 64;

/// What a region is to be: the input of [`Layout::compute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionSpec {
    /// Name, for people and for the switchboard.
    pub name: Name,
    /// Size in bytes: a power of two, at least [`MIN_REGION`].
    pub size: u64,
    /// Number of output sections, 1 to [`MAX_PEERS`].
    pub max_peers: u16,
    /// Size of the common section in bytes, a multiple of the page size.
    pub common: u64,
    /// Whether other peers' sections are read-only by mapping (one fd a
    /// section), and not by agreement alone.
    pub sectioned: bool,
    /// Whether the bytes outlive the host (a file on a disk).
    pub durable: bool,
}

impl RegionSpec {
    /// A region of `size` bytes for `max_peers` peers, with no common section,
    /// on a flat volatile backing.
    pub const fn new(name: Name, size: u64, max_peers: u16) -> Self {
        Self {
            name,
            size,
            max_peers,
            common: 0,
            sectioned: false,
            durable: false,
        }
    }

    /// With a common section of `bytes`.
    #[must_use]
    pub const fn common(self, bytes: u64) -> Self {
        Self {
            common: bytes,
            ..self
        }
    }

    /// With or without one fd a section.
    #[must_use]
    pub const fn sectioned(self, sectioned: bool) -> Self {
        Self { sectioned, ..self }
    }

    /// On a durable backing or not.
    #[must_use]
    pub const fn durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }
}

/// Why a [`RegionSpec`] has no layout. Each names the field, its value and the
/// limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a power of two, or out of range.
    #[error("size is {value} bytes; it has to be a power of two from {MIN_REGION} to {MAX_REGION}")]
    Size {
        /// Size given, in bytes.
        value: u64,
    },
    /// No peers or too many.
    #[error("max_peers is {value}; it has to be 1 to {MAX_PEERS}")]
    Peers {
        /// Number given.
        value: u16,
    },
    /// A common section that is not whole pages, or leaves no room.
    #[error(
        "common is {value} bytes; it has to be a multiple of {page} and at most {limit} in this region"
    )]
    Common {
        /// Size given, in bytes.
        value: u64,
        /// Page size of this region in bytes.
        page: u64,
        /// Most that fits, in bytes.
        limit: u64,
    },
    /// Sections would be smaller than [`MIN_SECTION`].
    #[error(
        "max_peers is {peers}: {left} bytes for output sections leave less than {MIN_SECTION} for each"
    )]
    Sections {
        /// Number of peers asked for.
        peers: u16,
        /// Bytes left for all sections.
        left: u64,
    },
}

/// The parts of a region, as byte ranges from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Size of the region in bytes.
    pub size: u64,
    /// State table, header and peer table.
    pub host: Range<u64>,
    /// The common section; empty when there is none.
    pub common: Range<u64>,
    /// Size of each output section in bytes.
    pub section_size: u64,
    /// Number of output sections.
    pub max_peers: u16,
    /// What every part is a multiple of: [`PAGE`] or [`HUGE_PAGE`].
    pub page: u64,
}

impl Layout {
    /// Lays a region out.
    ///
    /// # Errors
    /// [`LayoutError`] names the field that does not fit.
    pub const fn compute(spec: &RegionSpec) -> Result<Self, LayoutError> {
        let size = spec.size;
        if !size.is_power_of_two() || size < MIN_REGION || size > MAX_REGION {
            return Err(LayoutError::Size { value: size });
        }
        let peers = spec.max_peers;
        if peers == 0 || peers > MAX_PEERS {
            return Err(LayoutError::Peers { value: peers });
        }
        let page = if size > ALIGN_HUGE_ABOVE {
            HUGE_PAGE
        } else {
            PAGE
        };
        // At most 0x2000 + 64 KiB before rounding: no overflow.
        let host = (PEER_TABLE_AT + PEER_ENTRY_BYTES * peers as u64).next_multiple_of(page);
        let Some(after_host) = size.checked_sub(host) else {
            return Err(LayoutError::Sections { peers, left: 0 });
        };
        if !spec.common.is_multiple_of(page) || spec.common > after_host {
            return Err(LayoutError::Common {
                value: spec.common,
                page,
                limit: after_host / page * page,
            });
        }
        let left = after_host - spec.common;
        let section_size = left / peers as u64 / page * page;
        if section_size < MIN_SECTION {
            return Err(LayoutError::Sections { peers, left });
        }
        Ok(Self {
            size,
            host: 0..host,
            common: host..host + spec.common,
            section_size,
            max_peers: peers,
            page,
        })
    }

    /// Offset of the first output section in bytes.
    pub const fn sections_at(&self) -> u64 {
        self.common.end
    }

    /// Whether `peer` has a section.
    pub const fn has(&self, peer: PeerId) -> bool {
        peer.0 < self.max_peers
    }

    /// The output section of `peer`, as bytes from the start of the region;
    /// empty when the region has no such peer.
    pub const fn section(&self, peer: PeerId) -> Range<u64> {
        if !self.has(peer) {
            return self.size..self.size;
        }
        // Within the region by `compute`: no overflow.
        let at = self.common.end + self.section_size * peer.0 as u64;
        at..at + self.section_size
    }

    /// Offset of `peer`'s u32 in the state table.
    pub const fn state_at(&self, peer: PeerId) -> u64 {
        STATE_TABLE_AT + 4 * peer.0 as u64
    }

    /// Offset of `peer`'s entry in the peer table.
    pub const fn peer_at(&self, peer: PeerId) -> u64 {
        PEER_TABLE_AT + PEER_ENTRY_BYTES * peer.0 as u64
    }

    /// Every peer number, present or not.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..self.max_peers).map(PeerId)
    }
}
