//! The switchboard's end of the protocol against clients that do what they like: the
//! bytes say who does what.
//!
//! Held after each step, by the model of the tests: ids are given to one at a time,
//! epochs grow, rights and quotas hold, only a peer hears of peers, of its own region,
//! who has heard everything knows exactly who is there, and no bell is held of nobody.
#![no_main]

#[path = "../../tests/server/rig/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod rig;

use libfuzzer_sys::fuzz_target;
use rig::World;
use rig::source::Bytes;

/// Longer inputs find nothing that shorter ones do not.
const STEPS: usize = 400;

fuzz_target!(|steps: &[u8]| {
    let mut world = World::new();
    let mut source = Bytes(steps);
    for _ in 0..STEPS {
        if source.0.is_empty() {
            break;
        }
        if let Err(why) = world.act(&mut source) {
            panic!("{why}");
        }
    }
    if let Err(why) = world.leave_all() {
        panic!("at the end: {why}");
    }
});
