//! [`PartitionBuilder`]: a partition's configuration, and `build`, which turns it
//! into memory, devices and vCPUs without running anything.

use crate::Console;
use crate::Join;
use crate::LinuxImage;
use crate::Member;
use crate::Partition;
use crate::RamBacking;
use crate::RegionAttachment;
use crate::RegionHost;
use crate::ResolvedDevice;
use crate::Sandbox;
use crate::VmmError;
use crate::Writable;
use crate::address_map::AddressMap;
use crate::address_map::Place;
use crate::binding::Binding;
use crate::binding::hv_access;
use crate::boot;
use crate::boot::FlatBoot;
use crate::boot::GuestRam;
use crate::console::Uart;
use crate::firmware;
use crate::hv;
use crate::hv::HvPartition;
use crate::hv::HvVcpu;
use crate::hv::Hypervisor;
use crate::linux::COM1_INPUT;
use crate::linux::LinuxBoot;
use crate::linux::iommu::IOMMU_BYTES;
use crate::linux::iommu::IOMMU_GPA;
use crate::memory::HostMemory;
use crate::memory::PAGE;
use crate::partition::Parts;
use crate::partition::ThreadPlan;
use crate::pci;
use crate::platform::Machine;
use crate::platform::Paths;
use crate::platform::Platform;
use crate::platform::Resources;
use crate::resolvers::DeviceContext;
use crate::resolvers::PciResolvers;
use crate::virtqueue::QueueMemory;
use hv_shmem::doorbell::EventFd;
use portal_boot_abi as abi;
use portal_boot_abi::BootInfo;
use portal_boot_abi::RegionInfo;
use portal_device::Access;
use portal_resources::FixedRegionHandle;
use portal_resources::PciDevice;
use portal_resources::Resource;
use std::borrow::Cow;
use std::num::NonZeroU32;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// Deadline of a run for which none was given.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// RAM of a partition for which none was given, in bytes.
pub const DEFAULT_RAM: u64 = 64 << 20;

/// What a partition boots.
#[derive(Clone, Debug)]
pub enum Image {
    /// A flat 64-bit image, as `portal_boot_abi` describes.
    Flat(Cow<'static, [u8]>),
    /// A Linux kernel and its initrd.
    Linux(LinuxImage),
}

/// A partition to be made. Fields may be set directly or by the methods of the
/// same name; `build` checks them.
#[derive(Debug)]
pub struct PartitionBuilder {
    /// Name in messages and thread names.
    pub name: String,
    /// vCPUs, 1 to 64.
    pub vcpus: u32,
    /// RAM in bytes; a multiple of 4096, at least 2 MiB.
    pub ram: u64,
    /// Where the RAM comes from.
    pub ram_backing: RamBacking,
    /// What to boot.
    pub image: Image,
    /// Command line for the image: at most 4095 bytes for a flat one, for Linux
    /// what the kernel takes.
    pub cmdline: String,
    /// Where console output goes.
    pub console: Console,
    /// How long it may run from its start; `Duration::MAX` is for ever.
    pub deadline: Duration,
    /// Host CPU of each vCPU, by number; empty lets them float.
    pub pin: Vec<usize>,
    /// Which fences its threads put up before the first guest instruction.
    pub sandbox: Sandbox,
    /// Regions at fixed addresses, at most eight.
    pub regions: Vec<RegionAttachment>,
    /// Devices on the PCI bus, from slot 1 on, at most 31.
    pub devices: Vec<ResolvedDevice>,
    /// Places in regions that end with the partition.
    pub members: Vec<Member>,
    /// Whether doorbells may take the kernel's path; off, every one leaves the
    /// guest for user space.
    pub kernel_doorbells: bool,
    /// Most interrupts a second that one vector of a device may bring, however
    /// often it is rung; `None` leaves interrupts to the kernel, without a limit.
    pub interrupt_budget: Option<NonZeroU32>,
    /// Whether a Linux guest has an IOMMU.
    pub iommu: bool,
}

impl PartitionBuilder {
    /// One vCPU, 64 MiB, no console, a minute.
    pub fn new(name: impl Into<String>, image: Image) -> Self {
        Self {
            name: name.into(),
            vcpus: 1,
            ram: DEFAULT_RAM,
            ram_backing: RamBacking::Anonymous,
            image,
            cmdline: String::new(),
            console: Console::Discard,
            deadline: DEFAULT_DEADLINE,
            pin: Vec::new(),
            sandbox: Sandbox::default(),
            regions: Vec::new(),
            devices: Vec::new(),
            members: Vec::new(),
            kernel_doorbells: true,
            interrupt_budget: None,
            iommu: false,
        }
    }

    /// Sets the number of vCPUs.
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Sets the RAM in bytes.
    pub fn ram(mut self, bytes: u64) -> Self {
        self.ram = bytes;
        self
    }

    /// Sets where the RAM comes from.
    pub fn ram_backing(mut self, backing: RamBacking) -> Self {
        self.ram_backing = backing;
        self
    }

    /// Sets the command line.
    pub fn cmdline(mut self, text: impl Into<String>) -> Self {
        self.cmdline = text.into();
        self
    }

    /// Sets where console output goes.
    pub fn console(mut self, console: Console) -> Self {
        self.console = console;
        self
    }

    /// Sets how long it may run.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Pins vCPU n to the n-th of these host CPUs.
    pub fn pin(mut self, cpus: impl Into<Vec<usize>>) -> Self {
        self.pin = cpus.into();
        self
    }

    /// Sets the fences around its threads.
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = sandbox;
        self
    }

    /// Adds a region at a fixed address.
    pub fn region(mut self, attachment: RegionAttachment) -> Self {
        self.regions.push(attachment);
        self
    }

    /// Adds a device to the PCI bus.
    pub fn device(mut self, device: ResolvedDevice) -> Self {
        self.devices.push(device);
        self
    }

    /// Adds the device that a handle describes.
    ///
    /// # Errors
    /// [`VmmError::Device`] with the resolver's reason.
    pub fn resource(
        self,
        resource: &Resource<PciDevice>,
        resolvers: &PciResolvers,
        regions: &RegionHost,
    ) -> Result<Self, VmmError> {
        let mut context = DeviceContext {
            partition: self.name.clone(),
            regions: regions.clone(),
        };
        let device =
            resolvers
                .resolve(resource, &mut context)
                .map_err(|error| VmmError::Device {
                    device: resource.id().to_owned(),
                    reason: error.to_string(),
                })?;
        Ok(self.device(device))
    }

    /// Joins a region and adds it at the fixed address of its handle.
    ///
    /// # Errors
    /// [`VmmError::Region`].
    pub fn fixed_region(
        mut self,
        handle: &FixedRegionHandle,
        regions: &RegionHost,
    ) -> Result<Self, VmmError> {
        let join = Join::partition(self.name.clone(), handle.peer, 0);
        let member = regions.join(&handle.region, &join)?;
        let region = member.region().clone();
        self.regions.push(RegionAttachment {
            gpa: handle.gpa,
            peer: member.peer(),
            epoch: u64::from(member.epoch()),
            writable: region.writable(handle.mapping),
            denied_write: handle.denied_writes,
            region,
        });
        self.members.push(member);
        Ok(self)
    }

    /// Allows or forbids the kernel's path for doorbells.
    pub fn kernel_doorbells(mut self, allowed: bool) -> Self {
        self.kernel_doorbells = allowed;
        self
    }

    /// Gives a Linux guest an IOMMU, so that its user space gets MSI-X through VFIO. A
    /// flat image cannot have one.
    pub fn iommu(mut self, wanted: bool) -> Self {
        self.iommu = wanted;
        self
    }

    /// Bounds the interrupts of each vector of each device, a second. Peers that
    /// ring flat out otherwise decide how much of a vCPU's time its interrupt
    /// handler takes. Rings beyond the budget are not lost: they are one
    /// interrupt, later. The price is that a thread brings each interrupt in,
    /// in place of the kernel.
    pub fn interrupt_budget(mut self, a_second: NonZeroU32) -> Self {
        self.interrupt_budget = Some(a_second);
        self
    }

    fn config(&self, field: &'static str, value: impl ToString, limit: String) -> VmmError {
        VmmError::Config {
            partition: self.name.clone(),
            field,
            value: value.to_string(),
            limit,
        }
    }

    fn check(&self, hypervisor: &dyn Hypervisor) -> Result<(), VmmError> {
        let most = abi::MAX_VCPUS.min(hypervisor.capabilities().max_vcpus);
        if !(1..=most).contains(&self.vcpus) {
            return Err(self.config("vcpus", self.vcpus, format!("must be 1 to {most}")));
        }
        let page = match self.ram_backing {
            RamBacking::HugePages => 2 << 20,
            RamBacking::Anonymous | RamBacking::Memfd => PAGE,
        };
        if self.ram < boot::MIN_RAM || !self.ram.is_multiple_of(page) {
            let limit = format!(
                "must be a multiple of {page} bytes and at least {} bytes",
                boot::MIN_RAM
            );
            return Err(self.config("ram", self.ram, limit));
        }
        let most = abi::LOW_RAM_MAX + (abi::WINDOW64_GPA - abi::HIGH_RAM_GPA);
        if self.ram > most {
            return Err(self.config("ram", self.ram, format!("must be at most {most} bytes")));
        }
        if self.regions.len() > abi::MAX_REGIONS {
            let limit = format!("must be at most {}", abi::MAX_REGIONS);
            return Err(self.config("regions", self.regions.len(), limit));
        }
        if self.devices.len() >= pci::SLOTS {
            let limit = format!("must be at most {}", pci::SLOTS - 1);
            return Err(self.config("devices", self.devices.len(), limit));
        }
        let behind_bars = self
            .devices
            .iter()
            .filter_map(|device| device.region.as_ref());
        let fixed = self.regions.iter().map(|at| at.writable);
        let enforced = fixed
            .chain(behind_bars.map(|at| at.writable))
            .any(|writable| writable != Writable::All);
        let mut storages = self.devices.iter().filter_map(|it| it.storage.as_ref());
        let enforced = enforced || storages.any(|it| it.access() == Access::ReadOnly);
        if enforced && !hypervisor.capabilities().readonly_memory {
            return Err(VmmError::Missing {
                name: "KVM_CAP_READONLY_MEM",
                cost: "a sectioned region cannot be enforced here; use a flat one",
            });
        }
        if self.iommu && matches!(self.image, Image::Flat(_)) {
            let limit = "but only a Linux guest can be told of one; leave it out".to_owned();
            return Err(self.config("iommu", self.iommu, limit));
        }
        if self.pin.len() > self.vcpus as usize {
            let limit = format!(
                "names more CPUs than the partition has vCPUs ({})",
                self.vcpus
            );
            return Err(self.config("pin", format!("{:?}", self.pin), limit));
        }
        Ok(())
    }

    /// Makes the partition. Nothing of the guest runs before
    /// [`Partition::start`].
    ///
    /// # Errors
    /// [`VmmError::Config`] names the field that cannot be; otherwise what the
    /// host could not give.
    pub fn build(mut self, hypervisor: &dyn Hypervisor) -> Result<Partition, VmmError> {
        let created = Instant::now();
        self.check(hypervisor)?;
        if self.sandbox.is_weakened() {
            let partition = self.name.as_str();
            tracing::warn!(partition, sandbox = ?self.sandbox, "SANDBOX WEAKENED OR OFF: a guest that breaks out is not held");
        }
        let hv = hypervisor.create_partition()?;
        let (ram, map) = self.place_memory(hypervisor, &*hv)?;
        let mut plan = map.clone();
        let window64 = hypervisor.capabilities().window64();
        let paths = Paths {
            doorbells: self.kernel_doorbells && hypervisor.capabilities().ioeventfd,
            interrupts: hypervisor.capabilities().irqfd,
            gap: self
                .interrupt_budget
                .map_or(Duration::ZERO, |most| Duration::from_secs(1) / most.get()),
            fences: self.sandbox,
        };
        let queue_memory = QueueMemory::new(&ram)
            .ok_or_else(|| self.config("ram", self.ram, "cannot hold rings".to_owned()))?;
        let resources = Resources::new(hv.clone(), map, paths, queue_memory);
        let mut devices = Vec::new();
        let mut members: Vec<_> = self
            .members
            .drain(..)
            .map(|member| (None, member))
            .collect();
        let slots = self.slots()?;
        for (index, mut parts) in std::mem::take(&mut self.devices).into_iter().enumerate() {
            members.extend(parts.member.take().map(|member| (Some(index), member)));
            let slot = slots.iter().position(|there| *there == Some(index));
            let mut binding = Binding::new(index, slot.unwrap_or(0), parts);
            binding.start_flusher(&resources)?;
            let name = self.name.as_str();
            firmware::enable(name, index, &mut binding, &mut plan, &window64, &resources)?;
            devices.push(binding);
        }
        let vcpus = self.make_vcpus(hypervisor, &*hv, &ram, &plan)?;
        let machine = match &self.image {
            Image::Flat(_) => Machine::Flat,
            Image::Linux(_) => Machine::Pc,
        };
        let interrupt = match machine {
            Machine::Pc if hypervisor.capabilities().irqfd => Some(console_interrupt(&*hv)?),
            Machine::Pc | Machine::Flat => None,
        };
        let uart = Uart::new(self.console, interrupt);
        let platform = Platform::new(machine, ram, resources, self.regions, devices, slots, uart);
        Ok(Partition::new(Parts {
            name: self.name,
            created,
            deadline: self.deadline,
            hv,
            vcpus,
            platform: Arc::new(platform),
            plan: ThreadPlan {
                pin: self.pin,
                sandbox: self.sandbox,
            },
            members,
        }))
    }

    /// Which device goes into which slot: first those that say, then the rest.
    fn slots(&self) -> Result<[Option<usize>; pci::SLOTS], VmmError> {
        let mut slots = [None; pci::SLOTS];
        let asked = |device: &&ResolvedDevice| device.slot.is_some();
        for (index, device) in self.devices.iter().enumerate().filter(|(_, d)| asked(d)) {
            let slot = device.slot.unwrap_or(0);
            match slots.get_mut(usize::from(slot)).filter(|_| slot > 0) {
                Some(free @ None) => *free = Some(index),
                _ => {
                    let limit = format!("must be 1 to {} and used once", pci::SLOTS - 1);
                    return Err(self.config("slot", slot, limit));
                }
            }
        }
        let rest = self.devices.iter().enumerate().filter(|(_, d)| !asked(d));
        for (index, _) in rest {
            if let Some(free) = slots.iter_mut().skip(1).find(|slot| slot.is_none()) {
                *free = Some(index);
            }
        }
        Ok(slots)
    }

    /// Puts RAM, the devices that are always there and the regions on the map.
    fn place_memory(
        &self,
        hypervisor: &dyn Hypervisor,
        hv: &dyn HvPartition,
    ) -> Result<(GuestRam, AddressMap), VmmError> {
        let memory = HostMemory::new(
            &format!("RAM of partition {:?}", self.name),
            self.ram,
            self.ram_backing,
        )?;
        if matches!(self.image, Image::Linux(_)) {
            memory.prefer_huge_pages();
        }
        let ram = GuestRam::new(&memory.range())
            .ok_or_else(|| self.config("ram", self.ram, "cannot be split at 3 GiB".to_owned()))?;
        let mut map = AddressMap::new(&self.name, hypervisor.capabilities().memory_slots);
        for (gpa, range) in ram.ranges() {
            if let Some(slot) = map.insert(gpa, range.len(), Place::Ram, true)? {
                hv.map(slot, gpa, range.clone(), hv::Access::ReadWrite)?;
            }
        }
        map.insert(abi::ECAM_GPA, abi::ECAM_BYTES, Place::Ecam, false)?;
        if self.iommu {
            map.insert(IOMMU_GPA, IOMMU_BYTES, Place::Iommu, false)?;
        }
        map.insert(abi::IOAPIC_GPA, PAGE, Place::Apic, false)?;
        map.insert(abi::LAPIC_GPA, PAGE, Place::Apic, false)?;
        let window = hypervisor.capabilities().window64();
        for (attachment, at) in self.regions.iter().enumerate() {
            let end = at.gpa.saturating_add(at.region.size());
            if !at.gpa.is_multiple_of(PAGE) || at.gpa < window.start || end > window.end {
                let limit = format!(
                    "must be a multiple of {PAGE} and leave all {:#x} bytes of region {:?} inside \
                     {:#x}..{:#x}",
                    at.region.size(),
                    at.region.name(),
                    window.start,
                    window.end
                );
                return Err(self.config("gpa", format!("{:#x}", at.gpa), limit));
            }
            for part in at.region.parts(at.peer, at.writable) {
                let place = Place::Region {
                    attachment,
                    access: part.access,
                    offset: part.offset,
                };
                let gpa = at.gpa + part.offset;
                let host = at.region.memory().part(part.offset, part.len);
                let slot = map.insert(gpa, part.len, place, true)?;
                if let (Some(slot), Some(host)) = (slot, host) {
                    hv.map(slot, gpa, host, hv_access(part.access))?;
                }
            }
        }
        Ok((ram, map))
    }

    /// Makes the vCPUs and puts the image and its tables into RAM.
    fn make_vcpus(
        &self,
        hypervisor: &dyn Hypervisor,
        hv: &dyn HvPartition,
        ram: &GuestRam,
        plan: &AddressMap,
    ) -> Result<Vec<Box<dyn HvVcpu>>, VmmError> {
        let mut vcpus = Vec::new();
        for index in 0..self.vcpus {
            vcpus.push(hv.create_vcpu(index, self.vcpus)?);
        }
        let image = match &self.image {
            Image::Flat(image) => image,
            Image::Linux(image) => {
                let start = LinuxBoot {
                    partition: &self.name,
                    image,
                    cmdline: &self.cmdline,
                    vcpus: self.vcpus,
                    iommu: self.iommu,
                }
                .load(ram)?;
                for vcpu in &mut vcpus {
                    vcpu.set_firmware_msrs()?;
                }
                if let Some(first) = vcpus.first_mut() {
                    first.start_long_mode(&start)?;
                }
                return Ok(vcpus);
            }
        };
        let mut info = BootInfo::new();
        let (hz, is_host) = hv.tsc();
        info.tsc_hz = hz;
        info.ecam_gpa = abi::ECAM_GPA;
        info.xcr0 = vcpus.first().map_or(0, |vcpu| vcpu.xcr0());
        if is_host {
            info.flags |= abi::FLAG_TSC_IS_HOST;
        }
        if info.xcr0 != 0 {
            info.flags |= abi::FLAG_XSAVE;
        }
        info.region_count = self.regions.len() as u32;
        for (to, at) in info.regions.iter_mut().zip(&self.regions) {
            *to = RegionInfo {
                gpa: at.gpa,
                size: at.region.size(),
                epoch: at.epoch,
                flags: match at.writable {
                    Writable::Own | Writable::Nothing => abi::REGION_SECTIONED,
                    Writable::All => abi::REGION_FLAT,
                },
                peer: at.peer.0,
                reserved: 0,
            };
        }
        let starts = FlatBoot {
            partition: &self.name,
            image,
            cmdline: &self.cmdline,
            info,
            vcpus: self.vcpus,
            windows: &plan.within(abi::WINDOW64_GPA..abi::WINDOW64_END),
            gib_pages: hypervisor.capabilities().gib_pages,
        }
        .load(ram)?;
        for (vcpu, start) in vcpus.iter_mut().zip(&starts) {
            vcpu.start_long_mode(start)?;
        }
        Ok(vcpus)
    }
}

/// An event whose signals are interrupts of the serial console.
fn console_interrupt(hv: &dyn HvPartition) -> Result<EventFd, VmmError> {
    let event = EventFd::new().map_err(|error| VmmError::Hypervisor {
        call: "eventfd",
        source: std::io::Error::other(error),
    })?;
    hv.connect_input(event.as_fd(), COM1_INPUT)?;
    Ok(event)
}
