//! Copies between shared and private memory.
//!
//! Each byte of the source is fetched once and each byte of the destination
//! stored once, whatever the compiler thinks of the surrounding code: by relaxed
//! atomics, or by machine code that the compiler cannot look into.
#![expect(
    unsafe_code,
    reason = "copies through raw addresses that may change under us"
)]

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
use super::LINE_WORDS;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
use core::arch::x86_64::__m128i;
use core::sync::atomic::AtomicU8;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// From this length on the copy goes 64 bytes a step.
const LONG: usize = 128;

/// Copies `to.len()` bytes out of shared memory.
///
/// # Safety
/// `from` is mapped readable for `to.len()` bytes.
#[inline]
pub(super) unsafe fn copy_out(from: *const u8, to: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe {
        if from.addr().is_multiple_of(8) {
            copy_out_aligned(from, to);
        } else if to.len() >= LONG {
            long(from, to.as_mut_ptr(), to.len());
        } else {
            bytes_out(from, to);
        }
    }
}

/// Copies `to.len()` bytes out of shared memory.
///
/// # Safety
/// `from` is mapped readable for `to.len()` bytes and a multiple of 8.
#[inline(always)]
pub(super) unsafe fn copy_out_aligned(from: *const u8, to: &mut [u8]) {
    let len = to.len();
    if len >= LONG {
        // SAFETY: the caller's promise; `to` is private memory of that length.
        return unsafe { long(from, to.as_mut_ptr(), len) };
    }
    let mut at = 0;
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if len >= 64 {
        // SAFETY: 64 bytes inside the range, aligned as promised.
        let line = unsafe { line_out(from) };
        to[..64].copy_from_slice(line.map(u64::to_ne_bytes).as_flattened());
        at = 64;
    }
    while at + 8 <= len {
        // SAFETY: inside the range, aligned as promised.
        let word = unsafe { AtomicU64::from_ptr(from.add(at).cast_mut().cast()) };
        to[at..at + 8].copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        at += 8;
    }
    if at != len {
        // SAFETY: the rest of the range.
        unsafe { bytes_out(from.add(at), &mut to[at..]) };
    }
}

/// Copies `from.len()` bytes into shared memory.
///
/// # Safety
/// `to` is mapped writable for `from.len()` bytes.
#[inline]
pub(super) unsafe fn copy_in(from: &[u8], to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        if to.addr().is_multiple_of(8) {
            copy_in_aligned(from, to);
        } else if from.len() >= LONG {
            long(from.as_ptr(), to, from.len());
        } else {
            bytes_in(from, to);
        }
    }
}

/// Copies `from.len()` bytes into shared memory.
///
/// # Safety
/// `to` is mapped writable for `from.len()` bytes and a multiple of 8.
#[inline(always)]
pub(super) unsafe fn copy_in_aligned(from: &[u8], to: *mut u8) {
    let len = from.len();
    if len >= LONG {
        // SAFETY: the caller's promise; `from` is private memory of that length.
        return unsafe { long(from.as_ptr(), to, len) };
    }
    let mut at = 0;
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if len >= 64 {
        let mut line = [0; LINE_WORDS];
        for (word, bytes) in line.iter_mut().zip(from.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        // SAFETY: 64 bytes inside the range, aligned as promised.
        unsafe { line_in(line, to) };
        at = 64;
    }
    while at + 8 <= len {
        let mut word = [0; 8];
        word.copy_from_slice(&from[at..at + 8]);
        // SAFETY: inside the range, aligned as promised.
        let shared = unsafe { AtomicU64::from_ptr(to.add(at).cast()) };
        shared.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        at += 8;
    }
    if at != len {
        // SAFETY: the rest of the range.
        unsafe { bytes_in(&from[at..], to.add(at)) };
    }
}

/// Loads 64 bytes of shared memory into registers.
///
/// # Safety
/// `from` is mapped readable for 64 bytes and a multiple of 8.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
pub(super) unsafe fn line_out(from: *const u8) -> [u64; LINE_WORDS] {
    let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
    // Machine code for the reason given at `long`; here the words stay in vector
    // registers for whoever takes them.
    // SAFETY: 64 readable bytes, as promised; SSE2 is in this target's baseline.
    unsafe {
        core::arch::asm!(
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            a = out(xmm_reg) a,
            b = out(xmm_reg) b,
            c = out(xmm_reg) c,
            d = out(xmm_reg) d,
            from = in(reg) from,
            options(nostack, preserves_flags, readonly),
        );
        // SAFETY: four vectors of two words each have the layout of eight words.
        core::mem::transmute([a, b, c, d])
    }
}

/// Stores 64 bytes into shared memory.
///
/// # Safety
/// `to` is mapped writable for 64 bytes and a multiple of 8.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
pub(super) unsafe fn line_in(line: [u64; LINE_WORDS], to: *mut u8) {
    // SAFETY: 64 writable bytes, as promised; the transmute as in `line_out`.
    unsafe {
        let [a, b, c, d]: [__m128i; 4] = core::mem::transmute(line);
        core::arch::asm!(
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            a = in(xmm_reg) a,
            b = in(xmm_reg) b,
            c = in(xmm_reg) c,
            d = in(xmm_reg) d,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
}

/// Sets bytes of shared memory to zero.
///
/// # Safety
/// `to` is mapped writable for `len` bytes.
pub(super) unsafe fn zero(to: *mut u8, len: usize) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(ZEROS.len());
        // SAFETY: the caller's promise; inside the range.
        unsafe { copy_in(&ZEROS[..n], to.add(at)) };
        at += n;
    }
}

/// # Safety
/// As [`copy_out`].
#[cold]
unsafe fn bytes_out(from: *const u8, to: &mut [u8]) {
    for (i, byte) in to.iter_mut().enumerate() {
        // SAFETY: inside the caller's range.
        let shared = unsafe { AtomicU8::from_ptr(from.add(i).cast_mut()) };
        *byte = shared.load(Ordering::Relaxed);
    }
}

/// # Safety
/// As [`copy_in`].
#[cold]
unsafe fn bytes_in(from: &[u8], to: *mut u8) {
    for (i, byte) in from.iter().enumerate() {
        // SAFETY: inside the caller's range.
        let shared = unsafe { AtomicU8::from_ptr(to.add(i)) };
        shared.store(*byte, Ordering::Relaxed);
    }
}

/// Copies a long range, one side of which is shared.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes; they do not overlap.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(never)]
unsafe fn long(from: *const u8, to: *mut u8, len: usize) {
    let steps = len / 64;
    let tail = len % 64;
    // Machine code, because the compiler may neither repeat, split nor drop
    // these accesses, and vectorises no atomics.
    // SAFETY: `steps * 64` bytes, at least one step, as promised. SSE2 is in
    // this target's baseline; the direction flag is clear on entry.
    unsafe {
        core::arch::asm!(
            "2:",
            "movups {a}, [rsi]",
            "movups {b}, [rsi + 16]",
            "movups {c}, [rsi + 32]",
            "movups {d}, [rsi + 48]",
            "movups [rdi], {a}",
            "movups [rdi + 16], {b}",
            "movups [rdi + 32], {c}",
            "movups [rdi + 48], {d}",
            "add rsi, 64",
            "add rdi, 64",
            "dec {n}",
            "jnz 2b",
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            n = inout(reg) steps => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack),
        );
    }
    if tail != 0 {
        // SAFETY: the last `tail` bytes of both ranges.
        unsafe {
            core::arch::asm!(
                "rep movsb",
                inout("rsi") from.add(steps * 64) => _,
                inout("rdi") to.add(steps * 64) => _,
                inout("rcx") tail => _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Copies a long range, one side of which is shared.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes; they do not overlap.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
#[inline(never)]
unsafe fn long(from: *const u8, to: *mut u8, len: usize) {
    let aligned = from.addr().is_multiple_of(8) && to.addr().is_multiple_of(8);
    let words = if aligned { len / 8 } else { 0 };
    for i in 0..words {
        // SAFETY: inside the caller's ranges, aligned as just checked.
        unsafe {
            let word = AtomicU64::from_ptr(from.add(i * 8).cast_mut().cast());
            let shared = AtomicU64::from_ptr(to.add(i * 8).cast());
            shared.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
    for i in words * 8..len {
        // SAFETY: inside the caller's ranges.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(i).cast_mut());
            AtomicU8::from_ptr(to.add(i)).store(byte.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}
