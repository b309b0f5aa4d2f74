//! Saved state of virtio-pmem: there is next to none, as long as no flush runs.
//!
//! Distrusted: whoever wrote the bytes.
//!
//! # Layout, version 1
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 8 | size, bytes (compared) |
//! | 8 | 1 | read-only (compared) |
//! | 9 | 1 | a flush has failed |

use crate::VirtioPmem;
use portal_device::Access;
use portal_device::RestoreError;
use portal_device::SavedState;
use portal_device::saved::Writer;

/// Tag of the device: "PMEM".
const TAG: u32 = u32::from_le_bytes(*b"PMEM");
const VERSION: u32 = 1;

pub(crate) fn save(device: &VirtioPmem) -> SavedState {
    let mut to = Writer::new();
    to.u64(device.config.size);
    to.flag(device.config.access == Access::ReadOnly);
    to.flag(device.failed);
    to.finish(TAG, VERSION)
}

/// Whether a flush had failed.
pub(crate) fn read(device: &VirtioPmem, saved: &SavedState) -> Result<bool, RestoreError> {
    let mut from = saved.open(TAG, VERSION)?;
    let size = from.u64("size")?;
    from.same("size", size, device.config.size)?;
    let read_only = from.flag("read-only")?;
    let here = device.config.access == Access::ReadOnly;
    from.same("read-only", read_only.into(), here.into())?;
    let failed = from.flag("failed")?;
    from.end()?;
    Ok(failed)
}
