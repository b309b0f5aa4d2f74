//! Where a ring lies and what shape it has.
//!
//! The region's directory finds a ring and checks its entry; the ring code takes
//! the result as a [`RingPlace`] and knows no region.
//!
//! ## The producer's line ([`PRODUCED_BYTES`], in the producer's section)
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 8 | producer index: messages published (bulk), slots reserved (mpsc), 0 otherwise |
//! | 8 | 8 | space threshold: the producer wants its doorbell when the cursor passes this |
//! | 16 | 8 | futex word (low half), for peers on one host that wait without an fd |
//! | 24 | 8 | events lost for want of space (event rings) |
//!
//! ## The consumer's line ([`CURSOR_BYTES`], in the consumer's section)
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 8 | cursor: messages consumed, published in batches |
//! | 8 | 8 | event index: the consumer wants its doorbell when the producer passes this |
//! | 16 | 8 | futex word (low half), as above |
//!
//! Both lines are 128 bytes, two cache lines, because the adjacent-line
//! prefetcher moves lines in pairs.

use crate::mem::SharedMem;
use crate::mem::Slots;

/// Length and alignment of a producer's line, in bytes.
pub const PRODUCED_BYTES: u64 = 128;
/// Length and alignment of a consumer's line, in bytes.
pub const CURSOR_BYTES: u64 = 128;
/// Most slots a ring may have: 2^20, so that a ring of the largest slots is
/// 4 GiB and a slot number fits in a u32 with room to spare.
pub const MAX_SLOTS: u32 = 1 << 20;
/// Largest slot, in bytes: one page. More than that goes through a span.
pub const MAX_SLOT_SIZE: u32 = 4096;

/// Producer's line: producer index or reservation word.
pub(crate) const PRODUCER_INDEX: u64 = 0;
/// Producer's line: space threshold.
pub(crate) const SPACE_THRESHOLD: u64 = 8;
/// Producer's line: events lost.
pub(crate) const EVENTS_LOST: u64 = 24;
/// Consumer's line: event index.
pub(crate) const EVENT_INDEX: u64 = 8;
/// Either line: the u64 whose low half is a futex word.
pub const FUTEX_WORD: u64 = 16;

/// What a ring carries. Stored as a u8 in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RingKind {
    /// Bytes whose meaning the two peers agree on.
    Stream = 1,
    /// Requests.
    Submit = 2,
    /// Answers.
    Complete = 3,
    /// One-way notices; overflow is counted.
    Event = 4,
    /// Calls in the other direction.
    Upcall = 5,
    /// Finished spans on their way home (`arena`).
    Return = 6,
}

impl RingKind {
    /// The kind with this directory value.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Stream,
            2 => Self::Submit,
            3 => Self::Complete,
            4 => Self::Event,
            5 => Self::Upcall,
            6 => Self::Return,
            _ => return None,
        })
    }
}

/// How a ring's slots are laid out. Stored as a u8 in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RingLayout {
    /// A u64 sequence word, then the payload. Slot sizes: powers of two from 16
    /// to [`MAX_SLOT_SIZE`]; 64 puts both in one cache line.
    Inline = 1,
    /// Payload only; one index for the whole ring. Slot sizes: powers of two
    /// from 8 to [`MAX_SLOT_SIZE`].
    Bulk = 2,
    /// A u64 state word, then the request, which the answer overwrites. Both
    /// peers write: storage lies in the common section. Slot sizes: powers of
    /// two from 64 to [`MAX_SLOT_SIZE`].
    InPlace = 3,
}

impl RingLayout {
    /// The layout with this directory value.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Inline,
            2 => Self::Bulk,
            3 => Self::InPlace,
            _ => return None,
        })
    }

    /// Smallest slot of this layout, in bytes.
    pub const fn min_slot_size(self) -> u32 {
        match self {
            Self::Inline => 16,
            Self::Bulk => 8,
            Self::InPlace => 64,
        }
    }

    /// Payload bytes in a slot of `slot_size` bytes.
    pub const fn payload(self, slot_size: u32) -> u32 {
        match self {
            Self::Inline | Self::InPlace => slot_size.saturating_sub(8),
            Self::Bulk => slot_size,
        }
    }

    /// Checks a shape; gives the bytes of storage that it needs.
    ///
    /// # Errors
    /// [`PlaceError`] naming the field, the value and the limit.
    pub fn storage_bytes(self, slot_size: u32, slots: u32) -> Result<u64, PlaceError> {
        let min = self.min_slot_size();
        if !slot_size.is_power_of_two() || slot_size < min || slot_size > MAX_SLOT_SIZE {
            return Err(PlaceError::SlotSize {
                value: slot_size,
                min,
                max: MAX_SLOT_SIZE,
            });
        }
        if !slots.is_power_of_two() || slots > MAX_SLOTS {
            return Err(PlaceError::Slots { value: slots });
        }
        Ok(u64::from(slot_size) * u64::from(slots))
    }
}

/// A ring cannot lie there or have that shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The slot size is no power of two, or outside the layout's range.
    #[error("slot size {value}: must be a power of two from {min} to {max}")]
    SlotSize {
        /// The value given, in bytes.
        value: u32,
        /// The smallest of the layout, in bytes.
        min: u32,
        /// The largest, in bytes.
        max: u32,
    },
    /// The number of slots is no power of two, or too large.
    #[error("{value} slots: must be a power of two from 1 to {MAX_SLOTS}")]
    Slots {
        /// The value given.
        value: u32,
    },
    /// Storage or a line is shorter than the shape needs.
    #[error("{what}: {found} bytes, {needed} needed")]
    TooShort {
        /// Which part.
        what: &'static str,
        /// Its length in bytes.
        found: u64,
        /// The length needed in bytes.
        needed: u64,
    },
    /// The ring has another layout than this type works on.
    #[error("the ring's layout is {found:?}, {needed:?} needed")]
    Layout {
        /// The layout of the place.
        found: RingLayout,
        /// The layout of the type.
        needed: RingLayout,
    },
    /// The ring carries something else than this type.
    #[error("the ring's kind is {found:?}, {needed:?} needed")]
    Kind {
        /// The kind of the place.
        found: RingKind,
        /// The kind of the type.
        needed: RingKind,
    },
    /// A consumer has no cursor line.
    #[error("the consumer's line is missing")]
    NoCursor,
}

/// A ring's memory, found and checked by the region (or by a test).
#[derive(Debug, Clone)]
pub struct RingPlace<M> {
    /// The slots: `slots * slot_size` bytes, 64-byte aligned.
    pub storage: M,
    /// The producer's line: [`PRODUCED_BYTES`], 128-byte aligned.
    pub produced: M,
    /// The consumer's line: [`CURSOR_BYTES`], 128-byte aligned. A producer may
    /// not see it yet; it then counts the cursor as 0.
    pub cursor: Option<M>,
    /// Bytes a slot, a power of two.
    pub slot_size: u32,
    /// Number of slots, a power of two.
    pub slots: u32,
    /// What the ring carries.
    pub kind: RingKind,
    /// How its slots are laid out.
    pub layout: RingLayout,
}

impl<M: SharedMem> RingPlace<M> {
    /// Checks that the place has the layout `needed` and that its parts are long
    /// enough; gives its slots.
    pub(crate) fn check(&self, needed: RingLayout) -> Result<Slots<M>, PlaceError> {
        if self.layout != needed {
            return Err(PlaceError::Layout {
                found: self.layout,
                needed,
            });
        }
        needed.storage_bytes(self.slot_size, self.slots)?;
        Slots::new(self.storage.clone(), self.slot_size, self.slots).map_err(|e| {
            PlaceError::TooShort {
                what: "storage",
                found: e.limit,
                needed: e.len,
            }
        })
    }
}

#[cfg(feature = "std")]
impl RingPlace<crate::mem::HeapMem> {
    /// A fresh ring on the heap, for two threads of one process and for tests.
    /// Clone it: one clone for each end.
    ///
    /// # Errors
    /// [`PlaceError`] when the layout cannot have that shape.
    pub fn on_heap(
        kind: RingKind,
        layout: RingLayout,
        slot_size: u32,
        slots: u32,
    ) -> Result<Self, PlaceError> {
        let bytes = layout.storage_bytes(slot_size, slots)?;
        Ok(Self {
            storage: crate::mem::HeapMem::new(bytes),
            produced: crate::mem::HeapMem::new(PRODUCED_BYTES),
            cursor: Some(crate::mem::HeapMem::new(CURSOR_BYTES)),
            slot_size,
            slots,
            kind,
            layout,
        })
    }
}

/// A producer's or consumer's line, length checked once: its words are slot 0.
pub(crate) type Line<M> = Slots<M>;

/// Checks a producer's line.
pub(crate) fn producer_line<M: SharedMem>(mem: M) -> Result<Line<M>, PlaceError> {
    line("producer's line", mem, PRODUCED_BYTES)
}

/// Checks a consumer's line.
pub(crate) fn consumer_line<M: SharedMem>(mem: M) -> Result<Line<M>, PlaceError> {
    line("consumer's line", mem, CURSOR_BYTES)
}

fn line<M: SharedMem>(what: &'static str, mem: M, needed: u64) -> Result<Line<M>, PlaceError> {
    Slots::new(mem, needed as u32, 1).map_err(|e| PlaceError::TooShort {
        what,
        found: e.limit,
        needed,
    })
}
