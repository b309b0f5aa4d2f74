//! ivshmem v2: the region's own layout as the guest sees it.
//!
//! Specification: Jailhouse's draft "IVSHMEM Device Specification" (v2), which
//! calls itself work in progress; PCI Local Bus 3.0 for everything around.
//!
//! Distrusted: the guest. Left out: INTx (the draft forbids it beside MSI-X),
//! the I/O-port variant of the registers, the contents of the region.
//!
//! # BARs
//!
//! | BAR | what |
//! |---|---|
//! | 0 | 32-bit memory, one page: registers |
//! | 1 | 32-bit memory: MSI-X table and pending bits (which read 0) |
//! | 2 | 64-bit prefetchable memory: the region; absent with [`IvshmemV2Config::base`] |
//!
//! # Vendor capability (09h)
//!
//! | offset | width | what |
//! |---|---|---|
//! | 02h | 1 | length: 20h with a base address, else 18h |
//! | 03h | 1 | privileged control: bit 0 one-shot mode, writable unless configured |
//! | 04h | 4 | size of the state table: all host pages, read-only to guests |
//! | 08h | 8 | size of the read-write section |
//! | 10h | 8 | size of an output section |
//! | 18h | 8 | guest physical address of the region, without BAR2 |
//!
//! # Registers (BAR0, aligned 32-bit accesses)
//!
//! | offset | name | access |
//! |---|---|---|
//! | 00h | id | read-only: the own peer id |
//! | 04h | maximum peers | read-only |
//! | 08h | interrupt control | bit 0 enables interrupts; 0 after reset |
//! | 0Ch | doorbell | write-only: target << 16 or'ed with the vector; reads 0 |
//! | 10h | state | read/write; 0 after reset |
//! | 14h- | reserved | reads 0, ignores writes |
//!
//! An access of another width reads 0 and writes nothing.
//!
//! # State
//!
//! ```text
//!            write s != state / PublishState(s), Ring vector 0 of every other peer
//!   state ──────────────────────────────────────────────────────────────▶ s
//!            Reset, state != 0 / PublishState(0), Ring vector 0 of every other peer
//!   state ──────────────────────────────────────────────────────────────▶ 0
//! ```
//!
//! `Attach` publishes the state too, and rings if it is not 0.
//!
//! A peer that is gone cannot say so: its word was set to 0 by whoever owns the
//! region before this device is told, and the device rings its own vector 0, as
//! the peer would have on reset.
//!
//! # Interrupts
//!
//! There are no pending interrupts: what rings while interrupts are disabled is
//! dropped by the device (a binding may keep it in its event and deliver it
//! late; a driver derives the event from the region, so that is harmless). In
//! one-shot mode each delivery clears the enable bit, so deliveries go through
//! the device and not past it: the mode costs its user-space hop.
//!
//! # Example
//!
//! ```
//! use hv_shmem::layout::{Layout, PeerId, RegionSpec};
//! use hv_shmem::name::Name;
//! use portal_device::{Device, Effects, Input};
//! use portal_ivshmem::{DeniedWrite, IvshmemV2, IvshmemV2Config, Writable};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layout = Layout::compute(&RegionSpec::new(Name::new("lake")?, 1 << 20, 4))?;
//! let mut device = IvshmemV2::new(IvshmemV2Config {
//!     peer: PeerId(1),
//!     layout,
//!     vectors: 2,
//!     protocol: 0x4000,
//!     base: None,
//!     writable: Writable::Own,
//!     one_shot: false,
//!     denied_write: DeniedWrite::Drop,
//! })?;
//! let mut effects = Effects::new();
//! device.step(Input::ConfigRead { offset: 0, len: 4 }, &mut effects);
//! assert_eq!(effects.value(), 0x4106_110a);
//! # Ok(())
//! # }
//! ```

mod registers;
mod saved;

use crate::ConfigError;
use crate::function::Function;
use crate::function::MSIX;
use crate::function::Mode;
use crate::function::REGION;
use crate::function::REGISTERS;
use crate::peers::PeerPhase;
use crate::view::inspect_counters;
use crate::window;
use crate::window::DeniedWrite;
use crate::window::Window;
use crate::window::Writable;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PAGE;
use hv_shmem::layout::PeerId;
use portal_device::BarBacking;
use portal_device::BarInfo;
use portal_device::BarKind;
use portal_device::Counter;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;
use portal_pci::ConfigSpace;
use portal_pci::Identity;
use portal_pci::MAX_VECTORS;
use portal_pci::Msix;
use portal_pci::MsixLayout;

/// Vendor id of the function (Siemens).
pub const VENDOR: u16 = 0x110a;
/// Device id of the function.
pub const DEVICE: u16 = 0x4106;
/// Length of BAR0 in bytes: one page, so that it can be mapped alone.
pub const REGISTERS_LEN: u64 = PAGE;
/// Protocol types that the draft leaves to users.
pub const USER_PROTOCOLS: std::ops::RangeInclusive<u16> = 0x4000..=0x7fff;
/// Guest physical addresses end here: 52 bits, the most that x86-64 has.
const GPA_END: u64 = 1 << 52;

const VENDOR_CAPABILITY: u8 = 0x09;
const MSIX_CAPABILITY: u8 = 0x11;

/// What an ivshmem v2 function is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IvshmemV2Config {
    /// Own peer id.
    pub peer: PeerId,
    /// The region's parts; the state table is what the layout calls host pages.
    pub layout: Layout,
    /// Vectors, 1 to [`MAX_VECTORS`]; the same number for every peer.
    pub vectors: u16,
    /// Protocol type: class code bits 8 to 23.
    pub protocol: u16,
    /// Guest physical address of the region. With it there is no BAR2 and the
    /// guest cannot move the region.
    pub base: Option<u64>,
    /// What the guest may write.
    pub writable: Writable,
    /// One-shot mode always, whatever the guest writes to privileged control.
    pub one_shot: bool,
    /// What a store to a part that is read-only to the guest comes to.
    pub denied_write: DeniedWrite,
}

/// The device.
#[derive(Clone, Debug)]
pub struct IvshmemV2 {
    config: IvshmemV2Config,
    bars: Vec<BarInfo>,
    function: Function,
    /// Offset of the vendor capability in configuration space.
    capability: usize,
    /// Interrupt control, bit 0.
    enabled: bool,
    state: u32,
    /// What a binding was last told to write to the state table.
    published: u32,
    /// A new binding has not been told yet.
    unsaid: bool,
    /// What rang while the guest could not be interrupted.
    rung_dropped: Counter,
    state_changes: Counter,
}

impl IvshmemV2 {
    /// A function after power-on, detached, with no peers but itself.
    pub fn new(config: IvshmemV2Config) -> Result<Self, ConfigError> {
        let windows = Window::of(&config.layout, config.peer, config.writable);
        check(&config, &windows)?;
        let msix = MsixLayout::new(config.vectors);
        let bars = bars(&config, &msix);
        let identity = Identity {
            vendor: VENDOR,
            device: DEVICE,
            revision: 0,
            class: 0xff_0000 | u32::from(config.protocol),
            subsystem_vendor: VENDOR,
            subsystem: DEVICE,
            intx: false,
        };
        let mut space = ConfigSpace::new(&identity, &bars);
        let privileged = [0, (!config.one_shot).into()];
        let capability =
            space.add_capability(VENDOR_CAPABILITY, &vendor_body(&config), &privileged);
        let control = space.add_capability(MSIX_CAPABILITY, &msix.capability(MSIX), &[0, 0xc0]) + 2;
        let mut function = Function::new(space, Some((Msix::new(msix), control)), windows);
        if let Some(base) = config.base {
            function.fix_region(base);
        }
        function.peers.add(config.peer.0, config.vectors);
        Ok(IvshmemV2 {
            config,
            bars,
            function,
            capability,
            enabled: false,
            state: 0,
            published: 0,
            unsaid: true,
            rung_dropped: Counter::default(),
            state_changes: Counter::default(),
        })
    }

    /// What the device was made from.
    pub fn config(&self) -> &IvshmemV2Config {
        &self.config
    }

    fn one_shot(&self) -> bool {
        self.function.config.capability_word(self.capability + 2) & 0x100 != 0
    }

    fn mode(&self) -> Mode {
        match (self.enabled, self.one_shot()) {
            (false, _) => Mode::Shut,
            (true, false) => Mode::Direct,
            (true, true) => Mode::ListenOpen,
        }
    }

    fn sync_vectors(&mut self, vectors: std::ops::Range<u16>, effects: &mut Effects) {
        // Nothing is ever pending, so nothing is raised here.
        self.function.sync_vectors(vectors, self.mode(), effects);
    }

    fn sync(&mut self, effects: &mut Effects) {
        self.function.sync_bars(effects);
        self.sync_vectors(0..self.config.vectors, effects);
        self.sync_state(effects);
    }

    fn rung(&mut self, vector: u16, effects: &mut Effects) {
        self.function.counters.rung.bump();
        match self.function.message(vector) {
            Some(msi) if self.enabled && self.function.attached() => {
                effects.push(Effect::Raise { vector, msi });
                self.function.counters.raised.bump();
                if self.one_shot() {
                    self.enabled = false;
                    self.sync_vectors(0..self.config.vectors, effects);
                }
            }
            _ => {
                self.rung_dropped.bump();
            }
        }
    }

    fn set_state(&mut self, state: u32, effects: &mut Effects) {
        if self.state != state {
            self.state = state;
            self.state_changes.bump();
        }
        self.sync_state(effects);
    }

    /// Brings the table to the state, and tells the others if that was news.
    fn sync_state(&mut self, effects: &mut Effects) {
        let (state, told) = (self.state, self.published);
        if !self.function.attached() || (state == told && !self.unsaid) {
            return;
        }
        // A new binding's table may hold anything, most likely 0.
        let news = state != told || state != 0;
        self.published = state;
        self.unsaid = false;
        effects.push(Effect::PublishState { state });
        if !news {
            return;
        }
        let own = self.config.peer.0;
        let others = self.function.peers.iter();
        for (peer, _) in others.filter(|(id, peer)| *id != own && peer.vectors > 0) {
            effects.push(Effect::Ring { peer, vector: 0 });
        }
    }

    fn reset(&mut self, effects: &mut Effects) {
        self.function.reset();
        self.enabled = false;
        self.set_state(0, effects);
        self.sync(effects);
    }
}

fn check(config: &IvshmemV2Config, windows: &[Window]) -> Result<(), ConfigError> {
    let len = config.layout.size;
    if !len.is_power_of_two() || len < PAGE {
        return Err(ConfigError::RegionNotPowerOfTwo { value: len });
    }
    if !(1..=MAX_VECTORS).contains(&config.vectors) {
        return Err(ConfigError::Vectors {
            value: config.vectors,
            limit: MAX_VECTORS,
        });
    }
    if !config.layout.has(config.peer) || config.layout.max_peers < 2 {
        return Err(ConfigError::Peer {
            value: config.peer.0,
            max_peers: config.layout.max_peers,
        });
    }
    if let Some(base) = config.base {
        let end = base.checked_add(len);
        if base == 0 || !base.is_multiple_of(PAGE) || end.is_none_or(|end| end > GPA_END) {
            return Err(ConfigError::Base {
                value: base,
                limit: GPA_END - len,
            });
        }
    }
    window::check(windows, len)
}

fn bars(config: &IvshmemV2Config, msix: &MsixLayout) -> Vec<BarInfo> {
    let registers = |bar, len| BarInfo {
        bar,
        len,
        kind: BarKind::Memory32,
        backing: BarBacking::Registers,
    };
    let mut bars = vec![
        registers(REGISTERS, REGISTERS_LEN),
        registers(MSIX, msix.bar_len),
    ];
    if config.base.is_none() {
        bars.push(BarInfo {
            bar: REGION,
            len: config.layout.size,
            kind: BarKind::Memory64Prefetchable,
            backing: BarBacking::Region,
        });
    }
    bars
}

/// The vendor capability behind id and next.
fn vendor_body(config: &IvshmemV2Config) -> Vec<u8> {
    let layout = &config.layout;
    let common = layout.common.end - layout.common.start;
    let len = if config.base.is_some() { 0x20 } else { 0x18 };
    let mut body = vec![len, config.one_shot.into()];
    // At most 2 MiB: state table, header and 1024 entries, in whole pages.
    body.extend_from_slice(&(layout.host.end as u32).to_le_bytes());
    body.extend_from_slice(&common.to_le_bytes());
    body.extend_from_slice(&layout.section_size.to_le_bytes());
    if let Some(base) = config.base {
        body.extend_from_slice(&base.to_le_bytes());
    }
    body
}

impl Device for IvshmemV2 {
    fn step(&mut self, input: Input, effects: &mut Effects) {
        match input {
            Input::ConfigRead { offset, len } => {
                self.function.config_read(offset, len, false, effects);
            }
            Input::ConfigWrite { offset, len, value } => {
                if self.function.config_write(offset, len, value) {
                    self.sync(effects);
                }
            }
            Input::BarRead { bar, offset, len } => self.bar_read(bar, offset, len, effects),
            Input::BarWrite {
                bar,
                offset,
                len,
                value,
            } => {
                self.bar_write(bar, offset, len, value, effects);
            }
            Input::Rung { vector } => self.rung(vector, effects),
            Input::PeerJoined { peer, vectors } => {
                let known = self.config.layout.has(PeerId(peer)) && peer != self.config.peer.0;
                self.function.peer_joined(peer, vectors, known, effects);
            }
            Input::PeerReady { peer } => self.function.peer_phase(peer, PeerPhase::Ready),
            Input::PeerQuiescing { peer } => self.function.peer_phase(peer, PeerPhase::Quiescing),
            Input::PeerBells { peer } => self.function.peer_bells(peer, effects),
            Input::PeerGone { peer } => {
                let own = self.config.peer.0;
                if self.function.peer_gone(own, peer, effects) {
                    self.function.ring(own, 0, effects);
                }
            }
            Input::Attach => {
                self.function.set_attached(true);
                self.sync(effects);
            }
            Input::Detach => {
                self.function.set_attached(false);
                self.unsaid = true;
                self.sync(effects);
            }
            Input::Reset => self.reset(effects),
            // This device has no queues.
            _ => {
                self.function.counters.access_refused.bump();
            }
        }
    }

    fn bars(&self) -> &[BarInfo] {
        &self.bars
    }

    fn save(&self) -> Saved {
        Saved::State(saved::save(self))
    }

    fn restore(&mut self, saved: &SavedState, effects: &mut Effects) -> Result<(), RestoreError> {
        let state = saved::restore(self, saved)?;
        self.set_state(state, effects);
        self.sync(effects);
        Ok(())
    }

    fn inspect(&self) -> Node {
        let (config, function) = (&self.config, &self.function);
        Node::new()
            .with("device", "ivshmem-v2")
            .with("peer", config.peer.0)
            .with("max_peers", config.layout.max_peers)
            .with("protocol", Hex(config.protocol.into()))
            .with("state", Hex(self.state.into()))
            .with(
                "region",
                Node::new()
                    .with("len", Hex(config.layout.size))
                    .with("base", config.base.map(Hex))
                    .with("windows", function.inspect_windows()),
            )
            .with("bars", function.inspect_bars(&self.bars))
            .with(
                "interrupts",
                Node::new()
                    .with("enabled", self.enabled)
                    .with("one_shot", self.one_shot())
                    .with("msix_control", Hex(function.msix_control().into())),
            )
            .with("vectors", function.inspect_vectors())
            .with("peers", function.peers.inspect())
            .with("counters", inspect_counters(self))
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.function.counters.visit(visit);
        visit("rung_dropped", self.rung_dropped.get());
        visit("state_changes", self.state_changes.get());
    }
}
