//! TRUST.md, T19 (residual data): a span is filled with a pattern, granted,
//! freed and granted again to another peer. Whatever that peer can name, by the
//! span it was given or by a forged longer one, holds no old byte; also when the
//! span was written in part only.

mod harness;
#[path = "harness/random.rs"]
mod random;

use hv_shmem::arena::Arena;
use hv_shmem::arena::ArenaPlace;
use hv_shmem::arena::ArenaView;
use hv_shmem::arena::Magazine;
use hv_shmem::arena::ReturnClaim;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::Guard;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::without;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::HeapMem;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;
use hv_shmem::span::SpanView;
use random::Random;

const FIRST: PeerId = PeerId(1);
const SECOND: PeerId = PeerId(2);
const WHAT: &str = "patterned span freed and granted again, named as long as it can be";
/// Every byte of the pattern: no fresh byte has this value.
const OLD: u8 = 0xA5;
/// What the second use writes.
const NEW: u8 = 0x3C;

/// Grants `cases` spans twice; says how many showed an old byte.
fn run(cases: u64) -> u64 {
    let mut random = Random(harness::seed());
    let mem = HeapMem::new(1 << 20);
    let place = ArenaPlace {
        mem,
        offset: 0,
        region: 1,
        owner: PeerId(0),
        epoch: 1,
    };
    let view = ArenaView::new(place.clone()).expect("large enough");
    let arena = Arena::format_boxed(place).expect("large enough");
    let mut magazine = Magazine::new(&arena);
    let mut failures = 0;
    for _ in 0..cases {
        // The pattern, over the whole block, seen by the first peer.
        let len = length(&mut random);
        let span = magazine.alloc_unfilled(len).expect("room");
        paint(&arena.view(&span).expect("ours"), OLD, len);
        let span = arena.fill(&span, len).expect("inside");
        arena.grant(&span, FIRST).expect("ours");
        let claim = ReturnClaim::new(&span).expect("a block");
        match random.below(3) {
            0 => assert_eq!(arena.take_claims(FIRST, &[claim]).spans, 1),
            1 => arena.revoke(&span).expect("lent"),
            _ => assert_eq!(arena.reclaim(FIRST), 1),
        }
        // The blocks that are free are used in turn: look at several.
        for _ in 0..2 {
            let len = match random.below(2) {
                0 => len,
                _ => length(&mut random),
            };
            let (span, written) = match random.below(2) {
                0 => (magazine.alloc(len).expect("room"), 0),
                _ => {
                    let draft = magazine.alloc_unfilled(len).expect("room");
                    let written = random.below(len + 1);
                    paint(&arena.view(&draft).expect("ours"), NEW, written);
                    (arena.fill(&draft, written).expect("inside"), written)
                }
            };
            arena.grant(&span, SECOND).expect("ours");
            if shows_old(&view, &span, written) {
                failures += 1;
            }
            arena.revoke(&span).expect("lent");
        }
    }
    failures
}

/// Whether the second peer can name an old byte.
fn shows_old(view: &ArenaView<HeapMem>, span: &PortalSpan, written: u64) -> bool {
    let (mut low, mut high) = (span.length, span.length + (1 << 20));
    // The longest length that resolves.
    while low < high {
        let length = low + (high - low).div_ceil(2);
        let longer = PortalSpan { length, ..*span };
        match view.resolve(&longer, SECOND, Access::Read) {
            Ok(_) => low = length,
            Err(_) => high = length - 1,
        }
    }
    let longest = PortalSpan {
        length: low,
        ..*span
    };
    let seen = view.resolve(&longest, SECOND, Access::Read);
    let seen = seen.expect("it just did");
    let mut bytes = vec![OLD; seen.len() as usize];
    seen.read(0, &mut bytes).expect("its length");
    let (new, rest) = bytes.split_at(written as usize);
    new.iter().any(|&byte| byte != NEW) || rest.iter().any(|&byte| byte != 0)
}

fn length(random: &mut Random) -> u64 {
    match random.below(20) {
        0 => 1 + random.below(200_000),
        1..3 => 1 + random.below(6000),
        _ => 1 + random.below(700),
    }
}

fn paint(view: &SpanView<HeapMem>, byte: u8, len: u64) {
    const CHUNK: usize = 4096;
    let bytes = [byte; CHUNK];
    for at in (0..len).step_by(CHUNK) {
        let n = (len - at).min(CHUNK as u64) as usize;
        view.write(at, &bytes[..n]).expect("inside");
    }
}

#[test]
fn t19_residual_data() {
    let cases = harness::cases(5_000);
    harness::report("T19", WHAT, None, cases, run(cases));
}

/// Without the zeroing, the pattern shows.
#[cfg(feature = "negative_control")]
#[test]
fn control_t19_residue() {
    let cases = harness::cases(5_000);
    let failures = without(Guard::Residue, || run(cases));
    harness::report("T19", WHAT, Some("zeroing"), cases, failures);
}
