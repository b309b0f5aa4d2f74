//! TRUST.md, T9 (length overflow), for what has lengths here: batches of a bulk
//! ring and spans. Whatever length is asked for, named or left over, at every
//! edge ({0, 8, 16, available - 8, available, available + 8, max}) and at every
//! place of the wrap, no more is moved than there is: the cursor never passes the
//! producer, nothing behind what was taken is touched, and a span reaches no
//! other span.

mod harness;
#[path = "harness/random.rs"]
mod random;

use hv_shmem::arena::Arena;
use hv_shmem::arena::ArenaPlace;
use hv_shmem::arena::ArenaView;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::Guard;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::without;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SendError;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;
use hv_shmem::span::SpanError;
use random::Random;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

const BATCHES: &str = "batch lengths of a bulk ring, copied and in place, at every wrap";
const SPANS: &str = "span lengths of every kind of block";
/// What lies behind the bytes that may be written.
const CANARY: u8 = 0xC5;

/// Lengths in bytes at which a comparison could be off by one.
fn edges(available: usize, max: usize) -> [usize; 9] {
    [
        0,
        8,
        16,
        available.saturating_sub(8),
        available,
        available + 8,
        // No whole message.
        available + 1,
        available.saturating_sub(1),
        max,
    ]
}

/// A bulk ring of `slots` slots of `size` bytes; `done` messages have been
/// through, `waiting` lie in it, the cursor is published.
#[derive(Clone, Copy)]
struct State {
    size: usize,
    slots: usize,
    done: usize,
    waiting: usize,
}

struct Ends {
    place: RingPlace<HeapMem>,
    tx: BulkSender<HeapMem>,
    rx: BulkReceiver<HeapMem>,
}

impl State {
    fn ends(self) -> Ends {
        let (size, slots) = (self.size as u32, self.slots as u32);
        let place = RingPlace::on_heap(RingKind::Stream, RingLayout::Bulk, size, slots).unwrap();
        let mut tx = BulkSender::new(place.clone()).unwrap();
        let mut rx = BulkReceiver::new(place.clone()).unwrap();
        let mut out = vec![0; self.size];
        for number in 0..self.done {
            tx.try_send(&self.message(number)).unwrap();
            rx.try_recv(&mut out).unwrap().unwrap();
        }
        let _ = rx.flush();
        for number in 0..self.waiting {
            tx.try_send(&self.message(self.done + number)).unwrap();
        }
        Ends { place, tx, rx }
    }

    fn message(self, number: usize) -> Vec<u8> {
        (number as u64 + 1).to_le_bytes().repeat(self.size / 8)
    }

    fn messages(self, from: usize, count: usize) -> Vec<u8> {
        (from..from + count)
            .flat_map(|number| self.message(number))
            .collect()
    }

    /// The consumer's cursor, once all that was taken is published, is not past
    /// the producer's index.
    fn cursor_is_behind(self, ends: &mut Ends) -> bool {
        let _ = ends.rx.flush();
        let word = |mem: &HeapMem| mem.load_u64(0, Ordering::Relaxed);
        word(ends.place.cursor.as_ref().unwrap()) <= word(&ends.place.produced)
    }

    fn pop(self, len: usize) -> bool {
        let mut ends = self.ends();
        let expected = (len / self.size).min(self.waiting);
        let mut out = vec![CANARY; len];
        let taken = ends.rx.pop_batch(&mut out);
        let whole = self.messages(self.done, expected);
        taken == Ok(expected)
            && out[..whole.len()] == whole
            && out[whole.len()..].iter().all(|byte| *byte == CANARY)
            && self.cursor_is_behind(&mut ends)
    }

    fn pop_each(self, len: usize) -> bool {
        let mut ends = self.ends();
        let most = len / self.size;
        let expected = most.min(self.waiting);
        let mut seen = Vec::new();
        let taken = ends.rx.pop_each(most, |[word]| seen.push(word));
        let numbers = (self.done + 1..).take(expected).map(|number| number as u64);
        taken == Ok(expected) && seen.into_iter().eq(numbers) && self.cursor_is_behind(&mut ends)
    }

    /// What was sent arrives behind what was waiting, and nothing else does.
    fn arrives(self, ends: &mut Ends, sent: usize) -> bool {
        let mut out = vec![CANARY; (self.slots + 2) * self.size];
        let taken = ends.rx.pop_batch(&mut out);
        let all = self.messages(self.done, self.waiting + sent);
        taken == Ok(self.waiting + sent) && out[..all.len()] == all
    }

    fn push(self, len: usize) -> bool {
        let mut ends = self.ends();
        let mut bytes = self.messages(self.done + self.waiting, len.div_ceil(self.size));
        bytes.truncate(len);
        let went = ends.tx.push_batch(&bytes);
        if !len.is_multiple_of(self.size) {
            return matches!(went, Err(SendError::TooLong { .. })) && self.arrives(&mut ends, 0);
        }
        let expected = (len / self.size).min(self.slots - self.waiting);
        went == Ok(expected) && self.arrives(&mut ends, expected)
    }

    fn push_each(self, len: usize) -> bool {
        let mut ends = self.ends();
        let most = len / self.size;
        let expected = most.min(self.slots - self.waiting);
        let mut next = (self.done + self.waiting) as u64;
        let mut make = || {
            next += 1;
            next
        };
        let went = match self.size {
            8 => ends.tx.push_each(most, || [make(); 1]),
            16 => ends.tx.push_each(most, || [make(); 2]),
            _ => ends.tx.push_each(most, || [make(); 8]),
        };
        went == Ok(expected) && self.arrives(&mut ends, expected)
    }

    /// All lengths at all four doors: (cases, failures).
    fn doors(self) -> (u64, u64) {
        let max = (2 * self.slots + 1) * self.size;
        let holds = |door: fn(Self, usize) -> bool, len| {
            let held = catch_unwind(AssertUnwindSafe(|| door(self, len)));
            u64::from(!held.unwrap_or(false))
        };
        let (mut cases, mut failures) = (0, 0);
        for len in edges(self.waiting * self.size, max) {
            failures += holds(Self::pop, len) + holds(Self::pop_each, len);
            cases += 2;
        }
        for len in edges((self.slots - self.waiting) * self.size, max) {
            failures += holds(Self::push, len) + holds(Self::push_each, len);
            cases += 2;
        }
        (cases, failures)
    }
}

/// Every state of every ring of up to `widest` slots, then random ones of longer
/// rings until there were enough cases.
fn batches(wanted: u64, widest: usize) -> (u64, u64) {
    let (mut cases, mut failures) = (0, 0);
    let mut add = |state: State| {
        let (ran, failed) = state.doors();
        cases += ran;
        failures += failed;
        cases
    };
    for size in [8, 16, 64] {
        for slots in [1, 2, 4, 8, 16]
            .into_iter()
            .filter(|slots| *slots <= widest)
        {
            for done in 0..=2 * slots {
                for waiting in 0..=slots {
                    let state = State {
                        size,
                        slots,
                        done,
                        waiting,
                    };
                    add(state);
                }
            }
        }
    }
    let mut random = Random(harness::seed());
    loop {
        let slots = 1 << (4 + random.below(4));
        let ran = add(State {
            size: [8, 16, 64][random.below(3) as usize],
            slots,
            done: random.below(3 * slots as u64) as usize,
            waiting: random.below(slots as u64 + 1) as usize,
        });
        if ran >= wanted {
            return (cases, failures);
        }
    }
}

/// Lengths of blocks: of every kind that the arena has.
const BLOCKS: [u64; 14] = [
    1, 8, 63, 64, 65, 200, 1000, 2048, 2049, 4095, 4096, 4097, 10_000, 70_000,
];

/// Spans that lie one behind the other, each named with every length: a name that
/// resolves reaches into no other span and not past its own block.
fn spans(wanted: u64) -> (u64, u64) {
    const READER: PeerId = PeerId(1);
    // All the blocks of a round may be of the largest kind.
    const BYTES: u64 = 8 << 20;
    let mem = HeapMem::new(BYTES);
    let place = ArenaPlace {
        mem,
        offset: 0,
        region: 1,
        owner: PeerId(0),
        epoch: 1,
    };
    let view = ArenaView::new(place.clone()).expect("large enough");
    let arena = Arena::format_boxed(place).expect("large enough");
    let mut random = Random(harness::seed());
    let (mut cases, mut failures) = (0, 0);
    while cases < wanted {
        let mut live: Vec<PortalSpan> = Vec::new();
        for _ in 0..12 {
            let len = BLOCKS[random.below(BLOCKS.len() as u64) as usize];
            // Several of a kind, so that they lie side by side.
            for _ in 0..3 {
                let span = arena.alloc(len).expect("room");
                arena.grant(&span, READER).expect("ours");
                live.push(span);
            }
        }
        for span in &live {
            let endless = PortalSpan {
                length: u64::MAX,
                ..*span
            };
            let block = match view.resolve(&endless, READER, Access::Read) {
                Err(SpanError::OutOfBounds { limit, .. }) => limit,
                _ => span.length,
            };
            let max = usize::MAX - 16;
            for length in edges(block as usize, max).map(|length| length as u64) {
                let named = PortalSpan { length, ..*span };
                let seen = view.resolve(&named, READER, Access::Read);
                cases += 1;
                failures += u64::from(!named_well(&named, block, &live, seen.ok()));
            }
        }
        for span in &live {
            arena.revoke(span).expect("lent");
        }
    }
    (cases, failures)
}

/// Whether `seen` is what the name may show: all of it when it lies in the block,
/// else nothing.
fn named_well(
    named: &PortalSpan,
    block: u64,
    live: &[PortalSpan],
    seen: Option<hv_shmem::span::SpanView<HeapMem>>,
) -> bool {
    let Some(seen) = seen else {
        return named.length > block;
    };
    let end = named.offset + seen.len();
    let meets = |other: &&PortalSpan| {
        other.offset != named.offset
            && other.offset < end
            && named.offset < other.offset + other.length
    };
    if seen.len() != named.length || named.length > block || live.iter().any(|o| meets(&o)) {
        return false;
    }
    // Reads inside the view, at each of its own edges.
    let len = seen.len() as usize;
    edges(len, len).into_iter().all(|at| {
        [0, 1, 8].into_iter().all(|count| {
            let mut bytes = vec![0; count];
            seen.read(at as u64, &mut bytes).is_ok() == (at + count <= len)
        })
    })
}

#[test]
fn t9_batch_lengths() {
    let (cases, failures) = batches(harness::cases(0), 8);
    harness::report("T9", BATCHES, None, cases, failures);
}

#[test]
fn t9_span_lengths() {
    let (cases, failures) = spans(harness::cases(20_000));
    harness::report("T9", SPANS, None, cases, failures);
}

/// Without the comparison with what there is, each door gives and takes more.
#[cfg(feature = "negative_control")]
#[test]
fn control_t9_batch_lengths() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (cases, failures) = without(Guard::Length, || batches(0, 4));
    std::panic::set_hook(hook);
    let guard = "a batch is no longer than what there is";
    harness::report("T9", BATCHES, Some(guard), cases, failures);
}

#[cfg(feature = "negative_control")]
#[test]
fn control_t9_span_lengths() {
    let cases = harness::cases(5000).min(5000);
    let (cases, failures) = without(Guard::Length, || spans(cases));
    let guard = "a span is no longer than its block";
    harness::report("T9", SPANS, Some(guard), cases, failures);
}
