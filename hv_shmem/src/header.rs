//! The region's header: 256 bytes at 0x1000, written by the host.
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0x00 | 8 | magic, `PORTALRG` |
//! | 0x08 | 4 | layout version, 1 |
//! | 0x0c | 4 | size of this header in bytes, 256 |
//! | 0x10 | 8 | compatible features: unknown bits do not matter |
//! | 0x18 | 8 | read-only-compatible features: who does not know a bit must not write |
//! | 0x20 | 8 | incompatible features: who does not know a bit must not attach |
//! | 0x28 | 16 | UUID of the region, in the byte order of RFC 9562 |
//! | 0x38 | 8 | generation: how often the region was formatted or taken over by a new host, from 1 |
//! | 0x40 | 32 | name, NUL-padded |
//! | 0x60 | 8 | size of the region in bytes |
//! | 0x68 | 8 | offset of the state table, 0 |
//! | 0x70 | 8 | size of the state table in bytes |
//! | 0x78 | 8 | offset of the peer table |
//! | 0x80 | 4 | size of a peer entry in bytes, 64 |
//! | 0x84 | 4 | number of peers (entries, sections) |
//! | 0x88 | 8 | size of the host pages in bytes |
//! | 0x90 | 8 | offset of the common section |
//! | 0x98 | 8 | size of the common section in bytes |
//! | 0xa0 | 8 | offset of the first output section |
//! | 0xa8 | 8 | size of an output section in bytes |
//! | 0xb0 | 4 | page size that all parts are multiples of |
//! | 0xb4 | 72 | zero |
//! | 0xfc | 4 | CRC-32 (ISO-HDLC) of the 252 bytes before |
//!
//! Little-endian throughout. The host is trusted with the region, yet the bytes
//! may come from a file or a carrier that anybody wrote: a reader copies all
//! 256 bytes once and checks the copy ([`Header::from_bytes`]).

use crate::claim::BadClaim;
use crate::claim::Fields;
use crate::claim::put;
use crate::layout;
use crate::layout::Layout;
use crate::layout::LayoutError;
use crate::layout::RegionSpec;
use crate::mem::SharedMem;
use crate::name::Name;
use crate::name::NameError;
use uuid::Uuid;

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 256;
/// First eight bytes of a header.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PORTALRG");
/// Version of the layout that this crate reads and writes.
pub const LAYOUT_VERSION: u32 = 1;

/// Compatible feature: one fd a section, other peers' sections are read-only by
/// mapping where the carrier is sectioned too.
pub const COMPAT_SECTIONED: u64 = 1 << 0;
/// Compatible feature: the bytes outlive the host.
pub const COMPAT_DURABLE: u64 = 1 << 1;
/// Read-only-compatible features that this crate knows: none so far.
pub const KNOWN_RO_COMPAT: u64 = 0;
/// Incompatible features that this crate knows: none so far.
pub const KNOWN_INCOMPAT: u64 = 0;

/// How often a header with a wrong checksum is copied again. Rewriting it takes
/// nanoseconds.
const HEADER_READS: u32 = 16;

/// CRC-32 as in Ethernet and zip (ISO-HDLC).
pub(crate) const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

mod at {
    pub(super) const MAGIC: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x08;
    pub(super) const HEADER_BYTES: u64 = 0x0c;
    pub(super) const COMPAT: u64 = 0x10;
    pub(super) const RO_COMPAT: u64 = 0x18;
    pub(super) const INCOMPAT: u64 = 0x20;
    pub(super) const UUID: u64 = 0x28;
    pub(super) const GENERATION: u64 = 0x38;
    pub(super) const NAME: u64 = 0x40;
    pub(super) const SIZE: u64 = 0x60;
    pub(super) const STATE_TABLE: u64 = 0x68;
    pub(super) const STATE_TABLE_BYTES: u64 = 0x70;
    pub(super) const PEER_TABLE: u64 = 0x78;
    pub(super) const PEER_ENTRY_BYTES: u64 = 0x80;
    pub(super) const MAX_PEERS: u64 = 0x84;
    pub(super) const HOST_BYTES: u64 = 0x88;
    pub(super) const COMMON: u64 = 0x90;
    pub(super) const COMMON_BYTES: u64 = 0x98;
    pub(super) const SECTIONS: u64 = 0xa0;
    pub(super) const SECTION_BYTES: u64 = 0xa8;
    pub(super) const PAGE: u64 = 0xb0;
    pub(super) const CRC: u64 = 0xfc;
}

/// A checked, private copy of a region's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Identity of the region; never changes.
    pub uuid: Uuid,
    /// How often the region was formatted or taken over, from 1.
    pub generation: u64,
    /// Name.
    pub name: Name,
    /// Compatible features (`COMPAT_*`; unknown bits are kept).
    pub compat: u64,
    /// Read-only-compatible features.
    pub ro_compat: u64,
    /// Incompatible features; all known, or there would be no `Header`.
    pub incompat: u64,
    /// Where the parts lie.
    pub layout: Layout,
}

/// Why 256 bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The memory ends before the header does.
    #[error(
        "the memory has {have} bytes; the smallest region has {}",
        layout::MIN_REGION
    )]
    TooShort {
        /// Bytes there.
        have: u64,
    },
    /// Other magic bytes: not a region, or not formatted yet.
    #[error(
        "the memory holds no region: magic is {found:#018x}, a region starts with {MAGIC:#018x}"
    )]
    Magic {
        /// What stood there.
        found: u64,
    },
    /// A layout that this crate does not know.
    #[error("layout version is {found}; this build knows version {LAYOUT_VERSION}")]
    Version {
        /// What stood there.
        found: u32,
    },
    /// The checksum does not match: torn, damaged or forged.
    #[error("header CRC is {found:#010x}; its bytes give {computed:#010x}")]
    Crc {
        /// What stood there.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Features that a reader has to know.
    #[error("the region uses incompatible features {unknown:#x} that this build does not know")]
    Incompatible {
        /// The unknown bits.
        unknown: u64,
    },
    /// The name is no name.
    #[error("name: {0}")]
    Name(#[from] NameError),
    /// The sizes have no layout.
    #[error("layout: {0}")]
    Layout(#[from] LayoutError),
    /// A field contradicts the layout that the sizes give.
    #[error(transparent)]
    Field(#[from] BadClaim),
}

impl Header {
    /// The header of a new region.
    ///
    /// # Errors
    /// [`LayoutError`] when the specification has no layout.
    pub fn new(spec: &RegionSpec, uuid: Uuid) -> Result<Self, LayoutError> {
        let mut compat = 0;
        if spec.sectioned {
            compat |= COMPAT_SECTIONED;
        }
        if spec.durable {
            compat |= COMPAT_DURABLE;
        }
        Ok(Self {
            uuid,
            generation: 1,
            name: spec.name,
            compat,
            ro_compat: 0,
            incompat: 0,
            layout: Layout::compute(spec)?,
        })
    }

    /// The specification that this header was made from.
    pub fn spec(&self) -> RegionSpec {
        RegionSpec {
            name: self.name,
            size: self.layout.size,
            max_peers: self.layout.max_peers,
            common: self.layout.common.end - self.layout.common.start,
            sectioned: self.sectioned(),
            durable: self.durable(),
        }
    }

    /// The u32 that spans carry for this region: the low 32 bits of the UUID.
    pub const fn region_id(&self) -> u32 {
        self.uuid.as_u128() as u32
    }

    /// Whether the host made one fd a section.
    pub const fn sectioned(&self) -> bool {
        self.compat & COMPAT_SECTIONED != 0
    }

    /// Whether the bytes outlive the host.
    pub const fn durable(&self) -> bool {
        self.compat & COMPAT_DURABLE != 0
    }

    /// Whether a peer of this build may write: every read-only-compatible
    /// feature is known.
    pub const fn writable(&self) -> bool {
        self.ro_compat & !KNOWN_RO_COMPAT == 0
    }

    /// The 256 bytes, checksum included.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let l = &self.layout;
        let mut out = [0; HEADER_BYTES];
        put(&mut out, at::MAGIC, &MAGIC.to_le_bytes());
        put(&mut out, at::VERSION, &LAYOUT_VERSION.to_le_bytes());
        put(
            &mut out,
            at::HEADER_BYTES,
            &(HEADER_BYTES as u32).to_le_bytes(),
        );
        put(&mut out, at::COMPAT, &self.compat.to_le_bytes());
        put(&mut out, at::RO_COMPAT, &self.ro_compat.to_le_bytes());
        put(&mut out, at::INCOMPAT, &self.incompat.to_le_bytes());
        put(&mut out, at::UUID, self.uuid.as_bytes());
        put(&mut out, at::GENERATION, &self.generation.to_le_bytes());
        put(&mut out, at::NAME, self.name.padded());
        put(
            &mut out,
            at::MAX_PEERS,
            &u32::from(l.max_peers).to_le_bytes(),
        );
        for (at, value) in Self::sizes(l) {
            put(&mut out, at, &value.to_le_bytes());
        }
        for (at, value) in Self::widths(l) {
            put(&mut out, at, &value.to_le_bytes());
        }
        let crc = CRC.checksum(&out[..at::CRC as usize]);
        put(&mut out, at::CRC, &crc.to_le_bytes());
        out
    }

    /// Copies the header out of a region's memory and checks the copy. A copy
    /// with a wrong checksum is taken again, a bounded number of times: the
    /// host rewrites the header when it takes a region over.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn copy_from<M: SharedMem>(mem: &M) -> Result<Self, HeaderError> {
        let have = mem.len();
        if have < layout::HEADER_AT + HEADER_BYTES as u64 {
            return Err(HeaderError::TooShort { have });
        }
        let mut tries = HEADER_READS;
        loop {
            let mut bytes = [0; HEADER_BYTES];
            mem.read(layout::HEADER_AT, &mut bytes);
            match Self::from_bytes(&bytes) {
                Err(HeaderError::Crc { .. }) if tries > 0 => tries -= 1,
                done => return done,
            }
        }
    }

    /// Checks a private copy of the 256 bytes.
    ///
    /// # Errors
    /// [`HeaderError`]: the first rule that the bytes break. The checksum comes
    /// after magic and version, so that a foreign file is called foreign.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let f = Fields(bytes);
        let found = f.u64(at::MAGIC);
        if found != MAGIC {
            return Err(HeaderError::Magic { found });
        }
        let found = f.u32(at::VERSION);
        if found != LAYOUT_VERSION {
            return Err(HeaderError::Version { found });
        }
        let found = f.u32(at::CRC);
        let computed = CRC.checksum(&bytes[..at::CRC as usize]);
        if found != computed {
            return Err(HeaderError::Crc { found, computed });
        }
        let incompat = f.u64(at::INCOMPAT);
        let unknown = incompat & !KNOWN_INCOMPAT;
        if unknown != 0 {
            return Err(HeaderError::Incompatible { unknown });
        }
        let compat = f.u64(at::COMPAT);
        let peers = BadClaim::at_most(
            "number of peers",
            at::MAX_PEERS,
            f.u32(at::MAX_PEERS).into(),
            layout::MAX_PEERS.into(),
        )?;
        let generation = f.u64(at::GENERATION);
        if generation == 0 {
            return Err(BadClaim {
                what: "generation",
                at: at::GENERATION,
                value: 0,
                limit: 1,
            }
            .into());
        }
        let spec = RegionSpec {
            name: Name::from_padded(&f.bytes(at::NAME))?,
            size: f.u64(at::SIZE),
            max_peers: peers as u16,
            common: f.u64(at::COMMON_BYTES),
            sectioned: compat & COMPAT_SECTIONED != 0,
            durable: compat & COMPAT_DURABLE != 0,
        };
        let layout = Layout::compute(&spec)?;
        for (at, value) in Self::sizes(&layout) {
            BadClaim::exactly("header field", at, f.u64(at), value)?;
        }
        for (at, value) in Self::widths(&layout) {
            BadClaim::exactly("header field", at, f.u32(at).into(), value.into())?;
        }
        Ok(Self {
            uuid: Uuid::from_bytes(f.bytes(at::UUID)),
            generation,
            name: spec.name,
            compat,
            ro_compat: f.u64(at::RO_COMPAT),
            incompat,
            layout,
        })
    }

    /// The 64-bit fields that follow from the layout.
    fn sizes(l: &Layout) -> [(u64, u64); 9] {
        [
            (at::SIZE, l.size),
            (at::STATE_TABLE, layout::STATE_TABLE_AT),
            (at::STATE_TABLE_BYTES, layout::STATE_TABLE_BYTES),
            (at::PEER_TABLE, layout::PEER_TABLE_AT),
            (at::HOST_BYTES, l.host.end),
            (at::COMMON, l.common.start),
            (at::COMMON_BYTES, l.common.end - l.common.start),
            (at::SECTIONS, l.sections_at()),
            (at::SECTION_BYTES, l.section_size),
        ]
    }

    /// The 32-bit fields that follow from the layout.
    fn widths(l: &Layout) -> [(u64, u32); 3] {
        [
            (at::HEADER_BYTES, HEADER_BYTES as u32),
            (at::PEER_ENTRY_BYTES, layout::PEER_ENTRY_BYTES as u32),
            // 4096 or 2 MiB: fits.
            (at::PAGE, l.page as u32),
        ]
    }
}
