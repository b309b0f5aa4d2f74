//! loom's models of the rings: their own code over modelled memory, through
//! every order of accesses that the memory model allows.
//!
//! Run: `cargo test --release -p hv_shmem --features loom --test loom_ring`.
//!
//! Held: every message arrives once, in order and whole; no slot is overwritten
//! before it was read; a side that slept after arming is always woken (a lost
//! wake is a deadlock, which loom reports). loom treats sequentially consistent
//! loads and stores as acquire and release, so that the handshakes rest on the
//! fences alone, as the code says they do.

use hv_shmem::mem::LoomMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::CURSOR_BYTES;
use hv_shmem::ring::InPlaceCaller;
use hv_shmem::ring::InPlaceServer;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::MpscReceiver;
use hv_shmem::ring::MpscSender;
use hv_shmem::ring::PRODUCED_BYTES;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SendError;
use loom::sync::Arc;
use loom::sync::Notify;
use loom::thread;

fn place(layout: RingLayout, slot_size: u32, slots: u32) -> RingPlace<LoomMem> {
    let bytes = layout.storage_bytes(slot_size, slots).unwrap();
    RingPlace {
        storage: LoomMem::new(bytes),
        produced: LoomMem::new(PRODUCED_BYTES),
        cursor: Some(LoomMem::new(CURSOR_BYTES)),
        slot_size,
        slots,
        kind: RingKind::Stream,
        layout,
    }
}

/// Every order of two threads.
fn model(f: impl Fn() + Sync + Send + 'static) {
    loom::model::Builder::new().check(f);
}

/// Every order of three threads with at most three preemptions: all of them
/// would take hours, and the bugs that models have found needed two or three.
fn model_of_three(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

/// A bell in the model: rung is remembered until it is heard.
#[derive(Clone)]
struct Bell(Arc<Notify>);

impl Bell {
    fn new() -> Self {
        Self(Arc::new(Notify::new()))
    }

    fn ring(&self) {
        self.0.notify();
    }

    fn wait(&self) {
        self.0.wait();
    }
}

#[test]
fn inline_delivers_in_order() {
    model(|| {
        let place = place(RingLayout::Inline, 16, 2);
        let mut sender = InlineSender::new(place.clone()).unwrap();
        let mut receiver = InlineReceiver::new(place).unwrap();
        let producer = thread::spawn(move || {
            for i in 1..=3u64 {
                while let Err(e) = sender.try_send(&i.to_le_bytes()) {
                    assert_eq!(e, SendError::Full);
                    thread::yield_now();
                }
            }
        });
        for i in 1..=3u64 {
            let mut got = [0; 8];
            while receiver.try_recv(&mut got).unwrap().is_none() {
                thread::yield_now();
            }
            assert_eq!(u64::from_le_bytes(got), i);
        }
        producer.join().unwrap();
    });
}

#[test]
fn bulk_delivers_in_order() {
    model(|| {
        let place = place(RingLayout::Bulk, 8, 2);
        let mut sender = BulkSender::new(place.clone()).unwrap();
        let mut receiver = BulkReceiver::new(place).unwrap();
        let producer = thread::spawn(move || {
            let mut bytes = [0; 24];
            for (i, word) in (1u64..).zip(bytes.chunks_exact_mut(8)) {
                word.copy_from_slice(&i.to_le_bytes());
            }
            let mut left = &bytes[..];
            while !left.is_empty() {
                let sent = sender.push_batch(left).unwrap();
                left = &left[sent * 8..];
                if sent == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut next = 1u64;
        while next <= 3 {
            let mut got = [0; 16];
            let count = receiver.pop_batch(&mut got).unwrap();
            for word in got[..count * 8].chunks_exact(8) {
                assert_eq!(word, next.to_le_bytes());
                next += 1;
            }
            if count == 0 {
                thread::yield_now();
            }
        }
        producer.join().unwrap();
    });
}

/// The same with messages made and taken in their slots.
#[test]
fn bulk_delivers_in_place() {
    model(|| {
        let place = place(RingLayout::Bulk, 8, 2);
        let mut sender = BulkSender::new(place.clone()).unwrap();
        let mut receiver = BulkReceiver::new(place).unwrap();
        let producer = thread::spawn(move || {
            let mut sent = 0u64;
            while sent < 3 {
                let mut next = sent;
                let went = sender.push_each(3 - sent as usize, || {
                    next += 1;
                    [next]
                });
                sent += went.unwrap() as u64;
                if next == sent && sent < 3 {
                    thread::yield_now();
                }
            }
        });
        let mut seen = 0u64;
        while seen < 3 {
            let before = seen;
            let taken = receiver.pop_each(2, |[word]| {
                seen += 1;
                assert_eq!(word, seen);
            });
            assert_eq!(taken.unwrap() as u64, seen - before);
            if seen == before {
                thread::yield_now();
            }
        }
        producer.join().unwrap();
    });
}

/// The sender flushes after each message; the receiver arms, looks again and
/// sleeps.
fn bulk_wakes_receiver() {
    model(|| {
        let place = place(RingLayout::Bulk, 8, 2);
        let mut sender = BulkSender::new(place.clone()).unwrap();
        let mut receiver = BulkReceiver::new(place).unwrap();
        let bell = Bell::new();
        let doorbell = bell.clone();
        let producer = thread::spawn(move || {
            for i in 1..=2u64 {
                sender.try_send(&i.to_le_bytes()).unwrap();
                if sender.flush().must_ring {
                    doorbell.ring();
                }
            }
        });
        for i in 1..=2u64 {
            let mut got = [0; 8];
            while receiver.try_recv(&mut got).unwrap().is_none() {
                receiver.arm();
                if !receiver.has_message().unwrap() {
                    bell.wait();
                }
            }
            assert_eq!(u64::from_le_bytes(got), i);
        }
        producer.join().unwrap();
    });
}

/// The same over the in-line ring, whose progress is the sequence word.
fn inline_wakes_receiver() {
    model(|| {
        let place = place(RingLayout::Inline, 16, 2);
        let mut sender = InlineSender::new(place.clone()).unwrap();
        let mut receiver = InlineReceiver::new(place).unwrap();
        let bell = Bell::new();
        let doorbell = bell.clone();
        let producer = thread::spawn(move || {
            for i in 1..=2u64 {
                sender.try_send(&i.to_le_bytes()).unwrap();
                if sender.flush().must_ring {
                    doorbell.ring();
                }
            }
        });
        for i in 1..=2u64 {
            let mut got = [0; 8];
            while receiver.try_recv(&mut got).unwrap().is_none() {
                receiver.arm();
                if !receiver.has_message().unwrap() {
                    bell.wait();
                }
            }
            assert_eq!(u64::from_le_bytes(got), i);
        }
        producer.join().unwrap();
    });
}

#[cfg(not(feature = "negative_control_loom_fence"))]
#[test]
fn no_wake_is_lost_bulk() {
    bulk_wakes_receiver();
}

#[cfg(not(feature = "negative_control_loom_fence"))]
#[test]
fn no_wake_is_lost_inline() {
    inline_wakes_receiver();
}

/// What the control runs in a process of its own: a deadlock in a model ends
/// the process.
#[cfg(feature = "negative_control_loom_fence")]
#[test]
#[ignore = "the control's child; it ends in an abort"]
fn child() {
    bulk_wakes_receiver();
    inline_wakes_receiver();
}

/// Without the fence between arming and looking again, loom finds the order in
/// which both sides miss each other, and calls it a deadlock.
#[cfg(feature = "negative_control_loom_fence")]
#[test]
fn control_wake_is_lost_without_the_fence() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(
        !child.status.success() && said.contains("deadlock"),
        "{said}"
    );
}

#[test]
fn no_wake_for_space_is_lost() {
    model(|| {
        let place = place(RingLayout::Bulk, 8, 1);
        let mut sender = BulkSender::new(place.clone()).unwrap();
        let mut receiver = BulkReceiver::new(place).unwrap();
        let bell = Bell::new();
        let doorbell = bell.clone();
        let consumer = thread::spawn(move || {
            for i in 1..=2u64 {
                let mut got = [0; 8];
                while receiver.try_recv(&mut got).unwrap().is_none() {
                    thread::yield_now();
                }
                assert_eq!(u64::from_le_bytes(got), i);
                if receiver.flush().must_ring {
                    doorbell.ring();
                }
            }
        });
        for i in 1..=2u64 {
            while sender.try_send(&i.to_le_bytes()).is_err() {
                sender.arm_space();
                if !sender.has_space().unwrap() {
                    bell.wait();
                }
            }
        }
        consumer.join().unwrap();
    });
}

#[test]
fn mpsc_delivers_each_once() {
    model_of_three(|| {
        let place = place(RingLayout::Inline, 16, 2);
        let sender = MpscSender::new(place.clone()).unwrap();
        let mut receiver = MpscReceiver::new(place).unwrap();
        let producers: Vec<_> = [1u64, 2]
            .into_iter()
            .map(|i| {
                let mut sender = sender.clone();
                thread::spawn(move || sender.try_send(&i.to_le_bytes()).unwrap())
            })
            .collect();
        let mut seen = 0;
        for _ in 0..2 {
            let mut got = [0; 8];
            while receiver.try_recv(&mut got).unwrap().is_none() {
                thread::yield_now();
            }
            seen += u64::from_le_bytes(got);
        }
        assert_eq!(seen, 3);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

/// Two threads reuse the one slot of a ring, so that each needs the other's
/// message to be gone.
#[test]
fn mpsc_reuses_slots() {
    model(|| {
        let place = place(RingLayout::Inline, 16, 1);
        let mut mine = MpscSender::new(place.clone()).unwrap();
        let mut other = mine.clone();
        let mut receiver = MpscReceiver::new(place).unwrap();
        let producer = thread::spawn(move || {
            while let Err(e) = other.try_send(&1u64.to_le_bytes()) {
                assert_eq!(e, SendError::Full);
                thread::yield_now();
            }
        });
        let mut sent = false;
        let mut seen = 0;
        while seen != 3 {
            if !sent {
                sent = mine.try_send(&2u64.to_le_bytes()).is_ok();
            }
            let mut got = [0; 8];
            match receiver.try_recv(&mut got).unwrap() {
                Some(_) => seen += u64::from_le_bytes(got),
                None => thread::yield_now(),
            }
        }
        producer.join().unwrap();
    });
}

#[cfg(not(feature = "negative_control_loom_fence"))]
#[test]
fn mpsc_wakes_receiver() {
    model_of_three(|| {
        let place = place(RingLayout::Inline, 16, 2);
        let sender = MpscSender::new(place.clone()).unwrap();
        let mut receiver = MpscReceiver::new(place).unwrap();
        let bell = Bell::new();
        let producers: Vec<_> = [1u64, 2]
            .into_iter()
            .map(|i| {
                let mut sender = sender.clone();
                let doorbell = bell.clone();
                thread::spawn(move || {
                    sender.try_send(&i.to_le_bytes()).unwrap();
                    if sender.flush().must_ring {
                        doorbell.ring();
                    }
                })
            })
            .collect();
        let mut seen = 0;
        for _ in 0..2 {
            let mut got = [0; 8];
            while receiver.try_recv(&mut got).unwrap().is_none() {
                receiver.arm();
                if !receiver.has_message().unwrap() {
                    bell.wait();
                }
            }
            seen += u64::from_le_bytes(got);
        }
        assert_eq!(seen, 3);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn in_place_answers_each_call() {
    model(|| {
        let place = place(RingLayout::InPlace, 64, 1);
        let mut caller = InPlaceCaller::new(place.clone()).unwrap();
        let mut server = InPlaceServer::new(place).unwrap();
        let serving = thread::spawn(move || {
            for _ in 0..2 {
                let mut got = [0; 8];
                while server.try_recv(&mut got).unwrap().is_none() {
                    thread::yield_now();
                }
                let twice = u64::from_le_bytes(got) * 2;
                server.answer(&twice.to_le_bytes()).unwrap();
            }
        });
        for i in 1..=2u64 {
            caller.try_call(&i.to_le_bytes()).unwrap();
            let mut got = [0; 8];
            while caller.poll_answer(&mut got).unwrap().is_none() {
                thread::yield_now();
            }
            assert_eq!(u64::from_le_bytes(got), i * 2);
        }
        serving.join().unwrap();
    });
}
