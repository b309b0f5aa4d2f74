//! Random walks: actions that mostly hit something, from a seed.

use super::Rig;
use super::random::Random;
use portal_ivshmem::v1::actions::Action;

/// Values with a meaning somewhere: sizing, addresses, masks, boundaries.
const VALUES: [u64; 12] = [
    0,
    1,
    u64::MAX,
    0xffff_ffff,
    0xc000_0000,
    0x10_0000_0000,
    0xfee0_0000,
    0x0003_0000,
    0x0007_0001,
    0x8000_0000_0000_0000,
    0x5a5a_5a5a_5a5a_5a5a,
    0x8000,
];

/// One action.
pub(crate) fn action(random: &mut Random) -> Action {
    let value = if random.chance(3) {
        random.next()
    } else {
        *random.pick(&VALUES)
    };
    let width = random.below(4) as u8;
    match random.below(20) {
        0 => Action::ConfigRead {
            offset: random.next() as u16,
            width,
        },
        1 => Action::ConfigWrite {
            offset: random.next() as u16,
            width,
            value: value as u32,
        },
        // BARs, one double word.
        2..=4 => {
            let offset = 0x10 + 4 * random.below(4) as u16;
            Action::ConfigWrite {
                offset,
                width: 2,
                value: value as u32,
            }
        }
        5 | 6 => Action::Command {
            value: *random.pick(&[0, 2, 4, 6, 6, 6, 0x406, 0xffff]),
        },
        7 | 8 => Action::MsixControl {
            value: *random.pick(&[0, 0x8000, 0x8000, 0xc000, 0x4000]),
        },
        9 => Action::BarRead {
            bar: random.below(4) as u8,
            offset: value as u16,
            width,
        },
        10 => {
            let offset = (2048 + 8 * random.below(2)) as u16;
            Action::BarRead {
                bar: 1,
                offset,
                width: 3,
            }
        }
        11 => Action::BarRead {
            bar: 0,
            offset: 4 * random.below(5) as u16,
            width: 2,
        },
        12 => Action::BarWrite {
            bar: 0,
            offset: 4 * random.below(5) as u16,
            width: 2,
            value,
        },
        13 | 14 => {
            let offset = 4 * random.below(18) as u16;
            let width = 2 + random.below(2) as u8;
            Action::BarWrite {
                bar: 1,
                offset,
                width,
                value,
            }
        }
        15 => {
            let bar = random.below(4) as u8;
            Action::BarWrite {
                bar,
                offset: random.next() as u16,
                width,
                value,
            }
        }
        16 => Action::Doorbell {
            value: (random.below(10) << 16 | random.below(5)) as u32,
        },
        17 => Action::Rung {
            vector: random.below(6) as u8,
        },
        18 => match random.below(3) {
            0 => Action::Joined {
                peer: random.below(10) as u8,
                vectors: random.below(6) as u8,
            },
            1 => Action::Ready {
                peer: random.below(10) as u8,
            },
            _ => Action::Gone {
                peer: random.below(10) as u8,
            },
        },
        _ => match random.below(8) {
            0 => Action::Reset,
            1 => Action::Detach,
            _ => Action::Attach,
        },
    }
}

/// `steps` actions on `rig`.
pub(crate) fn walk(rig: &mut Rig, steps: u64, random: &mut Random) -> Result<(), String> {
    for _ in 0..steps {
        rig.step(action(random).input(super::MSIX_CONTROL))?;
    }
    Ok(())
}
