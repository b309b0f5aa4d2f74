//! Waits and doorbells between threads: nothing is lost, nothing waits for ever,
//! and a stream costs few doorbells.

use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::EventFd;
use hv_shmem::doorbell::FutexBell;
use hv_shmem::doorbell::FutexDoorbell;
use hv_shmem::doorbell::Heard;
use hv_shmem::mem::HeapMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::wait::MAX_SPIN_NS;
use hv_shmem::wait::MIN_SPIN_NS;
use hv_shmem::wait::MonotonicClock;
use hv_shmem::wait::WaitMode;
use hv_shmem::wait::Waited;
use hv_shmem::wait::Waiter;
use std::time::Duration;
use std::time::Instant;

const MODES: [WaitMode; 3] = [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Sleep];
/// Far longer than anything here takes: a lost wake ends a test with an error.
const LOST: Option<Duration> = Some(Duration::from_secs(10));

fn place(layout: RingLayout, slots: u32) -> RingPlace<HeapMem> {
    RingPlace::on_heap(RingKind::Stream, layout, 64, slots).unwrap()
}

fn waiter(mode: WaitMode) -> Waiter<MonotonicClock> {
    Waiter::new(mode, MonotonicClock::new())
}

/// A round trip over two in-line rings, either side waiting in `mode`.
fn ping_pong(
    mode: WaitMode,
    rounds: u64,
    ring: [&(dyn Doorbell + Sync); 2],
    hear: [&(dyn Bell + Sync); 2],
) {
    let there = place(RingLayout::Inline, 4);
    let back = place(RingLayout::Inline, 4);
    std::thread::scope(|s| {
        let mut rx = InlineReceiver::new(there.clone()).unwrap();
        let mut tx = InlineSender::new(back.clone()).unwrap();
        s.spawn(move || {
            let mut waiter = waiter(mode);
            let mut out = [0; 56];
            for _ in 0..rounds {
                while rx.try_recv(&mut out).unwrap().is_none() {
                    assert_eq!(waiter.wait(&mut rx, &hear[1], LOST), Ok(Waited::Ready));
                }
                tx.try_send(&out).unwrap();
                if tx.flush().must_ring {
                    ring[0].ring().unwrap();
                }
            }
        });
        let mut tx = InlineSender::new(there).unwrap();
        let mut rx = InlineReceiver::new(back).unwrap();
        let mut waiter = waiter(mode);
        let mut out = [0; 56];
        for i in 0..rounds {
            tx.try_send(&i.to_le_bytes()).unwrap();
            if tx.flush().must_ring {
                ring[1].ring().unwrap();
            }
            while rx.try_recv(&mut out).unwrap().is_none() {
                assert_eq!(waiter.wait(&mut rx, &hear[0], LOST), Ok(Waited::Ready));
            }
            assert_eq!(out[..8], i.to_le_bytes());
        }
    });
}

#[test]
fn every_mode_answers_over_eventfd() {
    for mode in MODES {
        let bells = [EventFd::new().unwrap(), EventFd::new().unwrap()];
        let [a, b] = &bells;
        ping_pong(mode, 300, [a, b], [a, b]);
    }
}

#[test]
fn every_mode_answers_over_futex() {
    for mode in MODES {
        // Each side rings through a word in its own line.
        let lines = [HeapMem::new(128), HeapMem::new(128)];
        let ring = lines.clone().map(|l| FutexDoorbell::new(l).unwrap());
        let hear = lines.map(|l| FutexBell::new(l).unwrap());
        ping_pong(mode, 300, [&ring[0], &ring[1]], [&hear[0], &hear[1]]);
    }
}

/// A stream with both sides sleeping when there is nothing to do: every message
/// arrives, and doorbells are few.
#[test]
fn a_stream_needs_few_doorbells() {
    const COUNT: u64 = 200_000;
    let place = place(RingLayout::Bulk, 1024);
    let (data, space) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    let (data, space) = (&data, &space);
    let rung = std::thread::scope(|s| {
        let mut tx = BulkSender::new(place.clone()).unwrap();
        let sender = s.spawn(move || {
            let mut waiter = waiter(WaitMode::Adaptive);
            let mut rung = 0u64;
            let mut batch = vec![0; 64 * 32];
            let mut next = 0u64;
            while next < COUNT {
                for (i, message) in (next..).zip(batch.chunks_exact_mut(64)) {
                    message[..8].copy_from_slice(&i.to_le_bytes());
                }
                let left = (COUNT - next).min(32) as usize;
                let sent = tx.push_batch(&batch[..left * 64]).unwrap();
                next += sent as u64;
                if tx.flush().must_ring {
                    rung += 1;
                    data.ring().unwrap();
                }
                if sent == 0 {
                    assert_eq!(waiter.wait(&mut tx, space, LOST), Ok(Waited::Ready));
                }
            }
            rung
        });
        let mut rx = BulkReceiver::new(place).unwrap();
        let mut waiter = waiter(WaitMode::Adaptive);
        let mut rung = 0u64;
        let mut out = vec![0; 64 * 256];
        let mut next = 0u64;
        while next < COUNT {
            let count = rx.pop_batch(&mut out).unwrap();
            for message in out[..count * 64].chunks_exact(64) {
                assert_eq!(message[..8], next.to_le_bytes());
                next += 1;
            }
            if rx.flush().must_ring {
                rung += 1;
                space.ring().unwrap();
            }
            if count == 0 {
                assert_eq!(waiter.wait(&mut rx, data, LOST), Ok(Waited::Ready));
            }
        }
        rung + sender.join().unwrap()
    });
    assert!(rung * 100 <= COUNT, "{rung} doorbells for {COUNT} messages");
}

#[test]
fn waits_end_when_their_time_is_up() {
    for mode in MODES {
        let mut rx = InlineReceiver::new(place(RingLayout::Inline, 4)).unwrap();
        let bell = EventFd::new().unwrap();
        let mut waiter = waiter(mode);
        let start = Instant::now();
        let timeout = Duration::from_millis(20);
        assert_eq!(
            waiter.wait(&mut rx, &bell, Some(timeout)),
            Ok(Waited::TimedOut)
        );
        let took = start.elapsed();
        assert!(took >= timeout && took < Duration::from_secs(5), "{took:?}");
        assert_eq!(waiter.counters().timed_out, 1);
    }
}

/// A peer that rings and sends nothing wakes the waiter, and only that.
#[test]
fn doorbells_without_a_message_are_counted_and_waited_through() {
    let mut rx = InlineReceiver::new(place(RingLayout::Inline, 4)).unwrap();
    let bell = EventFd::new().unwrap();
    for _ in 0..3 {
        bell.ring().unwrap();
    }
    let mut waiter = waiter(WaitMode::Sleep);
    let timeout = Some(Duration::from_millis(20));
    assert_eq!(waiter.wait(&mut rx, &bell, timeout), Ok(Waited::TimedOut));
    // Three rings before the wait are one.
    assert_eq!(waiter.counters().spurious, 1);
}

#[test]
fn a_ring_before_the_wait_is_heard() {
    let bell = EventFd::new().unwrap();
    bell.ring().unwrap();
    bell.ring().unwrap();
    assert_eq!(bell.wait(None), Ok(Heard::Rang));
    assert_eq!(bell.wait(Some(Duration::ZERO)), Ok(Heard::TimedOut));
    let twin = bell.try_clone().unwrap();
    twin.ring().unwrap();
    assert_eq!(bell.wait(Some(Duration::ZERO)), Ok(Heard::Rang));

    let line = HeapMem::new(128);
    let doorbell = FutexDoorbell::new(line.clone()).unwrap();
    let bell = FutexBell::new(line.clone()).unwrap();
    doorbell.ring().unwrap();
    assert_eq!(bell.wait(None), Ok(Heard::Rang));
    let short = Some(Duration::from_millis(1));
    assert_eq!(bell.wait(short), Ok(Heard::TimedOut));
    assert!(FutexBell::new(HeapMem::new(16)).is_err());
}

/// The budget follows what waiting has paid for: long for a peer that answers
/// soon, short for one that does not.
#[test]
fn the_spin_budget_is_learned() {
    let bell = EventFd::new().unwrap();
    let place = place(RingLayout::Inline, 4);
    let mut rx = InlineReceiver::new(place.clone()).unwrap();
    let mut waiter = waiter(WaitMode::Adaptive);
    for _ in 0..20 {
        let timeout = Some(Duration::from_millis(1));
        assert_eq!(waiter.wait(&mut rx, &bell, timeout), Ok(Waited::TimedOut));
    }
    assert_eq!(waiter.budget_ns(), MIN_SPIN_NS);
    // Ready 20 us into each wait, asleep or not.
    let mut tx = InlineSender::new(place).unwrap();
    let mut out = [0; 56];
    for _ in 0..40 {
        let mut soon = Soon::new(Duration::from_micros(20));
        let bell = soon.bell();
        assert_eq!(waiter.wait(&mut soon, &bell, LOST), Ok(Waited::Ready));
    }
    assert!(waiter.budget_ns() >= 20_000, "{}", waiter.budget_ns());
    assert!(waiter.budget_ns() <= MAX_SPIN_NS);
    tx.try_send(&[1]).unwrap();
    assert_eq!(waiter.wait(&mut rx, &bell, None), Ok(Waited::Ready));
    assert_eq!(rx.try_recv(&mut out), Ok(Some(56)));
}

/// Ready a fixed time after it was made.
struct Soon(Instant);

impl Soon {
    fn new(after: Duration) -> Self {
        Self(Instant::now() + after)
    }

    fn bell(&self) -> At {
        At(self.0)
    }
}

impl hv_shmem::wait::Source for Soon {
    fn ready(&mut self) -> Result<bool, hv_shmem::Violation> {
        Ok(Instant::now() >= self.0)
    }

    fn arm(&mut self) {}
}

/// Rings at that time.
struct At(Instant);

impl Bell for At {
    fn wait(&self, _: Option<Duration>) -> Result<Heard, hv_shmem::doorbell::DoorbellError> {
        while Instant::now() < self.0 {
            std::hint::spin_loop();
        }
        Ok(Heard::Rang)
    }
}
