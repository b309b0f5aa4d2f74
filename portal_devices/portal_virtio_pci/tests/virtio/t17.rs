//! T17: configuration changed after activation, for virtio over PCI: whatever is
//! written where and in whatever state, a queue that runs goes on running with what it
//! was enabled with, and features stay as they were accepted, until a reset.

use crate::evidence::Harness;
use crate::random::Random;
use crate::rig::DRIVER_FEATURE;
use crate::rig::DRIVER_SELECT;
use crate::rig::Rig;
use crate::rig::Ring;
use crate::rig::STATUS;
use portal_device::Input;

const HARNESS: Harness = Harness {
    threat: "T17",
    what: "one register write in any state of virtio over PCI",
    cases: 3000,
};

/// What must not change: the accepted features, the running queue.
fn active(rig: &Rig) -> (Option<u64>, Option<Ring>) {
    let mut copy = rig.clone();
    let status = copy.peek(STATUS, 1);
    let features = (status & 8 != 0).then(|| {
        let mut word = |select| {
            copy.poke(DRIVER_SELECT, select);
            copy.peek(DRIVER_FEATURE, 4)
        };
        word(0) | (word(1) << 32)
    });
    (features, rig.binding.ring)
}

/// Whether this may end what is active.
fn ends(rig: &Rig, input: Input) -> bool {
    match input {
        Input::Reset | Input::Detach | Input::QueueBroken { .. } => true,
        Input::BarWrite {
            bar: 0,
            offset: STATUS,
            len: 1,
            value,
        } => value & 0xff == 0,
        // Through the window.
        Input::ConfigWrite { value, .. } => {
            let mut copy = rig.clone();
            value & 0xff == 0 && {
                let _ = copy.step(input);
                copy.peek(STATUS, 1) == 0
            }
        }
        _ => false,
    }
}

/// Keeps walking one function; a case is a write to a copy.
fn cases() -> impl FnMut(u64, &mut Random) -> Result<(), String> {
    let mut rig = Rig::new();
    rig.place();
    rig.drive();
    move |index, random| {
        if index % 8 == 0 {
            if random.chance(2) {
                rig = Rig::new();
                rig.place();
                rig.drive();
            }
            if rig.walk(4, random).is_err() {
                rig = Rig::new();
                return Err("walk".into());
            }
        }
        let mut copy = rig.clone();
        let input = copy.any_input(random);
        let (before, over) = (active(&copy), ends(&copy, input));
        copy.step(input)?;
        let after = active(&copy);
        let kept = |before: Option<u64>, after| before.is_none() || before == after;
        let ring = before.1.is_none() || before.1 == after.1;
        if over || (kept(before.0, after.0) && ring) {
            Ok(())
        } else {
            Err(format!("{input:?} changed {before:x?} to {after:x?}"))
        }
    }
}

#[test]
fn t17_any_register_in_any_state_of_virtio_pci() {
    HARNESS.holds(cases());
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;
    use portal_virtio_pci::guard::Guard;

    fn fails(guard: impl Copy + Eq + 'static, name: &str) {
        let mut case = cases();
        HARNESS.fails(name, |index, random| without(guard, || case(index, random)));
    }

    #[test]
    fn control_t17_virtio_active_queue() {
        fails(
            Guard::ActiveQueue,
            "a queue that is enabled keeps its places",
        );
    }

    #[test]
    fn control_t17_virtio_accepted_features() {
        fails(
            Guard::AcceptedFeatures,
            "features stay as they were accepted",
        );
    }
}
