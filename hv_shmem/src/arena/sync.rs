//! The atomics and the lock of the owner's private book-keeping.
//!
//! Private: only threads of this peer ever touch them, so nothing here is a
//! claim. They are in one place so that loom can stand in for them.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

#[cfg(not(feature = "loom"))]
pub(crate) use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

pub(crate) use core::sync::atomic::Ordering;

/// A lock between threads of one peer. It guards the page states and the lists,
/// which are atomics themselves: under it they are loaded and stored `Relaxed`.
#[derive(Debug)]
pub(crate) struct Lock(AtomicU32);

/// Proof that the lock is held; opens it when dropped.
#[derive(Debug)]
pub(crate) struct Locked<'a>(&'a AtomicU32);

/// Tries before a waiting thread offers its core to the one that holds the lock.
#[cfg(all(feature = "std", not(feature = "loom")))]
const SPINS_BEFORE_YIELD: u32 = 128;

impl Lock {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        #[cfg(all(feature = "std", not(feature = "loom")))]
        let mut spins = 0;
        // Acquire pairs with the Release of `Locked::drop`.
        while self
            .0
            .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            #[cfg(feature = "loom")]
            loom::thread::yield_now();
            #[cfg(not(feature = "loom"))]
            core::hint::spin_loop();
            #[cfg(all(feature = "std", not(feature = "loom")))]
            {
                spins += 1;
                if spins % SPINS_BEFORE_YIELD == 0 {
                    std::thread::yield_now();
                }
            }
        }
        Locked(&self.0)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire of the next `Lock::lock`.
        self.0.store(0, Ordering::Release);
    }
}
