//! An honest receiver against a producer that writes what it likes.
//!
//! The producer sends honestly and, between its messages, overwrites words of its
//! own half: sequence words, producer index, payload. Structure first (a word moved
//! by a small step or to a boundary), noise second (any value).
//!
//! Held: no panic; a poisoned ring stays poisoned; a batch never yields more
//! messages than the ring has slots; as long as nothing was overwritten, what
//! arrives is what was sent.
#![no_main]

use arbitrary::Arbitrary;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RecvError;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use libfuzzer_sys::fuzz_target;
use std::collections::VecDeque;

const SLOT: u32 = 64;

#[derive(Debug, Arbitrary)]
struct Case {
    bulk: bool,
    slots_log2: u8,
    actions: Vec<Action>,
}

#[derive(Debug, Arbitrary)]
enum Action {
    Send(u8),
    Nudge { word: u16, step: Step },
    Overwrite { word: u16, value: u64 },
    Index(Step),
    Receive,
    ReceiveBatch(u8),
    Peek,
    Arm,
    Flush,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Step {
    Back(u8),
    Forth(u8),
    Slots,
    MinusSlots,
    Zero,
    Max,
}

impl Step {
    fn apply(self, value: u64, slots: u64) -> u64 {
        match self {
            Self::Back(n) => value.wrapping_sub(n.into()),
            Self::Forth(n) => value.wrapping_add(n.into()),
            Self::Slots => value.wrapping_add(slots),
            Self::MinusSlots => value.wrapping_sub(slots),
            Self::Zero => 0,
            Self::Max => u64::MAX,
        }
    }
}

enum Sender {
    Inline(InlineSender<HeapMem>),
    Bulk(BulkSender<HeapMem>),
}

enum Receiver {
    Inline(InlineReceiver<HeapMem>),
    Bulk(BulkReceiver<HeapMem>),
}

impl Receiver {
    fn receive(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        match self {
            Self::Inline(r) => r.try_recv(out),
            Self::Bulk(r) => r.try_recv(out),
        }
    }

    fn receive_batch(&mut self, out: &mut [u8]) -> Result<usize, RecvError> {
        match self {
            Self::Inline(r) => r.pop_batch(out),
            // Every other length in place.
            Self::Bulk(r) if out.len() / SLOT as usize % 2 == 1 => {
                let mut slots = out.chunks_exact_mut(SLOT as usize);
                r.pop_each(slots.len(), |words: [u64; SLOT as usize / 8]| {
                    let slot = slots.next().expect("no more than asked for");
                    slot.copy_from_slice(words.map(u64::to_le_bytes).as_flattened());
                })
            }
            Self::Bulk(r) => r.pop_batch(out),
        }
    }

    fn poisoned(&self) -> bool {
        match self {
            Self::Inline(r) => r.violation().is_some(),
            Self::Bulk(r) => r.violation().is_some(),
        }
    }

    fn payload(&self) -> usize {
        match self {
            Self::Inline(r) => r.payload(),
            Self::Bulk(r) => r.payload(),
        }
    }
}

fuzz_target!(|case: Case| run(case));

fn run(case: Case) {
    let slots = 1 << (case.slots_log2 % 6);
    let layout = if case.bulk {
        RingLayout::Bulk
    } else {
        RingLayout::Inline
    };
    let place = RingPlace::on_heap(RingKind::Stream, layout, SLOT, slots).expect("a valid shape");
    let storage = place.storage.clone();
    let produced = place.produced.clone();
    let (mut sender, mut receiver) = if case.bulk {
        (
            Sender::Bulk(BulkSender::new(place.clone()).expect("fits")),
            Receiver::Bulk(BulkReceiver::new(place).expect("fits")),
        )
    } else {
        (
            Sender::Inline(InlineSender::new(place.clone()).expect("fits")),
            Receiver::Inline(InlineReceiver::new(place).expect("fits")),
        )
    };
    let slots = u64::from(slots);
    let words = storage.len() / 8;
    let payload = receiver.payload();
    let mut in_flight = VecDeque::new();
    let mut honest = true;
    let mut poisoned = false;

    for action in case.actions.into_iter().take(256) {
        match action {
            Action::Send(byte) => {
                let message = vec![byte; payload];
                let sent = match &mut sender {
                    Sender::Inline(s) => s.try_send(&message),
                    Sender::Bulk(s) => s.try_send(&message),
                };
                if sent.is_ok() {
                    in_flight.push_back(byte);
                }
            }
            Action::Nudge { word, step } => {
                let at = u64::from(word) % words * 8;
                let value = storage.load_u64(at, Ordering::Relaxed);
                storage.store_u64(at, step.apply(value, slots), Ordering::Relaxed);
                honest = false;
            }
            Action::Overwrite { word, value } => {
                storage.store_u64(u64::from(word) % words * 8, value, Ordering::Relaxed);
                honest = false;
            }
            Action::Index(step) => {
                let value = produced.load_u64(0, Ordering::Relaxed);
                produced.store_u64(0, step.apply(value, slots), Ordering::Relaxed);
                honest = false;
            }
            Action::Receive => {
                let mut out = vec![0; payload];
                let got = receiver.receive(&mut out);
                if poisoned {
                    assert!(matches!(got, Err(RecvError::Poisoned(_))));
                }
                if honest {
                    let expected = in_flight.pop_front();
                    assert_eq!(got.expect("nobody misbehaved"), expected.map(|_| payload));
                    if let Some(byte) = expected {
                        assert!(out.iter().all(|b| *b == byte));
                    }
                }
            }
            Action::ReceiveBatch(limit) => {
                let mut out = vec![0; payload * usize::from(limit)];
                let got = receiver.receive_batch(&mut out);
                if let Ok(n) = got {
                    assert!(n as u64 <= slots.max(u64::from(limit)));
                }
                if honest {
                    let n = got.expect("nobody misbehaved");
                    // A bulk receiver may serve from what it knew before.
                    let possible = in_flight.len().min(limit.into());
                    assert!(n <= possible && (n > 0 || possible == 0));
                    for (message, byte) in out.chunks(payload).zip(in_flight.drain(..n)) {
                        assert!(message.iter().all(|b| *b == byte));
                    }
                }
            }
            Action::Peek => match &mut receiver {
                Receiver::Inline(r) => drop(r.has_message()),
                Receiver::Bulk(r) => drop(r.has_message()),
            },
            Action::Arm => match &mut receiver {
                Receiver::Inline(r) => r.arm(),
                Receiver::Bulk(r) => r.arm(),
            },
            Action::Flush => {
                match &mut receiver {
                    Receiver::Inline(r) => drop(r.flush()),
                    Receiver::Bulk(r) => drop(r.flush()),
                }
                match &mut sender {
                    Sender::Inline(s) => drop(s.flush()),
                    Sender::Bulk(s) => drop(s.flush()),
                }
            }
        }
        assert!(receiver.poisoned() || !poisoned, "poison does not wear off");
        poisoned = receiver.poisoned();
        assert!(!(honest && poisoned), "poisoned with nobody misbehaving");
    }
}
