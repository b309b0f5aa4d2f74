//! What each ring promises, one promise a test.

use hv_shmem::Violation;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::CompleteEntry;
use hv_shmem::ring::CompleteReceiver;
use hv_shmem::ring::CompleteSender;
use hv_shmem::ring::Emitted;
use hv_shmem::ring::Entry;
use hv_shmem::ring::EventEntry;
use hv_shmem::ring::EventReceiver;
use hv_shmem::ring::EventSender;
use hv_shmem::ring::InPlaceCaller;
use hv_shmem::ring::InPlaceServer;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::MpscReceiver;
use hv_shmem::ring::MpscSender;
use hv_shmem::ring::PlaceError;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SendError;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;
use hv_shmem::ring::UpcallCaller;
use hv_shmem::ring::UpcallEntry;
use hv_shmem::ring::UpcallError;
use hv_shmem::ring::UpcallServer;
use hv_shmem::ring::Wake;
use hv_shmem::span::PortalSpan;
use hv_shmem::wait::Clock;
use std::cell::Cell;

const RING: Wake = Wake { must_ring: true };

fn place(layout: RingLayout, slot_size: u32, slots: u32) -> RingPlace<HeapMem> {
    RingPlace::on_heap(RingKind::Stream, layout, slot_size, slots).unwrap()
}

fn place_of(kind: RingKind, layout: RingLayout, slots: u32) -> RingPlace<HeapMem> {
    RingPlace::on_heap(kind, layout, 64, slots).unwrap()
}

fn span() -> PortalSpan {
    PortalSpan {
        region: 0x0102_0304,
        section: 5,
        flags: 0,
        offset: 0x1_0000,
        length: 0x2_0000,
        generation: 7,
        epoch: 9,
    }
}

#[test]
fn shapes_outside_the_limits_are_refused() {
    for (layout, slot_size, slots) in [
        (RingLayout::Inline, 8, 4),
        (RingLayout::Inline, 24, 4),
        (RingLayout::Inline, 8192, 4),
        (RingLayout::Bulk, 4, 4),
        (RingLayout::Bulk, 0, 4),
        (RingLayout::InPlace, 32, 4),
        (RingLayout::Bulk, 64, 0),
        (RingLayout::Bulk, 64, 3),
        (RingLayout::Bulk, 64, 1 << 21),
    ] {
        let made = RingPlace::on_heap(RingKind::Stream, layout, slot_size, slots);
        assert!(made.is_err(), "{layout:?} {slot_size} {slots}");
    }
}

#[test]
fn places_that_are_too_short_are_refused() {
    let mut short = place(RingLayout::Inline, 64, 4);
    short.storage = short.storage.window(0, 4 * 64 - 8).unwrap();
    assert_eq!(
        InlineSender::new(short).err(),
        Some(PlaceError::TooShort {
            what: "storage",
            found: 248,
            needed: 256
        })
    );
    let mut short = place(RingLayout::Bulk, 64, 4);
    short.produced = short.produced.window(0, 64).unwrap();
    assert!(BulkSender::new(short.clone()).is_err());
    assert!(BulkReceiver::new(short).is_err());
    let mut short = place(RingLayout::Bulk, 64, 4);
    short.cursor = None;
    assert_eq!(BulkReceiver::new(short).err(), Some(PlaceError::NoCursor));
    let wrong = place(RingLayout::Bulk, 64, 4);
    assert!(matches!(
        InlineReceiver::new(wrong),
        Err(PlaceError::Layout { .. })
    ));
    let wrong = place_of(RingKind::Event, RingLayout::Inline, 4);
    assert!(matches!(
        SubmitSender::new(wrong),
        Err(PlaceError::Kind { .. })
    ));
}

#[test]
fn short_messages_arrive_padded_and_long_ones_are_refused() {
    for slot_size in [16, 64, 256, 4096] {
        let place = place(RingLayout::Inline, slot_size, 2);
        let mut tx = InlineSender::new(place.clone()).unwrap();
        let mut rx = InlineReceiver::new(place).unwrap();
        let payload = slot_size as usize - 8;
        assert_eq!((tx.payload(), rx.payload()), (payload, payload));
        let mut out = vec![0; payload];
        // Two laps of noise, so that the padding has something to cover.
        for _ in 0..4 {
            tx.try_send(&vec![0xFF; payload]).unwrap();
            rx.try_recv(&mut out).unwrap().unwrap();
        }
        for len in [0, 1, 3, 7, 8] {
            tx.try_send(&vec![7; len]).unwrap();
            assert_eq!(rx.try_recv(&mut out).unwrap(), Some(payload));
            assert!(out[..len].iter().all(|b| *b == 7));
            assert!(out[len..].iter().all(|b| *b == 0));
        }
        let long = vec![0; payload + 1];
        let refused = SendError::TooLong {
            len: payload + 1,
            limit: payload,
        };
        assert_eq!(tx.try_send(&long), Err(refused));
        assert!(tx.push_batch(&long).is_err());
    }
}

#[test]
fn a_prefix_can_be_taken() {
    let place = place(RingLayout::Bulk, 64, 2);
    let mut tx = BulkSender::new(place.clone()).unwrap();
    let mut rx = BulkReceiver::new(place).unwrap();
    tx.try_send(&[9; 64]).unwrap();
    tx.try_send(&[8; 64]).unwrap();
    let mut out = [0; 3];
    assert_eq!(rx.try_recv(&mut out).unwrap(), Some(3));
    assert_eq!(out, [9; 3]);
    let mut long = [1; 70];
    assert_eq!(rx.try_recv(&mut long).unwrap(), Some(64));
    assert!(long[..64].iter().all(|b| *b == 8) && long[64..] == [1; 6]);
}

#[test]
fn a_full_ring_takes_nothing_until_something_is_freed() {
    let place = place(RingLayout::Inline, 64, 4);
    let mut tx = InlineSender::new(place.clone()).unwrap();
    let mut rx = InlineReceiver::new(place).unwrap();
    let mut out = [0; 56];
    for _ in 0..4 {
        tx.try_send(&[1]).unwrap();
    }
    assert_eq!(tx.try_send(&[1]), Err(SendError::Full));
    assert_eq!(tx.has_space(), Ok(false));
    rx.try_recv(&mut out).unwrap().unwrap();
    let _ = rx.flush();
    assert_eq!(tx.has_space(), Ok(true));
    tx.try_send(&[1]).unwrap();
    assert_eq!(tx.try_send(&[1]), Err(SendError::Full));
}

/// The consumer may leave less than a quarter of the ring unpublished; what it
/// has drained without arming is otherwise free for the sender.
#[test]
fn a_drained_ring_has_space_without_arming() {
    for slots in [1, 2, 4, 8, 64] {
        let place = place(RingLayout::Bulk, 8, slots);
        let mut tx = BulkSender::new(place.clone()).unwrap();
        let mut rx = BulkReceiver::new(place).unwrap();
        let mut out = [0; 8];
        for _ in 0..3 * slots {
            while tx.try_send(&[1]).is_ok() {}
            while rx.try_recv(&mut out).unwrap().is_some() {}
            assert_eq!(tx.has_space(), Ok(true), "{slots} slots");
        }
    }
}

#[test]
fn staged_messages_are_invisible_until_published() {
    let place = place(RingLayout::Bulk, 8, 4);
    let mut tx = BulkSender::new(place.clone()).unwrap();
    let mut rx = BulkReceiver::new(place).unwrap();
    let mut out = [0; 8];
    tx.stage(&[1; 8]).unwrap();
    tx.stage(&[2; 8]).unwrap();
    assert_eq!(rx.try_recv(&mut out).unwrap(), None);
    tx.publish();
    assert_eq!(rx.try_recv(&mut out).unwrap(), Some(8));
    // A full ring publishes what was staged, or nobody would ever free a slot.
    for _ in 0..2 {
        tx.stage(&[3; 8]).unwrap();
    }
    while tx.stage(&[4; 8]).is_ok() {}
    for _ in 0..3 {
        assert_eq!(rx.try_recv(&mut out).unwrap(), Some(8));
    }
}

/// A consumer that has not registered its line counts as at 0, and as asleep.
#[test]
fn a_sender_without_a_cursor_sends_one_lap() {
    let mut place = place(RingLayout::Bulk, 64, 2);
    let line = place.cursor.take().unwrap();
    let mut tx = BulkSender::new(place.clone()).unwrap();
    tx.try_send(&[1]).unwrap();
    assert_eq!(tx.flush(), RING);
    tx.try_send(&[2]).unwrap();
    assert_eq!(tx.flush(), Wake::QUIET);
    assert_eq!(tx.try_send(&[3]), Err(SendError::Full));
    place.cursor = Some(line.clone());
    let mut rx = BulkReceiver::new(place).unwrap();
    tx.set_cursor(line).unwrap();
    let mut out = [0; 64];
    rx.try_recv(&mut out).unwrap().unwrap();
    let _ = rx.flush();
    tx.try_send(&[3]).unwrap();
}

#[test]
fn doorbells_are_asked_for_once_a_sleep() {
    let place = place(RingLayout::Bulk, 64, 8);
    let mut tx = BulkSender::new(place.clone()).unwrap();
    let mut rx = BulkReceiver::new(place).unwrap();
    let mut out = [0; 64];
    // Nobody has looked yet: the first message rings, the second does not.
    tx.try_send(&[1]).unwrap();
    assert_eq!(tx.flush(), RING);
    tx.try_send(&[1]).unwrap();
    assert_eq!(tx.flush(), Wake::QUIET);
    assert_eq!(tx.flush(), Wake::QUIET);
    while rx.try_recv(&mut out).unwrap().is_some() {}
    // Awake: no doorbell.
    tx.try_send(&[1]).unwrap();
    assert_eq!(tx.flush(), Wake::QUIET);
    rx.try_recv(&mut out).unwrap().unwrap();
    // Armed: one doorbell for a whole batch.
    rx.arm();
    assert_eq!(rx.has_message(), Ok(false));
    tx.push_batch(&[0; 3 * 64]).unwrap();
    assert_eq!(tx.flush(), RING);
    tx.try_send(&[1]).unwrap();
    assert_eq!(tx.flush(), Wake::QUIET);
}

#[test]
fn a_sender_that_waits_for_space_is_rung_at_half() {
    let place = place(RingLayout::Inline, 64, 8);
    let mut tx = InlineSender::new(place.clone()).unwrap();
    let mut rx = InlineReceiver::new(place).unwrap();
    let mut out = [0; 56];
    while tx.try_send(&[1]).is_ok() {}
    tx.arm_space();
    assert_eq!(tx.has_space(), Ok(false));
    let mut rung = Vec::new();
    for i in 1..=8 {
        rx.try_recv(&mut out).unwrap().unwrap();
        if rx.flush().must_ring {
            rung.push(i);
        }
    }
    assert_eq!(rung, [4]);
}

#[test]
fn threads_share_a_ring_without_loss() {
    const EACH: u64 = 2000;
    let place = place(RingLayout::Inline, 16, 64);
    let sender = MpscSender::new(place.clone()).unwrap();
    let mut rx = MpscReceiver::new(place).unwrap();
    std::thread::scope(|s| {
        for thread in 0..3u64 {
            let mut tx = sender.clone();
            s.spawn(move || {
                let mut next = 0;
                while next < EACH {
                    let batch: Vec<u8> = (next..EACH.min(next + 5))
                        .flat_map(|i| (thread << 32 | i).to_le_bytes())
                        .collect();
                    match tx.push_batch(&batch).unwrap() {
                        0 => std::thread::yield_now(),
                        sent => next += sent as u64,
                    }
                }
            });
        }
        let mut expected = [0u64; 3];
        let mut out = [0; 8 * 16];
        while expected.iter().sum::<u64>() < 3 * EACH {
            let count = rx.pop_batch(&mut out).unwrap();
            if count == 0 {
                std::thread::yield_now();
            }
            for word in out[..count * 8].chunks_exact(8) {
                let value = u64::from_le_bytes(word.try_into().unwrap());
                let thread = (value >> 32) as usize;
                assert_eq!(value as u32 as u64, expected[thread]);
                expected[thread] += 1;
            }
        }
    });
}

#[test]
fn two_threads_stream_through_every_layout() {
    const COUNT: u64 = 20_000;
    let inline = place(RingLayout::Inline, 64, 16);
    let bulk = place(RingLayout::Bulk, 8, 16);
    std::thread::scope(|s| {
        let (mut a, mut b) = (
            InlineSender::new(inline.clone()).unwrap(),
            BulkReceiver::new(bulk.clone()).unwrap(),
        );
        s.spawn(move || {
            let mut out = [0; 8];
            for i in 0..COUNT {
                while a.try_send(&i.to_le_bytes()).is_err() {
                    std::thread::yield_now();
                }
                while b.try_recv(&mut out).unwrap().is_none() {
                    std::thread::yield_now();
                }
                assert_eq!(u64::from_le_bytes(out), i + 1);
            }
        });
        let mut rx = InlineReceiver::new(inline).unwrap();
        let mut tx = BulkSender::new(bulk).unwrap();
        let mut out = [0; 8];
        for _ in 0..COUNT {
            while rx.try_recv(&mut out).unwrap().is_none() {
                std::thread::yield_now();
            }
            let answer = u64::from_le_bytes(out) + 1;
            while tx.try_send(&answer.to_le_bytes()).is_err() {
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn in_place_calls_are_answered_in_order() {
    let place = place(RingLayout::InPlace, 64, 4);
    let mut caller = InPlaceCaller::new(place.clone()).unwrap();
    let mut server = InPlaceServer::new(place).unwrap();
    let mut out = [0; 56];
    assert_eq!(server.answer(&[]), Err(SendError::Full));
    for lap in 0..3u8 {
        for i in 0..4 {
            assert_eq!(
                caller.try_call(&[lap, i]),
                Ok(u64::from(lap) * 4 + u64::from(i))
            );
        }
        assert_eq!(caller.try_call(&[9]), Err(SendError::Full));
        assert_eq!(caller.poll_answer(&mut out), Ok(None));
        for i in 0..4 {
            assert_eq!(server.try_recv(&mut out), Ok(Some(56)));
            assert_eq!(out[..3], [lap, i, 0]);
        }
        assert_eq!(server.try_recv(&mut out), Ok(None));
        for i in 0..4 {
            server.answer(&[i, lap]).unwrap();
        }
        for i in 0..4 {
            assert_eq!(caller.poll_answer(&mut out), Ok(Some(56)));
            assert_eq!(out[..3], [i, lap, 0]);
        }
        assert_eq!(caller.outstanding(), 0);
    }
}

#[test]
fn entries_keep_every_field() {
    let submit = SubmitEntry {
        opcode: 1,
        flags: 2,
        user_data: 3,
        span: span(),
        arg: 4,
    };
    let complete = CompleteEntry {
        user_data: 3,
        status: -5,
        flags: 6,
        result: 7,
        span: span(),
    };
    let place = place_of(RingKind::Submit, RingLayout::Inline, 4);
    let mut tx = SubmitSender::new(place.clone()).unwrap();
    let mut rx = SubmitReceiver::new(place).unwrap();
    tx.try_send(&submit).unwrap();
    assert_eq!(tx.push_batch(&[submit; 5]), Ok(3));
    let mut seen = 0;
    assert_eq!(rx.pop_batch(9, |e| seen += u32::from(e == submit)), Ok(4));
    assert_eq!(seen, 4);

    let place = place_of(RingKind::Complete, RingLayout::Inline, 4);
    let mut tx = CompleteSender::new(place.clone()).unwrap();
    let mut rx = CompleteReceiver::new(place).unwrap();
    tx.try_send(&complete).unwrap();
    assert_eq!(rx.try_recv(), Ok(Some(complete)));
    assert_eq!(rx.try_recv(), Ok(None));

    let upcall = UpcallEntry {
        function: 1,
        flags: 2,
        user_data: 3,
        span: span(),
        budget_ns: 4,
    };
    assert_eq!(UpcallEntry::from_bytes(&upcall.to_bytes()), upcall);
    // The layout is the documented one.
    assert_eq!(submit.to_bytes()[..4], [1, 0, 0, 0]);
    assert_eq!(submit.to_bytes()[48..], [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(complete.to_bytes()[8..12], (-5i32).to_le_bytes());
}

#[test]
fn lost_events_are_counted_on_both_sides() {
    let place = place_of(RingKind::Event, RingLayout::Inline, 2);
    let mut tx = EventSender::new(place.clone()).unwrap();
    let mut rx = EventReceiver::new(place).unwrap();
    let event = |code| EventEntry {
        code,
        ..EventEntry::default()
    };
    assert_eq!(tx.emit(event(1)), Ok(Emitted::Sent));
    assert_eq!(tx.emit(event(2)), Ok(Emitted::Sent));
    for _ in 0..3 {
        assert_eq!(tx.emit(event(3)), Ok(Emitted::Lost));
    }
    assert_eq!((tx.lost(), rx.lost()), (3, 3));
    assert_eq!(rx.try_recv().unwrap().map(|e| e.lost), Some(0));
    assert_eq!(rx.try_recv().unwrap().map(|e| e.code), Some(2));
    assert_eq!(tx.emit(event(4)), Ok(Emitted::Sent));
    let next = rx.try_recv().unwrap().unwrap();
    assert_eq!((next.code, next.lost), (4, 3));
}

/// A clock that goes a microsecond forward at each reading.
struct Steps(Cell<u64>);

impl Clock for Steps {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1000);
        self.0.get()
    }
}

fn both_carriers() -> [(UpcallCaller<HeapMem>, UpcallServer<HeapMem>); 2] {
    let shared = place_of(RingKind::Upcall, RingLayout::InPlace, 2);
    let calls = place_of(RingKind::Upcall, RingLayout::Inline, 2);
    let answers = place_of(RingKind::Complete, RingLayout::Inline, 2);
    [
        (
            UpcallCaller::in_place(shared.clone()).unwrap(),
            UpcallServer::in_place(shared).unwrap(),
        ),
        (
            UpcallCaller::pair(calls.clone(), answers.clone()).unwrap(),
            UpcallServer::pair(calls, answers).unwrap(),
        ),
    ]
}

#[test]
fn a_call_past_its_deadline_is_given_up_and_its_late_answer_dropped() {
    for (mut caller, mut server) in both_carriers() {
        let call = |user_data| UpcallEntry {
            user_data,
            budget_ns: 10_000,
            ..UpcallEntry::default()
        };
        let answer = |user_data| CompleteEntry {
            user_data,
            ..CompleteEntry::default()
        };
        let clock = Steps(Cell::new(0));
        assert_eq!(
            caller.call(&call(1), &clock),
            Err(UpcallError::DeadlineExpired { budget_ns: 10_000 })
        );
        assert_eq!(caller.expired(), 1);
        // The late answer to 1, then the one to 2.
        caller.start(&call(2)).unwrap();
        for _ in 0..2 {
            let got = server.try_recv().unwrap().unwrap();
            server.answer(&answer(got.user_data)).unwrap();
        }
        assert_eq!(caller.poll().unwrap(), Some(answer(2)));
        assert_eq!(caller.poll().unwrap(), None);
    }
}

#[test]
fn a_server_that_never_answers_fills_the_ring_and_blocks_nobody() {
    for (mut caller, _server) in both_carriers() {
        let clock = Steps(Cell::new(0));
        let call = UpcallEntry {
            budget_ns: 1,
            ..UpcallEntry::default()
        };
        for _ in 0..2 {
            assert!(matches!(
                caller.call(&call, &clock),
                Err(UpcallError::DeadlineExpired { .. })
            ));
        }
        assert_eq!(caller.call(&call, &clock), Err(UpcallError::Full));
    }
}

#[test]
fn an_answer_to_no_call_poisons() {
    for (mut caller, mut server) in both_carriers() {
        std::thread::scope(|s| {
            s.spawn(move || {
                while server.try_recv().unwrap().is_none() {
                    std::thread::yield_now();
                }
                let wrong = CompleteEntry {
                    user_data: 2,
                    ..CompleteEntry::default()
                };
                server.answer(&wrong).unwrap();
            });
            let call = UpcallEntry {
                user_data: 1,
                budget_ns: u64::MAX,
                ..UpcallEntry::default()
            };
            let violation = Violation::Answer {
                found: 2,
                expected: 1,
            };
            let refused = Err(UpcallError::Poisoned(violation));
            assert_eq!(caller.call(&call, &Steps(Cell::new(0))), refused);
            assert_eq!(
                caller.start(&call).map(|_| ()),
                refused.map(|_: CompleteEntry| ())
            );
        });
    }
}

/// Windows, words and copies of plain memory, aligned and not.
#[test]
fn copies_are_exact_at_every_offset() {
    let mem = HeapMem::new(1024);
    let pattern: Vec<u8> = (0..512).map(|i| (i * 7 + 3) as u8).collect();
    for at in 0..17 {
        for len in [0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200, 321, 512] {
            mem.zero(0, 1024);
            mem.write(at, &pattern[..len]);
            let mut all = vec![0xEE; 1024];
            mem.read(0, &mut all);
            let (at, end) = (at as usize, at as usize + len);
            assert!(all[..at].iter().all(|b| *b == 0));
            assert_eq!(all[at..end], pattern[..len]);
            assert!(all[end..].iter().all(|b| *b == 0));
            let mut back = vec![0; len];
            mem.read(at as u64, &mut back);
            assert_eq!(back, pattern[..len]);
        }
    }
    mem.store_u64(8, 0x0102_0304_0506_0708, Ordering::Relaxed);
    assert_eq!(mem.load_u32(8, Ordering::Relaxed), 0x0506_0708);
    assert_eq!(mem.fetch_add_u64(8, 1, Ordering::Relaxed) as u8, 8);
    assert!(mem.window(1000, 25).is_err());
    assert!(mem.window(u64::MAX, 2).is_err());
    assert!(mem.window(4, 8).is_err());
}

#[test]
fn an_answer_without_a_call_poisons() {
    let calls = place_of(RingKind::Upcall, RingLayout::Inline, 2);
    let answers = place_of(RingKind::Complete, RingLayout::Inline, 2);
    let mut server = CompleteSender::new(answers.clone()).unwrap();
    let mut caller = UpcallCaller::pair(calls, answers).unwrap();
    let unasked = CompleteEntry {
        user_data: 5,
        ..CompleteEntry::default()
    };
    server.try_send(&unasked).unwrap();
    let refused = UpcallError::Poisoned(Violation::Unasked { found: 5 });
    assert_eq!(caller.poll(), Err(refused));
    assert_eq!(caller.start(&UpcallEntry::default()), Err(refused));
}

#[test]
fn a_call_does_not_take_an_earlier_ones_answer() {
    for (mut caller, mut server) in both_carriers() {
        caller.start(&UpcallEntry::default()).unwrap();
        let clock = Steps(Cell::new(0));
        let call = UpcallEntry::default();
        assert_eq!(caller.call(&call, &clock), Err(UpcallError::Busy));
        caller.abandon(7);
        server.try_recv().unwrap().unwrap();
        server.answer(&CompleteEntry::default()).unwrap();
        assert_eq!(caller.poll(), Ok(None));
    }
}
