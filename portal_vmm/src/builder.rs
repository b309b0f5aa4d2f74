//! [`PartitionBuilder`]: a partition's configuration, and `build`, which turns it
//! into memory, devices and vCPUs without running anything.

use crate::Console;
use crate::Partition;
use crate::RamBacking;
use crate::VmmError;
use crate::boot;
use crate::boot::FlatBoot;
use crate::boot::GuestRam;
use crate::console::Uart;
use crate::hv::Access;
use crate::hv::Hypervisor;
use crate::memory::HostMemory;
use crate::memory::PAGE;
use crate::partition::Parts;
use crate::partition::ThreadPlan;
use crate::platform::Platform;
use portal_boot_abi as abi;
use portal_boot_abi::BootInfo;
use std::borrow::Cow;
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
    /// Command line for the image, at most 4095 bytes.
    pub cmdline: String,
    /// Where console output goes.
    pub console: Console,
    /// How long it may run from its start; `Duration::MAX` is for ever.
    pub deadline: Duration,
    /// Host CPU of each vCPU, by number; empty lets them float.
    pub pin: Vec<usize>,
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
    pub fn build(self, hypervisor: &dyn Hypervisor) -> Result<Partition, VmmError> {
        let created = Instant::now();
        self.check(hypervisor)?;
        let hv = hypervisor.create_partition()?;
        let memory = HostMemory::new(
            &format!("RAM of partition {:?}", self.name),
            self.ram,
            self.ram_backing,
        )?;
        let ram = GuestRam::new(&memory.range())
            .ok_or_else(|| self.config("ram", self.ram, "cannot be split at 3 GiB".to_owned()))?;
        let mut slot = 0;
        for (gpa, range) in ram.ranges() {
            hv.map(slot, gpa, range.clone(), Access::ReadWrite)?;
            slot += 1;
        }

        let mut vcpus = Vec::new();
        for index in 0..self.vcpus {
            vcpus.push(hv.create_vcpu(index, self.vcpus)?);
        }
        let Image::Flat(image) = &self.image;
        let mut info = BootInfo::new();
        let (hz, is_host) = hv.tsc();
        info.tsc_hz = hz;
        info.xcr0 = vcpus.first().map_or(0, |vcpu| vcpu.xcr0());
        if is_host {
            info.flags |= abi::FLAG_TSC_IS_HOST;
        }
        if info.xcr0 != 0 {
            info.flags |= abi::FLAG_XSAVE;
        }
        let starts = FlatBoot {
            partition: &self.name,
            image,
            cmdline: &self.cmdline,
            info,
            vcpus: self.vcpus,
            windows: &[],
            gib_pages: hypervisor.capabilities().gib_pages,
        }
        .load(&ram)?;
        for (vcpu, start) in vcpus.iter_mut().zip(&starts) {
            vcpu.start_flat(start)?;
        }
        Ok(Partition::new(Parts {
            name: self.name,
            created,
            deadline: self.deadline,
            hv,
            vcpus,
            platform: Arc::new(Platform::new(ram, Uart::new(self.console))),
            plan: ThreadPlan { pin: self.pin },
        }))
    }
}
