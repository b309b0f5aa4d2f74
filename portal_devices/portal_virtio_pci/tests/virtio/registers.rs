//! The function as a driver meets it.

use crate::rig::DESCRIPTORS;
use crate::rig::DEVICE;
use crate::rig::DEVICE_FEATURE;
use crate::rig::DRIVER_FEATURE;
use crate::rig::DRIVER_SELECT;
use crate::rig::ISR;
use crate::rig::MOST;
use crate::rig::NOTIFY;
use crate::rig::QUEUE_ENABLE;
use crate::rig::QUEUE_SELECT;
use crate::rig::QUEUE_SIZE;
use crate::rig::QUEUE_VECTOR;
use crate::rig::Rig;
use crate::rig::SIZE;
use crate::rig::STATUS;
use crate::rig::msix;
use crate::rig::vendor;
use crate::rig::window;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_virtio_pci::About;
use portal_virtio_pci::ConfigError;
use portal_virtio_pci::VirtioPci;

const GPA: u64 = 0x10_0000_0000;

fn placed() -> Rig {
    let mut rig = Rig::new();
    rig.place();
    rig
}

fn driven() -> Rig {
    let mut rig = placed();
    rig.drive();
    rig
}

#[test]
fn capabilities_say_where_everything_is() {
    let mut rig = placed();
    assert_eq!(rig.config_read(0, 4), 0x105b_1af4);
    assert_eq!(rig.config_read(8, 4), 0x0580_0001);
    for (kind, bar, offset, len) in [
        (1, 0, 0, 0x38),
        (2, 0, 0x3000, 4),
        (3, 0, 0x1000, 1),
        (4, 0, 0x2000, 16),
        (8, 2, 0, SIZE),
    ] {
        let at = vendor(&mut rig.device, kind);
        assert_eq!(rig.config_read(at + 4, 1), bar, "{kind}");
        assert_eq!(rig.config_read(at + 8, 4), offset, "{kind}");
        assert_eq!(rig.config_read(at + 12, 4), len, "{kind}");
    }
    let notify = vendor(&mut rig.device, 2);
    assert_eq!(rig.config_read(notify + 16, 4), 4, "bytes a queue");
    let msix = msix(&mut rig.device);
    assert_eq!(rig.config_read(msix + 2, 2), 1, "two vectors");
    assert_eq!(rig.device.bars()[2].len, 8 << 20, "a BAR is a power of two");
}

#[test]
fn the_memory_is_where_the_bar_is_and_the_configuration_says_it() {
    let mut rig = placed();
    assert_eq!(rig.binding.map, Some((GPA, SIZE)));
    assert_eq!(rig.read(DEVICE, 8), GPA);
    assert_eq!(rig.read(DEVICE + 8, 4), SIZE);
    let generation = rig.read(0x15, 1);
    rig.config_write(0x1c, 4, 0x11);
    assert_eq!(rig.binding.map, Some((GPA + (1 << 32), SIZE)));
    assert_eq!(rig.read(DEVICE + 4, 4), 0x11);
    assert_ne!(rig.read(0x15, 1), generation);
    rig.config_write(0x04, 2, 0);
    assert_eq!((rig.binding.map, rig.binding.traps.len()), (None, 0));
}

#[test]
fn features_are_taken_once_and_only_those_offered() {
    let mut rig = placed();
    assert_eq!(rig.read(DEVICE_FEATURE, 4), 1, "shared memory");
    rig.write(0, 4, 1);
    assert_eq!(rig.read(DEVICE_FEATURE, 4), 1, "VERSION_1");
    rig.write(0, 4, 2);
    assert_eq!(rig.read(DEVICE_FEATURE, 4), 0);
    rig.write(STATUS, 1, 3);
    rig.write(STATUS, 1, 11);
    assert_eq!(rig.read(STATUS, 1), 3, "without VERSION_1");
    rig.write(DRIVER_SELECT, 4, 1);
    rig.write(DRIVER_FEATURE, 4, 3);
    rig.write(STATUS, 1, 11);
    assert_eq!(rig.read(STATUS, 1), 3, "a feature that nobody offered");
    rig.write(DRIVER_FEATURE, 4, 1);
    rig.write(STATUS, 1, 11);
    assert_eq!(rig.read(STATUS, 1), 11);
    rig.write(DRIVER_FEATURE, 4, 0);
    assert_eq!(rig.read(DRIVER_FEATURE, 4), 1);
    rig.write(STATUS, 1, 3);
    assert_eq!(rig.read(STATUS, 1), 11, "bits are not taken back");
    rig.write(STATUS, 1, 0);
    assert_eq!((rig.read(STATUS, 1), rig.read(DRIVER_FEATURE, 4)), (0, 0));
}

#[test]
fn a_queue_runs_from_driver_ok_to_reset() {
    let mut rig = driven();
    let ring = (32, 0x10_0000, 0x10_1000, 0x10_2000);
    assert_eq!(rig.binding.ring, Some(ring));
    rig.write(NOTIFY, 2, 0);
    rig.write(NOTIFY, 2, 1);
    assert_eq!(rig.binding.kicks, 1, "there is no queue 1");
    for (offset, len, value) in [
        (QUEUE_SIZE, 2, 16),
        (QUEUE_ENABLE, 2, 0),
        (DESCRIPTORS, 4, 0x20_0000),
    ] {
        rig.write(offset, len, value);
    }
    assert_eq!(rig.binding.ring, Some(ring));
    assert_eq!(rig.read(QUEUE_SIZE, 2), 32);
    assert_eq!(rig.read(DESCRIPTORS, 4), 0x10_0000);
    assert_eq!(rig.read(QUEUE_ENABLE, 2), 1);
    rig.write(STATUS, 1, 0);
    assert_eq!(rig.binding.ring, None);
    assert_eq!(rig.read(QUEUE_SIZE, 2), u64::from(MOST));
    rig.write(NOTIFY, 2, 0);
    assert_eq!(rig.counter("notifications_ignored"), 2);
    rig.drive();
    assert_eq!(rig.binding.ring, Some(ring));
    rig.must(Input::Reset);
    assert_eq!((rig.binding.ring, rig.binding.traps.len()), (None, 0));
}

#[test]
fn queues_that_cannot_be_are_not_enabled() {
    let mut rig = placed();
    rig.write(QUEUE_ENABLE, 2, 1);
    assert_eq!(rig.read(QUEUE_ENABLE, 2), 0, "before FEATURES_OK");
    rig.drive();
    rig.write(STATUS, 1, 0);
    for (word, features) in [(0, 0), (1, 1)] {
        rig.write(DRIVER_SELECT, 4, word);
        rig.write(DRIVER_FEATURE, 4, features);
    }
    rig.write(STATUS, 1, 11);
    for size in [0, 3, 128, 0xffff] {
        rig.write(QUEUE_SIZE, 2, size);
        assert_eq!(rig.read(QUEUE_SIZE, 2), u64::from(MOST));
    }
    for (at, odd) in [(0, 8), (8, 1), (16, 2)] {
        rig.write(DESCRIPTORS + at, 4, odd);
        rig.write(QUEUE_ENABLE, 2, 1);
        assert_eq!(rig.read(QUEUE_ENABLE, 2), 0);
        rig.write(DESCRIPTORS + at, 4, 0);
    }
    rig.write(QUEUE_SELECT, 2, 1);
    assert_eq!(rig.read(QUEUE_SIZE, 2), 0, "no such queue");
    rig.write(QUEUE_ENABLE, 2, 1);
    rig.write(STATUS, 1, 15);
    assert_eq!(rig.binding.ring, None);
}

#[test]
fn a_used_buffer_is_an_interrupt() {
    let mut rig = driven();
    rig.must(Input::QueueUsed { queue: 0 });
    let [(1, msi)] = rig.binding.raised[..] else {
        panic!("{:?}", rig.binding.raised);
    };
    assert_eq!((msi.address, msi.data), (0xfee0_0000, 0x41));
    assert_eq!(rig.read(ISR, 1), 0, "MSI-X says it");
    let mask = |rig: &mut Rig, value| {
        rig.must(Input::BarWrite {
            bar: 1,
            offset: 28,
            len: 4,
            value,
        });
    };
    mask(&mut rig, 1);
    rig.must(Input::QueueUsed { queue: 0 });
    assert_eq!(rig.binding.raised, []);
    mask(&mut rig, 0);
    assert_eq!(rig.binding.raised.len(), 1, "it waited");
    rig.write(QUEUE_VECTOR, 2, 7);
    assert_eq!(rig.read(QUEUE_VECTOR, 2), 0xffff, "no such vector");
    rig.must(Input::QueueUsed { queue: 0 });
    assert_eq!(rig.binding.raised, []);
    let control = msix(&mut rig.device) + 2;
    rig.config_write(control, 2, 0);
    rig.must(Input::QueueUsed { queue: 0 });
    assert_eq!((rig.read(ISR, 1), rig.read(ISR, 1)), (1, 0));
}

#[test]
fn a_broken_ring_asks_for_a_reset() {
    let mut rig = driven();
    rig.must(Input::QueueBroken { queue: 0 });
    assert_eq!(rig.binding.ring, None);
    assert_eq!(rig.binding.raised.len(), 1, "the configuration vector");
    assert_eq!(rig.read(STATUS, 1), 15 | 64);
    rig.write(NOTIFY, 2, 0);
    assert_eq!(rig.binding.kicks, 0);
    rig.write(STATUS, 1, 15);
    assert_eq!(rig.binding.ring, None, "only a reset helps");
    rig.drive();
    assert!(rig.binding.ring.is_some());
}

#[test]
fn a_flush_goes_through() {
    let mut rig = driven();
    let mut effects = Effects::new();
    let request = Input::Request {
        queue: 0,
        token: 5,
        head: 0,
        readable: 4,
        writable: 4,
    };
    rig.device.step(request, &mut effects);
    let [Effect::Flush { token, .. }] = effects.list()[..] else {
        panic!("{effects:?}");
    };
    effects.clear();
    rig.device
        .step(Input::Flushed { token, ok: true }, &mut effects);
    let done = Effect::Complete {
        queue: 0,
        token: 5,
        answer: 0,
        len: 4,
    };
    assert_eq!(effects.list(), [done]);
}

#[test]
fn the_window_reaches_the_registers_without_decoding() {
    let mut rig = placed();
    rig.config_write(0x04, 2, 0);
    let window = window(&mut rig.device);
    rig.config_write(window + 8, 4, STATUS as u32);
    rig.config_write(window + 12, 4, 1);
    rig.config_write(window + 16, 4, 3);
    assert_eq!(rig.config_read(window + 16, 4), 3);
    assert_eq!(rig.config_read(window + 16, 1), 3);
    for (bar, offset, len) in [(1, 0, 4), (0, 0x4000, 4), (0, 2, 4), (0, 0, 3)] {
        rig.config_write(window + 4, 1, bar);
        rig.config_write(window + 8, 4, offset);
        rig.config_write(window + 12, 4, len);
        rig.config_write(window + 16, 4, 0x77);
        assert_eq!(rig.config_read(window + 16, 4), 0x77, "what was written");
    }
}

#[test]
fn a_saved_function_goes_on_where_it_was() {
    let mut rig = driven();
    let mut other = Rig::new();
    assert_eq!(other.restore(&rig.saved()), Ok(Ok(())));
    let but_generation = |rig: &Rig| {
        let mut saved = rig.saved();
        saved.bytes[287] = 0;
        saved
    };
    assert_eq!(but_generation(&other), but_generation(&rig));
    assert_eq!(other.binding.ring, rig.binding.ring);
    assert_eq!(other.binding.map, rig.binding.map);
    assert_eq!(other.binding.kicks, 1, "what was notified of meanwhile");
    rig.must(Input::Detach);
    assert_eq!((rig.binding.ring, rig.binding.map), (None, None));
    rig.must(Input::Attach);
    assert_eq!(rig.binding.ring, other.binding.ring);
}

#[test]
fn what_cannot_be_configured_is_an_error() {
    let of = |change: &dyn Fn(&mut About)| {
        let mut about = About {
            id: 27,
            class: 0,
            features: 1,
            queues: vec![64],
            config_len: 16,
            memory: 0,
        };
        change(&mut about);
        let pmem = Rig::new().device.device().clone();
        VirtioPci::new(pmem, about)
            .map(|_| ())
            .expect_err("cannot be")
    };
    assert_eq!(of(&|a| a.id = 0), ConfigError::Id { value: 0 });
    assert_eq!(of(&|a| a.id = 64), ConfigError::Id { value: 64 });
    assert!(matches!(
        of(&|a| a.features = 1 << 24),
        ConfigError::Features { .. }
    ));
    assert_eq!(of(&|a| a.queues = vec![]), ConfigError::Queues { value: 0 });
    assert_eq!(
        of(&|a| a.queues = vec![3]),
        ConfigError::Entries { value: 3 }
    );
    assert!(matches!(
        of(&|a| a.config_len = 4097),
        ConfigError::Config { .. }
    ));
    assert!(matches!(
        of(&|a| a.memory = u64::MAX),
        ConfigError::Memory { .. }
    ));
}
