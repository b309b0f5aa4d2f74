//! [`SharedMem`] over loom's atomics, so that loom runs the rings' own code
//! through every order that the memory model allows.
//!
//! Memory is an array of atomic u64 words. Copies are relaxed accesses of whole
//! words, which is what they are on a real mapping. u32 accesses exist for the
//! trait's sake; the rings use none.
//!
//! For models only, behind the `loom` feature.

use super::Ordering;
use super::OutOfBounds;
use super::SharedMem;
use alloc::sync::Arc;
use alloc::vec::Vec;
use loom::sync::atomic::AtomicU64;

/// A window of modelled memory. Make it inside `loom::model`.
#[derive(Debug, Clone)]
pub struct LoomMem {
    words: Arc<Vec<AtomicU64>>,
    first: u64,
    len: u64,
}

impl LoomMem {
    /// `len` zero bytes, rounded up to whole words.
    pub fn new(len: u64) -> Self {
        let words = (0..len.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        Self {
            words: Arc::new(words),
            first: 0,
            len,
        }
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        assert!(at < self.len && at % 8 == 0, "unchecked offset {at:#x}");
        &self.words[((self.first + at) / 8) as usize]
    }
}

impl SharedMem for LoomMem {
    fn len(&self) -> u64 {
        self.len
    }

    fn window(&self, at: u64, len: u64) -> Result<Self, OutOfBounds> {
        match at.checked_add(len) {
            Some(end) if end <= self.len && at % 8 == 0 => Ok(Self {
                words: self.words.clone(),
                first: self.first + at,
                len,
            }),
            _ => Err(OutOfBounds {
                at,
                len,
                limit: self.len,
            }),
        }
    }

    fn load_u32(&self, at: u64, order: Ordering) -> u32 {
        let word = self.word(at & !7).load(order);
        (word >> ((at & 4) * 8)) as u32
    }

    fn load_u64(&self, at: u64, order: Ordering) -> u64 {
        self.word(at).load(order)
    }

    fn store_u32(&self, at: u64, value: u32, order: Ordering) {
        let shift = (at & 4) * 8;
        let word = self.word(at & !7);
        // One writer a byte, and the model gives each word one writer too.
        let rest = word.load(Ordering::Relaxed) & !(0xFFFF_FFFF << shift);
        word.store(rest | u64::from(value) << shift, order);
    }

    fn store_u64(&self, at: u64, value: u64, order: Ordering) {
        self.word(at).store(value, order);
    }

    fn fetch_add_u64(&self, at: u64, value: u64, order: Ordering) -> u64 {
        self.word(at).fetch_add(value, order)
    }

    fn compare_exchange_u64(
        &self,
        at: u64,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.word(at)
            .compare_exchange(current, new, success, failure)
    }

    fn read(&self, at: u64, to: &mut [u8]) {
        for (i, part) in (at..).step_by(8).zip(to.chunks_mut(8)) {
            let word = self.word(i).load(Ordering::Relaxed).to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }

    fn write(&self, at: u64, from: &[u8]) {
        for (i, part) in (at..).step_by(8).zip(from.chunks(8)) {
            let mut word = [0; 8];
            if part.len() < 8 {
                word = self.word(i).load(Ordering::Relaxed).to_le_bytes();
            }
            word[..part.len()].copy_from_slice(part);
            self.word(i)
                .store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    fn zero(&self, at: u64, len: u64) {
        for i in (at..at + len).step_by(8) {
            self.word(i).store(0, Ordering::Relaxed);
        }
    }

    fn fence(&self, order: Ordering) {
        loom::sync::atomic::fence(order);
    }
}
