//! For every sequence of accesses: the region is mapped exactly while it is
//! decoded, doorbells are routed exactly while the registers are, a vector is
//! connected exactly while it may be sent, no ring is lost, nothing panics.
//! (`Rig::check` after each step.)

use crate::rig::MSIX_CONTROL;
use crate::rig::Rig;
use crate::rig::shapes;
use portal_device::Input;
use portal_ivshmem::v1::actions::Action;
use proptest::collection::vec;
use proptest::prelude::*;

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        Just(0),
        Just(u64::MAX),
        Just(0xc000_0000),
        Just(0xfee0_0000),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let command = prop_oneof![
        Just(0u16),
        Just(2),
        Just(6),
        Just(6),
        Just(0x406),
        any::<u16>()
    ];
    prop_oneof![
        (any::<u16>(), any::<u8>())
            .prop_map(|(offset, width)| Action::ConfigRead { offset, width }),
        (any::<u16>(), any::<u8>(), value()).prop_map(|(offset, width, value)| {
            Action::ConfigWrite {
                offset,
                width,
                value: value as u32,
            }
        }),
        (0u16..6, value()).prop_map(|(bar, value)| {
            Action::ConfigWrite {
                offset: 0x10 + 4 * bar,
                width: 2,
                value: value as u32,
            }
        }),
        command.prop_map(|value| Action::Command { value }),
        prop_oneof![Just(0u16), Just(0x8000), Just(0xc000), any::<u16>()]
            .prop_map(|value| Action::MsixControl { value }),
        (0u8..8, any::<u16>(), any::<u8>()).prop_map(|(bar, offset, width)| Action::BarRead {
            bar,
            offset,
            width
        }),
        (0u8..8, any::<u16>(), any::<u8>(), value()).prop_map(|(bar, offset, width, value)| {
            Action::BarWrite {
                bar,
                offset,
                width,
                value,
            }
        }),
        (0u16..20, 2u8..4, value()).prop_map(|(word, width, value)| {
            Action::BarWrite {
                bar: 1,
                offset: 4 * word,
                width,
                value,
            }
        }),
        (0u16..5, 2u8..4, value()).prop_map(|(word, width, value)| {
            Action::BarWrite {
                bar: 0,
                offset: 4 * word,
                width,
                value,
            }
        }),
        (0u32..8, 0u32..6).prop_map(|(peer, vector)| Action::Doorbell {
            value: (peer << 16) | vector
        }),
        (0u8..6).prop_map(|vector| Action::Rung { vector }),
        (0u8..8, any::<u8>()).prop_map(|(peer, vectors)| Action::Joined { peer, vectors }),
        (0u8..8).prop_map(|peer| Action::Ready { peer }),
        (0u8..8).prop_map(|peer| Action::Gone { peer }),
        Just(Action::Reset),
        Just(Action::Attach),
        Just(Action::Detach),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_holds_after_every_step(shape in 0..4usize, actions in vec(action(), 1..120)) {
        let mut rig = Rig::new(shapes().swap_remove(shape));
        for action in actions {
            prop_assert_eq!(rig.step(action.input(MSIX_CONTROL)).map(|_| ()), Ok(()));
        }
    }

    /// Sizing answers all ones below the size whatever came before.
    #[test]
    fn sizing_works_from_every_state(actions in vec(action(), 0..60)) {
        let mut rig = Rig::new(shapes().swap_remove(0));
        for action in actions {
            rig.must(action.input(MSIX_CONTROL));
        }
        for (at, size) in [(0x10, 0xffff_ff00u64), (0x14, 0xffff_f000), (0x18, 0xfff0_000c)] {
            rig.config_write(at, 4, u32::MAX);
            prop_assert_eq!(rig.config_read(at, 4), size);
        }
    }

    /// Whatever was rung while a vector was shut is raised once when it opens.
    #[test]
    fn no_ring_is_lost(actions in vec(action(), 0..60), vector in 0..4u16) {
        let mut rig = Rig::new(shapes().swap_remove(0));
        for action in actions {
            rig.must(action.input(MSIX_CONTROL));
        }
        rig.must(Input::Attach);
        rig.config_write(MSIX_CONTROL, 2, 0xc000);
        rig.must(Input::Rung { vector });
        rig.place(6);
        rig.program(vector);
        rig.config_write(MSIX_CONTROL, 2, 0x8000);
        prop_assert_eq!(rig.binding.raised.iter().filter(|(v, _)| *v == vector).count(), 1);
    }

    /// A saved state is taken by a fresh device and says the same there.
    #[test]
    fn saving_and_restoring_changes_nothing(
        shape in 0..4usize,
        actions in vec(action(), 0..60),
        more in vec(action(), 0..20),
    ) {
        let config = shapes().swap_remove(shape);
        let mut rig = Rig::new(config.clone());
        for action in actions {
            rig.must(action.input(MSIX_CONTROL));
        }
        rig.must(Input::Attach);
        let mut other = Rig::new(config);
        prop_assert_eq!(other.restore(&rig.saved()), Ok(Ok(())));
        prop_assert_eq!(other.saved(), rig.saved());
        for action in more {
            if !matches!(action, Action::Doorbell { .. }) {
                other.must(action.input(MSIX_CONTROL));
            }
        }
    }
}
