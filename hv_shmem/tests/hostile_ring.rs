//! TRUST.md, T2 (index corruption): whatever stands in a word that the peer
//! writes (producer index, cursor, sequence, state), the honest side either
//! takes exactly what an honest peer could have meant or refuses with a typed
//! `Violation` and never takes anything again. No panic, nothing outside the
//! ring, no progress that the word did not justify.
//!
//! Exhaustive at small widths: every ring size up to 16 slots, every fill, every
//! position within a lap and more, every boundary value. Then structured random
//! cases: an honest train of operations with one word changed.

mod harness;
#[path = "harness/random.rs"]
mod random;

use hv_shmem::Violation;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::Guard;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::without;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InPlaceCaller;
use hv_shmem::ring::InPlaceServer;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::MpscSender;
use hv_shmem::ring::RecvError;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SendError;
use random::Random;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

const WHAT: &str = "producer index, cursor, sequence and state words of a hostile peer";

/// Which word of the peer's is corrupted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    /// Bulk receiver against the producer index.
    Index,
    /// The same, taking messages in place.
    IndexInPlace,
    /// Bulk sender against the cursor.
    BulkCursor,
    /// In-line sender against the cursor.
    InlineCursor,
    /// Sender of several threads against the cursor.
    MpscCursor,
    /// In-line receiver against a sequence word.
    Sequence,
    /// Server against a state word.
    Request,
    /// Caller against a state word.
    Answer,
}

const WORDS: [Word; 8] = [
    Word::Index,
    Word::IndexInPlace,
    Word::BulkCursor,
    Word::InlineCursor,
    Word::MpscCursor,
    Word::Sequence,
    Word::Request,
    Word::Answer,
];

fn place(layout: RingLayout, slots: u64) -> RingPlace<HeapMem> {
    RingPlace::on_heap(RingKind::Stream, layout, 64, slots as u32).unwrap()
}

fn word_of(mem: &HeapMem, at: u64) -> u64 {
    mem.load_u64(at, Ordering::Relaxed)
}

/// What came of one look at a corrupted word.
struct Came {
    /// Messages taken, or slots found free.
    taken: u64,
    refused: Option<Violation>,
    /// Whether the refusal held when asked again.
    sticky: bool,
}

/// What an honest peer could have meant by `value`: so many messages or free
/// slots; or nothing.
fn meant(word: Word, value: u64, state: &State) -> Option<u64> {
    let State {
        slots,
        done,
        waiting,
    } = *state;
    let produced = done + waiting;
    match word {
        Word::Index | Word::IndexInPlace => {
            let fresh = value.wrapping_sub(done);
            (fresh <= slots).then_some(fresh)
        }
        // `done` is the cursor that the sender has seen.
        Word::BulkCursor | Word::InlineCursor | Word::MpscCursor => {
            let freed = value.wrapping_sub(done);
            (freed <= waiting).then(|| slots - (produced - value))
        }
        Word::Sequence => sequence(value, done + 1, lap_before(done, slots)),
        Word::Request => sequence(
            value,
            2 * done + 1,
            if done < slots {
                0
            } else {
                2 * (done - slots) + 2
            },
        ),
        Word::Answer => sequence(value, 2 * done + 2, 2 * done + 1),
    }
}

fn sequence(value: u64, full: u64, empty: u64) -> Option<u64> {
    match value {
        v if v == full => Some(1),
        v if v == empty => Some(0),
        _ => None,
    }
}

fn lap_before(position: u64, slots: u64) -> u64 {
    if position < slots {
        0
    } else {
        position + 1 - slots
    }
}

/// An honest ring just before the corrupted look: `done` messages have been
/// through, `waiting` lie in it.
#[derive(Debug, Clone, Copy)]
struct State {
    slots: u64,
    done: u64,
    waiting: u64,
}

fn recv_violation(e: RecvError) -> Violation {
    let RecvError::Poisoned(v) = e;
    v
}

fn send_violation(e: SendError) -> Option<Violation> {
    match e {
        SendError::Poisoned(v) => Some(v),
        _ => None,
    }
}

/// Brings a ring to `state`, changes the word by `change`, looks.
fn look(word: Word, state: &State, change: impl Fn(u64) -> u64) -> (u64, Came) {
    match word {
        Word::Index | Word::IndexInPlace => look_index(word, state, change),
        Word::BulkCursor | Word::InlineCursor | Word::MpscCursor => {
            look_cursor(word, state, change)
        }
        Word::Sequence => look_sequence(state, change),
        Word::Request | Word::Answer => look_state(word, state, change),
    }
}

/// Takes all that has come: copied, or in place.
fn take_all(
    word: Word,
    rx: &mut BulkReceiver<HeapMem>,
    out: &mut [u8],
) -> Result<usize, RecvError> {
    if word == Word::Index {
        return rx.pop_batch(out);
    }
    let mut seen = 0;
    let taken = rx.pop_each(out.len() / 64, |_: [u64; 8]| seen += 1);
    taken.inspect(|taken| assert_eq!(*taken, seen))
}

fn look_index(word: Word, state: &State, change: impl Fn(u64) -> u64) -> (u64, Came) {
    let place = place(RingLayout::Bulk, state.slots);
    let mut tx = BulkSender::new(place.clone()).unwrap();
    let mut rx = BulkReceiver::new(place.clone()).unwrap();
    let mut out = vec![0; 64 * 2 * state.slots as usize];
    for _ in 0..state.done {
        tx.try_send(&[1]).unwrap();
        rx.try_recv(&mut out[..64]).unwrap().unwrap();
    }
    let _ = rx.flush();
    for _ in 0..state.waiting {
        tx.try_send(&[1]).unwrap();
    }
    let value = change(word_of(&place.produced, 0));
    place.produced.store_u64(0, value, Ordering::Relaxed);
    let came = match take_all(word, &mut rx, &mut out) {
        Ok(taken) => Came {
            taken: taken as u64,
            refused: None,
            sticky: true,
        },
        Err(e) => {
            let sticky = rx.try_recv(&mut out[..64]) == Err(e)
                && take_all(word, &mut rx, &mut out) == Err(e)
                && rx.has_message() == Err(e)
                && rx.position() == state.done;
            rx.arm();
            let _ = rx.flush();
            Came {
                taken: 0,
                refused: Some(recv_violation(e)),
                sticky,
            }
        }
    };
    (value, came)
}

/// Free slots that a sender goes on to use; then what it says.
fn fill<S>(tx: &mut S, mut send: impl FnMut(&mut S) -> Result<(), SendError>) -> Came {
    let mut taken = 0;
    loop {
        match send(tx) {
            Ok(()) => taken += 1,
            Err(e) => {
                let refused = send_violation(e);
                let sticky = send(tx) == Err(e);
                return Came {
                    taken,
                    refused,
                    sticky,
                };
            }
        }
        if taken > 64 {
            // Far more than any ring here has slots.
            return Came {
                taken,
                refused: None,
                sticky: true,
            };
        }
    }
}

fn look_cursor(word: Word, state: &State, change: impl Fn(u64) -> u64) -> (u64, Came) {
    let bulk = word == Word::BulkCursor;
    let layout = if bulk {
        RingLayout::Bulk
    } else {
        RingLayout::Inline
    };
    let place = place(layout, state.slots);
    let line = place.cursor.clone().unwrap();
    let mut bulk_tx = bulk.then(|| BulkSender::new(place.clone()).unwrap());
    let mut inline_tx =
        (word == Word::InlineCursor).then(|| InlineSender::new(place.clone()).unwrap());
    let mut mpsc_tx = (word == Word::MpscCursor).then(|| MpscSender::new(place.clone()).unwrap());
    let mut send = |_: &mut ()| match (&mut bulk_tx, &mut inline_tx, &mut mpsc_tx) {
        (Some(tx), _, _) => tx.try_send(&[1]),
        (_, Some(tx), _) => tx.try_send(&[1]),
        (_, _, Some(tx)) => tx.try_send(&[1]),
        _ => unreachable!(),
    };
    // The sender has seen the cursor at `done`: fill the ring, free it up to
    // there, fill it again.
    for _ in 0..state.slots {
        send(&mut ()).unwrap();
    }
    for cursor in 1..=state.done {
        line.store_u64(0, cursor, Ordering::Relaxed);
        send(&mut ()).unwrap();
    }
    let value = change(word_of(&line, 0));
    line.store_u64(0, value, Ordering::Relaxed);
    (value, fill(&mut (), |u| send(u)))
}

fn look_sequence(state: &State, change: impl Fn(u64) -> u64) -> (u64, Came) {
    let place = place(RingLayout::Inline, state.slots);
    let mut tx = InlineSender::new(place.clone()).unwrap();
    let mut rx = InlineReceiver::new(place.clone()).unwrap();
    let mut out = [0; 56];
    for _ in 0..state.done {
        tx.try_send(&[1]).unwrap();
        rx.try_recv(&mut out).unwrap().unwrap();
    }
    let _ = rx.flush();
    for _ in 0..state.waiting {
        tx.try_send(&[1]).unwrap();
    }
    let at = state.done % state.slots * 64;
    let value = change(word_of(&place.storage, at));
    place.storage.store_u64(at, value, Ordering::Relaxed);
    let came = match rx.try_recv(&mut out) {
        Ok(taken) => Came {
            taken: u64::from(taken.is_some()),
            refused: None,
            sticky: true,
        },
        Err(e) => Came {
            taken: 0,
            refused: Some(recv_violation(e)),
            sticky: rx.pop_batch(&mut out) == Err(e)
                && rx.has_message() == Err(e)
                && rx.position() == state.done,
        },
    };
    (value, came)
}

fn look_state(word: Word, state: &State, change: impl Fn(u64) -> u64) -> (u64, Came) {
    let place = place(RingLayout::InPlace, state.slots);
    let mut caller = InPlaceCaller::new(place.clone()).unwrap();
    let mut server = InPlaceServer::new(place.clone()).unwrap();
    let mut out = [0; 56];
    for _ in 0..state.done {
        caller.try_call(&[1]).unwrap();
        server.try_recv(&mut out).unwrap().unwrap();
        server.answer(&[2]).unwrap();
        caller.poll_answer(&mut out).unwrap().unwrap();
    }
    let calls = match word {
        Word::Answer => state.waiting.max(1),
        _ => state.waiting,
    };
    for _ in 0..calls {
        caller.try_call(&[1]).unwrap();
    }
    let at = state.done % state.slots * 64;
    let value = change(word_of(&place.storage, at));
    place.storage.store_u64(at, value, Ordering::Relaxed);
    let looked = match word {
        Word::Answer => caller.poll_answer(&mut out),
        _ => server.try_recv(&mut out),
    };
    let came = match looked {
        Ok(taken) => Came {
            taken: u64::from(taken.is_some()),
            refused: None,
            sticky: true,
        },
        Err(e) => Came {
            taken: 0,
            refused: Some(recv_violation(e)),
            sticky: match word {
                Word::Answer => {
                    caller.poll_answer(&mut out) == Err(e)
                        && caller.try_call(&[]).map_err(send_violation)
                            == Err(Some(recv_violation(e)))
                }
                _ => {
                    server.try_recv(&mut out) == Err(e)
                        && server.answer(&[]).map_err(send_violation)
                            == Err(Some(recv_violation(e)))
                }
            },
        },
    };
    (value, came)
}

/// True when the honest side did right.
fn holds(word: Word, mut state: State, change: impl Fn(u64) -> u64) -> bool {
    if matches!(
        word,
        Word::BulkCursor | Word::InlineCursor | Word::MpscCursor
    ) {
        // A sender looks at the cursor when the ring is full.
        state.waiting = state.slots;
    }
    let looked = catch_unwind(AssertUnwindSafe(|| look(word, &state, change)));
    let Ok((value, came)) = looked else {
        return false;
    };
    match meant(word, value, &state) {
        Some(count) => came.refused.is_none() && came.taken == count,
        None => came.refused.is_some() && came.taken == 0 && came.sticky,
    }
}

/// Values at which a comparison could be off by one, and far ones.
fn boundaries(state: &State) -> Vec<u64> {
    let mut values: Vec<u64> = (0..4 * state.slots + 4).collect();
    for centre in [
        state.done,
        state.done + state.waiting,
        2 * state.done,
        1 << 31,
        1 << 32,
        1 << 63,
        0,
    ] {
        for step in [0, 1, 2, state.slots - 1, state.slots, state.slots + 1] {
            values.push(centre.wrapping_add(step));
            values.push(centre.wrapping_sub(step));
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Every boundary of every state of every ring of up to `widest` slots.
fn exhaustive(words: &[Word], widest: u64) -> (u64, u64) {
    let (mut cases, mut failures) = (0, 0);
    let mut slots = 1;
    while slots <= widest {
        for done in 0..=2 * slots {
            for waiting in 0..=slots {
                let state = State {
                    slots,
                    done,
                    waiting,
                };
                for value in boundaries(&state) {
                    for &word in words {
                        cases += 1;
                        failures += u64::from(!holds(word, state, |_| value));
                    }
                }
            }
        }
        slots *= 2;
    }
    (cases, failures)
}

/// An honest state with one word moved by a small step, to a boundary, by one
/// bit, or anywhere.
fn structured(words: &[Word], cases: u64) -> u64 {
    let mut random = Random(harness::seed());
    let mut failures = 0;
    for _ in 0..cases {
        let slots = 1 << random.below(5);
        let state = State {
            slots,
            done: random.below(3 * slots),
            waiting: random.below(slots + 1),
        };
        let word = words[random.below(words.len() as u64) as usize];
        let (how, noise) = (random.below(8), random.next());
        let change = move |was: u64| match how {
            0 => was.wrapping_add(noise % 17).wrapping_sub(8),
            1 => was.wrapping_add(slots),
            2 => was.wrapping_sub(slots),
            3 => was ^ 1 << (noise % 64),
            4 => was.wrapping_add(2 * slots + noise % 3).wrapping_sub(1),
            5 => u64::MAX.wrapping_sub(noise % 3),
            6 => noise % (4 * slots + 1),
            _ => noise,
        };
        failures += u64::from(!holds(word, state, change));
    }
    failures
}

/// Silences the panics that a control provokes.
fn quietly<R>(f: impl FnOnce() -> R) -> R {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = f();
    std::panic::set_hook(hook);
    result
}

#[test]
fn t2_index_corruption_every_boundary() {
    let widest = if harness::cases(0) > 1_000_000 { 16 } else { 8 };
    let (cases, failures) = exhaustive(&WORDS, widest);
    harness::report(
        "T2",
        "every boundary of every small ring",
        None,
        cases,
        failures,
    );
}

#[test]
fn t2_index_corruption() {
    let cases = harness::cases(100_000);
    let failures = quietly(|| structured(&WORDS, cases));
    harness::report("T2", WHAT, None, cases, failures);
}

#[cfg(feature = "negative_control")]
fn control(words: &[Word], out: Guard, guard: &str) {
    let cases = harness::cases(5000).min(5000);
    let failures = quietly(|| without(out, || structured(words, cases)));
    harness::report("T2", WHAT, Some(guard), cases, failures);
    let (cases, failures) = quietly(|| without(out, || exhaustive(words, 4)));
    let what = "every boundary of every small ring";
    harness::report("T2", what, Some(guard), cases, failures);
}

#[cfg(feature = "negative_control")]
#[test]
fn control_t2_producer_index() {
    let words = [Word::Index, Word::IndexInPlace];
    control(&words, Guard::Index, "the bounds of the producer index");
}

#[cfg(feature = "negative_control")]
#[test]
fn control_t2_cursor() {
    let words = [Word::BulkCursor, Word::InlineCursor, Word::MpscCursor];
    control(&words, Guard::Cursor, "the bounds of the cursor");
}

#[cfg(feature = "negative_control")]
#[test]
fn control_t2_sequence() {
    control(
        &[Word::Sequence],
        Guard::Sequence,
        "the two possible sequence words",
    );
}

/// A hostile wake threshold costs at most one doorbell a flush and nothing else.
#[test]
fn hostile_thresholds_do_no_harm() {
    for threshold in [
        0,
        1,
        2,
        3,
        7,
        8,
        9,
        1 << 32,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ] {
        let place = place(RingLayout::Bulk, 8);
        let line = place.cursor.clone().unwrap();
        let mut tx = BulkSender::new(place.clone()).unwrap();
        let mut rx = BulkReceiver::new(place.clone()).unwrap();
        line.store_u64(8, threshold, Ordering::Relaxed);
        place.produced.store_u64(8, threshold, Ordering::Relaxed);
        let (mut rings, mut space_rings, mut out) = (0, 0, [0; 64]);
        for _ in 0..32 {
            tx.try_send(&[1]).unwrap();
            rings += u32::from(tx.flush().must_ring);
            rx.try_recv(&mut out).unwrap().unwrap();
            space_rings += u32::from(rx.flush().must_ring);
        }
        let expected = u32::from(threshold < 32);
        assert_eq!((rings, space_rings), (expected, expected), "{threshold:#x}");
    }
}

/// On a flat backing another peer can scribble on the senders' reservation word:
/// a send then succeeds, finds no space or refuses, soon, and inside the ring.
#[test]
fn a_scribbled_reservation_word_is_contained() {
    for slots in [1u64, 2, 8] {
        let state = State {
            slots,
            done: slots,
            waiting: 0,
        };
        for value in boundaries(&state) {
            let place = place(RingLayout::Inline, slots);
            let mut tx = MpscSender::new(place.clone()).unwrap();
            for _ in 0..slots {
                tx.try_send(&[1]).unwrap();
            }
            place.produced.store_u64(0, value, Ordering::Relaxed);
            for _ in 0..3 {
                let sent = tx.try_send(&[2]);
                let refused = matches!(sent, Err(SendError::Full | SendError::Poisoned(_)));
                assert!(sent.is_ok() || refused, "{value:#x}: {sent:?}");
            }
            let _ = tx.flush();
        }
    }
}
