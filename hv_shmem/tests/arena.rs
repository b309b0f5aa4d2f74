//! The arena through its public face: life of a span, returns, death, residue,
//! recovery, and what a scribbled or hostile section can do.
#![cfg(not(feature = "loom"))]

#[path = "harness/random.rs"]
mod random;

use hv_shmem::arena::Arena;
use hv_shmem::arena::ArenaError;
use hv_shmem::arena::ArenaFault;
use hv_shmem::arena::ArenaPlace;
use hv_shmem::arena::ArenaView;
use hv_shmem::arena::Magazine;
use hv_shmem::arena::PageState;
use hv_shmem::arena::RETURN_SLOT;
use hv_shmem::arena::ReturnClaim;
use hv_shmem::arena::ReturnError;
use hv_shmem::arena::ReturnReceiver;
use hv_shmem::arena::ReturnSender;
use hv_shmem::arena::check;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ledger;
use hv_shmem::mem::LedgerMem;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;
use hv_shmem::span::SpanError;
use random::Random;

const OWNER: PeerId = PeerId(3);
const FRIEND: PeerId = PeerId(5);
const OTHER: PeerId = PeerId(6);
const REGION: u32 = 0xABCD_0123;
const OFFSET: u64 = 0x2000;

type HeapArena = Arena<HeapMem, Box<[PageState]>>;

fn place(mem: &HeapMem, epoch: u32) -> ArenaPlace<HeapMem> {
    let len = mem.len() - OFFSET;
    ArenaPlace {
        mem: mem.window(OFFSET, len).expect("inside"),
        offset: OFFSET,
        region: REGION,
        owner: OWNER,
        epoch,
    }
}

fn arena(len: u64) -> (HeapMem, HeapArena, ArenaView<HeapMem>) {
    let mem = HeapMem::new(OFFSET + len);
    let arena = Arena::format_boxed(place(&mem, 1)).expect("large enough");
    let view = ArenaView::new(place(&mem, 1)).expect("large enough");
    (mem, arena, view)
}

fn bytes(view: &hv_shmem::span::SpanView<HeapMem>) -> Vec<u8> {
    let mut bytes = vec![0xEE; view.len() as usize];
    view.read(0, &mut bytes).expect("its own length");
    bytes
}

#[test]
fn a_span_lives_and_dies() {
    let (_mem, arena, view) = arena(1 << 20);
    for len in [
        0, 1, 63, 64, 65, 1000, 1792, 1793, 4096, 4097, 100_000, 300_001,
    ] {
        let span = arena.alloc(len).expect("room");
        assert_eq!(span.length, len);
        assert_eq!(view.resolve(&span, FRIEND, Access::Read).err(), {
            let (offset, peer) = (span.offset, FRIEND.0);
            Some(SpanError::NotGranted { offset, peer })
        });
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        arena
            .view(&span)
            .expect("ours")
            .write(0, &data)
            .expect("inside");
        arena.grant(&span, FRIEND).expect("ours");
        let seen = view.resolve(&span, FRIEND, Access::Read).expect("granted");
        assert_eq!(bytes(&seen), data);
        assert!(seen.write(0, &[1]).is_err(), "another peer's section");
        assert!(view.resolve(&span, OTHER, Access::Read).is_err());
        assert_eq!(arena.free(&span), Err(ArenaError::Lent { peer: FRIEND }));
        assert_eq!(
            arena.grant(&span, OTHER),
            Err(ArenaError::Lent { peer: FRIEND })
        );

        let claim = ReturnClaim::new(&span).expect("a block");
        assert_eq!(arena.take_claims(OTHER, &[claim]).refused, 1);
        assert_eq!(arena.take_claims(FRIEND, &[claim]).spans, 1);
        assert_eq!(arena.take_claims(FRIEND, &[claim]).refused, 1, "twice");
        let again = view.resolve(&span, FRIEND, Access::Read);
        assert!(matches!(again, Err(SpanError::StaleGeneration { .. })));
        assert!(arena.free(&span).is_err());
    }
    let occupancy = arena.occupancy();
    assert_eq!(occupancy.blocks_out, 0);
    // A run that came home is no block any more, a block is one that is not lent.
    let not_lent = occupancy.returns_not_lent + occupancy.returns_out_of_range;
    assert_eq!((not_lent, occupancy.returns_stale), (24, 0));
    assert_eq!(occupancy.free_pages + occupancy.slab_pages, occupancy.pages);
}

#[test]
fn spans_that_were_never_made_do_not_resolve() {
    let (mem, arena, view) = arena(256 << 10);
    let block = arena.alloc(200).expect("room");
    let run = arena.alloc(20_000).expect("room");
    for span in [block, run] {
        arena.grant(&span, FRIEND).expect("ours");
        let names = [
            PortalSpan { region: 1, ..span },
            PortalSpan {
                section: OTHER.0,
                ..span
            },
            PortalSpan { flags: 1, ..span },
            PortalSpan { epoch: 2, ..span },
            PortalSpan { epoch: 0, ..span },
            PortalSpan {
                generation: span.generation + 1,
                ..span
            },
            PortalSpan {
                generation: span.generation + 2,
                ..span
            },
            PortalSpan {
                generation: 0,
                ..span
            },
            PortalSpan::NONE,
        ];
        let offsets = [
            span.offset + 1,
            span.offset + 8,
            span.offset + 64,
            span.offset - 64,
            span.offset / 4096 * 4096 + 4096 * 9,
            0,
            64,
            OFFSET,
            OFFSET + 64,
            mem.len() - 64,
            mem.len(),
            u64::MAX,
            u64::MAX - 63,
        ];
        let moved = offsets.map(|offset| PortalSpan { offset, ..span });
        for claim in names.into_iter().chain(moved) {
            let refused = view.resolve(&claim, FRIEND, Access::Read);
            assert!(refused.is_err(), "{claim:?}");
            assert!(arena.free(&claim).is_err(), "{claim:?}");
            assert!(arena.revoke(&claim).is_err(), "{claim:?}");
            assert!(arena.view(&claim).is_err(), "{claim:?}");
        }
        for length in [span.length + 1, span.length + 64, 1 << 40, u64::MAX] {
            let claim = PortalSpan { length, ..span };
            let refused = view.resolve(&claim, FRIEND, Access::Read);
            assert!(matches!(refused, Err(SpanError::OutOfBounds { .. })));
        }
        let length = span.length - 1;
        let shorter = PortalSpan { length, ..span };
        let seen = view.resolve(&shorter, FRIEND, Access::Read);
        assert_eq!(seen.map(|seen| seen.len()).ok(), Some(length));
        let write = view.resolve(&span, FRIEND, Access::ReadWrite);
        assert!(matches!(write, Err(SpanError::ReadOnly { .. })));
    }
}

#[test]
fn a_draft_names_what_was_filled_and_no_more() {
    let (_mem, arena, view) = arena(1 << 20);
    for len in [100, 5000, 200_000] {
        let old = arena.alloc(len).expect("room");
        let secret = vec![0x5A; len as usize];
        arena
            .view(&old)
            .expect("ours")
            .write(0, &secret)
            .expect("inside");
        arena.free(&old).expect("ours");

        let draft = arena.alloc_unfilled(len).expect("room");
        let refused = arena.grant(&draft, FRIEND);
        assert!(matches!(
            refused,
            Err(ArenaError::NotFilled { filled: 0, .. })
        ));
        arena
            .view(&draft)
            .expect("ours")
            .write(0, b"hello")
            .expect("inside");
        let span = arena.fill(&draft, 5).expect("inside");
        arena.grant(&span, FRIEND).expect("filled");
        let seen = view.resolve(&span, FRIEND, Access::Read).expect("granted");
        assert_eq!(bytes(&seen), b"hello");
        let longer = PortalSpan {
            length: len,
            ..span
        };
        assert!(view.resolve(&longer, FRIEND, Access::Read).is_err());
        arena.revoke(&span).expect("lent");
        assert!(arena.fill(&span, 1).is_err());
    }
    let draft = arena.alloc_unfilled(100_000).expect("room");
    assert!(arena.fill(&draft, 1 << 20).is_err());
    assert!(arena.fill(&draft, u64::MAX).is_err());
}

#[test]
fn returns_come_home_through_the_ring() {
    let (_mem, arena, view) = arena(1 << 20);
    let ring =
        RingPlace::on_heap(RingKind::Stream, RingLayout::Bulk, RETURN_SLOT, 64).expect("a shape");
    let mut home = ReturnSender::new(ring.clone(), OWNER).expect("a return ring");
    let mut taker = ReturnReceiver::new(ring, FRIEND).expect("a return ring");
    let mut magazine = Magazine::new(&arena);
    let mut sent = 0;
    for round in 0..50 {
        let spans: Vec<_> = (0..20)
            .map(|i| magazine.alloc(64 * (1 + (i + round) % 40)).expect("room"))
            .collect();
        for span in &spans {
            arena.grant(span, FRIEND).expect("ours");
            view.resolve(span, FRIEND, Access::Read).expect("granted");
            home.give_back(span).expect("room in the ring");
            sent += 1;
        }
        let _ = home.flush();
        let returned = arena.take_returns(&mut taker).expect("an honest ring");
        assert_eq!((returned.spans, returned.refused), (20, 0));
    }
    assert_eq!(sent, 1000);
    let foreign = PortalSpan {
        section: 9,
        ..PortalSpan::NONE
    };
    assert!(matches!(
        home.give_back(&foreign),
        Err(ReturnError::OtherOwner { .. })
    ));
    drop(magazine);
    assert_eq!(arena.occupancy().blocks_out, 0);
}

#[test]
fn a_full_return_ring_says_so_and_loses_nothing() {
    let (_mem, arena, _view) = arena(1 << 20);
    let ring =
        RingPlace::on_heap(RingKind::Stream, RingLayout::Bulk, RETURN_SLOT, 8).expect("a shape");
    let mut home = ReturnSender::new(ring.clone(), OWNER).expect("a return ring");
    let mut taker = ReturnReceiver::new(ring, FRIEND).expect("a return ring");
    let spans: Vec<_> = (0..20).map(|_| arena.alloc(64).expect("room")).collect();
    let mut returned = 0;
    for span in &spans {
        arena.grant(span, FRIEND).expect("ours");
        if home.give_back(span).is_err() {
            let _ = home.flush();
            returned += arena.take_returns(&mut taker).expect("honest").spans;
            home.give_back(span).expect("room again");
        }
    }
    let _ = home.flush();
    returned += arena.take_returns(&mut taker).expect("honest").spans;
    assert_eq!(returned, 20);
}

#[test]
fn a_dead_receiver_gives_everything_back() {
    let (_mem, arena, view) = arena(1 << 20);
    let mut lent = Vec::new();
    for i in 0..100 {
        let span = arena.alloc(1 + i * 97).expect("room");
        let to = if i % 3 == 0 { OTHER } else { FRIEND };
        arena.grant(&span, to).expect("ours");
        lent.push((span, to));
    }
    assert_eq!(arena.reclaim(OTHER), 34);
    assert_eq!(arena.reclaim(OTHER), 0);
    for (span, to) in lent {
        assert_eq!(view.resolve(&span, to, Access::Read).is_ok(), to == FRIEND);
    }
    assert_eq!(arena.reclaim(FRIEND), 66);
    assert_eq!(arena.occupancy().blocks_out, 0);
}

#[test]
fn a_dead_owner_leaves_nothing_that_resolves() {
    let (mem, arena, view) = arena(1 << 20);
    let span = arena.alloc(64).expect("room");
    arena.grant(&span, FRIEND).expect("ours");
    view.resolve(&span, FRIEND, Access::Read).expect("granted");
    // The host moved the epoch: the view for the new one refuses at once, before
    // the successor has touched a byte.
    let view = ArenaView::new(place(&mem, 2)).expect("large enough");
    let stale = view.resolve(&span, FRIEND, Access::Read);
    assert_eq!(
        stale.err(),
        Some(SpanError::StaleEpoch {
            found: 1,
            current: 2
        })
    );
    let successor = Arena::format_boxed(place(&mem, 2)).expect("large enough");
    let fresh = successor.alloc(64).expect("room");
    successor.grant(&fresh, FRIEND).expect("ours");
    assert!(view.resolve(&fresh, FRIEND, Access::Read).is_ok());
    assert!(view.resolve(&span, FRIEND, Access::Read).is_err());
    assert!(successor.free(&span).is_err());
}

#[test]
fn an_arena_gives_all_its_pages_and_takes_them_back() {
    let (_mem, arena, _view) = arena(512 << 10);
    let pages = arena.occupancy().pages;
    for len in [64u64, 192, 896, 1792, 4096, 12_288] {
        let mut spans = Vec::new();
        let error = loop {
            match arena.alloc(len) {
                Ok(span) => spans.push(span),
                Err(e) => break e,
            }
        };
        assert!(matches!(error, ArenaError::OutOfMemory { .. }), "{error}");
        let bytes: u64 = spans.iter().map(|span| span.length).sum();
        assert!(
            bytes * 100 >= u64::from(pages) * 4096 * 82,
            "{len}: {bytes}"
        );
        spans.sort_by_key(|span| span.offset);
        assert!(
            spans
                .windows(2)
                .all(|w| w[0].offset + w[0].length <= w[1].offset)
        );
        for span in spans {
            arena.free(&span).expect("ours");
        }
    }
    let all = arena.alloc(u64::from(pages) * 4096).expect("empty");
    arena.free(&all).expect("ours");
    let too_long = arena.alloc(u64::from(pages) * 4096 + 1);
    assert!(matches!(too_long, Err(ArenaError::TooLong { .. })));
    assert!(matches!(
        arena.alloc(u64::MAX),
        Err(ArenaError::TooLong { .. })
    ));
}

#[test]
fn fewer_page_states_make_a_smaller_arena() {
    static STATES: [PageState; 3] = [const { PageState::new() }; 3];
    let mem = HeapMem::new(OFFSET + (1 << 20));
    let arena = Arena::format(place(&mem, 1), &STATES[..]).expect("large enough");
    assert_eq!(arena.occupancy().pages, 3);
    let all = arena.alloc(3 * 4096).expect("empty");
    assert!(arena.alloc(1).is_err());
    let beyond = PortalSpan {
        offset: all.offset + 3 * 4096,
        ..all
    };
    assert!(arena.free(&beyond).is_err());
    arena.free(&all).expect("ours");
}

#[test]
fn a_durable_arena_is_recovered() {
    let (mem, old, _view) = arena(4 << 20);
    let mut kept = Vec::new();
    for i in 0..200u64 {
        let span = old.alloc(1 + i * 61).expect("room");
        let data = vec![i as u8; span.length as usize];
        old.view(&span)
            .expect("ours")
            .write(0, &data)
            .expect("inside");
        match i % 4 {
            0 => old.free(&span).expect("ours"),
            1 => {
                old.grant(&span, FRIEND).expect("ours");
                kept.push((span, data));
            }
            _ => kept.push((span, data)),
        }
    }
    drop(old);
    let (arena, recovered) = Arena::recover_boxed(place(&mem, 2)).expect("an arena");
    assert_eq!(recovered.census.faults, 0);
    assert_eq!(recovered.census.live_spans, kept.len() as u64);
    assert_eq!(recovered.census.lent_spans, 50);
    let mut live = Vec::new();
    arena.for_each_live(|span, lent| {
        assert_eq!(lent, None);
        live.push(span);
    });
    live.sort_by_key(|span| span.offset);
    kept.sort_by_key(|(span, _)| span.offset);
    assert_eq!(live.len(), kept.len());
    for (span, (old, data)) in live.iter().zip(&kept) {
        assert_eq!((span.offset, span.epoch), (old.offset, 2));
        assert!(span.length >= old.length);
        let view = arena.view(span).expect("ours");
        assert_eq!(bytes(&view)[..data.len()], data[..]);
        assert!(arena.view(old).is_err(), "of the old epoch");
        arena.free(span).expect("ours");
    }
    let occupancy = arena.occupancy();
    assert_eq!(occupancy.blocks_out, 0);
    assert_eq!(occupancy.free_pages + occupancy.slab_pages, occupancy.pages);
    let nothing = HeapMem::new(OFFSET + 65536);
    let refused = Arena::recover_boxed(place(&nothing, 1));
    assert!(matches!(refused, Err(ArenaError::NotAnArena { .. })));
}

#[test]
fn check_names_each_torn_word_and_repairs_it() {
    let (mem, arena, _view) = arena(256 << 10);
    let block = arena.alloc(64).expect("room");
    let run = arena.alloc(9000).expect("room");
    let window = mem.window(OFFSET, 256 << 10).expect("inside");
    let clean = check(&window, Some(1), false, |fault| panic!("{fault}")).expect("an arena");
    assert_eq!(
        (clean.live_spans, clean.slab_pages, clean.run_pages),
        (2, 1, 3)
    );
    assert_eq!(
        clean.pages,
        clean.slab_pages + clean.run_pages + clean.free_pages
    );

    let first = u64::from(clean.pages) * 8 + 64;
    let first = OFFSET + first.next_multiple_of(4096);
    let run_page = (run.offset - first) / 4096;
    let page_word = |page: u64| 64 + page * 8;
    let block_page = (block.offset - first) / 4096;
    let block_word = block_page * 4096 + (first - OFFSET) + (block.offset - first) % 4096 / 8;
    let damage = [
        (0, 7u64),
        (8, 99),
        (16, 5),
        // Another live run inside the run.
        (page_word(run_page + 1), 1),
        // A run beyond the end.
        (page_word(u64::from(clean.pages) - 1), 1 | 9000 << 44),
        // A class that does not exist.
        (page_word(run_page + 5), 0xFFF << 32 | 200 << 44),
        // A free page's word with an extent.
        (page_word(run_page + 6), 2 | 77 << 44),
        // A block longer than its class, then one lent to peer 4000.
        (block_word, 1 | 65 << 44),
        (block_word + 8, 1 | 4001 << 32 | 10 << 44),
        // A word where none is.
        (block_page * 4096 + (first - OFFSET) + 16, 1 << 60),
    ];
    for (at, value) in damage {
        window.store_u64(at, value, Ordering::Relaxed);
    }
    let mut faults = Vec::new();
    let census = check(&window, Some(1), true, |fault| faults.push(fault)).expect("an arena");
    assert_eq!(census.faults, damage.len() as u64, "{faults:#?}");
    assert_eq!(faults.len(), damage.len());
    assert!(
        faults
            .iter()
            .any(|f| matches!(f, ArenaFault::Overlap { .. }))
    );
    let clean = check(&window, Some(1), false, |fault| panic!("{fault}")).expect("an arena");
    assert_eq!(clean.faults, 0);
    assert_eq!(clean.live_spans, 1, "the run");
    let (recovered, _) = Arena::recover_boxed(place(&mem, 2)).expect("an arena");
    recovered.alloc(64).expect("room");
}

#[test]
fn threads_share_an_arena_and_never_a_block() {
    let (_mem, arena, _view) = arena(4 << 20);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let arena = &arena;
            scope.spawn(move || {
                let mut magazine = Magazine::new(arena);
                let mut mine = Vec::new();
                let mut seed = thread + 1;
                for _ in 0..20_000 {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    if seed % 2 == 0 || mine.is_empty() {
                        let len = if seed % 50 == 4 {
                            10_000
                        } else {
                            8 + seed % 300
                        };
                        let Ok(span) = magazine.alloc(len) else {
                            continue;
                        };
                        let view = arena.view(&span).expect("ours");
                        let mark = span.offset ^ seed ^ thread << 56;
                        view.write(0, &mark.to_le_bytes()).expect("inside");
                        mine.push((span, mark));
                    } else {
                        let (span, mark) = mine.swap_remove(seed as usize % mine.len());
                        let view = arena.view(&span).expect("ours");
                        let mut found = [0; 8];
                        view.read(0, &mut found).expect("inside");
                        assert_eq!(u64::from_le_bytes(found), mark);
                        magazine.free(&span).expect("ours");
                    }
                }
                for (span, _) in mine {
                    magazine.free(&span).expect("ours");
                }
            });
        }
    });
    let occupancy = arena.occupancy();
    assert_eq!(occupancy.blocks_out, 0);
    assert_eq!(occupancy.free_pages + occupancy.slab_pages, occupancy.pages);
}

#[test]
fn a_span_is_resolved_from_single_fetches() {
    let mem = HeapMem::new(1 << 20);
    let arena = Arena::format_boxed(ArenaPlace {
        mem: mem.clone(),
        offset: 0,
        region: REGION,
        owner: OWNER,
        epoch: 1,
    });
    let arena = arena.expect("large enough");
    let ledger = Ledger::new();
    let watched = ArenaView::new(ArenaPlace {
        mem: LedgerMem::new(mem, ledger.clone()),
        offset: 0,
        region: REGION,
        owner: OWNER,
        epoch: 1,
    });
    let watched = watched.expect("large enough");
    let run = arena.alloc(100_000).expect("room");
    let block = arena.alloc(100).expect("room");
    for span in [run, block] {
        arena.grant(&span, FRIEND).expect("ours");
    }
    ledger.begin();
    let seen = watched.resolve(&run, FRIEND, Access::Read);
    assert!(seen.is_ok());
    assert_eq!((ledger.fetched(), ledger.twice()), (8, 0), "one word");

    // A block's own word once as well; its page's word is compared with itself,
    // and when it is another one by then nothing resolves.
    ledger.begin();
    let seen = watched.resolve(&block, FRIEND, Access::Read);
    assert!(matches!(seen, Err(SpanError::StaleGeneration { .. })));
    assert_eq!(ledger.twice(), 8, "the page's word and nothing else");
}

#[test]
fn any_words_are_recovered_to_an_arena_that_works() {
    let mut random = Random(7);
    for _ in 0..400 {
        let (mem, old, _view) = arena(40 << 10);
        for _ in 0..random.below(60) {
            let _ = old.alloc(random.below(9000));
        }
        drop(old);
        let window = mem.window(OFFSET, 40 << 10).expect("inside");
        for _ in 0..1 + random.below(200) {
            // Behind the header: page words, block words, and bytes.
            let at = match random.below(3) {
                0 => 8 + random.below(9),
                1 => 512 * (1 + random.below(9)) + random.below(64),
                _ => 8 + random.below((40 << 10) / 8 - 8),
            };
            let generation = match random.below(3) {
                0 => 0xFFFF_FFFF - random.below(4),
                _ => random.below(9),
            };
            let holder = [0, 1, 2, 0xFFF, 0xFFE, 4][random.below(6) as usize];
            let extent = (random.next() >> random.below(64)) & 0xF_FFFF;
            let word = generation | holder << 32 | extent << 44;
            window.store_u64(at * 8, word, Ordering::Relaxed);
        }
        let (arena, recovered) = Arena::recover_boxed(place(&mem, 2)).expect("a header");
        let clean = check(&window, Some(2), false, |fault| panic!("{fault}"));
        let clean = clean.expect("an arena");
        assert_eq!(clean.live_spans, recovered.census.live_spans);
        let mut spans = Vec::new();
        arena.for_each_live(|span, _| spans.push(span));
        assert_eq!(spans.len() as u64, clean.live_spans);
        while let Ok(span) = arena.alloc(random.below(5000)) {
            spans.push(span);
        }
        spans.sort_unstable_by_key(|span| span.offset);
        for pair in spans.windows(2) {
            assert!(pair[0].offset + pair[0].length.max(1) <= pair[1].offset);
        }
        for span in spans {
            assert!(span.offset + span.length <= mem.len());
            arena.free(&span).expect("ours");
        }
        let occupancy = arena.occupancy();
        assert_eq!(occupancy.blocks_out, 0);
    }
}

#[test]
fn a_run_that_fits_is_found_behind_many_that_do_not() {
    let (_mem, arena, _view) = arena(8 << 20);
    // Runs of 33..39 pages share a list. Make many of 33 free, one of 38, and
    // keep them apart.
    let mut spans = Vec::new();
    for i in 0..40 {
        let pages = if i == 3 { 38 } else { 33 };
        spans.push(arena.alloc(pages * 4096).expect("room"));
        arena.alloc(4096).expect("room");
    }
    while arena.alloc(40 * 4096).is_ok() {}
    while arena.alloc(4096).is_ok() {}
    // The longer one first, so that it ends up last in the list.
    arena.free(&spans.remove(3)).expect("ours");
    for span in &spans {
        arena.free(span).expect("ours");
    }
    arena.alloc(37 * 4096).expect("there is one");
}
