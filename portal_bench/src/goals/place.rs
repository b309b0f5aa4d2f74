//! Fresh rings in memory of their own, for two threads of this process.
//!
//! The same types as between partitions, over heap memory: what is measured is
//! the ring, not how a region finds it.

use crate::BenchError;
use hv_shmem::arena::ArenaPlace;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::CURSOR_BYTES;
use hv_shmem::ring::PRODUCED_BYTES;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;

/// A fresh ring: lines first, then the slots.
pub(crate) fn fresh(
    layout: RingLayout,
    slot_size: u32,
    slots: u32,
) -> Result<RingPlace<HeapMem>, BenchError> {
    let bytes = layout
        .storage_bytes(slot_size, slots)
        .map_err(|e| BenchError::broken("ring shape", e))?;
    let lines = PRODUCED_BYTES + CURSOR_BYTES;
    let memory = HeapMem::new(lines + bytes);
    let window = |at, len| {
        memory
            .window(at, len)
            .map_err(|e| BenchError::broken("ring memory", e))
    };
    Ok(RingPlace {
        storage: window(lines, bytes)?,
        produced: window(0, PRODUCED_BYTES)?,
        cursor: Some(window(PRODUCED_BYTES, CURSOR_BYTES)?),
        slot_size,
        slots,
        kind: RingKind::Stream,
        layout,
    })
}

/// Who owns the arenas of this file.
pub(crate) const OWNER: PeerId = PeerId(0);
/// To whom their spans are lent.
pub(crate) const RECEIVER: PeerId = PeerId(1);

/// The place of an arena of `bytes`.
pub(crate) fn arena_place(bytes: u64) -> ArenaPlace<HeapMem> {
    ArenaPlace {
        mem: HeapMem::new(bytes),
        offset: 0,
        region: 1,
        owner: OWNER,
        epoch: 1,
    }
}

/// Wraps an error of the library that is measured.
#[cold]
pub(crate) fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::broken("hv_shmem", error)
}
