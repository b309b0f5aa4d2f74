//! A function with virtio-pmem inside, and a binding that holds it to its word: what
//! is set up is undone once, in the places in which it was, and a queue runs with what
//! the driver had written when it was enabled.

use crate::random::Random;
use portal_device::Access;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::Msi;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_pmem::VirtioPmem;
use portal_pmem::VirtioPmemConfig;
use portal_virtio_pci::About;
use portal_virtio_pci::VirtioPci;
use std::collections::BTreeMap;

pub(crate) const SIZE: u64 = 6 << 20;
pub(crate) const MOST: u16 = 64;

/// Offsets in BAR0.
pub(crate) const DEVICE_FEATURE: u64 = 0x04;
pub(crate) const DRIVER_SELECT: u64 = 0x08;
pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
pub(crate) const CONFIG_VECTOR: u64 = 0x10;
pub(crate) const STATUS: u64 = 0x14;
pub(crate) const QUEUE_SELECT: u64 = 0x16;
pub(crate) const QUEUE_SIZE: u64 = 0x18;
pub(crate) const QUEUE_VECTOR: u64 = 0x1a;
pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
pub(crate) const DESCRIPTORS: u64 = 0x20;
pub(crate) const ISR: u64 = 0x1000;
pub(crate) const DEVICE: u64 = 0x2000;
pub(crate) const NOTIFY: u64 = 0x3000;

/// What a queue runs with.
pub(crate) type Ring = (u16, u64, u64, u64);

/// What is in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Binding {
    pub(crate) traps: BTreeMap<u8, (u64, u64)>,
    pub(crate) map: Option<(u64, u64)>,
    pub(crate) ring: Option<Ring>,
    pub(crate) kicks: u64,
    pub(crate) raised: Vec<(u16, Msi)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Rig {
    pub(crate) device: VirtioPci<VirtioPmem>,
    pub(crate) binding: Binding,
    attached: bool,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let access = Access::ReadWrite;
        let pmem = VirtioPmem::new(VirtioPmemConfig { size: SIZE, access }).expect("valid");
        let about = About {
            id: portal_pmem::DEVICE_ID,
            class: 0x05_80_00,
            features: pmem.features(),
            queues: vec![MOST],
            config_len: portal_pmem::CONFIG_LEN,
            memory: SIZE,
        };
        let mut rig = Rig {
            device: VirtioPci::new(pmem, about).expect("valid"),
            binding: Binding::default(),
            attached: false,
        };
        rig.must(Input::Attach);
        rig
    }

    pub(crate) fn step(&mut self, input: Input) -> Result<u64, String> {
        let mut effects = Effects::new();
        self.device.step(input, &mut effects);
        match input {
            Input::Attach => self.attached = true,
            Input::Detach => self.attached = false,
            _ => {}
        }
        self.carry_out(&effects)?;
        self.check()
            .map_err(|why| format!("after {input:?}: {why}"))?;
        Ok(effects.value())
    }

    pub(crate) fn must(&mut self, input: Input) -> u64 {
        self.step(input).unwrap_or_else(|why| panic!("{why}"))
    }

    fn carry_out(&mut self, effects: &Effects) -> Result<(), String> {
        let binding = &mut self.binding;
        binding.raised.clear();
        let wrong = |effect: &Effect| Err(format!("{effect:?}, but nothing such stands"));
        for effect in effects.list() {
            match *effect {
                Effect::Trap { bar, gpa, len } => {
                    if binding.traps.insert(bar, (gpa, len)).is_some() {
                        return wrong(effect);
                    }
                }
                Effect::Untrap { bar, gpa, len } => {
                    if binding.traps.remove(&bar) != Some((gpa, len)) {
                        return wrong(effect);
                    }
                }
                Effect::Map { bar, gpa, len, .. } => {
                    if bar != 2 || binding.map.replace((gpa, len)).is_some() {
                        return wrong(effect);
                    }
                }
                Effect::Unmap { bar, gpa, len, .. } => {
                    if bar != 2 || binding.map.take() != Some((gpa, len)) {
                        return wrong(effect);
                    }
                }
                Effect::QueueStart {
                    queue,
                    size,
                    descriptors,
                    driver,
                    device,
                    ..
                } => {
                    let ring = (size, descriptors, driver, device);
                    if queue != 0 || binding.ring.replace(ring).is_some() {
                        return wrong(effect);
                    }
                }
                Effect::QueueStop { queue } => {
                    if queue != 0 || binding.ring.take().is_none() {
                        return wrong(effect);
                    }
                }
                Effect::QueueKick { queue } => {
                    if queue != 0 || binding.ring.is_none() {
                        return wrong(effect);
                    }
                    binding.kicks += 1;
                }
                Effect::Raise { vector, msi } => binding.raised.push((vector, msi)),
                Effect::Complete { .. } | Effect::Flush { .. } => {}
                _ => return Err(format!("{effect:?}")),
            }
        }
        Ok(())
    }

    /// What holds after every step.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut copy = self.clone();
        let mut read = |offset, len| copy.peek(offset, len);
        let status = read(STATUS, 1);
        if status & !0xcf != 0 {
            return Err(format!("status {status:#x}"));
        }
        if status & 4 != 0 && status & 8 == 0 {
            return Err("driven without features".into());
        }
        let ring = (
            read(QUEUE_SIZE, 2) as u16,
            read(DESCRIPTORS, 8),
            read(DESCRIPTORS + 8, 8),
            read(DESCRIPTORS + 16, 8),
        );
        let enabled = read(QUEUE_ENABLE, 2) == 1;
        let selected = read(QUEUE_SELECT, 2) == 0;
        let driven = status & 0x44 == 4 && self.attached;
        if selected && driven && enabled && self.binding.ring != Some(ring) {
            return Err(format!(
                "runs with {:x?}, the registers say {ring:x?}",
                self.binding.ring
            ));
        }
        if self.binding.ring.is_some() && !driven {
            return Err("runs without a driver".into());
        }
        if let Some((size, descriptors, driver, device)) = self.binding.ring {
            let aligned = descriptors % 16 == 0 && driver % 2 == 0 && device % 4 == 0;
            if !size.is_power_of_two() || size > MOST || !aligned {
                return Err(format!("ring {:x?}", self.binding.ring));
            }
        }
        if self
            .binding
            .map
            .is_some_and(|(gpa, len)| len != SIZE || gpa % (2 << 20) != 0)
        {
            return Err(format!("mapped at {:x?}", self.binding.map));
        }
        Ok(())
    }

    /// A read of BAR0 through the window in configuration space, which needs no
    /// decoding; only for copies, for it leaves its traces.
    pub(crate) fn peek(&mut self, offset: u64, len: u8) -> u64 {
        if len == 8 {
            return self.peek(offset, 4) | (self.peek(offset + 4, 4) << 32);
        }
        let offset = self.open(offset, len);
        let mut effects = Effects::new();
        self.device
            .step(Input::ConfigRead { offset, len: 4 }, &mut effects);
        effects.value() & (u64::MAX >> (64 - 8 * u32::from(len)))
    }

    /// A write of four bytes in the same way.
    pub(crate) fn poke(&mut self, offset: u64, value: u32) {
        let offset = self.open(offset, 4);
        let input = Input::ConfigWrite {
            offset,
            len: 4,
            value,
        };
        self.device.step(input, &mut Effects::new());
    }

    /// Points the window; returns where its data are.
    fn open(&mut self, offset: u64, len: u8) -> u16 {
        let window = window(&mut self.device);
        for (at, value) in [(4, 0), (8, offset as u32), (12, u32::from(len))] {
            let input = Input::ConfigWrite {
                offset: window + at,
                len: if at == 4 { 1 } else { 4 },
                value,
            };
            self.device.step(input, &mut Effects::new());
        }
        window + 16
    }

    pub(crate) fn saved(&self) -> SavedState {
        match self.device.save() {
            Saved::State(saved) => saved,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn restore(
        &mut self,
        saved: &SavedState,
    ) -> Result<Result<(), RestoreError>, String> {
        let before = self.device.save();
        let mut effects = Effects::new();
        let result = self.device.restore(saved, &mut effects);
        if result.is_err() && (!effects.list().is_empty() || self.device.save() != before) {
            return Err("refused, but something changed".into());
        }
        self.carry_out(&effects)?;
        self.check()?;
        Ok(result)
    }

    pub(crate) fn config_write(&mut self, offset: u16, len: u8, value: u32) {
        self.must(Input::ConfigWrite { offset, len, value });
    }

    pub(crate) fn config_read(&mut self, offset: u16, len: u8) -> u64 {
        self.must(Input::ConfigRead { offset, len })
    }

    pub(crate) fn write(&mut self, offset: u64, len: u8, value: u64) {
        let bar = 0;
        self.must(Input::BarWrite {
            bar,
            offset,
            len,
            value,
        });
    }

    pub(crate) fn read(&mut self, offset: u64, len: u8) -> u64 {
        let bar = 0;
        self.must(Input::BarRead { bar, offset, len })
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        self.device.counters(&mut |each, count| {
            if each == name {
                found = Some(count);
            }
        });
        found.unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// What firmware does.
    pub(crate) fn place(&mut self) {
        self.config_write(0x10, 4, 0xc000_0000);
        self.config_write(0x14, 4, 0xc001_0000);
        self.config_write(0x1c, 4, 0x10);
        self.config_write(0x04, 2, 6);
    }

    /// What Linux's driver does, up to DRIVER_OK.
    pub(crate) fn drive(&mut self) {
        self.write(STATUS, 1, 0);
        self.write(STATUS, 1, 1);
        self.write(STATUS, 1, 3);
        for (word, features) in [(0, 1), (1, 1)] {
            self.write(DRIVER_SELECT, 4, word);
            self.write(DRIVER_FEATURE, 4, features);
        }
        self.write(STATUS, 1, 11);
        let control = msix(&mut self.device) + 2;
        self.config_write(control, 2, 0x8000);
        for vector in 0..2u64 {
            for (at, value) in [(0, 0xfee0_0000), (4, 0), (8, 0x40 + vector), (12, 0)] {
                self.must(Input::BarWrite {
                    bar: 1,
                    offset: 16 * vector + at,
                    len: 4,
                    value,
                });
            }
        }
        self.write(CONFIG_VECTOR, 2, 0);
        self.write(QUEUE_SELECT, 2, 0);
        self.write(QUEUE_SIZE, 2, 32);
        self.write(QUEUE_VECTOR, 2, 1);
        for (at, half) in [(0, 0x10_0000), (8, 0x10_1000), (16, 0x10_2000)] {
            self.write(DESCRIPTORS + at, 4, half);
            self.write(DESCRIPTORS + at + 4, 4, 0);
        }
        self.write(QUEUE_ENABLE, 2, 1);
        self.write(STATUS, 1, 15);
    }

    /// A random input that mostly hits something.
    pub(crate) fn any_input(&mut self, random: &mut Random) -> Input {
        let value = match random.below(4) {
            0 => random.next(),
            1 => random.below(16),
            _ => *random.pick(&[0, 1, 15, 32, 63, 0x1000, 0x10_0001, u64::MAX]),
        };
        let len = 1u8 << random.below(4);
        let bar0 = |offset, len, value| Input::BarWrite {
            bar: 0,
            offset,
            len,
            value,
        };
        match random.below(14) {
            0 => bar0(
                STATUS,
                1,
                *random.pick(&[0, 1, 3, 11, 11, 15, 15, 128, 64, 4]),
            ),
            1 => bar0(QUEUE_SELECT, 2, random.below(3)),
            2 => bar0(
                QUEUE_SIZE,
                2,
                *random.pick(&[0, 1, 16, 32, 48, 64, 128, 0xffff]),
            ),
            3 => bar0(DESCRIPTORS + 4 * random.below(6), 4, value),
            4 => bar0(QUEUE_ENABLE, 2, random.below(3)),
            5 => bar0(4 * random.below(16), 4, value),
            6 => bar0(2 * random.below(32), 2, value),
            7 => bar0(NOTIFY + 4 * random.below(2), 2, random.below(3)),
            8 => Input::BarWrite {
                bar: random.below(4) as u8,
                offset: random.below(0x4010),
                len,
                value,
            },
            9 => Input::ConfigWrite {
                offset: random.below(0x104) as u16,
                len,
                value: value as u32,
            },
            10 => Input::ConfigWrite {
                offset: 4,
                len: 2,
                value: *random.pick(&[0, 2, 6, 6, 6]),
            },
            11 => Input::BarRead {
                bar: random.below(4) as u8,
                offset: random.below(0x4010),
                len,
            },
            12 => *random.pick(&[
                Input::QueueUsed { queue: 0 },
                Input::QueueUsed { queue: 9 },
                Input::QueueBroken { queue: 0 },
            ]),
            _ => match random.below(12) {
                0 => Input::Reset,
                1 => Input::Detach,
                _ => Input::Attach,
            },
        }
    }

    pub(crate) fn walk(&mut self, steps: u64, random: &mut Random) -> Result<(), String> {
        for _ in 0..steps {
            let input = self.any_input(random);
            self.step(input)?;
        }
        Ok(())
    }
}

/// Offset of the capability that `is` it.
fn capability(device: &mut impl Device, is: impl Fn(u64, u64) -> bool) -> u16 {
    let mut effects = Effects::new();
    let mut read = |offset, len| {
        device.step(Input::ConfigRead { offset, len }, &mut effects);
        effects.value()
    };
    let mut at = read(0x34, 1) as u16;
    for _ in 0..16 {
        if is(read(at, 1), read(at + 3, 1)) {
            return at;
        }
        at = read(at + 1, 1) as u16;
    }
    panic!("no such capability");
}

pub(crate) fn window(device: &mut impl Device) -> u16 {
    capability(device, |id, kind| id == 9 && kind == 5)
}

pub(crate) fn msix(device: &mut impl Device) -> u16 {
    capability(device, |id, _| id == 0x11)
}

pub(crate) fn vendor(device: &mut impl Device, kind: u64) -> u16 {
    capability(device, |id, found| id == 9 && found == kind)
}
