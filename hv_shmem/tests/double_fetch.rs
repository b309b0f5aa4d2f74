//! TRUST.md, T1 (double fetch): over the fetch ledger, which answers a second
//! read of a byte within one operation with its inverse, every ring receives
//! every message whole and reads no byte of the peer's twice.

mod harness;
#[path = "harness/random.rs"]
mod random;

#[cfg(feature = "negative_control")]
use hv_shmem::guard::Guard;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::without;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ledger;
use hv_shmem::mem::LedgerMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InPlaceCaller;
use hv_shmem::ring::InPlaceServer;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::MpscReceiver;
use hv_shmem::ring::MpscSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SendError;
use random::Random;
use std::sync::Arc;

const WHAT: &str = "peer's words fetched once: four ring layouts, and bulk in place";
const SLOTS: u32 = 8;
/// Largest batch taken at once.
const BATCH: usize = 5;

/// One ring; the plain end is the peer, the other end reads through the ledger.
struct Ring {
    ledger: Arc<Ledger>,
    plain: RingPlace<HeapMem>,
}

impl Ring {
    fn new(layout: RingLayout) -> Self {
        Self {
            ledger: Ledger::new(),
            plain: RingPlace::on_heap(RingKind::Stream, layout, 64, SLOTS).unwrap(),
        }
    }

    fn watched(&self, mem: &HeapMem) -> LedgerMem {
        LedgerMem::new(mem.clone(), self.ledger.clone())
    }

    /// As the receiver sees it: its own line may be read freely.
    fn for_receiver(&self) -> RingPlace<LedgerMem> {
        let cursor = self.plain.cursor.clone().map(LedgerMem::unwatched);
        self.place(
            self.watched(&self.plain.storage),
            self.watched(&self.plain.produced),
            cursor,
        )
    }

    /// As the sender sees it: only the cursor line is the peer's.
    fn for_sender(&self) -> RingPlace<LedgerMem> {
        let cursor = self.plain.cursor.as_ref().map(|c| self.watched(c));
        self.place(
            LedgerMem::unwatched(self.plain.storage.clone()),
            LedgerMem::unwatched(self.plain.produced.clone()),
            cursor,
        )
    }

    fn place(
        &self,
        storage: LedgerMem,
        produced: LedgerMem,
        cursor: Option<LedgerMem>,
    ) -> RingPlace<LedgerMem> {
        RingPlace {
            storage,
            produced,
            cursor,
            slot_size: self.plain.slot_size,
            slots: self.plain.slots,
            kind: self.plain.kind,
            layout: self.plain.layout,
        }
    }
}

type Send<'a> = Box<dyn FnMut(&[u8]) -> Result<(), SendError> + 'a>;
type Receive<'a> = Box<dyn FnMut(&mut [u8]) -> Option<usize> + 'a>;

/// What the ends have in common.
struct Ends<'a> {
    layout: RingLayout,
    send: Send<'a>,
    receive: Receive<'a>,
}

/// Sends and receives `messages` in random bursts; gives how many went wrong.
fn exchange(ledger: &Ledger, mut ends: Ends<'_>, messages: u64, random: &mut Random) -> u64 {
    let payload = ends.layout.payload(64) as usize;
    let (mut sent, mut received, mut wrong) = (0u64, 0u64, 0u64);
    let (mut out, mut idle) = (vec![0; payload * BATCH], 0);
    while received < messages && idle < 100 {
        for _ in 0..=random.below(u64::from(SLOTS)) {
            ledger.begin();
            let mut message = vec![0; payload];
            message.fill(sent as u8);
            message[..8].copy_from_slice(&sent.to_le_bytes());
            match (ends.send)(&message) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => break,
                Err(_) => return wrong + 1,
            }
        }
        for _ in 0..=random.below(4) {
            ledger.begin();
            let Some(count) = (ends.receive)(&mut out) else {
                return wrong + 1;
            };
            idle = if count == 0 { idle + 1 } else { 0 };
            for message in out[..count * payload].chunks_exact(payload) {
                let whole = message[..8] == received.to_le_bytes()
                    && message[8..].iter().all(|b| *b == received as u8);
                wrong += u64::from(!whole);
                received += 1;
            }
        }
    }
    wrong + u64::from(received < messages)
}

/// A bulk receiver that takes its messages in place, into `out`.
fn take_in_place(rx: &mut BulkReceiver<LedgerMem>, out: &mut [u8]) -> Option<usize> {
    let mut slots = out.chunks_exact_mut(64);
    let taken = rx.pop_each(BATCH, |words: [u64; 8]| {
        if let Some(slot) = slots.next() {
            slot.copy_from_slice(&words.map(u64::to_le_bytes).concat());
        }
    });
    taken.ok()
}

fn receivers_in_place(messages: u64, random: &mut Random) -> (u64, u64) {
    let ring = Ring::new(RingLayout::Bulk);
    let ledger = ring.ledger.clone();
    let mut tx = BulkSender::new(ring.plain.clone()).unwrap();
    let mut rx = BulkReceiver::new(ring.for_receiver()).unwrap();
    let ends = Ends {
        layout: RingLayout::Bulk,
        send: Box::new(move |m| {
            let mut words = [0; 8];
            for (word, bytes) in words.iter_mut().zip(m.chunks_exact(8)) {
                *word = u64::from_le_bytes(bytes.try_into().unwrap());
            }
            match tx.push_each(1, || words)? {
                1 => Ok(()),
                _ => Err(SendError::Full),
            }
        }),
        receive: Box::new(move |out| take_in_place(&mut rx, out)),
    };
    let wrong = exchange(&ledger, ends, messages, random);
    (wrong, ledger.twice())
}

fn receivers(layout: RingLayout, messages: u64, random: &mut Random) -> (u64, u64) {
    let ring = Ring::new(layout);
    let ledger = ring.ledger.clone();
    let wrong = match layout {
        RingLayout::Inline => {
            let mut tx = InlineSender::new(ring.plain.clone()).unwrap();
            let mut rx = InlineReceiver::new(ring.for_receiver()).unwrap();
            let ends = Ends {
                layout,
                send: Box::new(move |m| tx.try_send(m)),
                receive: Box::new(move |out| rx.pop_batch(out).ok()),
            };
            exchange(&ledger, ends, messages, random)
        }
        RingLayout::Bulk => {
            let mut tx = BulkSender::new(ring.plain.clone()).unwrap();
            let mut rx = BulkReceiver::new(ring.for_receiver()).unwrap();
            let ends = Ends {
                layout,
                send: Box::new(move |m| tx.try_send(m)),
                receive: Box::new(move |out| rx.pop_batch(out).ok()),
            };
            exchange(&ledger, ends, messages, random)
        }
        RingLayout::InPlace => {
            let mut caller = InPlaceCaller::new(ring.plain.clone()).unwrap();
            let mut server = InPlaceServer::new(ring.for_receiver()).unwrap();
            let payload = layout.payload(64) as usize;
            let ends = Ends {
                layout,
                send: Box::new(move |m| {
                    let mut answer = [0; 8];
                    while caller.poll_answer(&mut answer).ok().flatten().is_some() {}
                    caller.try_call(m).map(|_| ())
                }),
                receive: Box::new(move |out| match server.try_recv(&mut out[..payload]) {
                    Ok(None) => Some(0),
                    Ok(Some(_)) => server.answer(&[]).ok().map(|()| 1),
                    Err(_) => None,
                }),
            };
            exchange(&ledger, ends, messages, random)
        }
    };
    (wrong, ledger.twice())
}

/// The sending ends, which fetch the peer's cursor.
fn senders(layout: RingLayout, messages: u64, random: &mut Random) -> (u64, u64) {
    let ring = Ring::new(layout);
    let ledger = ring.ledger.clone();
    let ends = if layout == RingLayout::Inline {
        let mut tx = MpscSender::new(ring.for_sender()).unwrap();
        let mut rx = MpscReceiver::new(ring.plain.clone()).unwrap();
        Ends {
            layout,
            send: Box::new(move |m| tx.try_send(m)),
            receive: Box::new(move |out| rx.pop_batch(out).ok()),
        }
    } else {
        let mut tx = BulkSender::new(ring.for_sender()).unwrap();
        let mut rx = BulkReceiver::new(ring.plain.clone()).unwrap();
        Ends {
            layout,
            send: Box::new(move |m| tx.try_send(m)),
            receive: Box::new(move |out| rx.pop_batch(out).ok()),
        }
    };
    let wrong = exchange(&ledger, ends, messages, random);
    (wrong, ledger.twice())
}

fn run(cases: u64) -> u64 {
    let mut random = Random(harness::seed());
    let share = (cases / 6).max(100);
    let mut failures = 0;
    for layout in [RingLayout::Inline, RingLayout::Bulk, RingLayout::InPlace] {
        let (wrong, twice) = receivers(layout, share, &mut random);
        failures += wrong + twice;
    }
    let (wrong, twice) = receivers_in_place(share, &mut random);
    failures += wrong + twice;
    for layout in [RingLayout::Inline, RingLayout::Bulk] {
        let (wrong, twice) = senders(layout, share, &mut random);
        failures += wrong + twice;
    }
    failures
}

#[test]
fn t1_double_fetch() {
    let cases = harness::cases(50_000);
    harness::report("T1", WHAT, None, cases, run(cases));
}

/// With the producer index loaded once to be checked and once more to be used,
/// the ledger counts, and the ring reads nonsense.
#[cfg(feature = "negative_control")]
#[test]
fn control_t1_double_fetch() {
    let cases = harness::cases(50_000).min(50_000);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let failures = without(Guard::Fetch, || {
        std::panic::catch_unwind(|| run(cases)).unwrap_or(1)
    });
    std::panic::set_hook(hook);
    let guard = Some("one load for check and use of the producer index");
    harness::report("T1", WHAT, guard, cases, failures);
}

/// The ledger itself: a second read in one operation is counted and inverted,
/// one in the next operation is not.
#[test]
fn ledger_inverts_second_reads() {
    use hv_shmem::mem::SharedMem;
    let heap = HeapMem::new(128);
    heap.write(8, &[0x11; 8]);
    let ledger = Ledger::new();
    let watched = LedgerMem::new(heap, ledger.clone());
    let window = watched.window(8, 8).unwrap();
    let mut bytes = [0; 8];
    watched.read(8, &mut bytes);
    assert_eq!(bytes, [0x11; 8]);
    window.read(0, &mut bytes[..2]);
    assert_eq!(bytes[..3], [0xEE, 0xEE, 0x11]);
    assert_eq!((ledger.fetched(), ledger.twice()), (10, 2));
    ledger.begin();
    window.read(0, &mut bytes);
    assert_eq!(bytes, [0x11; 8]);
    assert_eq!(ledger.twice(), 2);
}
