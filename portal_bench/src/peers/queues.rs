//! rtrb, ringbuf and crossbeam: streams of messages from core to core.

use crate::BenchError;
use crate::base::flow;
use crate::base::flow::Message;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Alone;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use crate::harness::rtt;
use crossbeam_queue::ArrayQueue;
use ringbuf::HeapRb;
use ringbuf::traits::Consumer;
use ringbuf::traits::Producer;
use ringbuf::traits::Split;

/// rtrb, one message at a time. `pauses` spin hints follow every "empty".
pub(crate) fn rtrb<T: Message>(
    pair: Pair,
    name: &str,
    slots: usize,
    count: u64,
    pauses: u32,
) -> Contender<'static> {
    let (tx, rx) = rtrb::RingBuffer::<T>::new(slots);
    let (mut tx, mut rx) = (Alone(tx), Alone(rx));
    Contender::new(name, move || {
        let (tx, rx) = (&mut *tx, &mut *rx);
        flow::rate::<T>(
            &pair,
            count,
            move || {
                let mut patience = Patience::of("space in rtrb");
                for number in 0..count {
                    while tx.push(T::numbered(number)).is_err() {
                        patience.spin()?;
                    }
                }
                Ok(())
            },
            move || {
                let (mut sum, mut patience) = (0u64, Patience::of("rtrb"));
                for _ in 0..count {
                    let message = loop {
                        if let Ok(message) = rx.pop() {
                            break message;
                        }
                        for _ in 0..pauses {
                            patience.spin()?;
                        }
                    };
                    sum = sum.wrapping_add(message.sum());
                }
                Ok(sum)
            },
        )
    })
}

/// rtrb in chunks of `chunk` messages. `count` is a multiple of `chunk`.
pub(crate) fn rtrb_chunks<T: Message>(
    pair: Pair,
    name: &str,
    slots: usize,
    count: u64,
    chunk: usize,
) -> Contender<'static> {
    let (tx, rx) = rtrb::RingBuffer::<T>::new(slots);
    let (mut tx, mut rx) = (Alone(tx), Alone(rx));
    Contender::new(name, move || {
        let (tx, rx) = (&mut *tx, &mut *rx);
        flow::rate::<T>(
            &pair,
            count,
            move || {
                let mut patience = Patience::of("space in rtrb");
                let mut number = 0;
                while number < count {
                    let Ok(free) = tx.write_chunk_uninit(chunk) else {
                        patience.spin()?;
                        continue;
                    };
                    let numbers = number..number + chunk as u64;
                    number += free.fill_from_iter(numbers.map(T::numbered)) as u64;
                }
                Ok(())
            },
            move || {
                let mut patience = Patience::of("rtrb");
                let (mut sum, mut got) = (0u64, 0);
                while got < count {
                    let Ok(full) = rx.read_chunk(chunk) else {
                        patience.spin()?;
                        continue;
                    };
                    let (one, two) = full.as_slices();
                    for message in one.iter().chain(two) {
                        sum = sum.wrapping_add(message.sum());
                    }
                    full.commit_all();
                    got += chunk as u64;
                }
                Ok(sum)
            },
        )
    })
}

/// ringbuf, one message at a time.
pub(crate) fn ringbuf<T: Message>(
    pair: Pair,
    name: &str,
    slots: usize,
    count: u64,
) -> Contender<'static> {
    let (tx, rx) = HeapRb::<T>::new(slots).split();
    let (mut tx, mut rx) = (Alone(tx), Alone(rx));
    Contender::new(name, move || {
        let (tx, rx) = (&mut *tx, &mut *rx);
        flow::rate::<T>(
            &pair,
            count,
            move || {
                let mut patience = Patience::of("space in ringbuf");
                for number in 0..count {
                    while tx.try_push(T::numbered(number)).is_err() {
                        patience.spin()?;
                    }
                }
                Ok(())
            },
            move || {
                let (mut sum, mut patience) = (0u64, Patience::of("ringbuf"));
                for _ in 0..count {
                    let message = loop {
                        match rx.try_pop() {
                            Some(message) => break message,
                            None => patience.spin()?,
                        }
                    };
                    sum = sum.wrapping_add(message.sum());
                }
                Ok(sum)
            },
        )
    })
}

/// crossbeam's bounded queue, one message at a time.
pub(crate) fn array_queue<T: Message>(
    pair: Pair,
    name: &str,
    slots: usize,
    count: u64,
) -> Contender<'static> {
    let queue = ArrayQueue::<T>::new(slots);
    Contender::new(name, move || {
        let queue = &queue;
        flow::rate::<T>(
            &pair,
            count,
            move || {
                let mut patience = Patience::of("space in ArrayQueue");
                for number in 0..count {
                    while queue.push(T::numbered(number)).is_err() {
                        patience.spin()?;
                    }
                }
                Ok(())
            },
            move || {
                let (mut sum, mut patience) = (0u64, Patience::of("ArrayQueue"));
                for _ in 0..count {
                    let message = loop {
                        match queue.pop() {
                            Some(message) => break message,
                            None => patience.spin()?,
                        }
                    };
                    sum = sum.wrapping_add(message.sum());
                }
                Ok(sum)
            },
        )
    })
}

/// crossbeam's bounded channel, one message at a time.
pub(crate) fn channel<T: Message>(
    pair: Pair,
    name: &str,
    slots: usize,
    count: u64,
) -> Contender<'static> {
    let (tx, rx) = crossbeam_channel::bounded::<T>(slots);
    Contender::new(name, move || {
        let (tx, rx) = (&tx, &rx);
        flow::rate::<T>(
            &pair,
            count,
            move || {
                let mut patience = Patience::of("space in the channel");
                for number in 0..count {
                    while tx.try_send(T::numbered(number)).is_err() {
                        patience.spin()?;
                    }
                }
                Ok(())
            },
            move || {
                let (mut sum, mut patience) = (0u64, Patience::of("the channel"));
                for _ in 0..count {
                    let message = loop {
                        match rx.try_recv() {
                            Ok(message) => break message,
                            Err(_) => patience.spin()?,
                        }
                    };
                    sum = sum.wrapping_add(message.sum());
                }
                Ok(sum)
            },
        )
    })
}

/// The round trip of a 64-byte message over two rtrb rings, in nanoseconds.
pub(crate) fn rtrb_trips(pair: Pair, batches: usize, singles: usize) -> Contender<'static> {
    let (there, here) = rtrb::RingBuffer::<[u64; 8]>::new(64);
    let (mut there, mut here) = (Alone(there), Alone(here));
    let (answer, answered) = rtrb::RingBuffer::<[u64; 8]>::new(64);
    let (mut answer, mut answered) = (Alone(answer), Alone(answered));
    Contender::new("rtrb, 64 B", move || {
        let (there, here) = (&mut *there, &mut *here);
        let (answer, answered) = (&mut *answer, &mut *answered);
        let (trips, (), preempted) = pair.run(
            move |start| {
                let mut patience = Patience::of("an answer over rtrb");
                start.wait()?;
                rtt::time(batches, singles, || {
                    let _ = there.push([7; 8]);
                    while answered.pop().is_err() {
                        patience.spin()?;
                    }
                    Ok(())
                })
            },
            move |start| {
                let mut patience = Patience::of("a request over rtrb");
                start.wait()?;
                for _ in 0..rtt::total(batches, singles) {
                    let message = loop {
                        match here.pop() {
                            Ok(message) => break message,
                            Err(_) => patience.spin()?,
                        }
                    };
                    let _ = answer.push(message);
                }
                Ok::<_, BenchError>(())
            },
        )?;
        Ok(Sample::trips(trips, preempted))
    })
}
