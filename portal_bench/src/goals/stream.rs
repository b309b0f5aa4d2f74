//! Goals 1-4 and 8: messages a second from one core to the other.

use super::Bench;
use super::Measured;
use super::place;
use super::place::failed;
use crate::BenchError;
use crate::base::flow;
use crate::base::flow::Message;
use crate::base::memory::Stream;
use crate::base::memory::Writing;
use crate::goal::GoalSpec;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Alone;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
#[cfg(feature = "peers")]
use crate::peers::queues;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::MpscReceiver;
use hv_shmem::ring::MpscSender;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;

/// Slots of every ring compared: most of the first-level cache for 8-byte
/// messages, well inside the second level for 64-byte ones.
pub(super) const SLOTS: u32 = 4096;

/// Bytes that one sample moves, near enough: 10 to 30 ms at the rates seen.
const BYTES: u64 = 32 << 20;

/// Spin hints after "empty", so that the index line moves once a batch.
const PAUSES: u32 = 64;

/// Length of a buffer of the write-read stream, in bytes.
const STREAM_BUFFER: usize = 64 << 10;
/// Number of its buffers.
const STREAM_BUFFERS: usize = 4;

type Ends = (Alone<BulkSender<HeapMem>>, Alone<BulkReceiver<HeapMem>>);

fn bulk(slot_size: usize, slots: u32) -> Result<Ends, BenchError> {
    let at = place::fresh(RingLayout::Bulk, slot_size as u32, slots)?;
    Ok((
        Alone(BulkSender::new(at.clone()).map_err(failed)?),
        Alone(BulkReceiver::new(at).map_err(failed)?),
    ))
}

#[inline]
fn back_off(patience: &mut Patience) -> Result<(), BenchError> {
    for _ in 0..PAUSES {
        patience.spin()?;
    }
    Ok(())
}

/// Messages as the bytes that a ring carries.
pub(super) trait Bytes: Message {
    const LEN: usize;
    fn put(&self, to: &mut [u8]);
    fn get(from: &[u8]) -> Self;
}

impl Bytes for u64 {
    const LEN: usize = 8;

    #[inline(always)]
    fn put(&self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_le_bytes());
    }

    #[inline(always)]
    fn get(from: &[u8]) -> Self {
        let mut word = [0; 8];
        word.copy_from_slice(from);
        Self::from_le_bytes(word)
    }
}

impl Bytes for [u64; 8] {
    const LEN: usize = 64;

    #[inline(always)]
    fn put(&self, to: &mut [u8]) {
        for (word, to) in self.iter().zip(to.chunks_exact_mut(8)) {
            word.put(to);
        }
    }

    #[inline(always)]
    fn get(from: &[u8]) -> Self {
        let mut words = [0; 8];
        for (word, from) in words.iter_mut().zip(from.chunks_exact(8)) {
            *word = u64::get(from);
        }
        words
    }
}

/// Messages as the words that are written to a slot and read from it in place.
pub(super) trait Words<const WORDS: usize>: Message {
    fn words(self) -> [u64; WORDS];
    fn of(words: [u64; WORDS]) -> Self;
}

impl Words<1> for u64 {
    #[inline(always)]
    fn words(self) -> [u64; 1] {
        [self]
    }

    #[inline(always)]
    fn of([word]: [u64; 1]) -> Self {
        word
    }
}

impl Words<8> for [u64; 8] {
    #[inline(always)]
    fn words(self) -> [u64; 8] {
        self
    }

    #[inline(always)]
    fn of(words: [u64; 8]) -> Self {
        words
    }
}

/// Longest message here, in bytes.
const LONGEST: usize = 64;

/// Portal's bulk ring with `count` messages, one at a time, each published by
/// itself.
pub(super) fn singly<T: Bytes, M: SharedMem + Send>(
    pair: &Pair,
    count: u64,
    tx: &mut BulkSender<M>,
    rx: &mut BulkReceiver<M>,
) -> Result<Sample, BenchError> {
    flow::rate::<T>(
        pair,
        count,
        move || {
            let mut patience = Patience::of("space in the ring");
            let mut bytes = [0; LONGEST];
            for number in 0..count {
                T::numbered(number).put(&mut bytes[..T::LEN]);
                loop {
                    match tx.try_send(&bytes[..T::LEN]) {
                        Ok(()) => break,
                        Err(SendError::Full) => patience.spent(tx.back_off())?,
                        Err(e) => return Err(failed(e)),
                    }
                }
            }
            Ok(())
        },
        move || {
            let mut patience = Patience::of("the ring");
            let (mut sum, mut bytes) = (0u64, [0; LONGEST]);
            for _ in 0..count {
                while rx.try_recv(&mut bytes[..T::LEN]).map_err(failed)?.is_none() {
                    patience.spent(rx.back_off())?;
                }
                sum = sum.wrapping_add(T::get(&bytes[..T::LEN]).sum());
            }
            Ok(sum)
        },
    )
}

/// Goals 1 and 2.
pub(super) fn one_by_one<T: Bytes>(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let (pair, count) = (bench.pair, BYTES / T::LEN as u64);
    let (mut tx, mut rx) = bulk(T::LEN, SLOTS)?;
    let portal = Contender::new("Portal bulk ring", move || {
        singly::<T, _>(&pair, count, &mut tx, &mut rx)
    });
    #[cfg(not(feature = "peers"))]
    {
        drop(portal);
        Err(super::needs_peers(spec))
    }
    #[cfg(feature = "peers")]
    {
        let slots = SLOTS as usize;
        let others = vec![
            portal,
            queues::rtrb::<T>(pair, "rtrb", slots, count, 1),
            queues::rtrb::<T>(pair, "rtrb with Portal's back-off", slots, count, PAUSES),
            queues::ringbuf::<T>(pair, "ringbuf", slots, count),
            queues::array_queue::<T>(pair, "crossbeam ArrayQueue", slots, count / 4),
            queues::channel::<T>(pair, "crossbeam channel", slots, count / 4),
        ];
        bench.contest(spec, Against::Contender(1), 2, others)
    }
}

/// Portal's bulk ring in batches of `batch` messages, made and read where they
/// lie.
fn in_batches<T: Words<WORDS>, const WORDS: usize>(
    pair: Pair,
    count: u64,
    batch: usize,
) -> Result<Contender<'static>, BenchError> {
    let (mut tx, mut rx) = bulk(8 * WORDS, SLOTS.max(4 * batch as u32))?;
    Ok(Contender::new("Portal bulk ring", move || {
        let (tx, rx) = (&mut *tx, &mut *rx);
        flow::rate::<T>(
            &pair,
            count,
            move || {
                let mut patience = Patience::of("space in the ring");
                let mut number = 0;
                while number < count {
                    let mut next = number;
                    let went = tx.push_each(batch, || {
                        let message = T::numbered(next);
                        next = next.wrapping_add(1);
                        message.words()
                    });
                    let went = went.map_err(failed)?;
                    if went == 0 {
                        patience.spent(tx.back_off())?;
                    }
                    number += went as u64;
                }
                Ok(())
            },
            move || {
                let mut patience = Patience::of("the ring");
                let (mut sum, mut got) = (0u64, 0);
                while got < count {
                    let came = rx.pop_each(batch, |words| {
                        sum = sum.wrapping_add(T::of(words).sum());
                    });
                    let came = came.map_err(failed)?;
                    if came == 0 {
                        patience.spent(rx.back_off())?;
                    }
                    got += came as u64;
                }
                Ok(sum)
            },
        )
    }))
}

/// Numbers `count` messages and hands them to `push` in batches until all went.
fn send_batches<T: Bytes>(
    count: u64,
    batch: usize,
    mut push: impl FnMut(&[u8]) -> Result<usize, BenchError>,
) -> Result<(), BenchError> {
    let mut patience = Patience::of("space in the ring");
    let mut bytes = vec![0; batch * T::LEN];
    let mut number = 0;
    while number < count {
        for (message, to) in (number..).zip(bytes.chunks_exact_mut(T::LEN)) {
            T::numbered(message).put(to);
        }
        let mut left = &bytes[..];
        while !left.is_empty() {
            let went = push(left)?;
            if went == 0 {
                back_off(&mut patience)?;
            }
            left = &left[went * T::LEN..];
        }
        number += batch as u64;
    }
    Ok(())
}

/// Goal 3: 8-byte messages, 32 at a time.
pub(super) fn batches(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const BATCH: usize = 32;
    let (pair, count) = (bench.pair, BYTES / 8);
    let portal = in_batches::<u64, 1>(pair, count, BATCH)?;
    #[cfg(not(feature = "peers"))]
    {
        drop(portal);
        Err(super::needs_peers(spec))
    }
    #[cfg(feature = "peers")]
    {
        let slots = SLOTS as usize;
        let rtrb = queues::rtrb_chunks::<u64>(pair, "rtrb chunks", slots, count, BATCH);
        bench.contest(spec, Against::Contender(1), 2, vec![portal, rtrb])
    }
}

/// Goal 4: 64-byte messages, 256 at a time, in GB/s.
pub(super) fn bandwidth(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const BATCH: usize = 256;
    let (pair, count) = (bench.pair, 4 * BYTES / 64);
    let mut rate = in_batches::<[u64; 8], 8>(pair, count, BATCH)?;
    let portal = Contender::new("Portal bulk ring", move || {
        let sample = rate.sample()?;
        // Millions of 64-byte messages a second to 10^9 bytes a second.
        Ok(Sample {
            value: sample.value * 64.0 / 1e3,
            ..sample
        })
    });
    let stream = Stream::new(STREAM_BUFFER, STREAM_BUFFERS, Writing::Stores);
    let turns = 4 * BYTES / STREAM_BUFFER as u64;
    let baseline = Contender::new("write-read stream", move || stream.sample(&pair, turns));
    bench.contest(spec, Against::Contender(1), 2, vec![portal, baseline])
}

/// Goal 8: the ring that several threads may send into, with one sending.
pub(super) fn many_producers(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const BATCH: usize = 32;
    let (pair, count) = (bench.pair, BYTES / 16);
    // A slot is a sequence word and the message, as ArrayQueue's is.
    let at = place::fresh(RingLayout::Inline, 16, SLOTS)?;
    let mut tx = Alone(MpscSender::new(at.clone()).map_err(failed)?);
    let mut rx = Alone(MpscReceiver::new(at).map_err(failed)?);
    let portal = Contender::new("Portal MPSC ring", move || {
        let (tx, rx) = (&mut *tx, &mut *rx);
        flow::rate::<u64>(
            &pair,
            count,
            move || send_batches::<u64>(count, BATCH, |bytes| tx.push_batch(bytes).map_err(failed)),
            move || {
                let mut patience = Patience::of("the ring");
                let (mut sum, mut got) = (0u64, 0);
                let mut bytes = [0; BATCH * 8];
                while got < count {
                    let came = rx.pop_batch(&mut bytes).map_err(failed)?;
                    if came == 0 {
                        back_off(&mut patience)?;
                    }
                    for message in bytes[..came * 8].chunks_exact(8) {
                        sum = sum.wrapping_add(u64::get(message));
                    }
                    got += came as u64;
                }
                Ok(sum)
            },
        )
    });
    #[cfg(not(feature = "peers"))]
    {
        drop(portal);
        Err(super::needs_peers(spec))
    }
    #[cfg(feature = "peers")]
    {
        let slots = SLOTS as usize;
        let queue = queues::array_queue::<u64>(pair, "crossbeam ArrayQueue", slots, count / 4);
        bench.contest(spec, Against::Contender(1), 2, vec![portal, queue])
    }
}
