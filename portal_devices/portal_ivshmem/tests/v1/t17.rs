//! T17: configuration changed after activation.
//!
//! Every register in every state, every value of a list: one write changes what
//! the specification says and nothing else, and everything that the binding has
//! in place follows. A case is one (state, place, width, value); the cases are
//! gone through in an order that the seed decides, all of them before it starts
//! again.

use crate::rig::CONFIG_AT;
use crate::rig::MASK_AT;
use crate::rig::MSIX_CONTROL;
use crate::rig::Rig;
use crate::rig::STATUS_AT;
use crate::rig::TABLE_AT;
use crate::rig::evidence::Harness;
use crate::rig::random::Random;
use crate::rig::shapes;
use crate::rig::writable;
use portal_device::Device;
use portal_device::Input;

const HARNESS: Harness = Harness {
    threat: "T17",
    what: "one register write in every state of ivshmem v1",
    cases: 4000,
};

const VALUES: [u64; 7] = [
    0,
    u64::MAX,
    0x5a5a_5a5a_5a5a_5a5a,
    0xa5a5_a5a5_a5a5_a5a5,
    0x0000_8004_0003_00ff,
    0x0001_0009_0003_ffff,
    0x0007_0005_c000_0406,
];

/// A place and a width.
#[derive(Clone, Copy, Debug)]
enum Place {
    Config(u16, u8),
    Bar(u8, u64, u8),
}

/// All places: configuration space byte by byte, both register BARs to one
/// access behind their ends, edges of the region; every width.
fn places() -> Vec<Place> {
    let mut places = Vec::new();
    for len in [1, 2, 4, 8] {
        for offset in 0..=260 {
            places.push(Place::Config(offset, len));
        }
        for offset in (0..32).chain(248..264) {
            places.push(Place::Bar(0, offset, len));
        }
        for offset in (0..96).chain(2040..2072).chain(4088..4104) {
            places.push(Place::Bar(1, offset, len));
        }
        for offset in [
            0,
            8,
            0x1_0000,
            0x2_fff8,
            0x3_0000,
            (1 << 20) - 8,
            1 << 20,
            u64::MAX,
        ] {
            places.push(Place::Bar(2, offset, len));
        }
        for bar in [3, 4, 5, 6, 255] {
            places.push(Place::Bar(bar, 0, len));
        }
    }
    // Where something is, in its own width, counts twenty times.
    for _ in 0..20 {
        places.extend([0, 4, 8, 12].map(|offset| Place::Bar(0, offset, 4)));
        places.extend([12; 3].map(|offset| Place::Bar(0, offset, 4)));
        places.extend([0, 8].map(|offset| Place::Bar(0, offset, 8)));
        places.extend([0, 4, 8, 12, 2048].map(|offset| Place::Bar(1, offset, 4)));
        places.extend([0x10, 0x14, 0x18, 0x1c].map(|offset| Place::Config(offset, 4)));
        places.extend([4, MSIX_CONTROL].map(|offset| Place::Config(offset, 2)));
    }
    places
}

/// A device in each state: decoding, bus master, MSI-X, INTx, peers, pending,
/// attached.
fn states() -> Vec<Rig> {
    let mut states = Vec::new();
    for shape in shapes() {
        for command in [0, 2, 4, 6, 0x406] {
            for control in [0, 0x4000, 0x8000, 0xc000] {
                for busy in [false, true] {
                    let mut rig = Rig::new(shape.clone());
                    rig.place(6);
                    if busy {
                        rig.must(Input::PeerJoined {
                            peer: 1,
                            vectors: 2,
                        });
                        rig.must(Input::PeerReady { peer: 1 });
                        rig.write(0, 0, 4, 1);
                        for vector in 0..shape.vectors.min(3) {
                            rig.program(vector);
                            rig.must(Input::Rung { vector });
                        }
                    }
                    rig.config_write(4, 2, command);
                    if shape.vectors > 0 {
                        rig.config_write(MSIX_CONTROL, 2, control);
                    }
                    if busy {
                        rig.must(Input::Rung { vector: 0 });
                    }
                    if command == 0x406 && !busy {
                        rig.must(Input::Detach);
                    }
                    states.push(rig);
                }
            }
        }
    }
    states
}

/// What the write does to the saved state by the specification.
fn expected(rig: &Rig, place: Place, value: u64) -> Vec<u8> {
    let config = rig.device.config();
    let mut view = rig.view();
    let (len, offset) = match place {
        Place::Config(offset, len) => (len, u64::from(offset)),
        Place::Bar(_, offset, len) => (len, offset),
    };
    let limit = match place {
        Place::Config(..) => 256,
        Place::Bar(bar, ..) => {
            let info = rig.device.bars().iter().find(|info| info.bar == bar);
            match info.filter(|info| view.bar(bar, info.len).is_some()) {
                Some(info) => info.len,
                None => 0,
            }
        }
    };
    let wide = matches!(place, Place::Config(..)) && len == 8;
    let inside = offset
        .checked_add(len.into())
        .is_some_and(|end| end <= limit);
    if !inside || !offset.is_multiple_of(len.into()) || wide {
        return view.bytes;
    }
    let bytes = value.to_le_bytes();
    for (at, byte) in (offset..).zip(&bytes[..usize::from(len)]) {
        let (to, mask) = match place {
            Place::Config(..) => (Some(CONFIG_AT + at as usize), writable(config)[at as usize]),
            Place::Bar(0, ..) if at < 4 => (Some(MASK_AT + at as usize), 0xff),
            Place::Bar(0, ..) if at < 8 => (Some(STATUS_AT + at as usize - 4), 0xff),
            Place::Bar(1, ..) if len >= 4 && at < 16 * u64::from(config.vectors) => {
                let entry = TABLE_AT + 13 * (at as usize / 16);
                match at % 16 {
                    0 => (Some(entry), 0xfc),
                    field @ 1..12 => (Some(entry + field as usize), 0xff),
                    12 => (Some(entry + 12), 1),
                    _ => (None, 0),
                }
            }
            _ => (None, 0),
        };
        if let Some(to) = to {
            view.bytes[to] = (view.bytes[to] & !mask) | (byte & mask);
        }
    }
    view.bytes
}

struct Cases {
    states: Vec<Rig>,
    places: Vec<Place>,
    /// Every case, shuffled.
    order: Vec<u32>,
    seed: u64,
}

impl Cases {
    fn new() -> Self {
        let seed = seed();
        let mut random = Random::new(seed);
        let (states, places) = (states(), places());
        let count = states.len() * places.len() * VALUES.len();
        let mut order: Vec<u32> = (0..count as u32).collect();
        for last in (1..count).rev() {
            order.swap(last, random.below(last as u64 + 1) as usize);
        }
        Cases {
            states,
            places,
            order,
            seed,
        }
    }

    fn run(&self, index: u64) -> Result<(), String> {
        let count = self.order.len() as u64;
        let at = self.order[(index % count) as usize];
        let state = at as usize % self.states.len();
        let at = at as usize / self.states.len();
        let place = self.places[at % self.places.len()];
        // Behind the list: other values.
        let value = if index < count {
            VALUES[at / self.places.len()]
        } else {
            Random::new(self.seed ^ index).next()
        };
        let mut rig = self.states[state].clone();
        let mut want = expected(&rig, place, value);
        let input = match place {
            Place::Config(offset, len) => Input::ConfigWrite {
                offset,
                len,
                value: value as u32,
            },
            Place::Bar(bar, offset, len) => Input::BarWrite {
                bar,
                offset,
                len,
                value,
            },
        };
        rig.step(input)
            .map_err(|why| format!("state {state}: {why}"))?;
        let got = rig.view();
        // A vector that the write opened is no longer pending; the rig has
        // checked that it was raised.
        let pending = got.pending_at();
        let words = usize::from(rig.device.config().vectors).div_ceil(64) * 8;
        for (want, got) in want[pending..pending + words]
            .iter_mut()
            .zip(&got.bytes[pending..])
        {
            *want &= got;
        }
        match want
            .iter()
            .zip(&got.bytes)
            .position(|(want, got)| want != got)
        {
            None => Ok(()),
            Some(byte) => Err(format!(
                "state {state}: {input:?} left saved byte {byte} other than it says"
            )),
        }
    }
}

fn seed() -> u64 {
    std::env::var("PORTAL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1)
}

#[test]
fn t17_every_register_in_every_state() {
    let cases = Cases::new();
    HARNESS.holds(|index, _| cases.run(index));
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;
    use portal_ivshmem::guard::Guard;

    fn fails(guard: impl Copy + Eq + 'static, name: &str) {
        let cases = Cases::new();
        HARNESS.fails(name, |index, _| without(guard, || cases.run(index)));
    }

    #[test]
    fn control_t17_read_only_bits() {
        fails(
            portal_pci::guard::Guard::ReadOnlyBits,
            "read-only bits of configuration space",
        );
    }

    #[test]
    fn control_t17_decoded() {
        fails(Guard::Decoded, "a BAR is reached only while it is decoded");
    }

    #[test]
    fn control_t17_known_vector() {
        fails(Guard::KnownVector, "a doorbell reaches known vectors only");
    }
}
