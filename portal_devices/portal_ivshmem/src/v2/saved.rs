//! Saved state of ivshmem v2.
//!
//! Distrusted: whoever wrote the bytes. Every accepted state is one that a
//! guest could have brought about by register writes; peers and counters are
//! not part of it. What the guest may write is not either: that is the
//! configuration of the device that takes the state over.
//!
//! # Layout, version 1
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 8 | region length, bytes (compared) |
//! | 8 | 2 | own peer id (compared) |
//! | 10 | 2 | vectors (compared) |
//! | 12 | 2 | maximum peers (compared) |
//! | 14 | 8 | base address, 0 for BAR2 (compared) |
//! | 22 | 256 | configuration space; read-only bits, the section sizes among them, compared |
//! | 278 | 1 | interrupt control, bit 0 |
//! | 279 | 4 | state |
//! | 283 | 13 a vector | message address (8), data (4), mask (1) |
//! | | 8 per 64 vectors | pending bits: 0 |

use super::IvshmemV2;
use portal_device::RestoreError;
use portal_device::SavedState;
use portal_device::saved::Writer;

/// Tag of the device: "IVS2".
const TAG: u32 = u32::from_le_bytes(*b"IVS2");
const VERSION: u32 = 1;

pub(super) fn save(device: &IvshmemV2) -> SavedState {
    let config = &device.config;
    let mut to = Writer::new();
    to.u64(config.layout.size);
    to.u16(config.peer.0);
    to.u16(config.vectors);
    to.u16(config.layout.max_peers);
    to.u64(config.base.unwrap_or(0));
    device.function.config.save(&mut to);
    to.flag(device.enabled);
    to.u32(device.state);
    if let Some((msix, _)) = &device.function.msix {
        msix.save(&mut to);
    }
    to.finish(TAG, VERSION)
}

/// Reads everything first, takes it over last; returns the state register, for
/// the caller to publish.
pub(super) fn restore(device: &mut IvshmemV2, saved: &SavedState) -> Result<u32, RestoreError> {
    let mut from = saved.open(TAG, VERSION)?;
    let config = &device.config;
    let region_len = from.u64("region length")?;
    from.same("region length", region_len, config.layout.size)?;
    let peer = from.u16("peer id")?;
    from.same("peer id", peer.into(), config.peer.0.into())?;
    let vectors = from.u16("vectors")?;
    from.same("vectors", vectors.into(), config.vectors.into())?;
    let max_peers = from.u16("maximum peers")?;
    from.same(
        "maximum peers",
        max_peers.into(),
        config.layout.max_peers.into(),
    )?;
    let base = from.u64("base address")?;
    from.same("base address", base, config.base.unwrap_or(0))?;
    let space = device.function.config.restore(&mut from)?;
    let enabled = from.flag("interrupt control")?;
    let state = from.u32("state")?;
    let msix = match &device.function.msix {
        Some((msix, at)) => Some((msix.restore(&mut from)?, *at)),
        None => None,
    };
    from.end()?;
    if let Some((msix, _)) = &msix
        && let Some(vector) = (0..config.vectors).find(|vector| msix.pending(*vector))
    {
        return Err(RestoreError::OutOfRange {
            field: "pending bits",
            value: vector.into(),
            limit: 0,
        });
    }
    device.function.config = space;
    device.function.msix = msix;
    device.enabled = enabled;
    Ok(state)
}
