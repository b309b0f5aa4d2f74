//! What a guest's accesses meet when they are not memory: ports, configuration
//! space, device registers, and memory that is read-only or gone.
//!
//! Everything a guest sends here is untrusted. A port that nothing answers reads as
//! ones and is counted, as on hardware. So does an address under an operating
//! system made for PCs, which looks for devices that are not there; under a flat
//! image it stops the partition, for there it is a mistake. Runs on the vCPU's thread; locks are held only while
//! an access is answered, never across a guest entry. Lock order: a device, then
//! the address map.

use crate::DeniedWrites;
use crate::FaultKind;
use crate::Sandbox;
use crate::VmmError;
use crate::address_map::AddressMap;
use crate::address_map::Found;
use crate::address_map::Place;
use crate::binding::Binding;
use crate::boot::GuestRam;
use crate::console::Uart;
use crate::guard::Guard;
use crate::guard::stands;
use crate::hv::ExitHandler;
use crate::hv::HvPartition;
use crate::hv::StopCause;
use crate::linux::iommu;
use crate::linux::iommu::Iommu;
use crate::linux::power;
use crate::listener::Owner;
use crate::memory::HostRange;
use crate::pci;
use crate::pci::ConfigPorts;
use crate::pci::Function;
use crate::pci::PortAccess;
use crate::region::RegionAttachment;
use crate::stats::Counters;
use crate::stats::count;
use crate::virtqueue::QueueMemory;
use portal_boot_abi as abi;
use portal_device::Access;
use portal_device::Input;
use portal_device::access;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockWriteGuard;
use std::time::Duration;

/// What a binding carries effects out on.
pub(crate) struct Resources {
    pub(crate) hv: Arc<dyn HvPartition>,
    map: RwLock<AddressMap>,
    pub(crate) paths: Paths,
    /// Guest RAM, for the rings of virtio devices.
    pub(crate) queue_memory: QueueMemory,
    /// The partition, once it is built.
    pub(crate) owner: Owner,
    /// Devices that assert each INTx input of the interrupt controller.
    lines: Mutex<[u32; INTX_INPUTS]>,
}

/// Which ways there are on this host, and may be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paths {
    /// Doorbells go to their event without an exit (ioeventfd).
    pub(crate) doorbells: bool,
    /// Events become interrupts without a thread (irqfd).
    pub(crate) interrupts: bool,
    /// Shortest time between two interrupts of one vector; zero is no limit.
    pub(crate) gap: Duration,
    /// Fences of a thread that has to be started.
    pub(crate) fences: Sandbox,
}

/// Inputs of the I/O APIC that PCI slots share for INTx, and the first of them.
const INTX_INPUTS: usize = 8;
const INTX_FIRST: u32 = 16;

/// The input of the I/O APIC that INTx of a PCI slot goes to: 16 to 23.
pub(crate) fn intx_input(slot: usize) -> u32 {
    INTX_FIRST + (slot % INTX_INPUTS) as u32
}

impl Resources {
    pub(crate) fn new(
        hv: Arc<dyn HvPartition>,
        map: AddressMap,
        paths: Paths,
        queue_memory: QueueMemory,
    ) -> Self {
        Self {
            hv,
            queue_memory,
            map: RwLock::new(map),
            paths,
            owner: Owner::default(),
            lines: Mutex::default(),
        }
    }

    /// One device's INTx pin changed. Inputs are shared: low is when all are.
    pub(crate) fn set_pin(&self, slot: usize, asserted: bool) -> Result<(), VmmError> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pins) = lines.get_mut(slot % INTX_INPUTS) else {
            return Ok(());
        };
        let before = *pins;
        *pins = if asserted {
            before.saturating_add(1)
        } else {
            before.saturating_sub(1)
        };
        if (before > 0) != (*pins > 0) {
            self.hv.set_line(intx_input(slot), *pins > 0)?;
        }
        Ok(())
    }

    pub(crate) fn map_mut(&self) -> RwLockWriteGuard<'_, AddressMap> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, gpa: u64) -> Option<Found> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.find(gpa)
    }
}

/// What a guest expects of the machine around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// Only what `portal_boot_abi` names.
    Flat,
    /// What ACPI describes, and a bus that reads as ones where nothing answers.
    Pc,
}

/// What the vCPUs of one partition share.
pub(crate) struct Platform {
    machine: Machine,
    pub(crate) ram: GuestRam,
    pub(crate) resources: Resources,
    regions: Vec<RegionAttachment>,
    devices: Vec<Mutex<Binding>>,
    /// Which device is in which slot of the bus.
    slots: [Option<usize>; pci::SLOTS],
    uart: Mutex<Uart>,
    config_ports: Mutex<ConfigPorts>,
    iommu: Mutex<Iommu>,
}

impl Platform {
    pub(crate) fn new(
        machine: Machine,
        ram: GuestRam,
        resources: Resources,
        regions: Vec<RegionAttachment>,
        devices: Vec<Binding>,
        slots: [Option<usize>; pci::SLOTS],
        uart: Uart,
    ) -> Self {
        Self {
            machine,
            slots,
            ram,
            resources,
            regions,
            devices: devices.into_iter().map(Mutex::new).collect(),
            uart: Mutex::new(uart),
            config_ports: Mutex::default(),
            iommu: Mutex::default(),
        }
    }

    pub(crate) fn iommu(&self) -> MutexGuard<'_, Iommu> {
        self.iommu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device with this index; `None` past the last.
    pub(crate) fn device(&self, index: usize) -> Option<MutexGuard<'_, Binding>> {
        let device = self.devices.get(index)?;
        Some(device.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = MutexGuard<'_, Binding>> {
        (0..self.devices.len()).filter_map(|index| self.device(index))
    }

    /// Gives one device an input and carries its effects out.
    pub(crate) fn tell(&self, device: usize, input: Input) -> Result<u64, StopCause> {
        match self.device(device) {
            Some(mut binding) => binding.step(input, &self.resources),
            None => Ok(u64::MAX),
        }
    }

    fn in_slot(&self, slot: usize) -> Option<usize> {
        self.slots.get(slot).copied().flatten()
    }

    fn config_read(&self, function: Function, register: u16, len: u8) -> Result<u64, StopCause> {
        match function {
            Function::Bridge => Ok(pci::bridge_register(register, len)),
            Function::Slot(slot) => match self.in_slot(slot) {
                Some(device) => {
                    let offset = register;
                    self.tell(device, Input::ConfigRead { offset, len })
                }
                None => Ok(u64::MAX),
            },
            Function::Absent => Ok(u64::MAX),
        }
    }

    fn config_write(
        &self,
        function: Function,
        register: u16,
        len: u8,
        value: u32,
    ) -> Result<(), StopCause> {
        if let Function::Slot(slot) = function
            && let Some(device) = self.in_slot(slot)
        {
            self.tell(
                device,
                Input::ConfigWrite {
                    offset: register,
                    len,
                    value,
                },
            )?;
        }
        Ok(())
    }
}

/// One vCPU's way into the platform.
pub(crate) struct VcpuPlatform {
    pub(crate) platform: Arc<Platform>,
    pub(crate) counters: Arc<Counters>,
}

impl VcpuPlatform {
    /// An access where there is no memory, or none that answers it.
    fn stray(&self, found: Option<Found>, gpa: u64, len: usize, write: bool) -> StopCause {
        let offset = |place: u64, found: &Found| place.saturating_add(found.offset);
        StopCause::Fault(match found.as_ref().map(|found| (&found.place, found)) {
            Some((Place::Ram, _)) => FaultKind::RamLost { gpa },
            Some((
                Place::Region {
                    attachment,
                    offset: at,
                    ..
                },
                found,
            )) => FaultKind::RegionLost {
                region: self.region_name(*attachment),
                gpa,
                offset: offset(*at, found),
                write,
            },
            Some((
                Place::DeviceMemory {
                    device, offset: at, ..
                },
                found,
            )) => FaultKind::RegionLost {
                region: self
                    .platform
                    .device(*device)
                    .map_or(String::new(), |binding| binding.region_name().to_owned()),
                gpa,
                offset: offset(*at, found),
                write,
            },
            _ => FaultKind::Unmapped {
                gpa,
                len: len as u32,
                write,
            },
        })
    }

    /// Whether nothing lies there, on a machine where that is no fault.
    fn floats(&self, found: Option<&Found>) -> bool {
        let floats = found.is_none() && self.platform.machine == Machine::Pc;
        if floats {
            count(&self.counters.unknown_memory);
        }
        floats
    }

    fn region_name(&self, attachment: usize) -> String {
        let attached = self.platform.regions.get(attachment);
        attached.map_or(String::new(), |at| at.region.name().to_owned())
    }

    /// Accesses what lies at a place of memory, from the address on. KVM found none
    /// there: another vCPU had moved the BAR away, or its backing is gone. `None` in
    /// the latter case.
    fn behind(
        &self,
        found: &Found,
        access: impl FnOnce(&HostRange, u64) -> Option<()>,
    ) -> Option<()> {
        match found.place {
            Place::Region {
                attachment, offset, ..
            } => {
                let at = self.platform.regions.get(attachment)?;
                access(at.region.memory(), offset.checked_add(found.offset)?)
            }
            Place::DeviceMemory { device, offset, .. } => {
                let binding = self.platform.device(device)?;
                access(binding.memory()?, offset.checked_add(found.offset)?)
            }
            _ => None,
        }
    }

    /// A store to memory that another peer writes.
    fn denied(&self, attachment: usize, gpa: u64, offset: u64) -> Result<(), StopCause> {
        let policy = self.platform.regions.get(attachment);
        match policy.map_or(DeniedWrites::Stop, |at| at.denied_write) {
            DeniedWrites::Drop => {
                count(&self.counters.dropped_stores);
                Ok(())
            }
            DeniedWrites::Stop => Err(StopCause::Fault(FaultKind::ReadOnly {
                region: self.region_name(attachment),
                gpa,
                offset,
            })),
        }
    }

    fn register_read(
        &self,
        device: usize,
        bar: u8,
        found: &Found,
        data: &mut [u8],
    ) -> Result<(), StopCause> {
        data.fill(0xFF);
        let len = clip(data.len(), found.left);
        let Some(mut binding) = self.platform.device(device) else {
            return Ok(());
        };
        for piece in access::pieces(found.offset, len, 8) {
            let on = &self.platform.resources;
            binding.collect_pending(bar, piece.offset, on)?;
            let input = Input::BarRead {
                bar,
                offset: piece.offset,
                len: piece.len,
            };
            access::put(data, piece, binding.step(input, on)?);
        }
        Ok(())
    }

    /// A device knows no addresses: what it says of a store to someone else's
    /// memory is told in the same words as for regions without a device.
    fn with_address(&self, cause: StopCause, device: usize, gpa: u64, offset: u64) -> StopCause {
        match (&cause, self.platform.device(device)) {
            (StopCause::Fault(FaultKind::Device { .. }), Some(binding)) => {
                StopCause::Fault(FaultKind::ReadOnly {
                    region: binding.region_name().to_owned(),
                    gpa,
                    offset,
                })
            }
            _ => cause,
        }
    }

    /// A store to a device: to its registers, or to memory of its BAR that is
    /// read-only to this guest.
    fn bar_write(
        &self,
        device: usize,
        bar: u8,
        offset: u64,
        left: u64,
        data: &[u8],
    ) -> Result<(), StopCause> {
        let Some(mut binding) = self.platform.device(device) else {
            return Ok(());
        };
        for piece in access::pieces(offset, clip(data.len(), left), 8) {
            let input = Input::BarWrite {
                bar,
                offset: piece.offset,
                len: piece.len,
                value: access::get(data, piece),
            };
            binding.step(input, &self.platform.resources)?;
        }
        Ok(())
    }
}

/// As many bytes of an access as lie inside the place it begins in.
fn clip(len: usize, left: u64) -> usize {
    usize::try_from(left).map_or(len, |left| len.min(left))
}

impl ExitHandler for VcpuPlatform {
    fn port_read(&mut self, port: u16, data: &mut [u8]) -> Result<(), StopCause> {
        count(&self.counters.port_reads);
        if let Some(register) = Uart::register(port) {
            self.platform.uart().read(register, data);
            return Ok(());
        }
        if self.platform.machine == Machine::Pc && power::claims(port) {
            data.fill(0);
            if let Some(first) = data.first_mut() {
                *first = power::read(port);
            }
            return Ok(());
        }
        data.fill(0xFF);
        let ports = self.platform.config_ports.lock();
        let ports = ports.unwrap_or_else(PoisonError::into_inner);
        match ports.decode(port, data.len()) {
            Some(PortAccess::Latch) => {
                for (to, from) in data.iter_mut().zip(ports.latch().to_le_bytes()) {
                    *to = from;
                }
            }
            Some(PortAccess::Config(function, register)) => {
                drop(ports);
                for piece in access::pieces(register.into(), data.len(), 4) {
                    let at = piece.offset as u16;
                    let value = self.platform.config_read(function, at, piece.len)?;
                    access::put(data, piece, value);
                }
            }
            Some(PortAccess::Nothing) => {}
            None => count(&self.counters.unknown_ports),
        }
        Ok(())
    }

    fn port_write(&mut self, port: u16, data: &[u8]) -> Result<(), StopCause> {
        count(&self.counters.port_writes);
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(data) {
            *to = *from;
        }
        let word = u32::from_le_bytes(word);
        if port == abi::EXIT_PORT {
            return Err(StopCause::Exit(word));
        }
        if let Some(register) = Uart::register(port) {
            self.platform.uart().write(register, data);
            return Ok(());
        }
        if self.platform.machine == Machine::Pc && power::claims(port) {
            return power::write(port, data.first().copied().unwrap_or(0));
        }
        let ports = self.platform.config_ports.lock();
        let mut ports = ports.unwrap_or_else(PoisonError::into_inner);
        match ports.decode(port, data.len()) {
            Some(PortAccess::Latch) => ports.set_latch(word),
            Some(PortAccess::Config(function, register)) => {
                drop(ports);
                for piece in access::pieces(register.into(), data.len(), 4) {
                    let value = access::get(data, piece) as u32;
                    let at = piece.offset as u16;
                    self.platform.config_write(function, at, piece.len, value)?;
                }
            }
            Some(PortAccess::Nothing) => {}
            None => count(&self.counters.unknown_ports),
        }
        Ok(())
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) -> Result<(), StopCause> {
        count(&self.counters.mmio_reads);
        let found = self.platform.resources.find(gpa);
        match &found {
            Some(
                there @ Found {
                    place: Place::Registers { device, bar },
                    ..
                },
            ) => self.register_read(*device, *bar, there, data),
            Some(Found {
                place: Place::Iommu,
                offset,
                left,
            }) => {
                data.fill(0xFF);
                let iommu = self.platform.iommu();
                for piece in access::pieces(*offset, clip(data.len(), *left), iommu::WORD) {
                    if piece.len == iommu::WORD {
                        access::put(data, piece, iommu.read(piece.offset).into());
                    }
                }
                Ok(())
            }
            Some(Found {
                place: Place::Ecam,
                offset,
                left,
            }) => {
                data.fill(0xFF);
                for piece in access::pieces(*offset, clip(data.len(), *left), 4) {
                    let (function, register) = pci::ecam(piece.offset);
                    let value = self.platform.config_read(function, register, piece.len)?;
                    access::put(data, piece, value);
                }
                Ok(())
            }
            Some(
                there @ Found {
                    place: Place::Region { .. } | Place::DeviceMemory { .. },
                    ..
                },
            ) => {
                data.fill(0xFF);
                let len = clip(data.len(), there.left);
                let read = self.behind(there, |memory, at| {
                    memory.read_if_there(at, data.get_mut(..len)?)
                });
                if read.is_none() && stands(Guard::LostBacking) {
                    return Err(self.stray(found, gpa, data.len(), false));
                }
                Ok(())
            }
            none if self.floats(none.as_ref()) => {
                data.fill(0xFF);
                Ok(())
            }
            _ => Err(self.stray(found, gpa, data.len(), false)),
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> Result<(), StopCause> {
        count(&self.counters.mmio_writes);
        let found = self.platform.resources.find(gpa);
        match &found {
            Some(Found {
                place: Place::Registers { device, bar },
                offset,
                left,
            }) => self.bar_write(*device, *bar, *offset, *left, data),
            Some(Found {
                place:
                    Place::DeviceMemory {
                        device,
                        bar,
                        access: Access::ReadOnly,
                        offset: at,
                    },
                offset,
                left,
            }) => {
                let offset = at.saturating_add(*offset);
                let done = self.bar_write(*device, *bar, offset, *left, data);
                done.map_err(|cause| self.with_address(cause, *device, gpa, offset))
            }
            Some(Found {
                place:
                    Place::Region {
                        attachment,
                        access: Access::ReadOnly,
                        offset: at,
                    },
                offset,
                ..
            }) => self.denied(*attachment, gpa, at.saturating_add(*offset)),
            Some(
                there @ Found {
                    place: Place::Region { .. } | Place::DeviceMemory { .. },
                    ..
                },
            ) => {
                let len = clip(data.len(), there.left);
                let written = self.behind(there, |memory, at| {
                    memory.write_if_there(at, data.get(..len)?)
                });
                written.ok_or_else(|| self.stray(found, gpa, data.len(), true))
            }
            Some(Found {
                place: Place::Iommu,
                offset,
                left,
            }) => {
                let mut iommu = self.platform.iommu();
                for piece in access::pieces(*offset, clip(data.len(), *left), iommu::WORD) {
                    // A narrower store is to no register.
                    if piece.len == iommu::WORD {
                        iommu.write(piece.offset, access::get(data, piece) as u32);
                    }
                }
                Ok(())
            }
            Some(Found {
                place: Place::Ecam,
                offset,
                left,
            }) => {
                for piece in access::pieces(*offset, clip(data.len(), *left), 4) {
                    let (function, register) = pci::ecam(piece.offset);
                    let value = access::get(data, piece) as u32;
                    self.platform
                        .config_write(function, register, piece.len, value)?;
                }
                Ok(())
            }
            none if self.floats(none.as_ref()) => Ok(()),
            _ => Err(self.stray(found, gpa, data.len(), true)),
        }
    }

    fn memory_lost(&mut self, gpa: Option<u64>) -> StopCause {
        match gpa {
            Some(gpa) => {
                let found = self.platform.resources.find(gpa);
                self.stray(found, gpa, 0, false)
            }
            None => StopCause::Fault(FaultKind::Hypervisor {
                what: "KVM_RUN: memory of the guest has lost its backing (truncated?)".to_owned(),
            }),
        }
    }
}
