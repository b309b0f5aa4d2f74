//! A device on a model binding, and what has to hold after every input.
//!
//! The expectations are computed from the saved state by its documented layout
//! and from the inputs, not by the code under test.

pub(crate) mod binding;
pub(crate) mod evidence;
pub(crate) mod random;
pub(crate) mod walk;

use binding::Binding;
use binding::Delivery;
use portal_device::Access;
use portal_device::Device;
use portal_device::Effects;
use portal_device::Input;
use portal_device::Msi;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_ivshmem::Window;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

pub(crate) const REGION_LEN: u64 = 1 << 20;
pub(crate) const OWN: u16 = 3;
/// Offset of the MSI-X message control word: the only capability is at 40h.
pub(crate) const MSIX_CONTROL: u16 = 0x42;
/// Doorbells that are routed in the kernel at most.
const ROUTES: u32 = 512;

/// Offsets in the saved state (see `v1/saved.rs`).
pub(crate) const CONFIG_AT: usize = 13;
pub(crate) const MASK_AT: usize = 269;
pub(crate) const STATUS_AT: usize = 273;
pub(crate) const TABLE_AT: usize = 277;

pub(crate) fn config(vectors: u16, intx: bool, windows: Vec<Window>) -> IvshmemV1Config {
    IvshmemV1Config {
        peer: OWN,
        region_len: REGION_LEN,
        windows,
        denied_write: DeniedWrite::Drop,
        vectors,
        intx,
    }
}

pub(crate) fn flat() -> Vec<Window> {
    Window::flat(REGION_LEN, Access::ReadWrite)
}

pub(crate) fn sectioned() -> Vec<Window> {
    let window = |offset, len, access| Window {
        offset,
        len,
        access,
    };
    vec![
        window(0, 0x1_0000, Access::ReadOnly),
        window(0x1_0000, 0x2_0000, Access::ReadWrite),
        window(0x3_0000, 0xd_0000, Access::ReadOnly),
    ]
}

/// The shapes that every harness goes through.
pub(crate) fn shapes() -> Vec<IvshmemV1Config> {
    vec![
        config(4, true, sectioned()),
        config(1, false, flat()),
        config(70, true, flat()),
        config(0, false, sectioned()),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    vectors: u16,
    routed: bool,
}

/// The device, the binding, and what the rig knows by itself.
#[derive(Clone, Debug)]
pub(crate) struct Rig {
    pub(crate) device: IvshmemV1,
    pub(crate) binding: Binding,
    attached: bool,
    peers: BTreeMap<u16, Peer>,
    /// Vectors rung and not raised since.
    owed: BTreeSet<u16>,
    /// Configuration space after power-on.
    power_on: Vec<u8>,
}

/// The saved state, taken apart.
pub(crate) struct View {
    pub(crate) bytes: Vec<u8>,
    vectors: u16,
}

impl View {
    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | (u32::from(self.u16(at + 2)) << 16)
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | (u64::from(self.u32(at + 4)) << 32)
    }

    pub(crate) fn config(&self) -> &[u8] {
        &self.bytes[CONFIG_AT..CONFIG_AT + 256]
    }

    pub(crate) fn command(&self) -> u16 {
        self.u16(CONFIG_AT + 4)
    }

    pub(crate) fn msix_control(&self) -> u16 {
        if self.vectors == 0 {
            0
        } else {
            self.u16(CONFIG_AT + usize::from(MSIX_CONTROL))
        }
    }

    pub(crate) fn message(&self, vector: u16) -> Msi {
        let at = TABLE_AT + 13 * usize::from(vector);
        Msi {
            address: self.u64(at),
            data: self.u32(at + 8),
        }
    }

    pub(crate) fn masked(&self, vector: u16) -> bool {
        self.bytes[TABLE_AT + 13 * usize::from(vector) + 12] != 0
    }

    /// Where the pending bits are.
    pub(crate) fn pending_at(&self) -> usize {
        TABLE_AT + 13 * usize::from(self.vectors)
    }

    pub(crate) fn pending(&self) -> BTreeSet<u16> {
        let words = usize::from(self.vectors).div_ceil(64);
        let bits = &self.bytes[self.pending_at()..self.pending_at() + 8 * words];
        (0..(8 * bits.len()) as u16)
            .filter(|bit| bits[usize::from(bit / 8)] & (1 << (bit % 8)) != 0)
            .collect()
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
    /// Attached, nothing programmed.
    pub(crate) fn new(config: IvshmemV1Config) -> Self {
        let device = IvshmemV1::new(config.clone()).expect("the configuration is valid");
        let mut rig = Rig {
            device,
            binding: Binding::default(),
            attached: false,
            peers: BTreeMap::new(),
            owed: BTreeSet::new(),
            power_on: Vec::new(),
        };
        if config.vectors > 0 {
            rig.join(OWN, config.vectors);
        }
        rig.power_on = rig.view().config().to_vec();
        rig.must(Input::Attach);
        rig
    }

    pub(crate) fn view(&self) -> View {
        let Saved::State(saved) = self.device.save() else {
            panic!("always saveable")
        };
        View {
            bytes: saved.bytes,
            vectors: self.device.config().vectors,
        }
    }

    pub(crate) fn saved(&self) -> SavedState {
        let Saved::State(saved) = self.device.save() else {
            panic!("always saveable")
        };
        saved
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

    fn join(&mut self, peer: u16, vectors: u16) {
        let used: u32 = self
            .peers
            .values()
            .filter(|p| p.routed)
            .map(|p| u32::from(p.vectors))
            .sum();
        let routed = used + u32::from(vectors) <= ROUTES;
        self.peers.insert(peer, Peer { vectors, routed });
    }

    /// Gives an input, carries the effects out, checks everything.
    pub(crate) fn step(&mut self, input: Input) -> Result<u64, String> {
        let mut effects = Effects::new();
        self.device.step(input, &mut effects);
        self.note(input);
        if !self.attached && input != Input::Detach && !effects.list().is_empty() {
            return Err(format!("effects without a binding: {:?}", effects.list()));
        }
        self.carry_out(&effects)?;
        if let Input::Rung { vector } = input
            && vector < self.device.config().vectors
            && self.binding.raised.is_empty()
            && !self.listening(&self.view())
        {
            self.owed.insert(vector);
        }
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
        match result {
            Err(_) if !effects.list().is_empty() => return Err("refused, with effects".into()),
            Err(_) if self.saved() != before => return Err("refused, but changed".into()),
            Err(_) => {}
            Ok(()) => {
                let view = self.view();
                self.owed = view.pending();
                self.carry_out(&effects)?;
                // Those raised by the restore itself were pending before it.
                self.owed.retain(|vector| view.pending().contains(vector));
            }
        }
        self.check()?;
        Ok(result)
    }

    fn listening(&self, view: &View) -> bool {
        self.device.config().intx && view.msix_control() & 0x8000 == 0
    }

    fn note(&mut self, input: Input) {
        let plain = self.device.config().vectors == 0;
        match input {
            Input::PeerJoined { peer, vectors } if peer != OWN && vectors <= 2048 && !plain => {
                self.peers.remove(&peer);
                self.join(peer, vectors);
            }
            Input::PeerGone { peer } if peer != OWN => {
                self.peers.remove(&peer);
            }
            Input::Attach => self.attached = true,
            Input::Detach => self.attached = false,
            Input::Reset => self.owed.clear(),
            _ => {}
        }
    }

    fn carry_out(&mut self, effects: &Effects) -> Result<(), String> {
        self.binding.raised.clear();
        self.binding.rings.clear();
        self.binding.states.clear();
        for effect in effects.list() {
            self.binding.apply(effect)?;
        }
        for (vector, _) in &self.binding.raised {
            self.owed.remove(vector);
        }
        if !self.binding.states.is_empty() {
            return Err("published a state".into());
        }
        for (peer, vector) in &self.binding.rings {
            if self
                .peers
                .get(peer)
                .is_none_or(|known| *vector >= known.vectors)
            {
                return Err(format!(
                    "rang vector {vector} of peer {peer}, which is not there"
                ));
            }
        }
        Ok(())
    }

    /// Everything that has to hold now.
    pub(crate) fn check(&self) -> Result<(), String> {
        let view = self.view();
        self.check_identity(&view)?;
        self.check_bars(&view)?;
        self.check_vectors(&view)?;
        let line = self.attached
            && self.listening(&view)
            && view.u32(MASK_AT) & view.u32(STATUS_AT) != 0
            && view.command() & 0x400 == 0;
        equal("line", &self.binding.line, &line)
    }

    fn check_identity(&self, view: &View) -> Result<(), String> {
        let writable = writable(self.device.config());
        for (at, (now, first)) in view.config().iter().zip(&self.power_on).enumerate() {
            if (now ^ first) & !writable[at] != 0 {
                return Err(format!(
                    "read-only byte {at:#x} went from {first:#x} to {now:#x}"
                ));
            }
        }
        Ok(())
    }

    fn check_bars(&self, view: &View) -> Result<(), String> {
        let (mut traps, mut maps, mut routes) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for info in self.device.bars() {
            let Some(gpa) = view.bar(info.bar, info.len).filter(|_| self.attached) else {
                continue;
            };
            match info.bar {
                2 => {
                    for w in &self.device.config().windows {
                        maps.insert(w.offset, (gpa + w.offset, w.len, w.access));
                    }
                }
                bar => {
                    traps.insert(bar, (gpa, info.len));
                }
            }
            if info.bar == 0 {
                for (id, peer) in self.peers.iter().filter(|(_, peer)| peer.routed) {
                    for vector in 0..peer.vectors {
                        let value = (u32::from(*id) << 16) | u32::from(vector);
                        routes.insert((gpa + 12, value, *id, vector));
                    }
                }
            }
        }
        equal("traps", &self.binding.traps, &traps)?;
        equal("maps", &self.binding.maps, &maps)?;
        equal("routes", &self.binding.routes, &routes)
    }

    fn check_vectors(&self, view: &View) -> Result<(), String> {
        let control = view.msix_control();
        let open = control & 0xc000 == 0x8000 && view.command() & 4 != 0;
        let mut vectors = BTreeMap::new();
        for vector in 0..self.device.config().vectors {
            if !self.attached {
                continue;
            }
            if self.listening(view) {
                vectors.insert(vector, Delivery::Listen);
            } else if open && !view.masked(vector) {
                vectors.insert(vector, Delivery::Msi(view.message(vector)));
            }
        }
        equal("vectors", &self.binding.vectors, &vectors)?;
        equal("pending", &view.pending(), &self.owed)?;
        if let Some(vector) = self.owed.range(self.device.config().vectors..).next() {
            return Err(format!("vector {vector} is pending and does not exist"));
        }
        for (vector, _) in vectors
            .iter()
            .filter(|(_, d)| matches!(d, Delivery::Msi(_)))
        {
            if self.owed.contains(vector) {
                return Err(format!("vector {vector} is open and still pending"));
            }
        }
        Ok(())
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

    /// Addresses in all BARs; `command` on top.
    pub(crate) fn place(&mut self, command: u32) {
        self.config_write(0x10, 4, 0xc000_0000);
        self.config_write(0x14, 4, 0xc001_0000);
        self.config_write(0x18, 4, 0);
        self.config_write(0x1c, 4, 0x10);
        self.config_write(0x04, 2, command);
    }

    /// Message `vector` with its own data, not masked.
    pub(crate) fn program(&mut self, vector: u16) {
        let at = 16 * u64::from(vector);
        self.write(1, at, 8, 0xfee0_0000);
        self.write(1, at + 8, 8, 0x40 + u64::from(vector));
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
pub(crate) fn writable(config: &IvshmemV1Config) -> [u8; 256] {
    let mut mask = [0u8; 256];
    mask[0x04] = 0x06;
    mask[0x05] = if config.intx { 0x04 } else { 0 };
    mask[0x0c] = 0xff;
    mask[0x3c] = 0xff;
    mask[0x11..0x14].fill(0xff);
    if config.vectors > 0 {
        mask[0x15] = 0xf0;
        mask[0x16..0x18].fill(0xff);
        mask[usize::from(MSIX_CONTROL) + 1] = 0xc0;
    }
    // 1 MiB: bits 20 and up.
    mask[0x1a] = 0xf0;
    mask[0x1b..0x20].fill(0xff);
    mask
}
