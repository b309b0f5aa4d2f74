//! ivshmem v1, register- and BAR-compatible with QEMU's revision 1.
//!
//! Specification: QEMU's ivshmem device specification (ids, registers, doorbell
//! format); PCI Local Bus 3.0 for everything around. Differences that are
//! options: INTx beside MSI-X ([`IvshmemV1Config::intx`]), which the revision 1
//! of QEMU does not have, and a region that is read-only to this guest.
//!
//! Distrusted: the guest. Left out: the contents of the region.
//!
//! # BARs
//!
//! | BAR | what |
//! |---|---|
//! | 0 | 32-bit memory, 256 bytes: registers |
//! | 1 | 32-bit memory: MSI-X table at 0, pending bits at max(2048, 16 n); absent when plain |
//! | 2 | 64-bit prefetchable memory: the region |
//!
//! # Registers (BAR0, 32 bits each, little-endian)
//!
//! | offset | name | access |
//! |---|---|---|
//! | 00h | interrupt mask | read/write; bit 0 lets the INTx condition through |
//! | 04h | interrupt status | a read clears it; bit 0: a doorbell came while INTx was in use; writable, as QEMU's is |
//! | 08h | IVPosition | read-only: the own peer id, 0 when plain |
//! | 0Ch | doorbell | write-only: peer << 16 or'ed with the vector; reads 0 |
//! | 10h- | reserved | reads 0, ignores writes |
//!
//! # Accesses of other widths
//!
//! * Reads of 1 and 2 bytes give those bytes of the register; any part of a read
//!   of status clears all of it. A read of 8 bytes is two of 4, low one first.
//! * Writes of 1 and 2 bytes to mask and status change those bytes, as byte
//!   enables do. To the doorbell they do nothing: a doorbell is one 32-bit
//!   store. A write of 8 bytes is two of 4, low one first.
//! * An access that is not a multiple of its own width, or wider than 8 bytes,
//!   reads all ones and writes nothing. So does any access to a BAR that is not
//!   decoded.
//!
//! # Interrupts
//!
//! A vector is connected while MSI-X is enabled, neither the function nor the
//! vector is masked, and the function is bus master: a message is a memory write
//! of the function, so a guest that enables MSI-X sets command bit 2 too.
//! With [`IvshmemV1Config::intx`] and MSI-X disabled, a doorbell on any vector
//! sets status bit 0, and INTA# is asserted while status and mask have a bit in
//! common and command bit 10 is clear.
//!
//! # Example
//!
//! ```
//! use portal_device::{Access, Device, Effect, Effects, Input};
//! use portal_ivshmem::{DeniedWrite, IvshmemV1, IvshmemV1Config, Window};
//!
//! # fn main() -> Result<(), portal_ivshmem::ConfigError> {
//! let mut device = IvshmemV1::new(IvshmemV1Config {
//!     peer: 1,
//!     region_len: 64 << 20,
//!     windows: Window::flat(64 << 20, Access::ReadWrite),
//!     denied_write: DeniedWrite::Drop,
//!     vectors: 2,
//!     intx: false,
//! })?;
//! let mut effects = Effects::new();
//! device.step(Input::Attach, &mut effects);
//! // Firmware: BAR2 at 64 GiB, then memory decoding on.
//! device.step(Input::ConfigWrite { offset: 0x1c, len: 4, value: 0x10 }, &mut effects);
//! device.step(Input::ConfigWrite { offset: 0x04, len: 2, value: 0x2 }, &mut effects);
//! let map = Effect::Map {
//!     bar: 2,
//!     gpa: 0x10_0000_0000,
//!     offset: 0,
//!     len: 64 << 20,
//!     access: Access::ReadWrite,
//! };
//! assert_eq!(effects.list(), [map]);
//! # Ok(())
//! # }
//! ```

pub mod actions;
mod inspect;
mod registers;
mod saved;

use crate::ConfigError;
use crate::function::Function;
use crate::function::MSIX;
use crate::function::Mode;
use crate::function::REGION;
use crate::function::REGISTERS;
use crate::peers::PeerPhase;
use crate::window;
use crate::window::DeniedWrite;
use crate::window::Window;
use portal_device::BarBacking;
use portal_device::BarInfo;
use portal_device::BarKind;
use portal_device::Counter;
use portal_device::Device;
use portal_device::Effects;
use portal_device::Input;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_device::inspect::Node;
use portal_pci::ConfigSpace;
use portal_pci::Identity;
use portal_pci::MAX_VECTORS;
use portal_pci::Msix;
use portal_pci::MsixLayout;
use registers::Registers;

/// Vendor id of the function (Red Hat, Qumranet).
pub const VENDOR: u16 = 0x1af4;
/// Device id of the function.
pub const DEVICE: u16 = 0x1110;
/// Subsystem id that QEMU's has by default; its vendor is [`VENDOR`].
pub const SUBSYSTEM: u16 = 0x1100;
/// Length of BAR0 in bytes. The Windows driver refuses any other.
pub const REGISTERS_LEN: u64 = 256;
/// Smallest region: one page.
pub const LEAST_REGION: u64 = 4096;
/// Largest region, so that the BAR fits beside RAM on every host.
pub const MOST_REGION: u64 = hv_shmem::layout::MAX_REGION;

/// MSI-X capability id.
const MSIX_CAPABILITY: u8 = 0x11;

/// What an ivshmem v1 function is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IvshmemV1Config {
    /// Own peer id: what IVPosition reads. 0 is shown when plain.
    pub peer: u16,
    /// Length of the region in bytes: a power of two, [`LEAST_REGION`] to
    /// [`MOST_REGION`].
    pub region_len: u64,
    /// What the guest may do where: [`Window::flat`] or [`Window::of`].
    pub windows: Vec<Window>,
    /// What a write to a read-only window comes to.
    pub denied_write: DeniedWrite,
    /// Vectors to receive on, up to [`MAX_VECTORS`]; 0 makes the plain variant:
    /// no MSI-X, no BAR1, no doorbells.
    pub vectors: u16,
    /// INTx beside MSI-X.
    pub intx: bool,
}

/// The device.
#[derive(Clone, Debug)]
pub struct IvshmemV1 {
    config: IvshmemV1Config,
    bars: Vec<BarInfo>,
    function: Function,
    registers: Registers,
    /// Rung vectors that the function does not have.
    rung_unknown: Counter,
}

impl IvshmemV1 {
    /// A function after power-on, detached, with no peers but itself.
    pub fn new(config: IvshmemV1Config) -> Result<Self, ConfigError> {
        check(&config)?;
        let layout = MsixLayout::new(config.vectors);
        let doorbells = config.vectors > 0;
        let mut bars = vec![BarInfo {
            bar: REGISTERS,
            len: REGISTERS_LEN,
            kind: BarKind::Memory32,
            backing: BarBacking::Registers,
        }];
        if doorbells {
            bars.push(BarInfo {
                bar: MSIX,
                len: layout.bar_len,
                kind: BarKind::Memory32,
                backing: BarBacking::Registers,
            });
        }
        bars.push(BarInfo {
            bar: REGION,
            len: config.region_len,
            kind: BarKind::Memory64Prefetchable,
            backing: BarBacking::Region,
        });
        let identity = Identity {
            vendor: VENDOR,
            device: DEVICE,
            revision: 1,
            class: 0x05_00_00,
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
            intx: config.intx,
        };
        let mut space = ConfigSpace::new(&identity, &bars);
        let msix = doorbells.then(|| {
            let at = space.add_capability(MSIX_CAPABILITY, &layout.capability(MSIX), &[0, 0xc0]);
            (Msix::new(layout), at + 2)
        });
        let mut function = Function::new(space, msix, config.windows.clone());
        if doorbells {
            function.peers.add(config.peer, config.vectors);
        }
        Ok(IvshmemV1 {
            config,
            bars,
            function,
            registers: Registers::default(),
            rung_unknown: Counter::default(),
        })
    }

    /// What the device was made from.
    pub fn config(&self) -> &IvshmemV1Config {
        &self.config
    }

    /// INTx is how doorbells reach the guest now.
    fn listening(&self) -> bool {
        self.config.intx && !self.function.msix_enabled()
    }

    /// The INTx condition, before the disable bit of the command register.
    fn intx_condition(&self) -> bool {
        self.listening() && self.registers.condition()
    }

    fn sync_line(&mut self, effects: &mut Effects) {
        let asserted = self.intx_condition() && !self.function.config.intx_disabled();
        self.function.sync_line(asserted, effects);
    }

    fn sync_vectors(&mut self, vectors: std::ops::Range<u16>, effects: &mut Effects) {
        let mode = if self.listening() {
            Mode::Listen
        } else {
            Mode::Direct
        };
        let raised = self.function.sync_vectors(vectors, mode, effects);
        for _ in 0..raised {
            self.function.counters.raised.bump();
        }
    }

    fn sync(&mut self, effects: &mut Effects) {
        self.function.sync_bars(effects);
        self.sync_vectors(0..self.config.vectors, effects);
        self.sync_line(effects);
    }

    fn rung(&mut self, vector: u16, effects: &mut Effects) {
        if vector >= self.config.vectors {
            self.rung_unknown.bump();
            return;
        }
        self.function.counters.rung.bump();
        if self.listening() {
            self.registers.ring();
            self.sync_line(effects);
        } else if self.function.deliver(vector, effects) {
            self.function.counters.raised.bump();
        }
    }
}

fn check(config: &IvshmemV1Config) -> Result<(), ConfigError> {
    if config.region_len < LEAST_REGION || config.region_len > MOST_REGION {
        return Err(ConfigError::RegionLen {
            value: config.region_len,
            least: LEAST_REGION,
            most: MOST_REGION,
        });
    }
    if !config.region_len.is_power_of_two() {
        return Err(ConfigError::RegionNotPowerOfTwo {
            value: config.region_len,
        });
    }
    if config.vectors > MAX_VECTORS {
        return Err(ConfigError::Vectors {
            value: config.vectors,
            limit: MAX_VECTORS,
        });
    }
    window::check(&config.windows, config.region_len)?;
    if config.intx && config.vectors == 0 {
        return Err(ConfigError::IntxWithoutVectors);
    }
    Ok(())
}

impl Device for IvshmemV1 {
    fn step(&mut self, input: Input, effects: &mut Effects) {
        match input {
            Input::ConfigRead { offset, len } => {
                let intx = self.intx_condition();
                self.function.config_read(offset, len, intx, effects);
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
                let known = self.config.vectors > 0 && peer != self.config.peer;
                self.function.peer_joined(peer, vectors, known, effects);
            }
            Input::PeerReady { peer } => self.function.peer_phase(peer, PeerPhase::Ready),
            Input::PeerQuiescing { peer } => self.function.peer_phase(peer, PeerPhase::Quiescing),
            Input::PeerBells { peer } => self.function.peer_bells(peer, effects),
            Input::PeerGone { peer } => {
                self.function.peer_gone(self.config.peer, peer, effects);
            }
            Input::Attach => {
                self.function.set_attached(true);
                self.sync(effects);
            }
            Input::Detach => {
                self.function.set_attached(false);
                self.sync(effects);
            }
            Input::Reset => {
                self.function.reset();
                self.registers.reset();
                self.sync(effects);
            }
            // This device has no queues.
            _ => {
                self.function.counters.access_refused.bump();
            }
        }
    }

    fn bars(&self) -> &[BarInfo] {
        &self.bars
    }

    fn shows_pending(&self, bar: u8, offset: u64) -> bool {
        let msix = self.function.msix.as_ref();
        bar == MSIX && msix.is_some_and(|(msix, _)| msix.shows_pending(offset))
    }

    fn save(&self) -> Saved {
        Saved::State(saved::save(self))
    }

    fn restore(&mut self, saved: &SavedState, effects: &mut Effects) -> Result<(), RestoreError> {
        saved::restore(self, saved)?;
        self.sync(effects);
        Ok(())
    }

    fn inspect(&self) -> Node {
        inspect::inspect(self)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.function.counters.visit(visit);
        visit("rung_unknown", self.rung_unknown.get());
    }
}
