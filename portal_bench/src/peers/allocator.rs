//! rlsf, a two-level segregated-fit allocator, behind a spinlock: what several
//! threads that share one arena would otherwise use.
#![expect(
    unsafe_code,
    reason = "the allocator's own interface takes and gives raw pointers"
)]

use crate::BenchError;
use crate::base::arena::Tally;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Alone;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use rlsf::Tlsf;
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// Bytes that the allocator may give out: what Portal's arena has.
const POOL: usize = 4 << 20;

type Pool = Tlsf<'static, u32, u32, 32, 32>;

/// The allocator and its lock.
struct Locked {
    held: AtomicBool,
    inner: UnsafeCell<Pool>,
}

// SAFETY: `inner` is touched only between `lock` and `unlock`.
unsafe impl Sync for Locked {}
// SAFETY: the pool's memory is leaked and belongs to no thread.
unsafe impl Send for Locked {}

impl Locked {
    fn new() -> Self {
        let pool: &'static mut [MaybeUninit<u8>] =
            Box::leak(vec![MaybeUninit::new(0); POOL].into_boxed_slice());
        let mut inner = Pool::new();
        inner.insert_free_block(pool);
        Self {
            held: AtomicBool::new(false),
            inner: UnsafeCell::new(inner),
        }
    }

    #[inline]
    fn with<R>(&self, act: impl FnOnce(&mut Pool) -> R) -> R {
        // Acquire pairs with the release below: one holder's writes to the
        // allocator are seen by the next.
        while self.held.swap(true, Ordering::Acquire) {
            while self.held.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
        // SAFETY: the lock is held, so this is the only reference.
        let done = act(unsafe { &mut *self.inner.get() });
        self.held.store(false, Ordering::Release);
        done
    }

    #[inline]
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.with(|pool| pool.allocate(layout))
    }

    #[inline]
    fn free(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: every block freed here came from `allocate` of the same
        // allocator with the same layout, and is freed once.
        self.with(|pool| unsafe { pool.deallocate(block, layout.align()) });
    }
}

fn layout(size: usize) -> Result<Layout, BenchError> {
    Layout::from_size_align(size, 64).map_err(|e| BenchError::broken("block layout", e))
}

/// One core allocates and frees `size` bytes, `count` times; nanoseconds a pair.
pub(crate) fn same_core(pair: Pair, size: usize, count: u64) -> Contender<'static> {
    let locked = Locked::new();
    Contender::new("rlsf behind a spinlock", move || {
        let layout = layout(size)?;
        let (ns, preempted) = pair.alone(|| {
            let tally = Tally::begin(count);
            for _ in 0..count {
                let block = locked.allocate(layout).ok_or_else(exhausted)?;
                locked.free(std::hint::black_box(block), layout);
            }
            Ok(tally.ns_each())
        })?;
        Ok(Sample::of(ns, preempted))
    })
}

/// A block on its way to the other core.
struct Sent(NonNull<u8>);
// SAFETY: whoever holds it owns the block.
unsafe impl Send for Sent {}

/// One core allocates, the other frees; the block's address crosses in an rtrb
/// ring of `slots`. Nanoseconds a block.
pub(crate) fn across(pair: Pair, size: usize, slots: usize, count: u64) -> Contender<'static> {
    let locked = Alone(Locked::new());
    let (tx, rx) = rtrb::RingBuffer::<Sent>::new(slots);
    let (mut tx, mut rx) = (Alone(tx), Alone(rx));
    Contender::new("rlsf behind a spinlock", move || {
        let layout = layout(size)?;
        let (locked, tx, rx) = (&*locked, &mut *tx, &mut *rx);
        let ((), ns, preempted) = pair.run(
            move |start| {
                let mut patience = Patience::of("space for a block's address");
                start.wait()?;
                for _ in 0..count {
                    let block = locked.allocate(layout).ok_or_else(exhausted)?;
                    let mut sent = Sent(block);
                    while let Err(rtrb::PushError::Full(back)) = tx.push(sent) {
                        sent = back;
                        patience.spin()?;
                    }
                }
                Ok(())
            },
            move |start| {
                let mut patience = Patience::of("a block's address");
                start.wait()?;
                let tally = Tally::begin(count);
                for _ in 0..count {
                    let Sent(block) = loop {
                        match rx.pop() {
                            Ok(sent) => break sent,
                            Err(_) => patience.spin()?,
                        }
                    };
                    locked.free(block, layout);
                }
                Ok(tally.ns_each())
            },
        )?;
        Ok(Sample::of(ns, preempted))
    })
}

fn exhausted() -> BenchError {
    BenchError::Broken("the allocator ran out of blocks".into())
}
