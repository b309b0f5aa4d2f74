//! Bulk bytes in shared memory: written, read, copied and hashed at the speed of
//! the memory.
//!
//! In assembly, because the compiler may neither merge nor invent accesses to
//! memory that others write, and plain atomics would go eight bytes at a time.
//! SSE2, which every x86-64 CPU has; what limits here is the memory. Reads are of
//! claims: nothing is decided by what is read.
#![expect(
    unsafe_code,
    reason = "streams through checked windows of shared memory, in assembly"
)]

use core::arch::asm;
use hv_shmem::mem::RawMem;
use hv_shmem::mem::SharedMem;

/// Bytes of a cache line, the step of the loops here.
const LINE: usize = 64;
/// Bytes that are copied before they are hashed: they stay in the first- and
/// second-level caches, and are enough for every lane of BLAKE3.
pub(crate) const HASH_BYTES: usize = 32 << 10;

/// Bytes of a block of the pattern.
const BLOCK: usize = 64 << 10;

/// Fills `mem` with a pattern made from `seed`: each block of 64 KiB repeats one
/// word, which differs from block to block and from seed to seed.
///
/// By `rep stosq`: the CPU then takes whole lines without reading what the peer
/// has in them, which is four times as fast as stores when the peer runs on
/// another core (36 GB/s against 8), and a sixth slower when the two share a cache.
pub(crate) fn fill(mem: &RawMem, seed: u64) {
    let len = mem.len() as usize;
    let mut at = 0;
    let mut block = 0;
    while len - at >= 8 {
        let words = (len - at).min(BLOCK) / 8;
        // SAFETY: `at + words * 8` is at most the window's length; it is mapped
        // and writable (the caller's own span). The direction flag is clear
        // (System V ABI).
        unsafe {
            asm!(
                "rep stosq",
                inout("rcx") words => _,
                inout("rdi") mem.as_ptr().add(at) => _,
                in("rax") word_of(seed, block),
                options(nostack, preserves_flags),
            );
        }
        at += words * 8;
        block += 1;
    }
    let word = word_of(seed, (at / BLOCK) as u64).to_le_bytes();
    if let Some(tail) = word.get(..len - at) {
        mem.write(at as u64, tail);
    }
}

/// Difference between the words of two neighbouring blocks: odd, so that 2^64
/// blocks differ.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The word that [`fill`] repeats in block `block`.
pub(crate) fn word_of(seed: u64, block: u64) -> u64 {
    seed.wrapping_add(STEP.wrapping_mul(block))
}

/// Loads every byte of `mem` once; gives the exclusive or of its words (without
/// the last `len % 64` bytes, which are loaded all the same).
pub(crate) fn read(mem: &RawMem) -> u64 {
    let len = mem.len() as usize;
    let (lines, tail) = (len / LINE, len % LINE);
    let mut low: u64 = 0;
    let mut high: u64 = 0;
    if lines > 0 {
        // SAFETY: loads from `lines * 64` bytes at the start of the window, which
        // is that long and mapped; the prefetch ahead is a hint and cannot fault.
        unsafe {
            asm!(
                "pxor xmm0, xmm0",
                "pxor xmm1, xmm1",
                "pxor xmm2, xmm2",
                "pxor xmm3, xmm3",
                "2:",
                "prefetcht0 [{at} + 4096]",
                "movups xmm4, [{at}]",
                "movups xmm5, [{at} + 16]",
                "movups xmm6, [{at} + 32]",
                "movups xmm7, [{at} + 48]",
                "pxor xmm0, xmm4",
                "pxor xmm1, xmm5",
                "pxor xmm2, xmm6",
                "pxor xmm3, xmm7",
                "add {at}, 64",
                "dec {lines}",
                "jnz 2b",
                "pxor xmm0, xmm1",
                "pxor xmm2, xmm3",
                "pxor xmm0, xmm2",
                "movq {low}, xmm0",
                "psrldq xmm0, 8",
                "movq {high}, xmm0",
                at = inout(reg) mem.as_ptr() => _,
                lines = inout(reg) lines => _,
                low = out(reg) low,
                high = out(reg) high,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                options(nostack, readonly),
            );
        }
    }
    let mut last = [0; LINE];
    if let Some(rest) = last.get_mut(..tail) {
        mem.read((lines * LINE) as u64, rest);
    }
    low ^ high
}

/// Copies what fits from `from` to `to`; gives how many bytes that were.
pub(crate) fn copy(from: &RawMem, to: &RawMem) -> u64 {
    let len = from.len().min(to.len());
    // SAFETY: both windows are mapped and at least `len` long; `to` is the
    // caller's own span and so lies in another section than `from`. The direction
    // flag is clear (System V ABI).
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from.as_ptr() => _,
            inout("rdi") to.as_ptr() => _,
            options(nostack, preserves_flags),
        );
    }
    len
}

/// Hashes `mem`: each part is copied once, and the copy hashed.
pub(crate) fn hash(mem: &RawMem, hasher: &mut blake3::Hasher, buffer: &mut [u8; HASH_BYTES]) {
    let len = mem.len() as usize;
    let mut at = 0;
    while at < len {
        let part = (len - at).min(HASH_BYTES);
        if let Some(copy) = buffer.get_mut(..part) {
            mem.read(at as u64, copy);
            hasher.update(copy);
        }
        at += part;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    /// 64-byte aligned memory of this test alone.
    #[repr(align(64))]
    struct Block([u8; 1000]);

    fn window(block: &mut Block, len: usize) -> RawMem {
        assert!(len <= block.0.len());
        // SAFETY: the block outlives the window in each test below.
        unsafe { RawMem::new(block.0.as_mut_ptr(), len as u64) }
    }

    #[test]
    fn fill_writes_the_window_and_nothing_else() {
        const MOST: usize = 2 * BLOCK + 100;
        let mut block = vec![0; MOST + 64];
        for len in [
            0,
            1,
            7,
            8,
            63,
            999,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            BLOCK + 8,
            MOST,
        ] {
            block.fill(0xEE);
            // SAFETY: the vector outlives the window and nobody else uses it.
            fill(&unsafe { RawMem::new(block.as_mut_ptr(), len as u64) }, 7);
            for (i, byte) in block.iter().enumerate() {
                let want = if i < len {
                    word_of(7, (i / BLOCK) as u64).to_le_bytes()[i % 8]
                } else {
                    0xEE
                };
                assert_eq!(*byte, want, "byte {i} of {len}");
            }
        }
    }

    #[test]
    fn read_sees_every_line() {
        for changed in [0, 8, 63, 64, 320, 639] {
            let mut block = Block([0; 1000]);
            assert_eq!(read(&window(&mut block, 640)), 0);
            block.0[changed] = 1;
            assert_eq!(
                read(&window(&mut block, 640)),
                1 << (changed % 8 * 8),
                "byte {changed}"
            );
        }
    }

    #[test]
    fn copy_and_hash_take_what_is_there() {
        let mut from = Block([0; 1000]);
        for (i, byte) in from.0.iter_mut().enumerate() {
            *byte = i as u8;
        }
        let mut to = Block([0; 1000]);
        let copied = copy(&window(&mut from, 777), &window(&mut to, 1000));
        assert_eq!(copied, 777);
        assert_eq!(to.0[..777], from.0[..777]);
        assert!(to.0[777..].iter().all(|b| *b == 0));

        let mut hasher = blake3::Hasher::new();
        hash(&window(&mut to, 777), &mut hasher, &mut [0; HASH_BYTES]);
        assert_eq!(hasher.finalize(), blake3::hash(&from.0[..777]));
    }
}
