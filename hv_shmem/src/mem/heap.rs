//! [`SharedMem`] over the heap: for tests, and for two threads of one process.
#![expect(unsafe_code, reason = "hands the allocation's address to RawMem")]

use super::KeptMem;
use super::RawMem;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;

/// What the heap hands out: one pair of cache lines.
#[repr(C, align(128))]
struct Pair(UnsafeCell<[u8; 128]>);

/// The allocation itself, kept by every window into it.
struct Block(Vec<Pair>);

// SAFETY: the bytes are only reached through `RawMem`, whose accesses are all
// atomic; nothing else touches them until the block is dropped.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// Heap memory, given back when its last keeper goes.
#[derive(Clone)]
pub struct Heap {
    _block: Arc<Block>,
}

/// Zeroed, 128-byte aligned heap memory; clones and windows share it and keep
/// it alive.
pub type HeapMem = KeptMem<Heap>;

impl HeapMem {
    /// Allocates `len` zero bytes.
    pub fn new(len: u64) -> Self {
        let pairs = len.div_ceil(128) as usize;
        let block = Arc::new(Block(
            (0..pairs)
                .map(|_| Pair(UnsafeCell::new([0; 128])))
                .collect(),
        ));
        // SAFETY: the allocation has at least `len` bytes behind interior
        // mutability, lives as long as `block`, and is never touched by reference.
        let raw = unsafe { RawMem::new(block.0.as_ptr().cast_mut().cast(), len) };
        // SAFETY: as above; the keeper is `block`.
        unsafe { Self::keep(Heap { _block: block }, raw) }
    }
}
