//! The fetch ledger: memory that notices when a byte is fetched twice.
//!
//! TRUST.md, T1 (double fetch): who reads a peer's word twice may find two
//! values, one that passed the check and one that is used. A [`LedgerMem`] takes
//! note of every byte that is read, and answers a second read of a byte within
//! one operation with the *inverse* of what stands there, so that code which
//! fetches twice not only counts but goes wrong.
//!
//! An operation is what its user says it is ([`Ledger::begin`]): one receive,
//! one send, one look. Polling is many operations.
//!
//! For tests. Use it for the bytes that a peer writes; own bytes may be read as
//! often as one likes ([`LedgerMem::unwatched`]).

use super::HeapMem;
use super::Ordering;
use super::OutOfBounds;
use super::SharedMem;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// What was read, and what was read twice.
#[derive(Debug, Default)]
pub struct Ledger {
    operation: AtomicU32,
    fetched: AtomicU64,
    twice: AtomicU64,
}

impl Ledger {
    /// A ledger with no entries.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            operation: AtomicU32::new(1),
            ..Self::default()
        })
    }

    /// A new operation begins: every byte may be fetched once more.
    pub fn begin(&self) {
        self.operation.fetch_add(1, Relaxed);
    }

    /// Bytes fetched so far, in all operations.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Relaxed)
    }

    /// Bytes fetched a second time within one operation, so far.
    pub fn twice(&self) -> u64 {
        self.twice.load(Relaxed)
    }
}

/// Heap memory that enters every fetch into a [`Ledger`].
#[derive(Debug, Clone)]
pub struct LedgerMem {
    mem: HeapMem,
    first: u64,
    watch: Option<Watch>,
}

#[derive(Debug, Clone)]
struct Watch {
    ledger: Arc<Ledger>,
    /// For each byte of the whole memory, the operation that last fetched it.
    last: Arc<Vec<AtomicU32>>,
}

impl LedgerMem {
    /// Watches `mem`; other handles on the same heap memory go unwatched.
    pub fn new(mem: HeapMem, ledger: Arc<Ledger>) -> Self {
        let last = (0..mem.len()).map(|_| AtomicU32::new(0)).collect();
        Self {
            mem,
            first: 0,
            watch: Some(Watch {
                ledger,
                last: Arc::new(last),
            }),
        }
    }

    /// The same type without a watch, for bytes that this side writes itself.
    pub fn unwatched(mem: HeapMem) -> Self {
        Self {
            mem,
            first: 0,
            watch: None,
        }
    }

    /// Enters a fetch of the byte at `at`; true when it is the second of its
    /// operation.
    fn enter(&self, at: u64) -> bool {
        let Some(watch) = &self.watch else {
            return false;
        };
        let operation = watch.ledger.operation.load(Relaxed);
        watch.ledger.fetched.fetch_add(1, Relaxed);
        let last = &watch.last[(self.first + at) as usize];
        let twice = last.swap(operation, Relaxed) == operation;
        if twice {
            watch.ledger.twice.fetch_add(1, Relaxed);
        }
        twice
    }

    /// What a load of `N` bytes at `at` gives, once its fetch is entered.
    fn entered<const N: usize>(&self, at: u64, mut bytes: [u8; N]) -> [u8; N] {
        for (i, byte) in (at..).zip(bytes.iter_mut()) {
            if self.enter(i) {
                *byte = !*byte;
            }
        }
        bytes
    }
}

impl SharedMem for LedgerMem {
    fn len(&self) -> u64 {
        self.mem.len()
    }

    fn window(&self, at: u64, len: u64) -> Result<Self, OutOfBounds> {
        Ok(Self {
            mem: self.mem.window(at, len)?,
            first: self.first + at,
            watch: self.watch.clone(),
        })
    }

    fn load_u32(&self, at: u64, order: Ordering) -> u32 {
        let value = self.mem.load_u32(at, order);
        u32::from_le_bytes(self.entered(at, value.to_le_bytes()))
    }

    fn load_u64(&self, at: u64, order: Ordering) -> u64 {
        let value = self.mem.load_u64(at, order);
        u64::from_le_bytes(self.entered(at, value.to_le_bytes()))
    }

    fn store_u32(&self, at: u64, value: u32, order: Ordering) {
        self.mem.store_u32(at, value, order);
    }

    fn store_u64(&self, at: u64, value: u64, order: Ordering) {
        self.mem.store_u64(at, value, order);
    }

    fn fetch_add_u64(&self, at: u64, value: u64, order: Ordering) -> u64 {
        let found = self.mem.fetch_add_u64(at, value, order);
        u64::from_le_bytes(self.entered(at, found.to_le_bytes()))
    }

    fn compare_exchange_u64(
        &self,
        at: u64,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let result = self
            .mem
            .compare_exchange_u64(at, current, new, success, failure);
        result.map_err(|found| u64::from_le_bytes(self.entered(at, found.to_le_bytes())))
    }

    fn read(&self, at: u64, to: &mut [u8]) {
        self.mem.read(at, to);
        for (i, byte) in (at..).zip(to.iter_mut()) {
            if self.enter(i) {
                *byte = !*byte;
            }
        }
    }

    fn write(&self, at: u64, from: &[u8]) {
        self.mem.write(at, from);
    }

    fn zero(&self, at: u64, len: u64) {
        self.mem.zero(at, len);
    }
}
