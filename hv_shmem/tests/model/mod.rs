//! An arena, two receivers, and the interval model that says what they may see.
//!
//! The model knows each live span by its interval, who holds it and which
//! pattern was written into it. Every answer of the arena is compared: a span
//! that overlaps another, a claim that resolves and should not, a byte that is
//! not the one written, a return that is taken from the wrong hands. Each
//! disagreement counts as one failure; none stops the run.

use crate::random::Random;
use hv_shmem::arena::Arena;
use hv_shmem::arena::ArenaError;
use hv_shmem::arena::ArenaPlace;
use hv_shmem::arena::ArenaView;
use hv_shmem::arena::Magazine;
use hv_shmem::arena::PageState;
use hv_shmem::arena::ReturnClaim;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const OWNER: PeerId = PeerId(0);
/// The two receivers.
pub(crate) const PEERS: [PeerId; 2] = [PeerId(1), PeerId(2)];
const REGION: u32 = 0x5EED_0001;
/// Where the arena lies in the section.
const OFFSET: u64 = 0x3000;
/// Stale spans that are tried again.
const REMEMBERED: usize = 512;
/// The last generation but one: where a word stands when its block is retired.
const RETIRED: u64 = 0xFFFF_FFFE;

type BoxedArena<M> = Arena<M, Box<[PageState]>>;

/// One step. `pick` chooses among what there is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    Alloc {
        len: u64,
    },
    Draft {
        len: u64,
        filled: u64,
    },
    Free {
        pick: u64,
    },
    FreeStale {
        pick: u64,
    },
    Grant {
        pick: u64,
        to: usize,
    },
    Return {
        pick: u64,
        by: usize,
    },
    ReturnStale {
        pick: u64,
        by: usize,
    },
    ReturnForged {
        granule: u32,
        generation: u32,
        by: usize,
    },
    Revoke {
        pick: u64,
    },
    Reclaim {
        peer: usize,
    },
    Resolve {
        pick: u64,
        by: usize,
    },
    ResolveStale {
        pick: u64,
        by: usize,
    },
    ResolveForged {
        pick: u64,
        field: u8,
        value: u64,
        by: usize,
    },
    EmptyMagazine,
    /// As many lives as a block has but a few: what 2^31 honest rounds leave.
    FastForward {
        left: u64,
    },
    /// The owner dies; its successor starts from a clean section.
    Restart,
}

impl Op {
    /// A step, most of them likely ones.
    pub(crate) fn random(random: &mut Random) -> Self {
        let pick = random.next();
        let by = random.below(2) as usize;
        match random.below(100) {
            0..28 => Self::Alloc {
                len: length(random),
            },
            28..34 => {
                let len = length(random);
                let filled = random.below(len + 1);
                Self::Draft { len, filled }
            }
            34..46 => Self::Free { pick },
            46..49 => Self::FreeStale { pick },
            49..65 => Self::Grant { pick, to: by },
            65..76 => Self::Return { pick, by },
            76..79 => Self::ReturnStale { pick, by },
            79..81 => Self::ReturnForged {
                granule: random.below(2048) as u32,
                generation: random.below(9) as u32,
                by,
            },
            81..83 => Self::Revoke { pick },
            83..88 => Self::Resolve { pick, by },
            88..94 => Self::ResolveStale { pick, by },
            94..98 => Self::ResolveForged {
                pick,
                field: random.below(8) as u8,
                value: random.next() >> random.below(64),
                by,
            },
            98 => Self::EmptyMagazine,
            _ => Self::Reclaim { peer: by },
        }
    }
}

/// A length with its edges: around the classes, around pages, and a few long.
fn length(random: &mut Random) -> u64 {
    let near = [
        0, 64, 128, 192, 256, 384, 512, 704, 896, 1152, 1792, 4096, 8192,
    ];
    match random.below(8) {
        0..5 => 1 + random.below(200),
        5 => near[random.below(near.len() as u64) as usize] + random.below(3),
        6 => random.below(4096),
        _ => random.below(20_000),
    }
}

/// A live span as the model knows it.
#[derive(Debug, Clone, Copy)]
struct Live {
    span: PortalSpan,
    /// Bytes that were allocated: what must not overlap.
    len: u64,
    lent: Option<PeerId>,
    tag: u64,
}

/// Arena, receivers and model.
pub(crate) struct World<M: SharedMem, R: SharedMem> {
    /// The section, as the owner maps it and as the receivers do.
    own: M,
    seen: R,
    arena: Arc<BoxedArena<M>>,
    magazine: Magazine<M, Box<[PageState]>, Arc<BoxedArena<M>>>,
    view: ArenaView<R>,
    epoch: u32,
    live: BTreeMap<u64, Live>,
    stale: Vec<PortalSpan>,
    turn: usize,
    tags: u64,
    /// A hostile peer writes into the section: only what the owner decides by
    /// its own records can be relied on.
    scribbled: bool,
    pub(crate) failures: u64,
    pub(crate) taken: u64,
}

fn place<M: SharedMem>(section: &M, epoch: u32) -> ArenaPlace<M> {
    let mem = section.window(OFFSET, section.len() - OFFSET);
    ArenaPlace {
        mem: mem.expect("a section is longer than that"),
        offset: OFFSET,
        region: REGION,
        owner: OWNER,
        epoch,
    }
}

impl<M: SharedMem, R: SharedMem> World<M, R> {
    pub(crate) fn new(own: M, seen: R, scribbled: bool) -> Self {
        let arena = Arc::new(Arena::format_boxed(place(&own, 1)).expect("large enough"));
        Self {
            magazine: Magazine::new(Arc::clone(&arena)),
            view: ArenaView::new(place(&seen, 1)).expect("large enough"),
            arena,
            own,
            seen,
            epoch: 1,
            live: BTreeMap::new(),
            stale: Vec::new(),
            turn: 0,
            tags: 0,
            scribbled,
            failures: 0,
            taken: 0,
        }
    }

    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Alloc { len } => {
                if let Ok(span) = self.magazine.alloc(len) {
                    self.born(span, len, true);
                }
            }
            Op::Draft { len, filled } => self.draft(len, filled),
            Op::Free { pick } => self.free(pick),
            // An owner that frees twice and has a peer that scribbles gets what
            // the two ask for; each alone does no harm.
            Op::FreeStale { .. } if self.scribbled => {}
            Op::FreeStale { pick } => {
                if let Some(span) = self.remembered(pick) {
                    let done = self.magazine.free(&span).is_ok();
                    self.refused(done, "free of a stale span", &span);
                }
            }
            Op::Grant { pick, to } => self.grant(pick, PEERS[to]),
            Op::Return { pick, by } => self.give_back(pick, PEERS[by]),
            Op::ReturnStale { pick, by } => {
                if let Some(claim) = self.remembered(pick).and_then(|s| ReturnClaim::new(&s)) {
                    self.claim(claim, PEERS[by]);
                }
            }
            Op::ReturnForged {
                granule,
                generation,
                by,
            } => {
                let word = u64::from(granule) | u64::from(generation) << 32;
                self.claim(ReturnClaim::from_bytes(word.to_le_bytes()), PEERS[by]);
            }
            Op::Revoke { pick } => {
                if let Some(live) = self.pick(pick, |l| l.lent.is_some()) {
                    match self.arena.revoke(&live.span) {
                        Ok(()) => self.died(live),
                        Err(e) => self.owner_refused(e, "revoke", &live.span),
                    }
                }
            }
            Op::Reclaim { peer } => self.reclaim(PEERS[peer]),
            Op::Resolve { pick, by } => {
                if let Some(live) = self.pick(pick, |_| true) {
                    self.resolve(&live.span, PEERS[by]);
                }
            }
            Op::ResolveStale { pick, by } => {
                if let Some(span) = self.remembered(pick) {
                    self.resolve(&span, PEERS[by]);
                }
            }
            Op::ResolveForged {
                pick,
                field,
                value,
                by,
            } => self.resolve_forged(pick, field, value, PEERS[by]),
            Op::EmptyMagazine => self.magazine.empty(),
            Op::FastForward { left } => self.fast_forward(left),
            Op::Restart => self.restart(),
        }
    }

    /// A hostile peer writes a word of the section (flat backings only).
    pub(crate) fn scribble(&mut self, random: &mut Random) {
        let words = (self.own.len() - OFFSET) / 8;
        let pages = (self.own.len() - OFFSET) / 4096;
        let at = match random.below(4) {
            0 => random.below(words),
            1 => 8 + random.below(pages),
            // The block words of a page.
            _ => (1 + random.below(pages - 1)) * 512 + random.below(64),
        };
        let generation = match random.below(4) {
            0 => RETIRED - random.below(4),
            1 => random.next() & 0xFFFF_FFFF,
            _ => random.below(40),
        };
        let holder = match random.below(4) {
            0 => 0xFFF,
            1 => random.below(0x1000),
            _ => random.below(4),
        };
        let extent = random.next() >> random.below(64) & 0xF_FFFF;
        let word = match random.below(5) {
            0 => random.next(),
            _ => generation | holder << 32 | extent << 44,
        };
        self.own.store_u64(OFFSET + at * 8, word, Ordering::Relaxed);
    }

    fn born(&mut self, span: PortalSpan, len: u64, zeroed: bool) {
        self.tags += 1;
        let live = Live {
            span,
            len,
            lent: None,
            tag: self.tags,
        };
        let end = span.offset + len;
        let before = self.live.range(..end.max(span.offset + 1)).next_back();
        let overlaps = before.is_some_and(|(at, other)| at + other.len.max(1) > span.offset);
        let inside = span.offset >= OFFSET && end <= self.own.len();
        self.expect(!overlaps && inside, "an overlapping span", &span);
        if overlaps {
            return;
        }
        match self.arena.view(&span) {
            Ok(view) => {
                let zero = || (0..view.len()).all(|at| byte(&view, at) == 0);
                let zero = !zeroed || self.scribbled || zero();
                self.expect(zero, "an old byte", &span);
                for at in marks(view.len()) {
                    let written = view.write(at, &[live.byte(at)]);
                    self.expect(written.is_ok(), "an unwritable byte", &span);
                }
            }
            Err(e) => self.owner_refused(e, "view", &span),
        }
        self.live.insert(span.offset, live);
    }

    fn draft(&mut self, len: u64, filled: u64) {
        let Ok(draft) = self.magazine.alloc_unfilled(len) else {
            return;
        };
        if len > 0 {
            let granted = self.arena.grant(&draft, PEERS[0]).is_ok();
            self.refused(granted, "grant of an unfilled span", &draft);
        }
        match self.arena.fill(&draft, filled) {
            Ok(span) => self.born(span, len, false),
            Err(e) => {
                self.owner_refused(e, "fill", &draft);
                // Lost to the model: it stays where it is.
                self.live.insert(
                    draft.offset,
                    Live {
                        span: draft,
                        len,
                        lent: None,
                        tag: 0,
                    },
                );
            }
        }
    }

    fn free(&mut self, pick: u64) {
        let Some(live) = self.pick(pick, |_| true) else {
            return;
        };
        let freed = self.magazine.free(&live.span);
        match (freed, live.lent) {
            (Ok(()), None) => self.died(live),
            (Ok(()), Some(_)) => {
                self.expect(self.scribbled, "free of a lent span", &live.span);
                self.died(live);
            }
            (Err(ArenaError::Lent { peer }), lent) => {
                self.expect(lent == Some(peer), "lent to somebody else", &live.span);
            }
            (Err(e), None) => self.owner_refused(e, "free", &live.span),
            (Err(_), Some(_)) => self.expect(self.scribbled, "another error", &live.span),
        }
    }

    fn grant(&mut self, pick: u64, to: PeerId) {
        let Some(live) = self.pick(pick, |_| true) else {
            return;
        };
        let granted = self.arena.grant(&live.span, to);
        match (granted, live.lent) {
            (Ok(()), None) => {
                if let Some(live) = self.live.get_mut(&live.span.offset) {
                    live.lent = Some(to);
                }
            }
            (Ok(()), Some(_)) => self.expect(false, "granted twice", &live.span),
            (Err(e), None) => self.owner_refused(e, "grant", &live.span),
            (Err(_), Some(_)) => {}
        }
    }

    fn give_back(&mut self, pick: u64, by: PeerId) {
        let Some(live) = self.pick(pick, |l| l.lent.is_some()) else {
            return;
        };
        let Some(claim) = ReturnClaim::new(&live.span) else {
            return self.expect(false, "a span that cannot be returned", &live.span);
        };
        self.claim(claim, by);
        // A double return of the same, at once.
        if live.span.offset % 3 == 0 {
            self.claim(claim, by);
        }
    }

    /// A peer returns something; the model says whether it may.
    fn claim(&mut self, claim: ReturnClaim, by: PeerId) {
        let word = u64::from_le_bytes(claim.to_bytes());
        let offset = (word & 0xFFFF_FFFF) * 64;
        let generation = (word >> 32) as u32;
        let live = self.live.get(&offset).copied();
        let may = live.filter(|l| l.lent == Some(by));
        let exact = may.is_some_and(|l| l.span.generation == generation);
        let returned = self.arena.take_claims(by, &[claim]);
        if returned.spans == 1 {
            self.taken += 1;
            let fine = exact || (self.scribbled && may.is_some());
            let named = live.map_or(PortalSpan::NONE, |l| l.span);
            self.expect(fine, "a return that nobody could make", &named);
            if let Some(live) = live {
                self.died(live);
            }
        } else if let Some(live) = may.filter(|_| exact) {
            self.expect(self.scribbled, "an honest return refused", &live.span);
        }
    }

    fn reclaim(&mut self, peer: PeerId) {
        let lent: Vec<Live> = self.live.values().copied().collect();
        let lent: Vec<Live> = lent.into_iter().filter(|l| l.lent == Some(peer)).collect();
        let count = self.arena.reclaim(peer);
        let equal = count == lent.len() as u64;
        self.expect(equal, "reclaimed another number", &PortalSpan::NONE);
        for live in lent {
            self.died(live);
        }
    }

    /// Resolves a claim as `by`, and compares with what the model allows.
    fn resolve(&mut self, span: &PortalSpan, by: PeerId) {
        let seen = self.view.resolve(span, by, Access::Read);
        let live = self.live.get(&span.offset).copied();
        let may = live.filter(|l| {
            let named = PortalSpan {
                length: l.span.length,
                ..*span
            };
            l.lent == Some(by) && named == l.span
        });
        if self.scribbled {
            // It may say anything, but never lead outside the section.
            if let Ok(seen) = seen {
                let inside = span.offset.checked_add(seen.len());
                let inside = inside.is_some_and(|end| end <= self.seen.len());
                self.expect(inside, "bytes outside the section", span);
                let mut last = [0];
                let end = seen.len().saturating_sub(1);
                let read = seen.is_empty() || seen.read(end, &mut last).is_ok();
                self.expect(read, "an unreadable byte", span);
            }
            return;
        }
        match (seen, may) {
            (Ok(seen), Some(live)) => {
                let length = live.span.length;
                for at in marks(length).take_while(|&at| at < seen.len()) {
                    self.expect(byte(&seen, at) == live.byte(at), "another byte", span);
                }
                // What the extent's coding adds to a long span is zero.
                for at in length..seen.len() {
                    self.expect(byte(&seen, at) == 0, "a byte beyond the span", span);
                }
            }
            (Ok(_), None) => self.expect(false, "foreign or stale access", span),
            (Err(e), Some(live)) => {
                let fits = span.length <= live.span.length;
                self.expect(!fits, &format!("an honest span refused: {e}"), span);
            }
            (Err(_), None) => {}
        }
    }

    fn resolve_forged(&mut self, pick: u64, field: u8, value: u64, by: PeerId) {
        let live = self.pick(pick, |l| l.lent == Some(by));
        let Some(span) = live.map(|l| l.span).or_else(|| self.remembered(pick)) else {
            return;
        };
        let small = value % 129;
        let forged = match field {
            0 => PortalSpan {
                region: value as u32,
                ..span
            },
            1 => PortalSpan {
                section: value as u16,
                ..span
            },
            2 => PortalSpan {
                flags: value as u16,
                ..span
            },
            3 => PortalSpan {
                offset: value,
                ..span
            },
            4 => PortalSpan {
                offset: span.offset.wrapping_add(small * 64).wrapping_sub(64 * 64),
                ..span
            },
            5 => PortalSpan {
                length: span.length.wrapping_add(small).wrapping_sub(64),
                ..span
            },
            6 => PortalSpan {
                generation: span.generation.wrapping_add(small as u32).wrapping_sub(64),
                ..span
            },
            _ => PortalSpan {
                epoch: span.epoch.wrapping_add(small as u32).wrapping_sub(64),
                ..span
            },
        };
        self.resolve(&forged, by);
    }

    /// Moves every free block's and page's word to where only `left` lives are
    /// left, as 2^31 rounds of honest use would.
    fn fast_forward(&mut self, left: u64) {
        self.magazine.empty();
        let arena = place(&self.own, self.epoch).mem;
        let pages = (arena.len() - 64) / (4096 + 8);
        let first = (64 + pages * 8).next_multiple_of(4096);
        let near = RETIRED - 2 * left;
        for page in 0..pages.min((arena.len() - first) / 4096) {
            let at = 64 + page * 8;
            let word = arena.load_u64(at, Ordering::Relaxed);
            if word >> 32 & 0xFFF != 0xFFF {
                if word & 1 == 0 && word < near {
                    arena.store_u64(at, near, Ordering::Relaxed);
                }
                continue;
            }
            for slot in 8..64 {
                let at = first + page * 4096 + slot * 8;
                let word = arena.load_u64(at, Ordering::Relaxed);
                let free = self.arena_block_is_free(first + page * 4096 + slot * 64);
                if free && word & 1 == 0 && word < near && word != 0 {
                    arena.store_u64(at, near, Ordering::Relaxed);
                }
            }
        }
    }

    fn arena_block_is_free(&self, at: u64) -> bool {
        !self.live.contains_key(&(OFFSET + at))
    }

    fn restart(&mut self) {
        for live in std::mem::take(&mut self.live).into_values() {
            self.remember(live.span);
        }
        self.magazine.empty();
        self.epoch += 1;
        let place_now = place(&self.own, self.epoch);
        self.arena = Arc::new(Arena::format_boxed(place_now).expect("as before"));
        self.magazine = Magazine::new(Arc::clone(&self.arena));
        self.view = ArenaView::new(place(&self.seen, self.epoch)).expect("as before");
    }

    fn died(&mut self, live: Live) {
        self.live.remove(&live.span.offset);
        self.remember(live.span);
    }

    fn remember(&mut self, span: PortalSpan) {
        if self.stale.len() < REMEMBERED {
            self.stale.push(span);
        } else {
            // Every fourth place is kept for good: spans from long ago.
            self.turn = (self.turn + 1) % REMEMBERED;
            if !self.turn.is_multiple_of(4) {
                self.stale[self.turn] = span;
            }
        }
    }

    fn remembered(&self, pick: u64) -> Option<PortalSpan> {
        let count = self.stale.len().max(1) as u64;
        self.stale.get((pick % count) as usize).copied()
    }

    fn pick(&self, pick: u64, which: impl Fn(&Live) -> bool) -> Option<Live> {
        let from = OFFSET + pick % (self.own.len() - OFFSET);
        let after = self.live.range(from..).map(|(_, l)| l);
        let before = self.live.range(..from).map(|(_, l)| l);
        after.chain(before).find(|l| which(l)).copied()
    }

    /// The owner was refused what it may do: only a scribbled word can do that.
    fn owner_refused(&mut self, e: ArenaError, what: &str, span: &PortalSpan) {
        self.expect(self.scribbled, &format!("{what} refused: {e}"), span);
    }

    fn refused(&mut self, done: bool, what: &str, span: &PortalSpan) {
        let live = self.live.get(&span.offset);
        let same = live.is_some_and(|l| l.span == *span);
        self.expect(!done || same, what, span);
    }

    fn expect(&mut self, holds: bool, what: &str, span: &PortalSpan) {
        if !holds {
            self.failures += 1;
            if self.failures <= 3 {
                eprintln!("{what}: {span:x?}");
            }
        }
    }
}

impl Live {
    /// The byte that was written at an offset.
    fn byte(&self, at: u64) -> u8 {
        (self.tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (at % 7 * 8)) as u8 | 1
    }
}

/// Offsets that are looked at: both ends and one byte a cache line.
fn marks(len: u64) -> impl Iterator<Item = u64> {
    let last = len.checked_sub(1);
    (0..len).step_by(64).chain(last)
}

fn byte<M: SharedMem>(view: &hv_shmem::span::SpanView<M>, at: u64) -> u8 {
    let mut byte = [0xEE];
    let _ = view.read(at, &mut byte);
    byte[0]
}
