//! Rings: messages from one peer to another through shared memory.
//!
//! | layout | type | for |
//! |---|---|---|
//! | in-line | [`InlineSender`], [`InlineReceiver`] | latency: the sequence word lies in the message's own cache line |
//! | in-line, several sending threads of one peer | [`MpscSender`], [`MpscReceiver`] | one reservation for a whole batch |
//! | bulk | [`BulkSender`], [`BulkReceiver`] | throughput: one index for many slots |
//! | in-place | [`InPlaceCaller`], [`InPlaceServer`] | calls between peers that trust each other: the answer overwrites the question |
//! | Submit, Complete, Event | [`SubmitSender`], [`CompleteSender`], [`EventSender`] and their receivers | typed entries over the in-line layout |
//! | Upcall | [`UpcallCaller`], [`UpcallServer`] | a call with a deadline, over the in-place layout or a pair of in-line rings |
//!
//! Source: `DESIGN.md`, "The memory", rings. Every byte of a ring has one
//! writer: slots and the producer's line belong to the producer's section, the
//! cursor line to the consumer's. The in-place layout is the exception, and its
//! storage lies in the common section.
//!
//! Distrusted: the peer at the other end. Each word that it writes is loaded
//! once, checked against what this side knows to be possible, and only then
//! used; an impossible value poisons the ring for this side
//! ([`Violation`]). No operation here blocks, spins or panics on what the peer
//! wrote.
//!
//! Left out: who may talk to whom, and where a ring lies (the region's directory
//! decides and hands over a [`RingPlace`]); waiting (`wait`); doorbells
//! (`doorbell`).
//!
//! ```
//! use hv_shmem::ring::{InlineReceiver, InlineSender, RingKind, RingLayout, RingPlace};
//!
//! // In a region, `OwnSection::create_ring` and `accept_ring` give the place.
//! let place = RingPlace::on_heap(RingKind::Stream, RingLayout::Inline, 64, 16)?;
//! let mut sender = InlineSender::new(place.clone())?;
//! let mut receiver = InlineReceiver::new(place)?;
//!
//! sender.try_send(b"hello")?;
//! // A receiver that may sleep says so in its own line; then it wants a doorbell.
//! let _ring_the_doorbell = sender.flush().must_ring;
//!
//! let mut message = [0; 56];
//! assert_eq!(receiver.try_recv(&mut message)?, Some(56));
//! assert_eq!(&message[..6], b"hello\0");
//! assert_eq!(receiver.try_recv(&mut message)?, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Positions are u64 message counts from 0; they do not wrap within the life of
//! a machine (2^64 messages at 10^9 a second are 584 years), but all arithmetic
//! on them is modulo 2^64 all the same, because the peer's words are.

mod back_off;
mod bulk;
mod complete;
mod entry;
mod event;
mod in_place;
mod inline;
mod mpsc;
mod place;
mod progress;
mod submit;
mod upcall;
mod wake;

pub use bulk::BulkReceiver;
pub use bulk::BulkSender;
pub use complete::CompleteEntry;
pub use complete::CompleteReceiver;
pub use complete::CompleteSender;
pub use entry::ENTRY_BYTES;
pub use entry::ENTRY_SLOT;
pub use entry::Entry;
pub use entry::EntryReceiver;
pub use entry::EntrySender;
pub use event::Emitted;
pub use event::EventEntry;
pub use event::EventReceiver;
pub use event::EventSender;
pub use in_place::InPlaceCaller;
pub use in_place::InPlaceServer;
pub use inline::InlineReceiver;
pub use inline::InlineSender;
pub use mpsc::MAX_CONTENTION;
pub use mpsc::MpscReceiver;
pub use mpsc::MpscSender;
pub use place::CURSOR_BYTES;
#[cfg(feature = "std")]
pub(crate) use place::EVENT_INDEX;
#[cfg(feature = "std")]
pub(crate) use place::EVENTS_LOST;
pub use place::FUTEX_WORD;
pub use place::MAX_SLOT_SIZE;
pub use place::MAX_SLOTS;
pub use place::PRODUCED_BYTES;
#[cfg(feature = "std")]
pub(crate) use place::PRODUCER_INDEX;
pub use place::PlaceError;
pub use place::RingKind;
pub use place::RingLayout;
pub use place::RingPlace;
#[cfg(feature = "std")]
pub(crate) use place::SPACE_THRESHOLD;
#[cfg(feature = "std")]
pub(crate) use progress::cursor_batch;
pub use submit::SubmitEntry;
pub use submit::SubmitReceiver;
pub use submit::SubmitSender;
pub use upcall::UpcallCaller;
pub use upcall::UpcallEntry;
pub use upcall::UpcallError;
pub use upcall::UpcallServer;
pub use wake::Wake;

use crate::violation::Violation;

/// Why nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The receiver has not freed a slot yet. Try again later.
    #[error("the ring is full")]
    Full,
    /// The peer broke the ring's rules; nothing more goes through it.
    #[error("the ring is poisoned: {0}")]
    Poisoned(Violation),
    /// The message does not fit in a slot, or (in batches) is no whole number
    /// of messages.
    #[error("a message of {len} bytes, the slot takes {limit}")]
    TooLong {
        /// Length given, in bytes.
        len: usize,
        /// Payload bytes a slot.
        limit: usize,
    },
}

/// Why nothing can be received any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// The peer broke the ring's rules; nothing more comes out of it.
    #[error("the ring is poisoned: {0}")]
    Poisoned(Violation),
}

impl From<Violation> for SendError {
    fn from(v: Violation) -> Self {
        Self::Poisoned(v)
    }
}

impl From<Violation> for RecvError {
    fn from(v: Violation) -> Self {
        Self::Poisoned(v)
    }
}
