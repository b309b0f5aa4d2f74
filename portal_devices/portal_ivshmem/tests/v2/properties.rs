//! For every sequence of accesses everything in `Rig::check` holds after each.

use crate::random::Random;
use crate::rig::Rig;
use crate::rig::shapes;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_holds_after_every_step(shape in 0..3usize, seed: u64, up: bool) {
        let mut rig = Rig::new(shapes().swap_remove(shape));
        if up {
            rig.bring_up();
        }
        prop_assert_eq!(rig.walk(150, &mut Random::new(seed)), Ok(()));
    }
}
