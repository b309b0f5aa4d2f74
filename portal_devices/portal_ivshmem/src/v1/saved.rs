//! Saved state of ivshmem v1.
//!
//! Distrusted: whoever wrote the bytes. Every accepted state is one that a
//! guest could have brought about by register writes; peers and counters are
//! not part of it.
//!
//! # Layout, version 1
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 8 | region length, bytes (compared) |
//! | 8 | 2 | own peer id (compared) |
//! | 10 | 2 | vectors (compared) |
//! | 12 | 1 | INTx option (compared) |
//! | 13 | 256 | configuration space; read-only bits compared |
//! | 269 | 4 | interrupt mask |
//! | 273 | 4 | interrupt status |
//! | 277 | 13 a vector | message address (8), data (4), mask (1) |
//! | | 8 per 64 vectors | pending bits |
//! | | 1 | number of windows (compared) |
//! | | 17 a window | offset (8), length (8), read-only (1) (compared) |

use super::IvshmemV1;
use super::Registers;
use portal_device::Access;
use portal_device::RestoreError;
use portal_device::SavedState;
use portal_device::saved::Writer;

/// Tag of the device: "IVS1".
pub(super) const TAG: u32 = u32::from_le_bytes(*b"IVS1");
const VERSION: u32 = 1;

pub(super) fn save(device: &IvshmemV1) -> SavedState {
    let mut to = Writer::new();
    to.u64(device.config.region_len);
    to.u16(device.config.peer);
    to.u16(device.config.vectors);
    to.flag(device.config.intx);
    device.function.config.save(&mut to);
    to.u32(device.registers.mask);
    to.u32(device.registers.status);
    if let Some((msix, _)) = &device.function.msix {
        msix.save(&mut to);
    }
    let windows = device.function.windows();
    to.u8(windows.len() as u8);
    for window in windows {
        to.u64(window.offset);
        to.u64(window.len);
        to.flag(window.access == Access::ReadOnly);
    }
    to.finish(TAG, VERSION)
}

/// Reads everything first, takes it over last.
pub(super) fn restore(device: &mut IvshmemV1, saved: &SavedState) -> Result<(), RestoreError> {
    let mut from = saved.open(TAG, VERSION)?;
    let config = &device.config;
    let region_len = from.u64("region length")?;
    from.same("region length", region_len, config.region_len)?;
    let peer = from.u16("peer id")?;
    from.same("peer id", peer.into(), config.peer.into())?;
    let vectors = from.u16("vectors")?;
    from.same("vectors", vectors.into(), config.vectors.into())?;
    let intx = from.flag("intx")?;
    from.same("intx", intx.into(), config.intx.into())?;
    let space = device.function.config.restore(&mut from)?;
    let registers = Registers {
        mask: from.u32("mask")?,
        status: from.u32("status")?,
    };
    let msix = match &device.function.msix {
        Some((msix, at)) => Some((msix.restore(&mut from)?, *at)),
        None => None,
    };
    let windows = device.function.windows();
    let count = from.u8("number of windows")?;
    from.same("number of windows", count.into(), windows.len() as u64)?;
    for window in windows {
        let offset = from.u64("window offset")?;
        from.same("window offset", offset, window.offset)?;
        let len = from.u64("window length")?;
        from.same("window length", len, window.len)?;
        let read_only = from.flag("window rights")?;
        from.same(
            "window rights",
            read_only.into(),
            (window.access == Access::ReadOnly).into(),
        )?;
    }
    from.end()?;
    device.function.config = space;
    device.function.msix = msix;
    device.registers = registers;
    Ok(())
}
