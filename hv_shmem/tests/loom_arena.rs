//! loom's models of the arena: its own code over modelled memory, through every
//! order of accesses that the memory model allows.
//!
//! Run: `cargo test --release -p hv_shmem --features loom --test loom_arena`; and
//! with `--features loom,negative_control_grant`, where the model of a grant finds
//! the order in which the receiver reads what was there before.
//!
//! Held: two threads that share an arena never hold the same block; what was
//! written before a grant is what the receiver reads, even when the span reaches
//! it by a word that orders nothing; and what the receiver reads before a return
//! is not what the owner writes after taking it.

use hv_shmem::arena::Arena;
use hv_shmem::arena::ArenaPlace;
use hv_shmem::arena::ArenaView;
use hv_shmem::arena::BoxedArena;
use hv_shmem::arena::Magazine;
use hv_shmem::arena::ReturnReceiver;
use hv_shmem::arena::ReturnSender;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::LoomMem;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::CURSOR_BYTES;
use hv_shmem::ring::PRODUCED_BYTES;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;
use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering;
use loom::thread;

const OWNER: PeerId = PeerId(0);
const FRIEND: PeerId = PeerId(1);
/// A length of the longest class: two blocks a page, two in a refill.
const LEN: u64 = 1792;

/// Every order (with at most so many preemptions). Fewer than `least` of them, and
/// the model looked at too little.
fn model(preemptions: Option<usize>, least: usize, f: impl Fn() + Sync + Send + 'static) {
    let orders = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = orders.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    builder.check(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        f();
    });
    let orders = orders.load(std::sync::atomic::Ordering::Relaxed);
    println!("{orders} orders");
    assert!(orders >= least, "only {orders} orders");
}

fn place(mem: &LoomMem) -> ArenaPlace<LoomMem> {
    ArenaPlace {
        mem: mem.window(0, mem.len()).expect("all of it"),
        offset: 0,
        region: 1,
        owner: OWNER,
        epoch: 1,
    }
}

fn arena(pages: u64) -> (LoomMem, BoxedArena<LoomMem>) {
    let mem = LoomMem::new((1 + pages) * 4096);
    let arena = Arena::format_boxed(place(&mem)).expect("large enough");
    (mem, arena)
}

/// Marks a block as held; two threads that hold it at once fail the model.
fn hold(held: &[AtomicBool; 4], span: &PortalSpan) -> usize {
    let number = ((span.offset - 4096 - 512) / LEN) as usize % 4;
    let before = held[number].swap(true, Ordering::Relaxed);
    assert!(!before, "a block in two hands");
    number
}

fn two_threads(rounds: usize) {
    // One page: two blocks for two threads, so that each refill is contended
    // and an empty page goes back and forth.
    let (_mem, arena) = arena(1);
    let arena = std::sync::Arc::new(arena);
    let held = Arc::new([(); 4].map(|()| AtomicBool::new(false)));
    let work = move |arena: std::sync::Arc<BoxedArena<LoomMem>>, held: Arc<[AtomicBool; 4]>| {
        let mut magazine = Magazine::new(&*arena);
        for _ in 0..rounds {
            let Ok(span) = magazine.alloc_unfilled(LEN) else {
                // The other thread has both.
                thread::yield_now();
                continue;
            };
            let number = hold(&held, &span);
            held[number].store(false, Ordering::Relaxed);
            magazine.free(&span).expect("ours");
        }
    };
    let other = {
        let (arena, held) = (arena.clone(), held.clone());
        thread::spawn(move || work(arena, held))
    };
    work(arena.clone(), held);
    other.join().expect("no panic");
    assert_eq!(arena.occupancy().blocks_out, 0);
}

#[test]
fn threads_never_hold_the_same_block() {
    model(Some(4), 200, || two_threads(1));
}

#[test]
fn threads_that_free_at_once_lose_nothing() {
    model(Some(4), 100, || two_threads(2));
}

#[test]
#[cfg_attr(
    feature = "negative_control_grant",
    should_panic(expected = "written before the grant")
)]
fn a_grant_publishes_what_was_written() {
    model(None, 50, || {
        let (mem, arena) = arena(1);
        let letter = Arc::new(AtomicU64::new(0));
        let view = ArenaView::new(place(&mem)).expect("large enough");
        let draft = arena.alloc_unfilled(LEN).expect("room");
        let receiver = {
            let letter = letter.clone();
            thread::spawn(move || {
                // Relaxed: only the word of the block orders anything.
                let generation = letter.load(Ordering::Relaxed) as u32;
                let span = PortalSpan {
                    generation,
                    length: 8,
                    ..draft
                };
                let Ok(seen) = view.resolve(&span, FRIEND, Access::Read) else {
                    return;
                };
                let mut found = [0; 8];
                seen.read(0, &mut found).expect("inside");
                assert_eq!(found, [7; 8], "not what was written before the grant");
            })
        };
        arena
            .view(&draft)
            .expect("ours")
            .write(0, &[7; 8])
            .expect("inside");
        let span = arena.fill(&draft, 8).expect("inside");
        arena.grant(&span, FRIEND).expect("ours");
        letter.store(span.generation.into(), Ordering::Relaxed);
        receiver.join().expect("no panic");
    });
}

#[test]
fn a_return_ends_the_receivers_reading() {
    model(None, 10, || {
        let (mem, arena) = arena(1);
        let view = ArenaView::new(place(&mem)).expect("large enough");
        let ring = RingPlace {
            storage: LoomMem::new(16),
            produced: LoomMem::new(PRODUCED_BYTES),
            cursor: Some(LoomMem::new(CURSOR_BYTES)),
            slot_size: 8,
            slots: 2,
            kind: RingKind::Return,
            layout: RingLayout::Bulk,
        };
        let mut home = ReturnSender::new(ring.clone(), OWNER).expect("a shape");
        let mut taker = ReturnReceiver::new(ring, FRIEND).expect("a shape");
        let draft = arena.alloc_unfilled(8).expect("room");
        arena
            .view(&draft)
            .expect("ours")
            .write(0, &[7; 8])
            .expect("inside");
        let span = arena.fill(&draft, 8).expect("inside");
        arena.grant(&span, FRIEND).expect("ours");
        let receiver = thread::spawn(move || {
            let seen = view.resolve(&span, FRIEND, Access::Read).expect("granted");
            let mut found = [0; 8];
            seen.read(0, &mut found).expect("inside");
            assert_eq!(found, [7; 8], "the owner wrote before the return");
            home.give_back(&span).expect("room");
            let _ = home.flush();
            let again = view.resolve(&span, FRIEND, Access::Read);
            // Still the old generation, or stale: never the next one's bytes
            // under the old name.
            if let Ok(seen) = again {
                assert_eq!(seen.len(), 8);
            }
        });
        let mut magazine = Magazine::new(&arena);
        loop {
            let returned = magazine.take_returns(&mut taker).expect("honest");
            assert_eq!(returned.refused, 0);
            if returned.spans == 1 {
                break;
            }
            thread::yield_now();
        }
        // A block is the owner's again, and it writes.
        let next = magazine.alloc_unfilled(8).expect("room");
        let bytes = arena.view(&next).expect("ours");
        bytes.write(0, &[9; 8]).expect("inside");
        receiver.join().expect("no panic");
    });
}
