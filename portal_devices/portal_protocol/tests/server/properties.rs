//! For every sequence of steps, whatever they are: what [`rig`](crate::rig) holds.

use crate::rig::World;
use crate::rig::source::Bytes;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_clients_do_the_rest_holds(steps in prop::collection::vec(any::<u8>(), 0..4000)) {
        let mut world = World::new();
        let mut source = Bytes(&steps);
        while !source.0.is_empty() {
            prop_assert_eq!(world.act(&mut source), Ok(()));
        }
        prop_assert_eq!(world.leave_all(), Ok(()));
    }
}
