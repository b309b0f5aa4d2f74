//! T17: configuration changed after activation, for ivshmem v2: one write to
//! any place, of any width, in any state that a walk leads to, changes in the
//! saved state what the specification says and nothing else.

use crate::evidence::Harness;
use crate::random::Random;
use crate::rig::CONFIG_AT;
use crate::rig::CONTROL_AT;
use crate::rig::Rig;
use crate::rig::STATE_AT;
use crate::rig::TABLE_AT;
use crate::rig::shapes;
use crate::rig::writable;
use portal_device::Device;
use portal_device::Input;

const HARNESS: Harness = Harness {
    threat: "T17",
    what: "one register write in any state of ivshmem v2",
    cases: 3000,
};

/// The saved state after the write, by the specification.
fn expected(rig: &Rig, input: Input) -> Vec<u8> {
    let mut view = rig.view();
    let config = rig.device.config();
    let (limit, offset, len, value) = match input {
        Input::ConfigWrite { offset, len, value } if len <= 4 => {
            (256, u64::from(offset), len, u64::from(value))
        }
        Input::BarWrite {
            bar: bar @ (0 | 1),
            offset,
            len,
            value,
        } => {
            let bar_len = rig.device.bars()[usize::from(bar)].len;
            (
                view.bar(bar, bar_len).map_or(0, |_| bar_len),
                offset,
                len,
                value,
            )
        }
        _ => return view.bytes,
    };
    let end = offset.checked_add(len.into());
    if end.is_none_or(|end| end > limit) || !offset.is_multiple_of(len.into()) {
        return view.bytes;
    }
    let bytes = value.to_le_bytes();
    for (at, byte) in (offset as usize..).zip(&bytes[..usize::from(len)]) {
        let (to, mask) = match input {
            Input::ConfigWrite { .. } => (CONFIG_AT + at, writable(config)[at]),
            Input::BarWrite { bar: 0, .. } if len != 4 => continue,
            Input::BarWrite { bar: 0, .. } => match at {
                8 => (CONTROL_AT, 1),
                16..20 => (STATE_AT + at - 16, 0xff),
                _ => continue,
            },
            _ if len >= 4 && at < 16 * usize::from(config.vectors) => {
                let entry = TABLE_AT + 13 * (at / 16);
                match at % 16 {
                    0 => (entry, 0xfc),
                    field @ 1..12 => (entry + field, 0xff),
                    12 => (entry + 12, 1),
                    _ => continue,
                }
            }
            _ => continue,
        };
        view.bytes[to] = (view.bytes[to] & !mask) | (byte & mask);
    }
    view.bytes
}

fn write(random: &mut Random) -> Input {
    let value = if random.chance(2) {
        random.next()
    } else {
        *random.pick(&[0, u64::MAX, 0x1_00ff])
    };
    let len = 1u8 << random.below(4);
    match random.below(5) {
        4 => {
            let value = *random.pick(&[0x1_00ff, 0x1_0000, 0x1_0001]);
            Input::BarWrite {
                bar: 0,
                offset: 12,
                len: 4,
                value,
            }
        }
        0 => Input::ConfigWrite {
            offset: random.below(0x104) as u16,
            len,
            value: value as u32,
        },
        1 => {
            let offset = 4 * random.below(65) as u16;
            Input::ConfigWrite {
                offset,
                len: 4,
                value: value as u32,
            }
        }
        2 => Input::BarWrite {
            bar: 0,
            offset: 4 * random.below(6),
            len: 4,
            value,
        },
        _ => {
            let bar = random.below(6) as u8;
            Input::BarWrite {
                bar,
                offset: random.below(0x60),
                len,
                value,
            }
        }
    }
}

/// Keeps walking one device of each shape; a case is a write to a copy.
fn cases() -> impl FnMut(u64, &mut Random) -> Result<(), String> {
    let mut rigs: Vec<Rig> = shapes().into_iter().map(Rig::new).collect();
    for rig in &mut rigs {
        rig.bring_up();
    }
    move |index, random| {
        let which = random.below(3) as usize;
        if index % 8 == 0 && rigs[which].walk(3, random).is_err() {
            rigs[which] = Rig::new(shapes().swap_remove(which));
            return Err("walk".into());
        }
        let mut rig = rigs[which].clone();
        let input = write(random);
        let want = expected(&rig, input);
        rig.step(input)?;
        if rig.view().bytes == want {
            Ok(())
        } else {
            Err(format!("{input:?} changed something else"))
        }
    }
}

#[test]
fn t17_any_register_in_any_state_of_v2() {
    HARNESS.holds(cases());
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;
    use portal_ivshmem::guard::Guard;

    fn fails(guard: impl Copy + Eq + 'static, name: &str) {
        let mut case = cases();
        HARNESS.fails(name, |index, random| without(guard, || case(index, random)));
    }

    #[test]
    fn control_t17_v2_read_only_bits() {
        fails(
            portal_pci::guard::Guard::ReadOnlyBits,
            "read-only bits of configuration space",
        );
    }

    #[test]
    fn control_t17_v2_decoded() {
        fails(Guard::Decoded, "a BAR is reached only while it is decoded");
    }

    #[test]
    fn control_t17_v2_known_vector() {
        fails(Guard::KnownVector, "a doorbell reaches known vectors only");
    }
}
