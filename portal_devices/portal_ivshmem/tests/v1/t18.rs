//! T18: hostile saved state.
//!
//! A case takes the state of a device after a random walk, changes it (first by
//! structure: one field by a little or to a boundary, fields of two states
//! mixed; then by noise; then in length and version), restores it into a device
//! that has a life of its own, and walks on. The state is refused and nothing
//! has changed, or it is taken and everything that holds for a device holds.

use crate::rig::CONFIG_AT;
use crate::rig::MASK_AT;
use crate::rig::Rig;
use crate::rig::TABLE_AT;
use crate::rig::evidence::Harness;
use crate::rig::random::Random;
use crate::rig::shapes;
use crate::rig::walk::walk;
use portal_device::SavedState;
use portal_ivshmem::IvshmemV1Config;

const HARNESS: Harness = Harness {
    threat: "T18",
    what: "mutated saved state of ivshmem v1",
    cases: 3000,
};

/// Where one field begins and how wide it is.
fn field(bytes: &[u8], vectors: usize, random: &mut Random) -> (usize, usize) {
    let pending = TABLE_AT + 13 * vectors;
    let (at, len) = match random.below(8) {
        0 => *random.pick(&[(0, 8), (8, 2), (10, 2), (12, 1)]),
        1 => (CONFIG_AT + random.below(256) as usize, 1),
        2 => (CONFIG_AT + 4, 2),
        3 => (CONFIG_AT + 0x10 + 4 * random.below(6) as usize, 4),
        4 => (MASK_AT + 4 * random.below(2) as usize, 4),
        5 => {
            let entry = TABLE_AT + 13 * random.below(vectors.max(1) as u64) as usize;
            let (at, len) = *random.pick(&[(0, 8), (8, 4), (12, 1)]);
            (entry + at, len)
        }
        6 => (
            pending + 8 * random.below(vectors.div_ceil(64).max(1) as u64) as usize,
            8,
        ),
        _ => (
            pending + 8 * vectors.div_ceil(64) + random.below(60) as usize,
            1,
        ),
    };
    (
        at.min(bytes.len() - 1),
        len.min(bytes.len() - at.min(bytes.len() - 1)),
    )
}

fn mutate(state: &mut SavedState, other: &SavedState, vectors: usize, random: &mut Random) {
    let (at, len) = field(&state.bytes, vectors, random);
    let mut word = [0u8; 8];
    word[..len].copy_from_slice(&state.bytes[at..at + len]);
    let old = u64::from_le_bytes(word);
    let new = match random.below(16) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old ^ (1 << random.below(8 * len as u64)),
        3 => old ^ (1 << random.below(8 * len as u64)) ^ (1 << random.below(8 * len as u64)),
        4 => 0,
        5 => u64::MAX,
        6 => 1 << (8 * len - 1),
        7 => random.next(),
        8 => old.wrapping_add(16),
        9 | 10 => {
            let from = other.bytes.get(at..at + len);
            state.bytes[at..at + len].copy_from_slice(from.unwrap_or(&[0; 8][..len]));
            return;
        }
        11 => {
            let at = random.below(state.bytes.len() as u64) as usize;
            state.bytes[at] = random.next() as u8;
            return;
        }
        12 => {
            let len = random.below(state.bytes.len() as u64 + 1) as usize;
            state.bytes.truncate(len);
            if random.chance(2) {
                state.bytes.resize(other.bytes.len(), random.next() as u8);
            }
            return;
        }
        13 => {
            state.bytes.insert(at, random.next() as u8);
            return;
        }
        14 => {
            state.version = *random.pick(&[0, 1, 2, u32::MAX]);
            return;
        }
        _ => {
            state.device ^= *random.pick(&[0, 1, 0x8000_0000]);
            return;
        }
    };
    state.bytes[at..at + len].copy_from_slice(&new.to_le_bytes()[..len]);
}

/// Devices after random walks, a few of each shape; one is walked anew every so
/// often.
struct Pool {
    rigs: Vec<Vec<Rig>>,
}

/// Devices of each shape.
const KEPT: u64 = 16;
/// Cases between two renewals.
const RENEWAL: u64 = 50;

impl Pool {
    fn new() -> Self {
        let shape = |config: IvshmemV1Config| vec![Rig::new(config); KEPT as usize];
        Pool {
            rigs: shapes().into_iter().map(shape).collect(),
        }
    }

    fn renew(&mut self, random: &mut Random) -> Result<(), String> {
        let (shape, which) = (random.below(4) as usize, random.below(KEPT) as usize);
        let rig = &mut self.rigs[shape][which];
        if random.chance(4) {
            *rig = Rig::new(shapes().swap_remove(shape));
        }
        walk(rig, 40, random)
    }

    fn case(&mut self, index: u64, random: &mut Random) -> Result<(), String> {
        if index.is_multiple_of(RENEWAL) {
            self.renew(random)?;
        }
        let shape = random.below(4) as usize;
        let source = random.pick(&self.rigs[shape]);
        let other = random
            .pick(&self.rigs[random.clone().below(4) as usize])
            .saved();
        let vectors = source.device.config().vectors;
        let mut state = source.saved();
        for _ in 0..=random.below(3) {
            if !state.bytes.is_empty() {
                mutate(&mut state, &other, vectors.into(), random);
            }
        }
        let mut target = random.pick(&self.rigs[shape]).clone();
        target.restore(&state)?.ok();
        walk(&mut target, 2, random)
    }
}

#[test]
fn t18_mutated_state() {
    let mut pool = Pool::new();
    HARNESS.holds(|index, random| pool.case(index, random));
}

/// The mutations do both: some states are refused, some are taken.
#[test]
fn mutations_are_neither_all_refused_nor_all_taken() {
    let mut random = Random::new(5);
    let config = shapes().swap_remove(0);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..500 {
        let mut rig = Rig::new(config.clone());
        walk(&mut rig, 10, &mut random).expect("a walk holds");
        let mut state = rig.saved();
        mutate(
            &mut state,
            &Rig::new(config.clone()).saved(),
            4,
            &mut random,
        );
        match rig.restore(&state).expect("holds") {
            Ok(()) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(
        taken > 50 && refused > 50,
        "{taken} taken, {refused} refused"
    );
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;

    fn fails(guard: impl Copy + Eq + 'static, name: &str) {
        let mut pool = Pool::new();
        HARNESS.fails(name, |index, random| {
            without(guard, || pool.case(index, random))
        });
    }

    #[test]
    fn control_t18_read_only_bits() {
        fails(
            portal_pci::guard::Guard::SavedReadOnlyBits,
            "saved read-only bits are compared",
        );
    }

    #[test]
    fn control_t18_pending_bits() {
        fails(
            portal_pci::guard::Guard::SavedPendingBits,
            "saved pending bits exist",
        );
    }
}
