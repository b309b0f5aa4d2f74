//! T18: hostile saved state, for ivshmem v2: one to three fields or bytes of a
//! state changed, or its length. It is refused and nothing has changed, or it is
//! taken and everything that holds for a device holds.

use crate::evidence::Harness;
use crate::random::Random;
use crate::rig::CONFIG_AT;
use crate::rig::CONTROL_AT;
use crate::rig::Rig;
use crate::rig::TABLE_AT;
use crate::rig::shapes;
use portal_device::SavedState;

const HARNESS: Harness = Harness {
    threat: "T18",
    what: "mutated saved state of ivshmem v2",
    cases: 3000,
};

fn mutate(state: &mut SavedState, random: &mut Random) {
    let len = state.bytes.len() as u64;
    let at = match random.below(6) {
        0 => random.below(CONFIG_AT as u64),
        1 => CONFIG_AT as u64 + random.below(0x70),
        2 => (CONTROL_AT as u64) + random.below(5),
        3 => (TABLE_AT as u64) + random.below(39),
        4 => len.saturating_sub(1 + random.below(16)),
        _ => random.below(len),
    };
    let at = (at.min(len - 1)) as usize;
    match random.below(12) {
        0 => state.bytes.truncate(at),
        1 => state.bytes.insert(at, random.next() as u8),
        2 => state.version = *random.pick(&[0, 2, u32::MAX]),
        3 => state.device = random.next() as u32,
        4 => state.bytes[at] = state.bytes[at].wrapping_add(1),
        5 => state.bytes[at] = state.bytes[at].wrapping_sub(1),
        6 => state.bytes[at] = 0xff,
        7 => state.bytes[at] = 0,
        8 => state.bytes[at] = random.next() as u8,
        _ => state.bytes[at] ^= 1 << random.below(8),
    }
}

fn cases() -> impl FnMut(u64, &mut Random) -> Result<(), String> {
    let mut rigs: Vec<Vec<Rig>> = shapes().into_iter().map(|c| vec![Rig::new(c); 8]).collect();
    for rig in rigs.iter_mut().flatten() {
        rig.bring_up();
    }
    move |index, random| {
        let which = random.below(3) as usize;
        if index % 16 == 0 {
            let at = random.below(8) as usize;
            rigs[which][at].walk(20, random)?;
        }
        let mut state = random.pick(&rigs[which]).saved();
        for _ in 0..=random.below(3) {
            if !state.bytes.is_empty() {
                mutate(&mut state, random);
            }
        }
        let mut target = random.pick(&rigs[which]).clone();
        target.restore(&state)?.ok();
        target.walk(2, random)
    }
}

#[test]
fn t18_mutated_state_of_v2() {
    HARNESS.holds(cases());
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;

    #[test]
    fn control_t18_v2_read_only_bits() {
        let mut case = cases();
        HARNESS.fails("saved read-only bits are compared", |index, random| {
            without(portal_pci::guard::Guard::SavedReadOnlyBits, || {
                case(index, random)
            })
        });
    }
}
