//! virtio over PCI, modern: any virtio device as a PCI function, as a state
//! machine that knows no VMM.
//!
//! Specification: virtio 1.2, 4.1 (PCI transport), 2.1 (status), 2.2 (features);
//! PCI Local Bus 3.0 for everything around.
//!
//! Distrusted: the guest, and the writer of a saved state. Trusted: the binding,
//! which walks the rings, and the device inside. Left out: the legacy interface,
//! INTx, notification by doorbell, resetting one queue alone; a queue goes on
//! while bus mastering is off (interrupts do not).
//!
//! # BARs
//!
//! | BAR | what |
//! |---|---|
//! | 0 | 32-bit memory, 16 KiB: registers |
//! | 1 | 32-bit memory: MSI-X table and pending bits |
//! | 2 | 64-bit prefetchable memory: shared-memory region 0 at its beginning; absent without one |
//!
//! # Registers (BAR0)
//!
//! | offset | what |
//! |---|---|
//! | 0000h | common configuration: features, status, queues |
//! | 1000h | ISR: bit 0 queue, bit 1 configuration; a read clears it. With MSI-X it stays 0 |
//! | 2000h | the device's own configuration |
//! | 3000h | notification: 4 bytes a queue; what is written there is the queue's index |
//!
//! Configuration space has a capability for each, one for the shared memory, and
//! the window through which BAR0 is reached without decoding.
//!
//! # Life of a queue
//!
//! ```text
//!              queue_enable = 1 (FEATURES_OK, addresses sound)
//!   set up ───────────────────────────────────────────▶ enabled
//!     ▲                                                   │ DRIVER_OK, attached
//!     │ status = 0, Reset / QueueStop                     ▼ / QueueStart
//!     ├────────────────────────────────────────────── running ─┐ notify / QueueKick
//!     │ status = 0, Reset                                 │ ▲──┘
//!   broken ◀──────────────────────────────────────────────┘
//!              QueueBroken / QueueStop, status NEEDS_RESET, configuration interrupt
//! ```
//!
//! From enabled on, size and addresses do not change; from FEATURES_OK on, the
//! features do not. `QueueUsed` raises the queue's vector.
//!
//! # Example
//!
//! ```
//! use portal_device::{Access, Device, Effects, Input};
//! use portal_pmem::{VirtioPmem, VirtioPmemConfig};
//! use portal_virtio_pci::{About, VirtioPci};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let size = 64 << 20;
//! let pmem = VirtioPmem::new(VirtioPmemConfig { size, access: Access::ReadWrite })?;
//! let about = About {
//!     id: portal_pmem::DEVICE_ID,
//!     class: 0x05_80_00,
//!     features: pmem.features(),
//!     queues: vec![portal_pmem::MOST_REQUESTS],
//!     config_len: 16,
//!     memory: size,
//! };
//! let mut function = VirtioPci::new(pmem, about)?;
//! let mut effects = Effects::new();
//! function.step(Input::ConfigRead { offset: 0, len: 4 }, &mut effects);
//! assert_eq!(effects.value(), 0x105b_1af4);
//! # Ok(())
//! # }
//! ```

mod about;
mod capabilities;
mod common;
pub mod guard;
mod saved;

pub use about::About;
pub use about::ConfigError;

use capabilities::Window;
use common::Common;
use common::NO_VECTOR;
use common::Written;
use portal_device::BarInfo;
use portal_device::Counter;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::Msi;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;
use portal_pci::ConfigSpace;
use portal_pci::Identity;
use portal_pci::Msix;
use portal_pci::MsixLayout;
use portal_pci::Refused;
use portal_pci::TableWrite;

/// Vendor id of every virtio device.
pub const VENDOR: u16 = 0x1af4;
/// PCI device id of virtio device 0; the others follow.
pub const FIRST_DEVICE: u16 = 0x1040;
/// Subsystem id, as QEMU has it.
pub const SUBSYSTEM: u16 = 0x1100;
/// Largest virtio device id that there is a PCI device id for.
pub const MOST_ID: u16 = 0x3f;
/// Most queues; there is one vector more.
pub const MOST_QUEUES: usize = 64;
/// Largest queue of a split ring.
pub const MOST_ENTRIES: u16 = 1 << 15;
/// Most bytes of a device's own configuration: a page.
pub const MOST_CONFIG: u64 = 4096;

const REGISTERS: u8 = 0;
const MSIX: u8 = 1;
const MEMORY: u8 = 2;
const MSIX_CAPABILITY: u8 = 0x11;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    config_refused: Counter,
    access_refused: Counter,
    undecoded: Counter,
    registers_refused: Counter,
    notifications: Counter,
    notifications_ignored: Counter,
    interrupts: Counter,
    raised: Counter,
    broken: Counter,
    resets: Counter,
}

/// What the binding has been told and has in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    registers: Option<u64>,
    msix: Option<u64>,
    memory: Option<u64>,
    queues: Vec<bool>,
}

/// A virtio device `D` as a PCI function.
#[derive(Clone, Debug)]
pub struct VirtioPci<D> {
    about: About,
    device: D,
    bars: Vec<BarInfo>,
    config: ConfigSpace,
    window: Window,
    msix: Msix,
    /// Offset of the message control word.
    msix_at: usize,
    common: Common,
    isr: u8,
    attached: bool,
    standing: Standing,
    /// What the device inside asks for, before its BARs are this function's.
    inner: Effects,
    counters: Counters,
}

impl<D: Device> VirtioPci<D> {
    /// A function after power-on, detached.
    ///
    /// # Errors
    /// [`ConfigError`] names what is wrong.
    pub fn new(device: D, about: About) -> Result<Self, ConfigError> {
        about::check(&about)?;
        let layout = MsixLayout::new(about.queues.len() as u16 + 1);
        let bars = about::bars(&about, &layout);
        let identity = Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + about.id,
            revision: 1,
            class: about.class,
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
            intx: false,
        };
        let mut config = ConfigSpace::new(&identity, &bars);
        let queues = about.queues.len() as u16;
        let window = capabilities::add(&mut config, queues, about.config_len, about.memory);
        let msix_at = config.add_capability(MSIX_CAPABILITY, &layout.capability(MSIX), &[0, 0xc0]);
        let standing = Standing {
            queues: vec![false; about.queues.len()],
            ..Standing::default()
        };
        Ok(VirtioPci {
            common: Common::new(about.features, &about.queues, layout.vectors),
            about,
            device,
            bars,
            config,
            window,
            msix: Msix::new(layout),
            msix_at: msix_at + 2,
            isr: 0,
            attached: false,
            standing,
            inner: Effects::new(),
            counters: Counters::default(),
        })
    }

    /// The device inside.
    pub fn device(&self) -> &D {
        &self.device
    }

    fn msix_control(&self) -> u16 {
        self.config.capability_word(self.msix_at)
    }

    /// The message of a vector that may be sent now.
    fn message(&self, vector: u16) -> Option<Msi> {
        let control = self.msix_control();
        let open = control & MSIX_ENABLE != 0 && control & MSIX_MASK_ALL == 0;
        if !open || !self.config.bus_master() || !self.attached {
            return None;
        }
        self.msix.message(vector)
    }

    /// Tells the driver of something: by its vector, or by the ISR while MSI-X is
    /// off.
    fn interrupt(&mut self, vector: u16, isr: u8, effects: &mut Effects) {
        self.counters.interrupts.bump();
        if self.msix_control() & MSIX_ENABLE == 0 {
            self.isr |= isr;
        } else if let Some(msi) = self.message(vector) {
            self.counters.raised.bump();
            effects.push(Effect::Raise { vector, msi });
        } else if vector != NO_VECTOR {
            self.msix.set_pending(vector, true);
        }
    }

    /// Raises what waited for its vector to open.
    fn raise_pending(&mut self, effects: &mut Effects) {
        for vector in 0..self.msix.layout().vectors {
            if self.msix.pending(vector)
                && let Some(msi) = self.message(vector)
            {
                self.msix.set_pending(vector, false);
                self.counters.raised.bump();
                effects.push(Effect::Raise { vector, msi });
            }
        }
    }

    /// Gives the device inside an input; its memory becomes this function's BAR.
    fn tell(&mut self, input: Input, effects: &mut Effects) {
        self.inner.clear();
        self.device.step(input, &mut self.inner);
        effects.answer(self.inner.value());
        for mut effect in self.inner.drain() {
            match &mut effect {
                Effect::Map { bar, .. } | Effect::Unmap { bar, .. } => *bar = MEMORY,
                _ => {}
            }
            effects.push(effect);
        }
    }

    /// Brings traps, memory and queues to what the registers say.
    fn sync(&mut self, resume: bool, effects: &mut Effects) {
        let at = |bar| self.config.decoded(bar).filter(|_| self.attached);
        let wanted = (at(REGISTERS), at(MSIX), at(MEMORY));
        let moved = [
            (REGISTERS, self.standing.registers, wanted.0),
            (MSIX, self.standing.msix, wanted.1),
        ];
        let len = |bar| self.config.bar(bar).map_or(0, |info| info.len);
        for (bar, old, new) in moved {
            if let (Some(gpa), true) = (old, old != new) {
                let len = len(bar);
                effects.push(Effect::Untrap { bar, gpa, len });
            }
        }
        for (bar, old, new) in moved {
            if let (Some(gpa), true) = (new, old != new) {
                let len = len(bar);
                effects.push(Effect::Trap { bar, gpa, len });
            }
        }
        (self.standing.registers, self.standing.msix) = (wanted.0, wanted.1);
        if self.standing.memory != wanted.2 {
            self.standing.memory = wanted.2;
            // The device shows the address in its configuration.
            self.common.generation = self.common.generation.wrapping_add(1);
            let answer = effects.value();
            self.tell(Input::MemoryAt { gpa: wanted.2 }, effects);
            effects.answer(answer);
        }
        self.sync_queues(resume, effects);
        self.raise_pending(effects);
    }

    fn sync_queues(&mut self, resume: bool, effects: &mut Effects) {
        let driven = self.common.is_driven() && self.attached;
        let queues = self.common.queues.iter();
        for ((index, queue), runs) in (0u16..).zip(queues).zip(&mut self.standing.queues) {
            let wanted = driven && queue.enabled;
            if *runs == wanted {
                continue;
            }
            *runs = wanted;
            if !wanted {
                effects.push(Effect::QueueStop { queue: index });
                continue;
            }
            effects.push(Effect::QueueStart {
                queue: index,
                size: queue.size,
                descriptors: queue.descriptors,
                driver: queue.driver,
                device: queue.device,
                resume,
            });
            if resume {
                effects.push(Effect::QueueKick { queue: index });
            }
        }
    }

    /// The driver resets the device (2.4): registers of the function stay.
    fn reset_device(&mut self, effects: &mut Effects) {
        self.counters.resets.bump();
        self.common.reset();
        self.isr = 0;
        for vector in 0..self.msix.layout().vectors {
            self.msix.set_pending(vector, false);
        }
        self.sync_queues(false, effects);
        self.tell(Input::Reset, effects);
    }

    fn reset_function(&mut self, effects: &mut Effects) {
        self.reset_device(effects);
        self.config.reset();
        self.msix.reset();
        self.sync(false, effects);
    }

    /// The guest has made a ring that cannot be walked.
    fn broken(&mut self, queue: u16, effects: &mut Effects) {
        if !self.runs(queue) {
            return;
        }
        if self.counters.broken.bump() {
            tracing::warn!(queue, "virtio: the guest has broken its queue");
        }
        self.common.status |= common::NEEDS_RESET;
        self.sync_queues(false, effects);
        self.interrupt(self.common.config_vector, ISR_CONFIG, effects);
    }

    fn runs(&self, queue: u16) -> bool {
        let runs = self.standing.queues.get(usize::from(queue));
        runs.copied().unwrap_or(false)
    }

    fn used(&mut self, queue: u16, effects: &mut Effects) {
        if self.runs(queue)
            && let Some(vector) = self.common.queue(queue).map(|queue| queue.vector)
        {
            self.interrupt(vector, ISR_QUEUE, effects);
        }
    }

    fn config_read(&mut self, offset: u16, len: u8, effects: &mut Effects) {
        if self.window.holds(offset)
            && let Some((at, width)) = self.window.target(&self.config)
        {
            self.register_read(at, width, effects);
            let shift = u32::from(offset & 3) * 8;
            effects.answer(effects.value() >> shift);
            return;
        }
        match self.config.read(offset, len, false) {
            Ok(value) => effects.answer(value.into()),
            Err(Refused) => {
                self.counters.config_refused.bump();
                effects.answer(Refused::answer(len));
            }
        }
    }

    fn config_write(&mut self, offset: u16, len: u8, value: u32, effects: &mut Effects) {
        match self.config.write(offset, len, value) {
            Ok(true) => self.sync(false, effects),
            Ok(false) => {}
            Err(Refused) => {
                self.counters.config_refused.bump();
                return;
            }
        }
        if self.window.holds(offset)
            && let Some((at, width)) = self.window.target(&self.config)
        {
            self.register_write(at, width, value.into(), effects);
        }
    }

    /// Whether the guest can have reached this place.
    fn reachable(&mut self, bar: u8, offset: u64, len: u8) -> bool {
        let end = offset.checked_add(len.into());
        let inside = self
            .config
            .bar(bar)
            .is_some_and(|info| end.is_some_and(|end| end <= info.len));
        if !inside || !portal_pci::natural(offset, len) {
            self.counters.access_refused.bump();
            return false;
        }
        if self.config.decoded(bar).is_none() {
            self.counters.undecoded.bump();
            return false;
        }
        true
    }

    fn register_read(&mut self, offset: u64, len: u8, effects: &mut Effects) {
        let page = offset & !0xfff;
        let at = offset & 0xfff;
        effects.answer(0);
        match page {
            capabilities::COMMON_AT if at < common::LEN => {
                effects.answer(self.common.read(at, len));
            }
            capabilities::ISR_AT if at == 0 => effects.answer(std::mem::take(&mut self.isr).into()),
            capabilities::DEVICE_AT if at < self.about.config_len => {
                let offset = at as u16;
                self.tell(Input::ConfigRead { offset, len }, effects);
            }
            _ => {}
        }
    }

    fn register_write(&mut self, offset: u64, len: u8, value: u64, effects: &mut Effects) {
        let page = offset & !0xfff;
        let at = offset & 0xfff;
        match page {
            capabilities::COMMON_AT if at < common::LEN => {
                match self.common.write(at, len, value) {
                    Written::Done => self.sync_queues(false, effects),
                    Written::Refused => {
                        self.counters.registers_refused.bump();
                    }
                    Written::Reset => self.reset_device(effects),
                }
            }
            capabilities::DEVICE_AT if at < self.about.config_len && len <= 4 => {
                let (offset, value) = (at as u16, value as u32);
                self.tell(Input::ConfigWrite { offset, len, value }, effects);
            }
            capabilities::NOTIFY_AT => self.notify(len, value, effects),
            _ => {
                self.counters.registers_refused.bump();
            }
        }
    }

    fn notify(&mut self, len: u8, value: u64, effects: &mut Effects) {
        let queue = (value & 0xffff) as u16;
        if matches!(len, 2 | 4) && self.runs(queue) {
            self.counters.notifications.bump();
            effects.push(Effect::QueueKick { queue });
        } else {
            self.counters.notifications_ignored.bump();
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, len: u8, effects: &mut Effects) {
        effects.answer(Refused::answer(len));
        if !self.reachable(bar, offset, len) {
            return;
        }
        match bar {
            REGISTERS => self.register_read(offset, len, effects),
            MSIX => effects.answer(self.msix.read(offset, len)),
            // Memory is mapped; behind its end there is nothing.
            _ => {
                self.counters.access_refused.bump();
            }
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, len: u8, value: u64, effects: &mut Effects) {
        if !self.reachable(bar, offset, len) {
            return;
        }
        match bar {
            REGISTERS => self.register_write(offset, len, value, effects),
            MSIX => match self.msix.write(offset, len, value) {
                TableWrite::Entry(_) => self.raise_pending(effects),
                TableWrite::Nothing => {}
                TableWrite::Refused => {
                    self.counters.access_refused.bump();
                }
            },
            _ => {
                let bar = 0;
                let input = Input::BarWrite {
                    bar,
                    offset,
                    len,
                    value,
                };
                self.tell(input, effects);
            }
        }
    }
}

impl<D: Device> Device for VirtioPci<D> {
    fn step(&mut self, input: Input, effects: &mut Effects) {
        match input {
            Input::ConfigRead { offset, len } => self.config_read(offset, len, effects),
            Input::ConfigWrite { offset, len, value } => {
                self.config_write(offset, len, value, effects);
            }
            Input::BarRead { bar, offset, len } => self.bar_read(bar, offset, len, effects),
            Input::BarWrite {
                bar,
                offset,
                len,
                value,
            } => self.bar_write(bar, offset, len, value, effects),
            Input::QueueUsed { queue } => self.used(queue, effects),
            Input::QueueBroken { queue } => self.broken(queue, effects),
            Input::Attach => {
                self.attached = true;
                self.tell(input, effects);
                self.sync(true, effects);
            }
            Input::Detach => {
                self.attached = false;
                self.sync(false, effects);
                self.tell(input, effects);
            }
            Input::Reset => self.reset_function(effects),
            // A virtio device knows no peers.
            Input::PeerJoined { .. }
            | Input::PeerReady { .. }
            | Input::PeerQuiescing { .. }
            | Input::PeerBells { .. }
            | Input::PeerGone { .. }
            | Input::Rung { .. } => {}
            // Requests and what they come to are the device's.
            _ => self.tell(input, effects),
        }
    }

    fn bars(&self) -> &[BarInfo] {
        &self.bars
    }

    fn save(&self) -> Saved {
        saved::save(self)
    }

    fn restore(&mut self, saved: &SavedState, effects: &mut Effects) -> Result<(), RestoreError> {
        saved::restore(self, saved, effects)
    }

    fn inspect(&self) -> Node {
        let common = &self.common;
        let mut queues = Node::new();
        for ((index, queue), runs) in (0u16..).zip(&common.queues).zip(&self.standing.queues) {
            queues.push(
                index.to_string(),
                Node::new()
                    .with("size", queue.size)
                    .with("enabled", queue.enabled)
                    .with("running", *runs)
                    .with("vector", Hex(queue.vector.into()))
                    .with("descriptors", Hex(queue.descriptors)),
            );
        }
        let mut counters = Node::new();
        self.own_counters(&mut |name, count| counters.push(name, count));
        Node::new()
            .with("transport", "virtio-pci")
            .with("status", Hex(common.status.into()))
            .with("features", Hex(common.taken))
            .with("msix_control", Hex(self.msix_control().into()))
            .with("queues", queues)
            .with("counters", counters)
            .with("virtio", self.device.inspect())
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.own_counters(visit);
        self.device.counters(visit);
    }
}

impl<D> VirtioPci<D> {
    fn own_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let c = &self.counters;
        for (name, counter) in [
            ("pci_config_refused", c.config_refused),
            ("access_refused", c.access_refused),
            ("undecoded", c.undecoded),
            ("registers_refused", c.registers_refused),
            ("notifications", c.notifications),
            ("notifications_ignored", c.notifications_ignored),
            ("interrupts", c.interrupts),
            ("raised", c.raised),
            ("queues_broken", c.broken),
            ("device_resets", c.resets),
        ] {
            visit(name, counter.get());
        }
    }
}
