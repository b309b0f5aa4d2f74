//! T18: hostile saved state, for virtio over PCI: one to three bytes of a state
//! changed, or its length. It is refused and nothing has changed, or it is taken and
//! everything that holds for a function holds.

use crate::evidence::Harness;
use crate::random::Random;
use crate::rig::Rig;
use portal_device::SavedState;

const HARNESS: Harness = Harness {
    threat: "T18",
    what: "mutated saved state of virtio over PCI",
    cases: 3000,
};

/// Offset of the transport's own registers in the state.
const REGISTERS: u64 = 268;

fn mutate(state: &mut SavedState, random: &mut Random) {
    let len = state.bytes.len() as u64;
    let at = match random.below(4) {
        0 => random.below(len),
        1 => random.below(REGISTERS),
        _ => REGISTERS + random.below(54),
    };
    let at = at.min(len - 1) as usize;
    match random.below(12) {
        0 => state.bytes.truncate(at),
        1 => state.bytes.insert(at, random.next() as u8),
        2 => state.version = *random.pick(&[0, 2, u32::MAX]),
        3 => state.device = random.next() as u32,
        4 => state.bytes[at] = state.bytes[at].wrapping_add(1),
        5 => state.bytes[at] = 0xff,
        6 => state.bytes[at] = 0,
        7 => state.bytes[at] = random.next() as u8,
        _ => state.bytes[at] ^= 1 << random.below(8),
    }
}

fn cases() -> impl FnMut(u64, &mut Random) -> Result<(), String> {
    let mut rigs = vec![Rig::new(); 8];
    for rig in &mut rigs {
        rig.place();
        rig.drive();
    }
    move |index, random| {
        if index % 16 == 0 {
            let at = random.below(8) as usize;
            rigs[at] = Rig::new();
            rigs[at].place();
            rigs[at].drive();
            rigs[at].walk(random.below(8), random)?;
        }
        let mut state = random.pick(&rigs).saved();
        for _ in 0..=random.below(3) {
            if !state.bytes.is_empty() {
                mutate(&mut state, random);
            }
        }
        let mut target = random.pick(&rigs).clone();
        target.restore(&state)?.ok();
        target.walk(2, random)
    }
}

#[test]
fn t18_mutated_state_of_virtio_pci() {
    HARNESS.holds(cases());
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;
    use portal_virtio_pci::guard::Guard;

    #[test]
    fn control_t18_virtio_registers() {
        let mut case = cases();
        let name = "saved registers are such as a driver could have written";
        HARNESS.fails(name, |index, random| {
            without(Guard::SavedRegisters, || case(index, random))
        });
    }
}
