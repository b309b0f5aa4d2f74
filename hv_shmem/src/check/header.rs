//! A damaged header, and what can be made of it.
//!
//! Nothing else in a region says what the header says, so there are two ways to
//! mend one: a candidate whose checksum is right again (then it is certainly
//! what stood there), and a header in which only the checksum is wrong while
//! everything that can be cross-checked is right (then UUID, name, generation
//! or feature masks may be damaged, and nobody can tell).

use crate::claim::Fields;
use crate::claim::put;
use crate::header::CRC;
use crate::header::HEADER_BYTES;
use crate::header::Header;
use crate::header::HeaderError;
use crate::header::LAYOUT_VERSION;
use crate::header::MAGIC;
use crate::layout::RegionSpec;
use crate::name::Name;
use std::vec::Vec;

const CRC_AT: usize = 0xfc;

/// A header made of a damaged one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// The header.
    pub header: Header,
    /// Whether its old checksum vouches for it.
    pub certain: bool,
}

/// Tries to mend 256 damaged bytes. `None` when there is nothing to hold on to.
pub fn mend(bytes: &[u8; HEADER_BYTES]) -> Option<Mended> {
    if let Some(header) = candidates(bytes)
        .iter()
        .find_map(|c| Header::from_bytes(c).ok())
    {
        let certain = true;
        return Some(Mended { header, certain });
    }
    // Unknown versions and features are not damage.
    let mut recomputed = *bytes;
    let crc = CRC.checksum(&recomputed[..CRC_AT]);
    put(&mut recomputed, CRC_AT as u64, &crc.to_le_bytes());
    match Header::from_bytes(&recomputed) {
        Ok(header) => Some(Mended {
            header,
            certain: false,
        }),
        Err(_) => None,
    }
}

/// Copies in which magic, version and everything that follows from the
/// sizes is as it has to be, for each way to read the sizes.
fn candidates(bytes: &[u8; HEADER_BYTES]) -> Vec<[u8; HEADER_BYTES]> {
    let mut out = Vec::new();
    let mut plain = *bytes;
    put(&mut plain, 0x00, &MAGIC.to_le_bytes());
    put(&mut plain, 0x08, &LAYOUT_VERSION.to_le_bytes());
    out.push(plain);
    let f = Fields(&plain);
    let name = Name::from_padded(&f.bytes(0x40));
    let common = f.u64(0x98);
    let commons = [common, f.u64(0xa0).wrapping_sub(f.u64(0x90))];
    let sizes = (16..=45).map(|bit| 1u64 << bit);
    for size in sizes {
        for common in commons {
            let (Ok(name), Ok(max_peers)) = (name, u16::try_from(f.u32(0x84))) else {
                continue;
            };
            let spec = RegionSpec::new(name, size, max_peers).common(common);
            let Ok(mut header) = Header::new(&spec, uuid::Uuid::from_bytes(f.bytes(0x28))) else {
                continue;
            };
            header.generation = f.u64(0x38);
            header.compat = f.u64(0x10);
            header.ro_compat = f.u64(0x18);
            header.incompat = f.u64(0x20);
            let mut candidate = header.to_bytes();
            // The old checksum is the judge.
            candidate[CRC_AT..].copy_from_slice(&bytes[CRC_AT..]);
            out.push(candidate);
        }
    }
    out
}

/// Whether an error of [`Header::from_bytes`] is damage, and not a region of
/// another kind.
pub(super) fn is_damage(error: &HeaderError) -> bool {
    !matches!(
        error,
        HeaderError::Version { .. } | HeaderError::Incompatible { .. }
    )
}
