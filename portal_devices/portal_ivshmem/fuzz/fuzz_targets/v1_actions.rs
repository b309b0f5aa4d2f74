//! An ivshmem v1 device against a guest that does what it likes and a saved
//! state that somebody edited.
//!
//! Held after each action, by the model binding of the tests: the region is
//! mapped exactly while it is decoded, doorbells are routed and vectors
//! connected exactly while they must be, no ring is lost, read-only bits stay,
//! a refused state changes nothing.
#![no_main]

#[path = "../../tests/v1/rig/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod rig;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portal_ivshmem::v1::actions::Action;
use rig::MSIX_CONTROL;
use rig::Rig;

#[derive(Debug, Arbitrary)]
struct Case {
    shape: u8,
    moves: Vec<Move>,
}

#[derive(Debug, Arbitrary)]
enum Move {
    Act(Action),
    /// Saves, changes bytes (at an offset, xor), restores.
    Edit(Vec<(u16, u8)>),
    /// Saves, cuts, restores.
    Cut(u16),
}

fuzz_target!(|case: Case| run(case));

fn run(case: Case) {
    let mut shapes = rig::shapes();
    let shape = usize::from(case.shape) % shapes.len();
    let mut rig = Rig::new(shapes.swap_remove(shape));
    for each in case.moves.into_iter().take(256) {
        let held = match each {
            Move::Act(action) => rig.step(action.input(MSIX_CONTROL)).map(drop),
            Move::Edit(edits) => {
                let mut state = rig.saved();
                let len = state.bytes.len();
                for (at, xor) in edits {
                    if let Some(byte) = state.bytes.get_mut(usize::from(at) % len) {
                        *byte ^= xor;
                    }
                }
                rig.restore(&state).map(drop)
            }
            Move::Cut(len) => {
                let mut state = rig.saved();
                state.bytes.truncate(len.into());
                rig.restore(&state).map(drop)
            }
        };
        if let Err(why) = held {
            panic!("{why}");
        }
    }
}
