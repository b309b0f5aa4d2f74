//! Records of 64 bytes that one side rewrites while others copy them.
//!
//! The first u32 of a record is its sequence: odd while the writer is in the
//! middle, moved by two with every rewrite. A copy with the same even sequence
//! before and after is whole. The reader's loop is bounded, because the writer
//! may be dead or hostile: it can make a copy fail, never hang, and what it
//! gets through is still only a claim.

use crate::mem::Ordering;
use crate::mem::SharedMem;

/// Size of a record in bytes: one cache line.
pub(crate) const RECORD: usize = 64;

/// How often a reader copies a record again. A rewrite takes well under a
/// microsecond; a thousand looks at an odd sequence are some ten of them.
pub(crate) const COPIES: u32 = 1000;

/// The record stayed odd or kept moving; the sequence last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HalfWritten(pub(crate) u32);

/// Copies the record at `at` (8-byte aligned, inside `mem`).
pub(crate) fn copy<M: SharedMem>(mem: &M, at: u64) -> Result<[u8; RECORD], HalfWritten> {
    let mut bytes = [0; RECORD];
    let mut sequence = 0;
    for _ in 0..COPIES {
        // Pairs with the release store of the even sequence in `rewrite`.
        sequence = mem.load_u32(at, Ordering::Acquire);
        if sequence % 2 == 1 {
            core::hint::spin_loop();
            continue;
        }
        mem.read(at, &mut bytes);
        // The copy comes before the second look; pairs with the release fence
        // in `rewrite`.
        mem.fence(Ordering::Acquire);
        if mem.load_u32(at, Ordering::Relaxed) == sequence {
            return Ok(bytes);
        }
    }
    Err(HalfWritten(sequence))
}

/// Rewrites the record at `at`; the first four bytes of `bytes` do not matter.
pub(crate) fn rewrite<M: SharedMem>(mem: &M, at: u64, bytes: &[u8; RECORD]) {
    // A predecessor that died in the middle left it odd: it stays odd.
    let odd = mem.load_u32(at, Ordering::Relaxed) | 1;
    mem.store_u32(at, odd, Ordering::Relaxed);
    // Whoever sees a new byte sees the odd sequence.
    mem.fence(Ordering::Release);
    let words = bytes.chunks_exact(8).map(|w| {
        let mut word = [0; 8];
        word.copy_from_slice(w);
        u64::from_le_bytes(word)
    });
    for (i, word) in words.enumerate() {
        let at = at + 8 * i as u64;
        if i == 0 {
            mem.store_u32(at + 4, (word >> 32) as u32, Ordering::Relaxed);
        } else {
            // Whole words, so that a reader of one word needs no sequence.
            mem.store_u64(at, word, Ordering::Release);
        }
    }
    // Pairs with the acquire load in `copy`.
    mem.store_u32(at, odd.wrapping_add(1), Ordering::Release);
}
