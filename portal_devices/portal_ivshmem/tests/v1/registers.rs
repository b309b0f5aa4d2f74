//! Registers and configuration space of ivshmem v1 as a driver meets them.

use crate::rig::MSIX_CONTROL;
use crate::rig::OWN;
use crate::rig::Rig;
use crate::rig::config;
use crate::rig::flat;
use crate::rig::sectioned;
use portal_device::Access;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::Msi;
use portal_ivshmem::ConfigError;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_ivshmem::Window;

fn ready() -> Rig {
    let mut rig = Rig::new(config(4, true, sectioned()));
    rig.place(6);
    rig
}

#[test]
fn identity_is_qemus() {
    let mut rig = ready();
    assert_eq!(rig.config_read(0x00, 4), 0x1110_1af4);
    assert_eq!(rig.config_read(0x08, 4), 0x0500_0001);
    assert_eq!(
        rig.config_read(0x0e, 1),
        0,
        "a type-0 header with one function"
    );
    assert_eq!(rig.config_read(0x2c, 4), 0x1100_1af4);
    assert_eq!(rig.config_read(0x30, 4), 0, "no ROM");
    assert_eq!(rig.config_read(0x3d, 1), 1, "INTA#");
}

#[test]
fn bars_have_their_sizes_and_kinds() {
    let mut rig = Rig::new(config(4, true, flat()));
    for (at, size) in [
        (0x10, 0xffff_ff00),
        (0x14, 0xffff_f000),
        (0x18, 0xfff0_000c),
    ] {
        rig.config_write(at, 4, u32::MAX);
        assert_eq!(rig.config_read(at, 4), size);
    }
    rig.config_write(0x1c, 4, u32::MAX);
    assert_eq!(rig.config_read(0x1c, 4), 0xffff_ffff);
    for at in [0x20, 0x24] {
        rig.config_write(at, 4, u32::MAX);
        assert_eq!(rig.config_read(at, 4), 0);
    }
}

#[test]
fn msix_capability_says_table_and_pending_bits() {
    let mut rig = ready();
    assert_eq!(rig.config_read(0x34, 1), 0x40);
    assert_eq!(
        rig.config_read(0x40, 4),
        0x0003_0011,
        "four vectors, last capability"
    );
    assert_eq!(rig.config_read(0x44, 4), 1, "table in BAR1 at 0");
    assert_eq!(rig.config_read(0x48, 4), 2048 | 1, "pending bits in BAR1");
    let mut many = Rig::new(config(2048, false, flat()));
    assert_eq!(many.config_read(0x42, 2), 2047);
    assert_eq!(many.config_read(0x48, 4), 32768 | 1);
    many.config_write(0x14, 4, u32::MAX);
    assert_eq!(many.config_read(0x14, 4), 0xffff_0000, "64 KiB");
}

#[test]
fn plain_has_no_msix_no_bar1_and_position_0() {
    let mut rig = Rig::new(config(0, false, flat()));
    rig.place(6);
    assert_eq!(rig.config_read(0x06, 2), 0, "no capability list");
    assert_eq!(rig.config_read(0x34, 1), 0);
    assert_eq!(rig.config_read(0x3d, 1), 0);
    assert_eq!(rig.read(0, 8, 4), 0);
    assert_eq!(rig.read(1, 0, 4), 0xffff_ffff);
    rig.must(Input::PeerJoined {
        peer: 5,
        vectors: 2,
    });
    rig.write(0, 12, 4, 5 << 16);
    assert!(rig.binding.rings.is_empty() && rig.binding.routes.is_empty());
    assert_eq!(rig.counter("peers_refused"), 1);
}

#[test]
fn extended_configuration_space_reads_all_ones() {
    let mut rig = ready();
    assert_eq!(rig.config_read(0x100, 4), 0xffff_ffff);
    assert_eq!(
        rig.config_read(0x02, 4),
        0xffff_ffff,
        "not a multiple of its width"
    );
    rig.config_write(0x05, 2, 0xffff);
    assert_eq!(rig.config_read(0x04, 2), 6);
    assert_eq!(rig.counter("config_refused"), 3);
}

#[test]
fn position_doorbell_and_reserved_registers() {
    let mut rig = ready();
    assert_eq!(rig.read(0, 8, 4), OWN.into());
    rig.write(0, 8, 4, 99);
    assert_eq!(rig.read(0, 8, 4), OWN.into());
    assert_eq!(rig.read(0, 12, 4), 0);
    rig.write(0, 16, 4, 99);
    assert_eq!(rig.read(0, 16, 4), 0);
    assert_eq!(rig.read(0, 252, 4), 0);
    assert_eq!(
        rig.read(0, 8, 8),
        OWN.into(),
        "position, then the doorbell's 0"
    );
}

#[test]
fn odd_accesses_are_byte_enables_or_nothing() {
    let mut rig = ready();
    rig.write(0, 0, 4, 0x4433_2211);
    rig.write(0, 1, 1, 0xaa);
    rig.write(0, 2, 2, 0xccbb);
    assert_eq!(rig.read(0, 0, 4), 0xccbb_aa11);
    assert_eq!(rig.read(0, 1, 1), 0xaa);
    assert_eq!(rig.read(0, 2, 2), 0xccbb);
    for (offset, len) in [
        (1, 2),
        (2, 4),
        (4, 8),
        (0, 3),
        (0, 0),
        (255, 2),
        (256, 4),
        (u64::MAX, 8),
    ] {
        rig.write(0, offset, len, u64::MAX);
        let all = if len >= 8 {
            u64::MAX
        } else {
            (1 << (8 * u32::from(len))) - 1
        };
        assert_eq!(rig.read(0, offset, len), all, "{offset:#x} {len}");
    }
    assert_eq!(rig.read(0, 0, 4), 0xccbb_aa11);
    assert_eq!(rig.counter("access_refused"), 16);
}

#[test]
fn a_doorbell_is_one_32_bit_store_to_a_known_vector() {
    let mut rig = ready();
    rig.must(Input::PeerJoined {
        peer: 7,
        vectors: 2,
    });
    rig.write(0, 12, 4, (7 << 16) | 1);
    assert_eq!(rig.binding.rings, [(7, 1)]);
    for value in [(7 << 16) | 2, 8 << 16, u64::MAX, 0xffff] {
        rig.write(0, 12, 4, value);
        assert!(rig.binding.rings.is_empty(), "{value:#x}");
    }
    rig.write(0, 12, 2, 0);
    rig.write(0, 14, 2, 7);
    assert!(rig.binding.rings.is_empty());
    rig.write(0, 8, 8, 7 << 48);
    assert_eq!(
        rig.binding.rings,
        [(7, 0)],
        "the high half of a 64-bit store"
    );
    rig.write(0, 12, 4, u64::from(OWN) << 16);
    assert_eq!(rig.binding.rings, [(OWN, 0)], "its own");
    assert_eq!(rig.counter("doorbells_trapped"), 3);
    assert_eq!(rig.counter("doorbells_unknown"), 4);
    let view = rig.device.inspect();
    let trapped = view.get("peers/7/doorbells_trapped");
    assert_eq!(trapped, Some(&portal_device::inspect::Value::Number(2)));
}

#[test]
fn doorbells_to_other_events_are_routed_anew() {
    let mut rig = ready();
    rig.must(Input::PeerJoined {
        peer: 7,
        vectors: 2,
    });
    let mut device = rig.device.clone();
    let mut effects = Effects::new();
    let mut anew = |input| {
        effects.clear();
        device.step(input, &mut effects);
        effects.list().to_vec()
    };
    let (gpa, peer) = (0xc000_000c, 7);
    let unroute = |vector: u16| Effect::UnrouteDoorbell {
        gpa,
        value: 0x7_0000 | u32::from(vector),
        peer,
        vector,
    };
    let route = |vector: u16| Effect::RouteDoorbell {
        gpa,
        value: 0x7_0000 | u32::from(vector),
        peer,
        vector,
    };
    assert_eq!(
        anew(Input::PeerBells { peer }),
        [unroute(0), route(0), unroute(1), route(1)]
    );
    assert_eq!(anew(Input::PeerBells { peer: OWN }).len(), 8, "to itself");
    assert_eq!(anew(Input::PeerBells { peer: 9 }), []);
    for peer in [7, OWN, 9] {
        rig.must(Input::PeerBells { peer });
    }
    assert_eq!(rig.binding.routes.len(), 6, "they stand as before");
    assert_eq!(rig.counter("peers_refused"), 1);
    rig.config_write(4, 2, 0);
    rig.must(Input::PeerBells { peer: 7 });
    assert!(rig.binding.routes.is_empty());
}

#[test]
fn routes_come_and_go_with_peers_and_decoding() {
    let mut rig = ready();
    assert_eq!(rig.binding.routes.len(), 4, "its own vectors");
    rig.must(Input::PeerJoined {
        peer: 7,
        vectors: 3,
    });
    assert_eq!(rig.binding.routes.len(), 7);
    assert!(rig.binding.routes.contains(&(0xc000_000c, 0x7_0002, 7, 2)));
    rig.config_write(4, 2, 0);
    assert!(rig.binding.routes.is_empty());
    rig.must(Input::PeerJoined {
        peer: 8,
        vectors: 1,
    });
    rig.config_write(4, 2, 2);
    assert_eq!(rig.binding.routes.len(), 8);
    rig.must(Input::PeerJoined {
        peer: 7,
        vectors: 1,
    });
    assert_eq!(rig.binding.routes.len(), 6, "came again with fewer vectors");
    rig.must(Input::PeerGone { peer: 8 });
    rig.must(Input::PeerGone { peer: 8 });
    rig.must(Input::PeerGone { peer: OWN });
    rig.must(Input::PeerJoined {
        peer: OWN,
        vectors: 9,
    });
    rig.must(Input::PeerJoined {
        peer: 9,
        vectors: 2049,
    });
    assert_eq!(rig.binding.routes.len(), 5);
    assert_eq!(rig.counter("peers_refused"), 4);
    rig.config_write(0x10, 4, 0xd000_0000);
    assert!(
        rig.binding
            .routes
            .iter()
            .all(|route| route.0 == 0xd000_000c)
    );
}

#[test]
fn the_region_is_mapped_in_its_windows() {
    let mut rig = ready();
    let base = 0x10_0000_0000;
    let maps: Vec<_> = rig.binding.maps.values().copied().collect();
    assert_eq!(
        maps,
        [
            (base, 0x1_0000, Access::ReadOnly),
            (base + 0x1_0000, 0x2_0000, Access::ReadWrite),
            (base + 0x3_0000, 0xd_0000, Access::ReadOnly),
        ]
    );
    rig.write(2, 0x3_0000, 8, 1);
    assert_eq!(rig.counter("region_writes_dropped"), 1);
    assert!(!rig.binding.stopped);
    rig.config_write(4, 2, 0);
    assert!(rig.binding.maps.is_empty());
}

#[test]
fn a_denied_write_stops_where_configured() {
    let config = IvshmemV1Config {
        denied_write: portal_ivshmem::DeniedWrite::Stop,
        ..config(1, false, sectioned())
    };
    let mut rig = Rig::new(config);
    rig.place(6);
    rig.write(2, 0x2_fff8, 8, 1);
    assert!(!rig.binding.stopped, "its own section");
    rig.write(2, 0x3_0000, 8, 1);
    assert!(rig.binding.stopped);
}

#[test]
fn vectors_connect_when_everything_is_open() {
    let mut rig = ready();
    rig.program(2);
    rig.config_write(MSIX_CONTROL, 2, 0x8000);
    assert_eq!(rig.binding.vectors.len(), 1);
    rig.must(Input::Rung { vector: 2 });
    let msi = Msi {
        address: 0xfee0_0000,
        data: 0x42,
    };
    assert_eq!(rig.binding.raised, [(2, msi)]);
    rig.config_write(4, 2, 2);
    assert!(rig.binding.vectors.is_empty(), "not bus master");
    rig.config_write(4, 2, 6);
    rig.config_write(MSIX_CONTROL, 2, 0xc000);
    assert!(rig.binding.vectors.is_empty(), "function mask");
    rig.must(Input::Rung { vector: 2 });
    rig.must(Input::Rung { vector: 2 });
    rig.must(Input::Rung { vector: 3 });
    assert_eq!(rig.read(1, 2048, 8), 0b1100);
    rig.config_write(MSIX_CONTROL, 2, 0x8000);
    assert_eq!(
        rig.binding.raised,
        [(2, msi)],
        "once; vector 3 is still masked"
    );
    assert_eq!(rig.read(1, 2048, 8), 0b1000);
    rig.program(3);
    assert_eq!(rig.binding.raised.len(), 1);
    assert_eq!(rig.read(1, 2048, 8), 0);
}

#[test]
fn a_changed_message_connects_again() {
    let mut rig = ready();
    rig.program(0);
    rig.config_write(MSIX_CONTROL, 2, 0x8000);
    rig.write(1, 8, 4, 0x55);
    rig.must(Input::Rung { vector: 0 });
    assert_eq!(
        rig.binding.raised,
        [(
            0,
            Msi {
                address: 0xfee0_0000,
                data: 0x55
            }
        )]
    );
    rig.write(1, 12, 4, 1);
    assert!(rig.binding.vectors.is_empty());
    rig.write(1, 12, 2, 0);
    assert!(
        rig.binding.vectors.is_empty(),
        "a narrow write changes nothing"
    );
}

#[test]
fn pending_bits_are_the_bindings_to_fill_first() {
    let rig = ready();
    assert!(rig.device.shows_pending(1, 2048));
    assert!(!rig.device.shows_pending(1, 2040));
    assert!(!rig.device.shows_pending(0, 2048));
}

#[test]
fn intx_follows_status_and_mask() {
    let mut rig = ready();
    assert_eq!(rig.binding.vectors.len(), 4, "listening");
    rig.must(Input::Rung { vector: 3 });
    assert!(!rig.binding.line, "masked");
    assert_eq!(rig.config_read(6, 2), 0x10);
    rig.write(0, 0, 4, 1);
    assert!(rig.binding.line);
    assert_eq!(rig.config_read(6, 2), 0x18);
    rig.config_write(4, 2, 0x406);
    assert!(!rig.binding.line, "as uio_pci_generic does");
    assert_eq!(rig.config_read(6, 2), 0x18);
    assert_eq!(rig.read(0, 4, 4), 1);
    assert_eq!(rig.read(0, 4, 4), 0);
    assert_eq!(rig.config_read(6, 2), 0x10);
    rig.config_write(4, 2, 6);
    assert!(!rig.binding.line);
    rig.must(Input::Rung { vector: 0 });
    assert!(rig.binding.line);
    assert_eq!(rig.read(0, 0, 8), (1 << 32) | 1);
    assert!(!rig.binding.line, "the 64-bit read cleared status too");
    rig.must(Input::Rung { vector: 0 });
    rig.config_write(MSIX_CONTROL, 2, 0x8000);
    assert!(!rig.binding.line, "MSI-X is in use");
    assert!(rig.binding.vectors.is_empty());
}

#[test]
fn without_intx_a_ring_waits_for_msix() {
    let mut rig = Rig::new(config(1, false, flat()));
    rig.place(6);
    rig.must(Input::Rung { vector: 0 });
    rig.must(Input::Rung { vector: 1 });
    assert_eq!(rig.counter("rung_unknown"), 1);
    assert_eq!(rig.read(0, 4, 4), 0);
    rig.program(0);
    rig.config_write(MSIX_CONTROL, 2, 0x8000);
    assert_eq!(rig.binding.raised.len(), 1);
}

#[test]
fn reset_clears_mask_status_and_msix_and_keeps_position_and_peers() {
    let mut rig = ready();
    rig.must(Input::PeerJoined {
        peer: 7,
        vectors: 1,
    });
    rig.write(0, 0, 4, 0xffff);
    rig.must(Input::Rung { vector: 0 });
    rig.program(1);
    rig.config_write(MSIX_CONTROL, 2, 0xc000);
    rig.must(Input::Rung { vector: 1 });
    rig.must(Input::Reset);
    assert!(rig.binding.maps.is_empty() && rig.binding.traps.is_empty());
    assert_eq!(rig.config_read(4, 4), 0x0010_0000);
    rig.place(6);
    assert_eq!(rig.read(0, 0, 8), 0);
    assert_eq!(rig.read(0, 8, 4), OWN.into());
    assert_eq!(rig.config_read(MSIX_CONTROL, 2), 3);
    assert_eq!(rig.read(1, 2048, 8), 0);
    assert_eq!(rig.read(1, 28, 4), 1, "masked");
    rig.write(0, 12, 4, 7 << 16);
    assert_eq!(rig.binding.rings, [(7, 0)]);
}

#[test]
fn detaching_undoes_everything_and_attaching_does_it_again() {
    let mut rig = ready();
    rig.program(0);
    rig.config_write(MSIX_CONTROL, 2, 0x8000);
    let standing = rig.binding.clone();
    rig.must(Input::Detach);
    assert_eq!(rig.binding, crate::rig::binding::Binding::default());
    rig.must(Input::Rung { vector: 0 });
    assert_eq!(rig.read(0, 8, 4), OWN.into(), "reads are answered");
    rig.must(Input::Attach);
    assert_eq!(rig.binding.raised.len(), 1);
    rig.must(Input::ConfigRead { offset: 0, len: 4 });
    assert_eq!(rig.binding, standing);
}

#[test]
fn saved_state_goes_back_into_a_fresh_device() {
    let mut rig = ready();
    rig.program(0);
    rig.program(1);
    rig.config_write(MSIX_CONTROL, 2, 0xc000);
    rig.write(0, 0, 4, 0x1234);
    rig.must(Input::Rung { vector: 0 });
    let saved = rig.saved();
    let mut other = Rig::new(config(4, true, sectioned()));
    assert_eq!(other.restore(&saved), Ok(Ok(())));
    assert_eq!(other.saved(), saved);
    assert_eq!(other.binding, rig.binding);
    other.config_write(MSIX_CONTROL, 2, 0x8000);
    assert_eq!(
        other.binding.raised.len(),
        1,
        "the pending vector came along"
    );
}

#[test]
fn a_state_of_another_device_is_refused_with_its_field() {
    let rig = Rig::new(config(4, true, sectioned()));
    let refused = |config: IvshmemV1Config| {
        let mut other = Rig::new(config);
        let result = other.restore(&rig.saved()).expect("nothing changed");
        result.expect_err("another device").to_string()
    };
    let field = |text: &str, field: &str| assert!(text.contains(field), "{text}");
    field(&refused(config(3, true, sectioned())), "vectors");
    field(&refused(config(4, false, sectioned())), "intx");
    field(&refused(config(4, true, flat())), "windows");
    let large = Window::flat(crate::rig::REGION_LEN * 2, Access::ReadWrite);
    let large = IvshmemV1Config {
        region_len: crate::rig::REGION_LEN * 2,
        ..config(4, true, large)
    };
    let mut device = IvshmemV1::new(large).expect("valid");
    let error = device.restore(&rig.saved(), &mut portal_device::Effects::new());
    field(
        &error.expect_err("another region").to_string(),
        "region length",
    );
}

#[test]
fn configurations_that_cannot_be_are_errors() {
    let of = |change: &dyn Fn(&mut IvshmemV1Config)| {
        let mut config = config(1, false, flat());
        change(&mut config);
        IvshmemV1::new(config).expect_err("cannot be")
    };
    assert!(matches!(
        of(&|c| c.region_len = 3 << 20),
        ConfigError::RegionNotPowerOfTwo { .. }
    ));
    assert!(matches!(
        of(&|c| c.region_len = 2048),
        ConfigError::RegionLen { .. }
    ));
    assert!(matches!(
        of(&|c| c.region_len = 1 << 63),
        ConfigError::RegionLen { .. }
    ));
    assert!(matches!(
        of(&|c| c.vectors = 2049),
        ConfigError::Vectors { .. }
    ));
    assert!(matches!(
        of(&|c| c.windows.clear()),
        ConfigError::WindowsEnd { .. }
    ));
    assert_eq!(
        of(&|c| {
            c.vectors = 0;
            c.intx = true;
        }),
        ConfigError::IntxWithoutVectors
    );
}

#[test]
fn queue_inputs_are_counted_and_do_nothing() {
    let mut rig = ready();
    let before = rig.saved();
    rig.must(Input::Flushed { token: 1, ok: true });
    assert_eq!(rig.saved(), before);
    assert_eq!(rig.counter("access_refused"), 1);
}
