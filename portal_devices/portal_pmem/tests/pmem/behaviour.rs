//! Configuration, requests one by one, saved state.

use portal_device::Access;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_pmem::ConfigError;
use portal_pmem::MOST_REQUESTS;
use portal_pmem::VirtioPmem;
use portal_pmem::VirtioPmemConfig;

const START: u64 = 0x10_0020_0000;
const SIZE: u64 = 64 << 20;

fn config(access: Access) -> VirtioPmemConfig {
    VirtioPmemConfig { size: SIZE, access }
}

struct Rig(VirtioPmem);

impl Rig {
    fn new(access: Access) -> Self {
        let mut rig = Rig(VirtioPmem::new(config(access)).expect("valid"));
        let map = Effect::Map {
            bar: 0,
            gpa: START,
            offset: 0,
            len: SIZE,
            access,
        };
        assert_eq!(rig.step(Input::Attach), []);
        assert_eq!(rig.read(0, 8), 0, "nowhere yet");
        assert_eq!(rig.step(Input::MemoryAt { gpa: Some(START) }), [map]);
        rig
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Effects::new();
        self.0.step(input, &mut effects);
        effects.drain().collect()
    }

    fn request(&mut self, token: u32, head: u64) -> Vec<Effect> {
        self.step(Input::Request {
            queue: 0,
            token,
            head,
            readable: 4,
            writable: 4,
        })
    }

    fn read(&mut self, offset: u16, len: u8) -> u64 {
        let mut effects = Effects::new();
        self.0.step(Input::ConfigRead { offset, len }, &mut effects);
        effects.value()
    }

    fn saved(&self) -> SavedState {
        match self.0.save() {
            Saved::State(saved) => saved,
            other => panic!("{other:?}"),
        }
    }
}

fn flush(token: u32) -> Effect {
    Effect::Flush {
        token,
        offset: 0,
        len: SIZE,
    }
}

fn done(token: u32) -> Effect {
    Effect::Complete {
        queue: 0,
        token,
        answer: 0,
        len: 4,
    }
}

fn failed(token: u32) -> Effect {
    Effect::Complete {
        queue: 0,
        token,
        answer: 0xffff_ffff,
        len: 4,
    }
}

#[test]
fn configuration_gives_start_and_size_in_any_width() {
    let mut rig = Rig::new(Access::ReadWrite);
    assert_eq!(rig.read(0, 8), START);
    assert_eq!(rig.read(8, 8), SIZE);
    assert_eq!(rig.read(0, 4), START & 0xffff_ffff);
    assert_eq!(rig.read(4, 4), START >> 32);
    assert_eq!(rig.read(3, 2), (START >> 24) & 0xffff);
    assert_eq!(rig.read(12, 8), SIZE >> 32);
    for (offset, len) in [(16, 8), (u16::MAX, 255), (0, 0)] {
        assert_eq!(rig.read(offset, len), 0);
    }
    assert!(
        rig.step(Input::ConfigWrite {
            offset: 0,
            len: 4,
            value: 0
        })
        .is_empty()
    );
    assert_eq!(rig.read(0, 8), START);
    assert_eq!(rig.0.features(), 1);
}

#[test]
fn those_who_come_while_a_flush_runs_share_the_next() {
    let mut rig = Rig::new(Access::ReadWrite);
    assert_eq!(rig.request(10, 0), [flush(1)]);
    assert_eq!(rig.request(11, 0), []);
    assert_eq!(rig.request(12, 0), []);
    assert_eq!(
        rig.step(Input::Flushed { token: 1, ok: true }),
        [done(10), flush(2)]
    );
    assert_eq!(rig.request(13, 0), []);
    assert_eq!(
        rig.step(Input::Flushed { token: 2, ok: true }),
        [done(11), done(12), flush(3)]
    );
    assert_eq!(rig.step(Input::Flushed { token: 3, ok: true }), [done(13)]);
    assert_eq!(
        rig.step(Input::Flushed { token: 3, ok: true }),
        [],
        "ended already"
    );
}

#[test]
fn one_failure_fails_all_that_follow() {
    let mut rig = Rig::new(Access::ReadWrite);
    rig.request(10, 0);
    rig.request(11, 0);
    assert_eq!(
        rig.step(Input::Flushed {
            token: 1,
            ok: false
        }),
        [failed(10), failed(11)]
    );
    assert_eq!(rig.request(12, 0), [failed(12)]);
    rig.step(Input::Reset);
    assert_eq!(rig.request(13, 0), [failed(13)]);
    let mut other = Rig::new(Access::ReadWrite);
    assert_eq!(other.0.restore(&rig.saved(), &mut Effects::new()), Ok(()));
    assert_eq!(other.request(14, 0), [failed(14)]);
}

#[test]
fn malformed_requests_are_answered_if_there_is_room() {
    let mut rig = Rig::new(Access::ReadWrite);
    let nothing = Effect::Complete {
        queue: 0,
        token: 1,
        answer: 0xffff_ffff,
        len: 0,
    };
    let request = |head, readable, writable| Input::Request {
        queue: 0,
        token: 1,
        head,
        readable,
        writable,
    };
    assert_eq!(rig.step(request(1, 4, 4)), [failed(1)], "an unknown type");
    assert_eq!(rig.step(request(0, 3, 4)), [failed(1)]);
    assert_eq!(rig.step(request(0, 4, 3)), std::slice::from_ref(&nothing));
    assert_eq!(rig.step(request(0, 0, 0)), [nothing]);
    let elsewhere = Input::Request {
        queue: 1,
        token: 1,
        head: 0,
        readable: 4,
        writable: 4,
    };
    let refused = Effect::Complete {
        queue: 1,
        token: 1,
        answer: 0xffff_ffff,
        len: 4,
    };
    assert_eq!(rig.step(elsewhere), [refused]);
    assert_eq!(
        rig.request(2, 0xffff_ffff_0000_0000),
        [flush(1)],
        "the type is 32 bits"
    );
}

#[test]
fn a_read_only_partition_has_nothing_to_flush() {
    let mut rig = Rig::new(Access::ReadOnly);
    assert_eq!(rig.request(1, 0), [done(1)]);
    assert!(
        rig.step(Input::BarWrite {
            bar: 0,
            offset: 0,
            len: 8,
            value: 1
        })
        .is_empty()
    );
}

#[test]
fn a_flood_is_bounded_by_the_queue() {
    let mut rig = Rig::new(Access::ReadWrite);
    for token in 0..u32::from(MOST_REQUESTS) {
        assert!(!rig.request(token, 0).contains(&failed(token)));
    }
    assert_eq!(rig.request(5000, 0), [failed(5000)]);
    let first = rig.step(Input::Flushed { token: 1, ok: true });
    assert_eq!(first, [done(0), flush(2)]);
    let all = rig.step(Input::Flushed { token: 2, ok: true });
    assert_eq!(all.len(), usize::from(MOST_REQUESTS) - 1);
}

#[test]
fn a_reset_forgets_requests_but_not_the_running_flush() {
    let mut rig = Rig::new(Access::ReadWrite);
    rig.request(1, 0);
    rig.request(2, 0);
    assert!(rig.step(Input::Reset).is_empty());
    assert_eq!(
        rig.request(3, 0),
        [],
        "the running flush may be older than its stores"
    );
    assert_eq!(rig.step(Input::Flushed { token: 1, ok: true }), [flush(2)]);
    assert_eq!(rig.step(Input::Flushed { token: 2, ok: true }), [done(3)]);
}

#[test]
fn detaching_unmaps_and_forgets() {
    let mut rig = Rig::new(Access::ReadWrite);
    rig.request(1, 0);
    let unmap = Effect::Unmap {
        bar: 0,
        gpa: START,
        offset: 0,
        len: SIZE,
    };
    assert_eq!(rig.step(Input::Detach), [unmap]);
    assert!(rig.step(Input::Flushed { token: 1, ok: true }).is_empty());
    assert!(rig.request(2, 0).is_empty());
    assert_eq!(rig.step(Input::Attach).len(), 1);
    assert!(rig.step(Input::Attach).is_empty());
    assert_eq!(rig.request(3, 0), [flush(2)]);
}

#[test]
fn a_device_that_flushes_is_busy() {
    let mut rig = Rig::new(Access::ReadWrite);
    rig.request(1, 0);
    assert_eq!(rig.0.save(), Saved::Busy);
    rig.step(Input::Flushed { token: 1, ok: true });
    assert!(matches!(rig.0.save(), Saved::State(_)));
}

#[test]
fn every_edited_byte_of_a_state_is_refused_or_means_something() {
    let rig = Rig::new(Access::ReadWrite);
    let good = rig.saved();
    for at in 0..good.bytes.len() {
        for value in 0..=255u8 {
            let mut state = good.clone();
            state.bytes[at] = value;
            let mut target = Rig::new(Access::ReadWrite);
            let result = target.0.restore(&state, &mut Effects::new());
            let valid = state == good || (at == 9 && value == 1);
            assert_eq!(result.is_ok(), valid, "byte {at} = {value}");
        }
    }
    for len in 0..good.bytes.len() {
        let mut state = good.clone();
        state.bytes.truncate(len);
        let mut target = Rig::new(Access::ReadWrite);
        let result = target.0.restore(&state, &mut Effects::new());
        assert!(matches!(result, Err(RestoreError::WrongLength { .. })));
    }
}

#[test]
fn configurations_that_cannot_be_are_errors() {
    for size in [0, 1 << 20, 1 << 52, u64::MAX] {
        let access = Access::ReadWrite;
        let error = VirtioPmem::new(VirtioPmemConfig { size, access }).expect_err("cannot be");
        assert!(matches!(error, ConfigError::Size { .. }));
    }
}

#[test]
fn the_memory_follows_its_place() {
    let mut rig = Rig::new(Access::ReadWrite);
    let moved = START + (2 << 20);
    let steps = rig.step(Input::MemoryAt { gpa: Some(moved) });
    assert!(matches!(
        steps[..],
        [Effect::Unmap { gpa: START, .. }, Effect::Map { gpa, .. }] if gpa == moved
    ));
    assert_eq!(rig.read(0, 8), moved);
    assert_eq!(rig.step(Input::MemoryAt { gpa: Some(moved) }), []);
    for nowhere in [Some(START + 4096), Some(0), None] {
        rig.step(Input::MemoryAt { gpa: Some(moved) });
        let steps = rig.step(Input::MemoryAt { gpa: nowhere });
        assert!(matches!(steps[..], [Effect::Unmap { .. }]), "{nowhere:?}");
        assert_eq!(rig.read(0, 8), 0);
    }
}

#[test]
fn inspect_shows_the_flush() {
    let mut rig = Rig::new(Access::ReadWrite);
    rig.request(1, 0);
    rig.request(2, 0);
    let text = rig.0.inspect().to_string();
    for line in [
        "flushing: true",
        "waiting: 2",
        "start: 0x1000200000",
        "flushes: 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
