//! TRUST.md, T10, for a durable arena: its owner dies at any one of its stores,
//! and a successor recovers what it left.
//!
//! The memory drops every store after the n-th, as a death between two stores
//! does. Then the section must check clean, every span that the interrupted
//! step was not about must be live with the bytes that were written, nothing
//! else but that step's span may be, and the recovered arena must give out
//! nothing that overlaps.
#![cfg(not(feature = "loom"))]
#![expect(unsafe_code, reason = "a memory forwards unchecked accesses")]

mod harness;
#[path = "harness/random.rs"]
mod random;

use hv_shmem::arena::Arena;
use hv_shmem::arena::ArenaPlace;
use hv_shmem::arena::BoxedArena;
use hv_shmem::arena::Magazine;
use hv_shmem::arena::PageState;
use hv_shmem::arena::ReturnClaim;
use hv_shmem::arena::check;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::Guard;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::without;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::OutOfBounds;
use hv_shmem::mem::SharedMem;
use hv_shmem::span::PortalSpan;
use random::Random;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

const WHAT: &str = "owner's stores cut off after any one, its arena recovered";
const PEER: PeerId = PeerId(1);
const BYTES: u64 = 48 << 10;

/// Memory that drops what is stored after its time has come.
#[derive(Clone)]
struct Mortal {
    mem: HeapMem,
    left: Arc<AtomicU64>,
}

impl Mortal {
    fn lives(&self) -> bool {
        let left = self.left.load(Relaxed);
        self.left.store(left.saturating_sub(1), Relaxed);
        left > 0
    }
}

impl SharedMem for Mortal {
    fn len(&self) -> u64 {
        self.mem.len()
    }
    fn window(&self, at: u64, len: u64) -> Result<Self, OutOfBounds> {
        Ok(Self {
            mem: self.mem.window(at, len)?,
            left: self.left.clone(),
        })
    }
    fn load_u32(&self, at: u64, order: Ordering) -> u32 {
        self.mem.load_u32(at, order)
    }
    fn load_u64(&self, at: u64, order: Ordering) -> u64 {
        self.mem.load_u64(at, order)
    }
    fn store_u32(&self, at: u64, value: u32, order: Ordering) {
        if self.lives() {
            self.mem.store_u32(at, value, order);
        }
    }
    fn store_u64(&self, at: u64, value: u64, order: Ordering) {
        if self.lives() {
            self.mem.store_u64(at, value, order);
        }
    }
    fn fetch_add_u64(&self, at: u64, value: u64, order: Ordering) -> u64 {
        match self.lives() {
            true => self.mem.fetch_add_u64(at, value, order),
            false => self.mem.load_u64(at, Relaxed),
        }
    }
    fn compare_exchange_u64(
        &self,
        at: u64,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        match self.lives() {
            true => self
                .mem
                .compare_exchange_u64(at, current, new, success, failure),
            false => Err(self.mem.load_u64(at, Relaxed)),
        }
    }
    fn read(&self, at: u64, to: &mut [u8]) {
        self.mem.read(at, to);
    }
    fn write(&self, at: u64, from: &[u8]) {
        // Death may fall into the middle of a copy.
        let (first, second) = from.split_at(from.len() / 2);
        if self.lives() {
            self.mem.write(at, first);
        }
        if self.lives() {
            self.mem.write(at + first.len() as u64, second);
        }
    }
    fn zero(&self, at: u64, len: u64) {
        if self.lives() {
            self.mem.zero(at, len / 2);
        }
        if self.lives() {
            self.mem.zero(at + len / 2, len - len / 2);
        }
    }
    unsafe fn load_u64_unchecked(&self, at: u64, order: Ordering) -> u64 {
        self.load_u64(at, order)
    }
    unsafe fn store_u64_unchecked(&self, at: u64, value: u64, order: Ordering) {
        self.store_u64(at, value, order);
    }
}

fn place<M: SharedMem>(mem: M, epoch: u32) -> ArenaPlace<M> {
    ArenaPlace {
        mem,
        offset: 0,
        region: 1,
        owner: PeerId(0),
        epoch,
    }
}

/// What is live: by offset, the span and the byte it is full of.
type Spans = BTreeMap<u64, (PortalSpan, u8)>;

/// One life that ends at a store; `None` when the successor finds all in order.
fn case(random: &mut Random) -> Option<&'static str> {
    let mem = HeapMem::new(BYTES);
    // What an earlier life left in the data pages: anything.
    for at in (0..BYTES).step_by(8) {
        mem.store_u64(at, random.next(), Relaxed);
    }
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let mortal = Mortal {
        mem: mem.clone(),
        left: left.clone(),
    };
    let arena = Arena::format_boxed(place(mortal, 1)).expect("large enough");
    let mut magazine = Magazine::new(&arena);
    let mut spans = Spans::new();
    left.store(1 + random.below(3000), Relaxed);
    let mut about = None;
    while left.load(Relaxed) > 0 {
        about = step(random, &arena, &mut magazine, &mut spans);
    }
    drop(magazine);

    let mut faults = 0;
    check(&mem, Some(1), false, |_| faults += 1).expect("an arena");
    if faults > 0 {
        return Some("the section does not check clean");
    }
    let recovered = Arena::recover_boxed(place(mem, 2));
    let (successor, _) = recovered.expect("an arena");
    let mut found = BTreeMap::new();
    successor.for_each_live(|span, _| {
        found.insert(span.offset, span);
    });
    for (offset, (span, byte)) in &spans {
        if about == Some(*offset) {
            continue;
        }
        let Some(now) = found.get(offset) else {
            return Some("a span is gone");
        };
        let view = successor.view(now).expect("live");
        let mut bytes = vec![0; span.length as usize];
        if view.read(0, &mut bytes).is_err() || bytes.iter().any(|b| b != byte) {
            return Some("a span lost its bytes");
        }
    }
    let unknown = |offset: &&u64| !spans.contains_key(offset) && about != Some(**offset);
    if found.keys().find(unknown).is_some() {
        return Some("a span came back");
    }
    // Whatever is free now overlaps nothing.
    let mut taken: Vec<(u64, u64)> = found.values().map(|s| (s.offset, s.length)).collect();
    while let Ok(span) = successor.alloc(1 + random.below(3000)) {
        taken.push((span.offset, span.length));
    }
    taken.sort_unstable();
    let overlap = taken.windows(2).any(|w| w[0].0 + w[0].1 > w[1].0);
    overlap.then_some("spans overlap")
}

/// One step; gives the offset of the span it is about.
fn step(
    random: &mut Random,
    arena: &BoxedArena<Mortal>,
    magazine: &mut Magazine<Mortal, Box<[PageState]>, &BoxedArena<Mortal>>,
    spans: &mut Spans,
) -> Option<u64> {
    let byte = random.next() as u8;
    let len = match random.below(6) {
        0 => 1 + random.below(9000),
        1 => 1 + random.below(1800),
        _ => 1 + random.below(300),
    };
    let pick = random.below(spans.len().max(1) as u64) as usize;
    let old = spans.values().nth(pick).copied();
    if random.below(5) < 3 {
        let span = match random.below(2) {
            0 => magazine.alloc(len).ok()?,
            _ => magazine.alloc_unfilled(len).ok()?,
        };
        // Until the step is over, this span may be there or not.
        let view = arena.view(&span).ok()?;
        let _ = view.write(0, &vec![byte; len as usize]);
        let _ = arena.fill(&span, len);
        spans.insert(span.offset, (span, byte));
        return Some(span.offset);
    }
    let (span, _) = old?;
    spans.remove(&span.offset);
    match random.below(3) {
        0 => {
            let _ = magazine.free(&span);
        }
        1 => {
            let _ = arena.grant(&span, PEER);
            arena.take_claims(PEER, &[ReturnClaim::new(&span)?]);
        }
        _ => {
            let _ = arena.grant(&span, PEER);
            arena.reclaim(PEER);
        }
    }
    if random.below(20) == 0 {
        magazine.empty();
    }
    Some(span.offset)
}

fn run(cases: u64) -> u64 {
    let mut random = Random(harness::seed());
    let mut failures = 0;
    for _ in 0..cases {
        if let Some(what) = case(&mut random) {
            failures += 1;
            if failures <= 3 {
                eprintln!("{what}");
            }
        }
    }
    failures
}

#[test]
fn t10_an_arena_is_recovered_from_any_store() {
    let cases = harness::cases(300);
    harness::report("T10", WHAT, None, cases, run(cases));
}

/// With the page's word before the block words, a death in between leaves what
/// stood there before as block words.
#[cfg(feature = "negative_control")]
#[test]
fn control_t10_order() {
    let cases = harness::cases(300);
    let guard = Some("block words before the page's word");
    let failures = without(Guard::Order, || run(cases));
    harness::report("T10", WHAT, guard, cases, failures);
}
