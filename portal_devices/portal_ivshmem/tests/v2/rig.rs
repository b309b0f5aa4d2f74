//! An ivshmem v2 device on a model binding, and what has to hold after every
//! input. The expectations come from the saved state by its documented layout
//! and from the inputs.

use crate::binding::Binding;
use crate::binding::Delivery;
use crate::random::Random;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use portal_device::Access;
use portal_device::Device;
use portal_device::Effects;
use portal_device::Input;
use portal_device::Msi;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::IvshmemV2;
use portal_ivshmem::IvshmemV2Config;
use portal_ivshmem::Writable;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

pub(crate) const OWN: u16 = 1;
pub(crate) const PEERS: u16 = 4;
pub(crate) const BASE: u64 = 0x20_0000_0000;
const REGION_LEN: u64 = 1 << 20;

/// Offsets in the saved state (see `v2/saved.rs`).
pub(crate) const CONFIG_AT: usize = 22;
pub(crate) const CONTROL_AT: usize = 278;
pub(crate) const STATE_AT: usize = 279;
pub(crate) const TABLE_AT: usize = 283;
/// Privileged control, in configuration space.
pub(crate) const PRIVILEGED: u16 = 0x43;

pub(crate) fn layout() -> Layout {
    let name = Name::new("lake").expect("a valid name");
    Layout::compute(&RegionSpec::new(name, REGION_LEN, PEERS).common(64 << 10)).expect("fits")
}

pub(crate) fn config(vectors: u16, base: Option<u64>) -> IvshmemV2Config {
    IvshmemV2Config {
        peer: PeerId(OWN),
        layout: layout(),
        vectors,
        protocol: 0x4001,
        base,
        writable: Writable::Own,
        one_shot: false,
        denied_write: DeniedWrite::Drop,
    }
}

pub(crate) fn shapes() -> Vec<IvshmemV2Config> {
    vec![config(2, None), config(3, Some(BASE)), config(70, None)]
}

#[derive(Clone, Debug)]
pub(crate) struct Rig {
    pub(crate) device: IvshmemV2,
    pub(crate) binding: Binding,
    attached: bool,
    peers: BTreeMap<u16, u16>,
    /// The own entry of the state table.
    pub(crate) table: u32,
    power_on: Vec<u8>,
}

/// The saved state, taken apart.
pub(crate) struct View {
    pub(crate) bytes: Vec<u8>,
}

impl View {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | (u32::from(self.u16(at + 2)) << 16)
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | (u64::from(self.u32(at + 4)) << 32)
    }

    fn command(&self) -> u16 {
        self.u16(CONFIG_AT + 4)
    }

    pub(crate) fn state(&self) -> u32 {
        self.u32(STATE_AT)
    }

    pub(crate) fn enabled(&self) -> bool {
        self.bytes[CONTROL_AT] != 0
    }

    fn one_shot(&self) -> bool {
        self.bytes[CONFIG_AT + usize::from(PRIVILEGED)] & 1 != 0
    }

    /// The message of a vector that may be sent.
    fn message(&self, vector: u16, control: u16) -> Option<Msi> {
        let at = TABLE_AT + 13 * usize::from(vector);
        let word = self.u16(CONFIG_AT + usize::from(control));
        let open = word & 0xc000 == 0x8000 && self.command() & 4 != 0 && self.bytes[at + 12] == 0;
        open.then(|| Msi {
            address: self.u64(at),
            data: self.u32(at + 8),
        })
    }

    /// Where a BAR of `len` bytes answers.
    pub(crate) fn bar(&self, bar: u8, len: u64) -> Option<u64> {
        let at = CONFIG_AT + 0x10 + 4 * usize::from(bar);
        if self.command() & 2 == 0 {
            return None;
        }
        let low = u64::from(self.u32(at)) & !0xf;
        let (address, top) = match bar {
            2 => (low | (u64::from(self.u32(at + 4)) << 32), u64::MAX),
            _ => (low, 0xffff_ffff),
        };
        let last = address.checked_add(len - 1)?;
        (address != 0 && last != top).then_some(address)
    }
}

impl Rig {
    pub(crate) fn new(config: IvshmemV2Config) -> Self {
        let peers = BTreeMap::from([(OWN, config.vectors)]);
        let mut rig = Rig {
            device: IvshmemV2::new(config).expect("the configuration is valid"),
            binding: Binding::default(),
            attached: false,
            peers,
            table: 0,
            power_on: Vec::new(),
        };
        rig.power_on = rig.view().bytes[CONFIG_AT..CONFIG_AT + 256].to_vec();
        rig.must(Input::Attach);
        rig
    }

    /// Offset of the MSI-X message control word.
    pub(crate) fn msix_control(&self) -> u16 {
        if self.device.config().base.is_some() {
            0x62
        } else {
            0x5a
        }
    }

    pub(crate) fn saved(&self) -> SavedState {
        let Saved::State(saved) = self.device.save() else {
            panic!("always saveable")
        };
        saved
    }

    pub(crate) fn view(&self) -> View {
        View {
            bytes: self.saved().bytes,
        }
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

    pub(crate) fn step(&mut self, input: Input) -> Result<u64, String> {
        let before = self.view();
        let mut effects = Effects::new();
        self.device.step(input, &mut effects);
        match input {
            Input::PeerJoined { peer, vectors }
                if peer < PEERS && peer != OWN && vectors <= 2048 =>
            {
                self.peers.insert(peer, vectors);
            }
            Input::PeerGone { peer } if peer != OWN => {
                self.peers.remove(&peer);
            }
            Input::Attach => self.attached = true,
            Input::Detach => self.attached = false,
            _ => {}
        }
        if !self.attached && input != Input::Detach && !effects.list().is_empty() {
            return Err(format!("effects without a binding: {:?}", effects.list()));
        }
        self.carry_out(&effects)?;
        self.check_delivery(input, &before)?;
        self.check()
            .map_err(|why| format!("after {input:?}: {why}"))?;
        Ok(effects.value())
    }

    pub(crate) fn must(&mut self, input: Input) -> u64 {
        self.step(input).unwrap_or_else(|why| panic!("{why}"))
    }

    pub(crate) fn restore(
        &mut self,
        saved: &SavedState,
    ) -> Result<Result<(), RestoreError>, String> {
        let before = self.saved();
        let mut effects = Effects::new();
        let result = self.device.restore(saved, &mut effects);
        if result.is_err() && (!effects.list().is_empty() || self.saved() != before) {
            return Err("refused, but something changed".into());
        }
        if !self.attached && !effects.list().is_empty() {
            return Err("effects without a binding".into());
        }
        self.carry_out(&effects)?;
        self.check()?;
        Ok(result)
    }

    fn carry_out(&mut self, effects: &Effects) -> Result<(), String> {
        self.binding.raised.clear();
        self.binding.rings.clear();
        self.binding.states.clear();
        for effect in effects.list() {
            // A delivery through the device is checked in `check_delivery`.
            if !matches!(effect, portal_device::Effect::Raise { .. }) {
                self.binding.apply(effect)?;
            } else if let portal_device::Effect::Raise { vector, msi } = effect {
                self.binding.raised.push((*vector, *msi));
            }
        }
        for (peer, vector) in &self.binding.rings {
            if self.peers.get(peer).is_none_or(|vectors| vector >= vectors) {
                return Err(format!(
                    "rang vector {vector} of peer {peer}, which is not there"
                ));
            }
        }
        let before = self.table;
        if let Some(state) = self.binding.states.last() {
            self.table = *state;
        }
        let others = self
            .peers
            .iter()
            .filter(|(id, vectors)| **id != OWN && **vectors > 0);
        let news = self.table != before && !self.binding.states.is_empty();
        let all: Vec<_> = others.map(|(id, _)| (*id, 0)).collect();
        if news && self.binding.rings != all {
            return Err(format!(
                "state changed, rang {:?}, not {all:?}",
                self.binding.rings
            ));
        }
        Ok(())
    }

    /// A ring is delivered exactly when interrupts are enabled and the vector is
    /// open; in one-shot mode it takes the enable bit with it.
    fn check_delivery(&self, input: Input, before: &View) -> Result<(), String> {
        let Input::Rung { vector } = input else {
            return equal("raised", &self.binding.raised, &Vec::new());
        };
        let exists = vector < self.device.config().vectors;
        let message = (exists && before.enabled() && self.attached)
            .then(|| before.message(vector, self.msix_control()))
            .flatten();
        let want: Vec<_> = message.into_iter().map(|msi| (vector, msi)).collect();
        equal("raised", &self.binding.raised, &want)?;
        let enabled = before.enabled() && !(before.one_shot() && message.is_some());
        equal("interrupt control", &self.view().enabled(), &enabled)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let view = self.view();
        let writable = writable(self.device.config());
        for (at, first) in self.power_on.iter().enumerate() {
            if (view.bytes[CONFIG_AT + at] ^ first) & !writable[at] != 0 {
                return Err(format!("read-only byte {at:#x} changed"));
            }
        }
        self.check_bars(&view)?;
        let mut vectors = BTreeMap::new();
        for vector in 0..self.device.config().vectors {
            let Some(msi) = view.message(vector, self.msix_control()) else {
                continue;
            };
            if self.attached && view.enabled() {
                let direct = Delivery::Msi(msi);
                vectors.insert(
                    vector,
                    if view.one_shot() {
                        Delivery::Listen
                    } else {
                        direct
                    },
                );
            }
        }
        equal("vectors", &self.binding.vectors, &vectors)?;
        let pending = TABLE_AT + 13 * usize::from(self.device.config().vectors);
        if view.bytes[pending..].iter().any(|byte| *byte != 0) {
            return Err("something is pending".into());
        }
        if self.attached {
            equal("state table", &self.table, &view.state())?;
        }
        Ok(())
    }

    fn check_bars(&self, view: &View) -> Result<(), String> {
        let (mut traps, mut maps, mut routes) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let registers = view.bar(0, 4096).filter(|_| self.attached);
        let table = self.device.bars()[1].len;
        if let Some(gpa) = registers {
            traps.insert(0, (gpa, 4096));
            for (id, count) in &self.peers {
                for vector in 0..*count {
                    let value = (u32::from(*id) << 16) | u32::from(vector);
                    routes.insert((gpa + 12, value, *id, vector));
                }
            }
        }
        if let Some(gpa) = view.bar(1, table).filter(|_| self.attached) {
            traps.insert(1, (gpa, table));
        }
        let region = self
            .device
            .config()
            .base
            .or_else(|| view.bar(2, REGION_LEN));
        if let Some(gpa) = region.filter(|_| self.attached) {
            let layout = layout();
            let own = layout.section(PeerId(OWN));
            let edges = [
                (0, Access::ReadOnly),
                (layout.common.start, Access::ReadWrite),
                (layout.common.end, Access::ReadOnly),
                (own.start, Access::ReadWrite),
                (own.end, Access::ReadOnly),
                (REGION_LEN, Access::ReadOnly),
            ];
            for pair in edges.windows(2) {
                let (start, access) = pair[0];
                maps.insert(start, (gpa + start, pair[1].0 - start, access));
            }
        }
        equal("traps", &self.binding.traps, &traps)?;
        equal("maps", &self.binding.maps, &maps)?;
        equal("routes", &self.binding.routes, &routes)
    }

    pub(crate) fn config_write(&mut self, offset: u16, len: u8, value: u32) {
        self.must(Input::ConfigWrite { offset, len, value });
    }

    pub(crate) fn config_read(&mut self, offset: u16, len: u8) -> u64 {
        self.must(Input::ConfigRead { offset, len })
    }

    pub(crate) fn write(&mut self, bar: u8, offset: u64, len: u8, value: u64) {
        self.must(Input::BarWrite {
            bar,
            offset,
            len,
            value,
        });
    }

    pub(crate) fn read(&mut self, bar: u8, offset: u64, len: u8) -> u64 {
        self.must(Input::BarRead { bar, offset, len })
    }

    /// Addresses in all BARs, decoding and bus master on, MSI-X on, vector 0
    /// and 1 programmed.
    pub(crate) fn bring_up(&mut self) {
        self.config_write(0x10, 4, 0xc000_0000);
        self.config_write(0x14, 4, 0xc001_0000);
        self.config_write(0x1c, 4, 0x10);
        self.config_write(0x04, 2, 6);
        self.config_write(self.msix_control(), 2, 0x8000);
        for vector in 0..2 {
            self.write(1, 16 * vector, 8, 0xfee0_0000);
            self.write(1, 16 * vector + 8, 8, 0x40 + vector);
        }
    }

    /// A random input that mostly hits something.
    pub(crate) fn any_input(&self, random: &mut Random) -> Input {
        let values = [
            0,
            1,
            u64::MAX,
            0xc000_0000,
            0x10,
            0xfee0_0000,
            0x8000,
            6,
            0x2_0001,
        ];
        let value = if random.chance(3) {
            random.next()
        } else {
            *random.pick(&values)
        };
        let len = 1u8 << random.below(4);
        match random.below(16) {
            0 => Input::ConfigWrite {
                offset: random.below(0x110) as u16,
                len,
                value: value as u32,
            },
            1 | 2 => {
                let offset = 0x10 + 4 * random.below(4) as u16;
                Input::ConfigWrite {
                    offset,
                    len: 4,
                    value: value as u32,
                }
            }
            3 => {
                let value = *random.pick(&[0, 2, 6, 6, 6, 0xffff]);
                Input::ConfigWrite {
                    offset: 4,
                    len: 2,
                    value,
                }
            }
            4 => {
                let value = *random.pick(&[0, 0x8000, 0x8000, 0xc000]);
                Input::ConfigWrite {
                    offset: self.msix_control(),
                    len: 2,
                    value,
                }
            }
            5 => Input::ConfigWrite {
                offset: PRIVILEGED,
                len: 1,
                value: value as u32,
            },
            6 => Input::BarWrite {
                bar: 0,
                offset: 8,
                len: 4,
                value: random.below(2),
            },
            7 => Input::BarWrite {
                bar: 0,
                offset: 4 * random.below(6),
                len: 4,
                value,
            },
            8 => Input::BarWrite {
                bar: 0,
                offset: 16,
                len: 4,
                value: random.below(5),
            },
            9 => Input::BarWrite {
                bar: 1,
                offset: 4 * random.below(13),
                len: 4,
                value,
            },
            10 => {
                let bar = random.below(4) as u8;
                Input::BarWrite {
                    bar,
                    offset: value & 0xffff,
                    len,
                    value,
                }
            }
            11 => {
                let bar = random.below(4) as u8;
                Input::BarRead {
                    bar,
                    offset: random.below(0x1100),
                    len,
                }
            }
            12 | 13 => Input::Rung {
                vector: random.below(4) as u16,
            },
            14 => match random.below(4) {
                3 => Input::PeerBells {
                    peer: random.below(6) as u16,
                },
                0 => Input::PeerGone {
                    peer: random.below(6) as u16,
                },
                _ => {
                    let (peer, vectors) = (random.below(6) as u16, random.below(4) as u16);
                    Input::PeerJoined { peer, vectors }
                }
            },
            _ => match random.below(8) {
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

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<(), String> {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what}: {got:?}, not {want:?}"))
    }
}

/// The bits of configuration space that a guest may write, by the tables of the
/// specification.
pub(crate) fn writable(config: &IvshmemV2Config) -> [u8; 256] {
    let mut mask = [0u8; 256];
    mask[0x04] = 0x06;
    mask[0x0c] = 0xff;
    mask[0x3c] = 0xff;
    mask[0x11] = 0xf0;
    mask[0x12..0x14].fill(0xff);
    mask[0x15] = 0xf0;
    mask[0x16..0x18].fill(0xff);
    if config.base.is_none() {
        // 1 MiB: bits 20 and up.
        mask[0x1a] = 0xf0;
        mask[0x1b..0x20].fill(0xff);
    }
    mask[usize::from(PRIVILEGED)] = 1;
    let control = if config.base.is_some() { 0x63 } else { 0x5b };
    mask[control] = 0xc0;
    mask
}
