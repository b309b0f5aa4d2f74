//! Registers, capabilities, states and interrupts of ivshmem v2 as a driver
//! meets them.

use crate::binding::Delivery;
use crate::rig::BASE;
use crate::rig::OWN;
use crate::rig::PEERS;
use crate::rig::PRIVILEGED;
use crate::rig::Rig;
use crate::rig::config;
use crate::rig::layout;
use hv_shmem::layout::PeerId;
use portal_device::Access;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_ivshmem::ConfigError;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::IvshmemV2;
use portal_ivshmem::IvshmemV2Config;
use portal_ivshmem::Writable;

fn ready() -> Rig {
    let mut rig = Rig::new(config(2, None));
    rig.bring_up();
    rig
}

#[test]
fn identity_is_jailhouses() {
    let mut rig = ready();
    assert_eq!(rig.config_read(0x00, 4), 0x4106_110a);
    assert_eq!(
        rig.config_read(0x08, 4),
        0xff40_0100,
        "revision 0, protocol 4001h"
    );
    assert_eq!(rig.config_read(0x06, 2), 0x10);
    assert_eq!(rig.config_read(0x2c, 4), 0x4106_110a);
    assert_eq!(rig.config_read(0x3d, 1), 0, "no pin beside MSI-X");
}

#[test]
fn the_vendor_capability_says_the_sections() {
    let (layout, mut rig) = (layout(), ready());
    assert_eq!(rig.config_read(0x34, 1), 0x40);
    assert_eq!(rig.config_read(0x40, 4), 0x0018_5809, "then MSI-X at 58h");
    assert_eq!(rig.config_read(0x44, 4), layout.host.end);
    assert_eq!(rig.config_read(0x48, 4), 64 << 10);
    assert_eq!(rig.config_read(0x50, 4), layout.section_size);
    assert_eq!(rig.config_read(0x54, 4), 0);
    let sizes = layout.host.end + (64 << 10) + layout.section_size * u64::from(PEERS);
    assert!(sizes <= layout.size, "the sections follow each other");
    assert_eq!(rig.config_read(0x58, 4), 0x8001_0011);
    rig.config_write(0x44, 4, 0);
    rig.config_write(0x42, 1, 0);
    assert_eq!(rig.config_read(0x44, 4), layout.host.end);
    assert_eq!(rig.config_read(0x42, 1), 0x18);
}

#[test]
fn a_fixed_base_is_in_the_capability_and_has_no_bar() {
    let mut rig = Rig::new(config(2, Some(BASE)));
    assert_eq!(rig.config_read(0x42, 1), 0x20);
    assert_eq!(rig.config_read(0x58, 4), BASE & 0xffff_ffff);
    assert_eq!(rig.config_read(0x5c, 4), BASE >> 32);
    rig.config_write(0x18, 4, u32::MAX);
    assert_eq!(rig.config_read(0x18, 4), 0);
    assert_eq!(rig.binding.maps[&0].0, BASE, "mapped before decoding is on");
    rig.bring_up();
    rig.config_write(4, 2, 0);
    rig.must(Input::Reset);
    assert_eq!(rig.binding.maps[&0].0, BASE);
    rig.write(2, 0, 4, 1);
    assert_eq!(rig.counter("region_writes_dropped"), 1);
}

#[test]
fn registers_take_aligned_words_only() {
    let mut rig = ready();
    assert_eq!(rig.read(0, 0, 4), OWN.into());
    assert_eq!(rig.read(0, 4, 4), PEERS.into());
    assert_eq!(rig.read(0, 12, 4), 0);
    rig.write(0, 8, 4, u64::MAX);
    assert_eq!(rig.read(0, 8, 4), 1);
    rig.write(0, 8, 2, 0);
    rig.write(0, 8, 8, 0);
    rig.write(0, 0, 4, 9);
    rig.write(0, 4092, 4, 9);
    assert_eq!(rig.read(0, 8, 4), 1);
    assert_eq!(rig.read(0, 0, 8), 0);
    assert_eq!(rig.read(0, 8, 1), 0);
    assert_eq!(rig.read(0, 4092, 4), 0);
    assert_eq!(rig.counter("access_refused"), 4);
}

#[test]
fn a_new_state_is_published_and_rings_everybody_once() {
    let mut rig = ready();
    rig.must(Input::PeerJoined {
        peer: 0,
        vectors: 2,
    });
    rig.must(Input::PeerJoined {
        peer: 2,
        vectors: 0,
    });
    rig.must(Input::PeerJoined {
        peer: 3,
        vectors: 1,
    });
    rig.write(0, 16, 4, 7);
    assert_eq!(
        (rig.table, &rig.binding.rings[..]),
        (7, &[(0, 0), (3, 0)][..])
    );
    rig.write(0, 16, 4, 7);
    assert!(
        rig.binding.rings.is_empty() && rig.binding.states.is_empty(),
        "no news"
    );
    rig.must(Input::Reset);
    assert_eq!((rig.table, rig.binding.rings.len()), (0, 2));
    rig.must(Input::Reset);
    assert!(rig.binding.rings.is_empty());
}

#[test]
fn a_state_is_published_again_to_a_new_binding() {
    let mut rig = ready();
    rig.must(Input::PeerJoined {
        peer: 0,
        vectors: 1,
    });
    rig.write(0, 16, 4, 7);
    rig.must(Input::Detach);
    rig.table = 0;
    rig.must(Input::Attach);
    assert_eq!((rig.table, rig.binding.rings.len()), (7, 1));
}

#[test]
fn interrupts_need_the_control_bit() {
    let mut rig = ready();
    rig.must(Input::Rung { vector: 0 });
    assert_eq!(rig.counter("rung_dropped"), 1);
    rig.write(0, 8, 4, 1);
    assert!(rig.binding.raised.is_empty(), "nothing was kept");
    assert!(matches!(rig.binding.vectors[&1], Delivery::Msi(_)));
    rig.must(Input::Rung { vector: 1 });
    assert_eq!(rig.binding.raised[0].0, 1);
    rig.must(Input::Rung { vector: 2 });
    assert_eq!(rig.read(1, 2048, 8), 0, "never pending");
    rig.write(0, 8, 4, 0);
    assert!(rig.binding.vectors.is_empty());
}

#[test]
fn one_shot_delivers_once() {
    let mut rig = ready();
    rig.config_write(PRIVILEGED, 1, 0xff);
    assert_eq!(rig.config_read(PRIVILEGED, 1), 1);
    rig.write(0, 8, 4, 1);
    assert_eq!(rig.binding.vectors[&0], Delivery::Listen);
    rig.must(Input::Rung { vector: 1 });
    assert_eq!(rig.binding.raised.len(), 1);
    assert_eq!(rig.read(0, 8, 4), 0);
    assert!(rig.binding.vectors.is_empty());
    rig.must(Input::Rung { vector: 0 });
    assert!(rig.binding.raised.is_empty());
    rig.write(0, 8, 4, 1);
    rig.must(Input::Rung { vector: 0 });
    assert_eq!(rig.binding.raised.len(), 1);
    rig.config_write(PRIVILEGED, 1, 0);
    rig.write(0, 8, 4, 1);
    assert!(
        matches!(rig.binding.vectors[&0], Delivery::Msi(_)),
        "past the device again"
    );
}

#[test]
fn doorbells_reach_peers_of_the_region() {
    let mut rig = ready();
    rig.must(Input::PeerJoined {
        peer: 3,
        vectors: 2,
    });
    rig.must(Input::PeerJoined {
        peer: PEERS,
        vectors: 2,
    });
    assert_eq!(rig.counter("peers_refused"), 1);
    rig.write(0, 12, 4, (3 << 16) | 1);
    assert_eq!(rig.binding.rings, [(3, 1)]);
    rig.write(0, 12, 4, (3 << 16) | 2);
    rig.write(0, 12, 4, u64::from(PEERS) << 16);
    assert_eq!(rig.counter("doorbells_unknown"), 2);
    assert_eq!(rig.binding.routes.len(), 4, "two of its own");
    rig.must(Input::PeerGone { peer: 3 });
    assert_eq!(rig.binding.routes.len(), 2);
}

#[test]
fn a_peers_death_rings_the_survivor() {
    let mut rig = ready();
    rig.must(Input::PeerJoined {
        peer: 3,
        vectors: 2,
    });
    rig.must(Input::PeerGone { peer: 3 });
    assert_eq!(rig.binding.rings, [(OWN, 0)], "its own vector 0");
    rig.must(Input::PeerGone { peer: 3 });
    rig.must(Input::PeerGone { peer: OWN });
    assert_eq!(rig.binding.rings, [], "nobody has died");
}

#[test]
fn an_observer_writes_nothing_and_one_shot_can_be_fixed() {
    let mut rig = Rig::new(IvshmemV2Config {
        writable: Writable::Nothing,
        one_shot: true,
        denied_write: DeniedWrite::Stop,
        ..config(2, None)
    });
    assert_eq!(rig.config_read(PRIVILEGED, 1), 1);
    let access = |effect: &Effect| match effect {
        Effect::Map { access, .. } => Some(*access),
        _ => None,
    };
    let mut effects = Effects::new();
    for (offset, value) in [(0x1c, 0x10), (0x04, 6), (PRIVILEGED & !3, 0)] {
        let len = 4;
        let input = Input::ConfigWrite { offset, len, value };
        rig.device.step(input, &mut effects);
    }
    let mapped: Vec<_> = effects.list().iter().filter_map(access).collect();
    assert_eq!(mapped, [Access::ReadOnly]);
    let mut effects = Effects::new();
    rig.device.step(
        Input::ConfigRead {
            offset: PRIVILEGED,
            len: 1,
        },
        &mut effects,
    );
    assert_eq!(effects.value(), 1, "cannot be turned off");
}

#[test]
fn only_the_own_and_the_common_section_can_be_written() {
    let config = IvshmemV2Config {
        denied_write: DeniedWrite::Stop,
        ..config(2, None)
    };
    let mut rig = Rig::new(config);
    rig.bring_up();
    let layout = layout();
    for inside in [layout.common.start, layout.section(PeerId(OWN)).start] {
        rig.write(2, inside, 8, 1);
        assert!(!rig.binding.stopped);
    }
    rig.write(2, layout.section(PeerId(0)).start, 8, 1);
    assert!(rig.binding.stopped);
}

#[test]
fn saved_state_goes_back_and_is_told() {
    let mut rig = ready();
    rig.write(0, 8, 4, 1);
    rig.write(0, 16, 4, 9);
    let mut other = Rig::new(config(2, None));
    other.must(Input::PeerJoined {
        peer: 0,
        vectors: 1,
    });
    assert_eq!(other.restore(&rig.saved()), Ok(Ok(())));
    assert_eq!(other.saved(), rig.saved());
    assert_eq!((other.table, &other.binding.rings[..]), (9, &[(0, 0)][..]));
    let mut fixed = Rig::new(config(2, Some(BASE)));
    let refused = fixed.restore(&rig.saved()).expect("nothing changed");
    assert!(
        refused
            .expect_err("another place")
            .to_string()
            .contains("base address")
    );
}

#[test]
fn configurations_that_cannot_be_are_errors() {
    let of = |change: &dyn Fn(&mut IvshmemV2Config)| {
        let mut config = config(2, None);
        change(&mut config);
        IvshmemV2::new(config).expect_err("cannot be")
    };
    assert!(matches!(
        of(&|c| c.vectors = 0),
        ConfigError::Vectors { .. }
    ));
    assert!(matches!(
        of(&|c| c.vectors = 2049),
        ConfigError::Vectors { .. }
    ));
    assert!(matches!(
        of(&|c| c.peer = PeerId(PEERS)),
        ConfigError::Peer { .. }
    ));
    assert!(matches!(
        of(&|c| c.base = Some(0)),
        ConfigError::Base { .. }
    ));
    assert!(matches!(
        of(&|c| c.base = Some(1 << 52)),
        ConfigError::Base { .. }
    ));
    assert!(matches!(
        of(&|c| c.base = Some(0x1_0800)),
        ConfigError::Base { .. }
    ));
}

#[test]
fn inspect_shows_state_and_sections() {
    let mut rig = ready();
    rig.write(0, 16, 4, 9);
    let text = rig.device.inspect().to_string();
    for line in [
        "device: ivshmem-v2",
        "state: 0x9",
        "max_peers: 4",
        "access: read-only",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
