//! DESIGN.md, rings: what goes in comes out, once, in order, and whole; a full
//! ring refuses and an empty one says so. Held for any sequence of operations,
//! against a queue.

use hv_shmem::mem::HeapMem;
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
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Debug, Clone)]
enum Step {
    Send(usize),
    SendBatch(usize),
    SendEach(usize),
    Stage,
    Publish,
    Receive,
    ReceiveBatch(usize),
    ReceiveEach(usize),
    FlushSender,
    FlushReceiver,
    Arm,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..=64).prop_map(Step::Send),
        2 => (0usize..10).prop_map(Step::SendBatch),
        2 => (0usize..20).prop_map(Step::SendEach),
        1 => Just(Step::Stage),
        1 => Just(Step::Publish),
        4 => Just(Step::Receive),
        2 => (0usize..10).prop_map(Step::ReceiveBatch),
        2 => (0usize..20).prop_map(Step::ReceiveEach),
        1 => Just(Step::FlushSender),
        1 => Just(Step::FlushReceiver),
        1 => Just(Step::Arm),
    ]
}

fn place(layout: RingLayout, slot_size: u32, slots: u32) -> RingPlace<HeapMem> {
    RingPlace::on_heap(RingKind::Stream, layout, slot_size, slots).unwrap()
}

/// Message number `n`, so long, padded to the payload as the ring does.
fn message(n: u64, len: usize, payload: usize) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = vec![n as u8 | 1; len.min(payload)];
    for (to, from) in bytes.iter_mut().zip(n.to_le_bytes()) {
        *to = from;
    }
    let mut padded = bytes.clone();
    padded.resize(payload, 0);
    (bytes, padded)
}

/// The queue that a ring must behave like. The sender may see up to a quarter
/// of the ring less space than there is, because the cursor is published in
/// batches.
struct Model {
    queue: VecDeque<Vec<u8>>,
    staged: VecDeque<Vec<u8>>,
    slots: usize,
    next: u64,
    /// A sleep is owed a doorbell from the message that it waits for.
    armed: bool,
}

impl Model {
    fn new(slots: u32) -> Self {
        Self {
            queue: VecDeque::new(),
            staged: VecDeque::new(),
            slots: slots as usize,
            next: 0,
            armed: true,
        }
    }

    fn len(&self) -> usize {
        self.queue.len() + self.staged.len()
    }

    /// Whether the refusal of a message is right.
    fn may_refuse(&self) -> bool {
        self.len() + (self.slots / 4).saturating_sub(1) >= self.slots
    }

    fn take(&mut self, payload: usize) -> Option<Vec<u8>> {
        let mut message = self.queue.pop_front()?;
        message.resize(payload, 0);
        Some(message)
    }
}

trait Tx {
    fn send(&mut self, m: &[u8]) -> Result<(), SendError>;
    fn batch(&mut self, m: &[u8]) -> Result<usize, SendError>;
    fn flush(&mut self) -> bool;
    fn stage(&mut self, _m: &[u8]) -> Option<Result<(), SendError>> {
        None
    }
    fn publish(&mut self) {}
    /// Sends messages made in place, each with its number as first word.
    fn each(&mut self, _first: u64, _most: usize) -> Option<Result<usize, SendError>> {
        None
    }
}

trait Rx {
    fn recv(&mut self, out: &mut [u8]) -> Option<usize>;
    fn batch(&mut self, out: &mut [u8]) -> usize;
    fn flush(&mut self);
    fn arm(&mut self);
    /// Takes messages in place and gives their first words, or so many of them
    /// as a payload has.
    fn each(&mut self, _most: usize) -> Option<Vec<Vec<u8>>> {
        None
    }
}

/// Words of a message in place; smaller, equal to and larger than the slots
/// here.
const EACH_WORDS: [usize; 3] = [1, 2, 8];

fn send_each<const WORDS: usize>(
    tx: &mut BulkSender<HeapMem>,
    first: u64,
    most: usize,
) -> Result<usize, SendError> {
    let mut number = first;
    tx.push_each(most, || {
        let mut words = [number; WORDS];
        words[WORDS - 1] = !number;
        words[0] = number;
        number += 1;
        words
    })
}

fn receive_each<const WORDS: usize>(rx: &mut BulkReceiver<HeapMem>, most: usize) -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    let count = rx.pop_each(most, |words: [u64; WORDS]| {
        taken.push(words.map(u64::to_le_bytes).concat());
    });
    assert_eq!(count, Ok(taken.len()));
    taken
}

/// The bytes that [`send_each`] sends as message `number`.
fn made_in_place(number: u64, words: usize) -> Vec<u8> {
    let mut made = vec![number; words];
    made[words - 1] = !number;
    made[0] = number;
    made.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// How many words the next message in place has: the sizes take turns.
fn words_of(number: u64, payload: usize) -> usize {
    let fitting = EACH_WORDS.into_iter().filter(|words| words * 8 <= payload);
    let fitting: Vec<usize> = fitting.collect();
    fitting[number as usize % fitting.len()]
}

macro_rules! ends {
    ($tx:ident, $rx:ident) => {
        ends!(@rx $rx);
        impl Tx for $tx<HeapMem> {
            fn send(&mut self, m: &[u8]) -> Result<(), SendError> {
                self.try_send(m)
            }
            fn batch(&mut self, m: &[u8]) -> Result<usize, SendError> {
                self.push_batch(m)
            }
            fn flush(&mut self) -> bool {
                $tx::flush(self).must_ring
            }
        }
    };
    (@rx $rx:ident) => {
        impl Rx for $rx<HeapMem> {
            fn recv(&mut self, out: &mut [u8]) -> Option<usize> {
                self.try_recv(out).unwrap()
            }
            fn batch(&mut self, out: &mut [u8]) -> usize {
                self.pop_batch(out).unwrap()
            }
            fn flush(&mut self) {
                let _ = $rx::flush(self);
            }
            fn arm(&mut self) {
                $rx::arm(self);
            }
        }
    };
}

ends!(InlineSender, InlineReceiver);
ends!(MpscSender, MpscReceiver);

impl Rx for BulkReceiver<HeapMem> {
    fn recv(&mut self, out: &mut [u8]) -> Option<usize> {
        self.try_recv(out).unwrap()
    }
    fn batch(&mut self, out: &mut [u8]) -> usize {
        self.pop_batch(out).unwrap()
    }
    fn flush(&mut self) {
        let _ = BulkReceiver::flush(self);
    }
    fn arm(&mut self) {
        BulkReceiver::arm(self);
    }
    fn each(&mut self, most: usize) -> Option<Vec<Vec<u8>>> {
        Some(match EACH_WORDS[most % 3] {
            1 => receive_each::<1>(self, most),
            2 => receive_each::<2>(self, most),
            _ => receive_each::<8>(self, most),
        })
    }
}

impl Tx for BulkSender<HeapMem> {
    fn send(&mut self, m: &[u8]) -> Result<(), SendError> {
        self.try_send(m)
    }
    fn batch(&mut self, m: &[u8]) -> Result<usize, SendError> {
        self.push_batch(m)
    }
    fn flush(&mut self) -> bool {
        BulkSender::flush(self).must_ring
    }
    fn stage(&mut self, m: &[u8]) -> Option<Result<(), SendError>> {
        Some(BulkSender::stage(self, m))
    }
    fn publish(&mut self) {
        BulkSender::publish(self);
    }
    fn each(&mut self, first: u64, most: usize) -> Option<Result<usize, SendError>> {
        Some(match words_of(first, self.payload()) {
            1 => send_each::<1>(self, first, most),
            2 => send_each::<2>(self, first, most),
            _ => send_each::<8>(self, first, most),
        })
    }
}

/// Moves what was staged to where the receiver sees it.
fn publish(model: &mut Model) {
    let staged = core::mem::take(&mut model.staged);
    model.queue.extend(staged);
}

fn run(
    tx: &mut impl Tx,
    rx: &mut impl Rx,
    payload: usize,
    slots: u32,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    let mut model = Model::new(slots);
    let mut rung_since_armed = false;
    let mut out = vec![0; payload * 10];
    for step in steps {
        match *step {
            Step::Send(len) => {
                let (bytes, padded) = message(model.next, len, payload);
                match tx.send(&bytes) {
                    Ok(()) => {
                        prop_assert!(model.len() < model.slots);
                        model.staged.push_back(padded);
                        model.next += 1;
                        publish(&mut model);
                    }
                    Err(e) => {
                        prop_assert_eq!(e, SendError::Full);
                        prop_assert!(model.may_refuse());
                        publish(&mut model);
                    }
                }
            }
            Step::SendBatch(count) => {
                let batch: Vec<Vec<u8>> = (0..count as u64)
                    .map(|i| message(model.next + i, payload, payload).1)
                    .collect();
                let sent = tx.batch(&batch.concat()).unwrap();
                prop_assert!(sent <= count && model.len() + sent <= model.slots);
                model.staged.extend(batch.into_iter().take(sent));
                model.next += sent as u64;
                prop_assert!(sent == count || model.may_refuse());
                publish(&mut model);
            }
            Step::SendEach(most) => {
                if let Some(sent) = tx.each(model.next, most) {
                    let sent = sent.unwrap();
                    prop_assert!(sent <= most && model.len() + sent <= model.slots);
                    let words = words_of(model.next, payload);
                    for number in model.next..model.next + sent as u64 {
                        let mut padded = made_in_place(number, words);
                        padded.resize(payload, 0);
                        model.staged.push_back(padded);
                    }
                    model.next += sent as u64;
                    prop_assert!(sent == most || model.may_refuse());
                    publish(&mut model);
                }
            }
            Step::Stage => {
                let (bytes, padded) = message(model.next, payload, payload);
                match tx.stage(&bytes) {
                    None => {}
                    Some(Ok(())) => {
                        model.staged.push_back(padded);
                        model.next += 1;
                    }
                    Some(Err(_)) => {
                        prop_assert!(model.may_refuse());
                        publish(&mut model);
                    }
                }
            }
            Step::Publish => {
                tx.publish();
                publish(&mut model);
            }
            Step::Receive => {
                let got = rx.recv(&mut out[..payload]);
                let expected = model.take(payload);
                prop_assert_eq!(got.map(|n| out[..n].to_vec()), expected);
            }
            Step::ReceiveBatch(count) => {
                let got = rx.batch(&mut out[..count * payload]);
                prop_assert!(got <= count);
                for bytes in out[..got * payload].chunks_exact(payload) {
                    prop_assert_eq!(Some(bytes.to_vec()), model.take(payload));
                }
                // A batch may end early only where the ring's own view ends.
                prop_assert!(got > 0 || count == 0 || model.queue.is_empty());
            }
            Step::ReceiveEach(most) => {
                let Some(got) = rx.each(most) else { continue };
                prop_assert!(got.len() <= most);
                prop_assert!(!got.is_empty() || most == 0 || model.queue.is_empty());
                for mut message in got {
                    let mut expected = model.take(payload).unwrap_or_default();
                    // A prefix of a long payload; zeros behind a short one.
                    expected.truncate(message.len());
                    let behind = message.split_off(expected.len());
                    prop_assert_eq!(message, expected);
                    prop_assert!(behind.iter().all(|byte| *byte == 0));
                }
            }
            Step::FlushSender => {
                let rung = tx.flush();
                publish(&mut model);
                rung_since_armed |= rung;
                // Armed on an empty ring, and something came: must have rung.
                if model.armed && !model.queue.is_empty() {
                    prop_assert!(rung_since_armed);
                    model.armed = false;
                }
            }
            Step::FlushReceiver => rx.flush(),
            Step::Arm => {
                rx.arm();
                model.armed = model.queue.is_empty() && model.staged.is_empty();
                rung_since_armed = false;
            }
        }
    }
    // At the end everything comes out.
    tx.publish();
    publish(&mut model);
    while let Some(expected) = model.take(payload) {
        prop_assert_eq!(rx.recv(&mut out[..payload]), Some(payload));
        prop_assert_eq!(&out[..payload], &expected[..]);
    }
    prop_assert_eq!(rx.recv(&mut out[..payload]), None);
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..200)
}

proptest! {
    #[test]
    fn inline_is_a_queue(slots in 0u32..5, size in 4u32..9, steps in steps()) {
        let place = place(RingLayout::Inline, 1 << size, 1 << slots);
        let mut tx = InlineSender::new(place.clone()).unwrap();
        let mut rx = InlineReceiver::new(place).unwrap();
        run(&mut tx, &mut rx, (1 << size) - 8, 1 << slots, &steps)?;
    }

    #[test]
    fn mpsc_is_a_queue(slots in 0u32..5, size in 4u32..9, steps in steps()) {
        let place = place(RingLayout::Inline, 1 << size, 1 << slots);
        let mut tx = MpscSender::new(place.clone()).unwrap();
        let mut rx = MpscReceiver::new(place).unwrap();
        run(&mut tx, &mut rx, (1 << size) - 8, 1 << slots, &steps)?;
    }

    #[test]
    fn bulk_is_a_queue(slots in 0u32..5, size in 3u32..9, steps in steps()) {
        let place = place(RingLayout::Bulk, 1 << size, 1 << slots);
        let mut tx = BulkSender::new(place.clone()).unwrap();
        let mut rx = BulkReceiver::new(place).unwrap();
        run(&mut tx, &mut rx, 1 << size, 1 << slots, &steps)?;
    }

    /// Calls, services and answers in any order: each answer belongs to the
    /// oldest call, and no more calls are outstanding than there are slots.
    #[test]
    fn in_place_is_two_queues(
        slots in 0u32..4,
        steps in prop::collection::vec(0u8..4, 0..300),
    ) {
        let place = place(RingLayout::InPlace, 64, 1 << slots);
        let mut caller = InPlaceCaller::new(place.clone()).unwrap();
        let mut server = InPlaceServer::new(place).unwrap();
        let (mut called, mut taken, mut answered) =
            (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let mut next = 0u64;
        let mut out = [0; 56];
        for step in steps {
            match step {
                0 => {
                    let outstanding = called.len() + taken.len() + answered.len();
                    let made = caller.try_call(&next.to_le_bytes());
                    if outstanding < 1 << slots {
                        prop_assert_eq!(made, Ok(next));
                        called.push_back(next);
                        next += 1;
                    } else {
                        prop_assert_eq!(made, Err(SendError::Full));
                    }
                }
                1 => match called.pop_front() {
                    None => prop_assert_eq!(server.try_recv(&mut out), Ok(None)),
                    Some(n) => {
                        prop_assert_eq!(server.try_recv(&mut out), Ok(Some(56)));
                        prop_assert_eq!(&out[..8], &n.to_le_bytes());
                        taken.push_back(n);
                    }
                },
                2 => match taken.pop_front() {
                    None => prop_assert_eq!(server.answer(&[]), Err(SendError::Full)),
                    Some(n) => {
                        server.answer(&(n + 1).to_le_bytes()).unwrap();
                        answered.push_back(n);
                    }
                },
                _ => match answered.pop_front() {
                    None => prop_assert_eq!(caller.poll_answer(&mut out), Ok(None)),
                    Some(n) => {
                        prop_assert_eq!(caller.poll_answer(&mut out), Ok(Some(56)));
                        prop_assert_eq!(&out[..8], &(n + 1).to_le_bytes());
                    }
                },
            }
        }
    }
}
