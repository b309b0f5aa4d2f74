//! A KVM virtual machine: memory slots, interrupt routes, doorbells.
#![expect(
    unsafe_code,
    reason = "handing host memory to KVM_SET_USER_MEMORY_REGION, and lending an event"
)]

use super::vcpu::KvmVcpu;
use crate::Capabilities;
use crate::VmmError;
use crate::hv::Access;
use crate::hv::HvPartition;
use crate::hv::HvVcpu;
use crate::hv::InterruptRoute;
use crate::hv::MsiMessage;
use crate::memory::HostRange;
use kvm_bindings::CpuId;
use kvm_bindings::KVM_IRQ_ROUTING_IRQCHIP;
use kvm_bindings::KVM_IRQ_ROUTING_MSI;
use kvm_bindings::KVM_IRQCHIP_IOAPIC;
use kvm_bindings::KVM_MEM_READONLY;
use kvm_bindings::KvmIrqRouting;
use kvm_bindings::kvm_irq_routing_entry;
use kvm_bindings::kvm_msi;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::IoEventAddress;
use kvm_ioctls::VmFd;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use vmm_sys_util::eventfd::EventFd;

/// Inputs of the I/O APIC; MSI routes are numbered from here on.
const IOAPIC_PINS: u32 = 24;
/// Routes that one virtual machine can have (`KVM_MAX_IRQ_ROUTES`).
const MAX_ROUTES: u32 = 4096;
/// Three pages for the processor's own use, below the BIOS area, where no
/// memory is ever put (`KVM_SET_TSS_ADDR`).
const TSS_GPA: usize = 0xFFFB_D000;

pub(super) struct KvmPartition {
    vm: VmFd,
    capabilities: Capabilities,
    cpuid: CpuId,
    /// Mapped slots. Declared behind `vm`; the memory must outlive the guest,
    /// which is why every vCPU holds its partition.
    slots: Mutex<BTreeMap<u32, (u64, HostRange)>>,
    routes: Mutex<BTreeMap<u32, MsiMessage>>,
    tsc: OnceLock<(u64, bool)>,
    /// Whether the interrupt controllers have been made.
    irqchip: Mutex<bool>,
    /// The kernel keeps the device alive; held for the order of closing.
    _kvm: Arc<kvm_ioctls::Kvm>,
    this: std::sync::Weak<Self>,
}

impl KvmPartition {
    pub(super) fn create(
        kvm: &Arc<kvm_ioctls::Kvm>,
        capabilities: Capabilities,
        cpuid: CpuId,
    ) -> Result<Arc<Self>, VmmError> {
        let vm = loop {
            match kvm.create_vm() {
                Ok(vm) => break vm,
                // The kernel asks for another try when a signal came in between.
                Err(errno) if errno.errno() == libc::EINTR => {}
                Err(errno) => return Err(VmmError::kvm("KVM_CREATE_VM", errno)),
            }
        };
        if vm.check_extension(kvm_ioctls::Cap::SetTssAddr) {
            vm.set_tss_address(TSS_GPA)
                .map_err(|errno| VmmError::kvm("KVM_SET_TSS_ADDR", errno))?;
        }
        Ok(Arc::new_cyclic(|this| Self {
            vm,
            capabilities,
            cpuid,
            slots: Mutex::default(),
            routes: Mutex::default(),
            tsc: OnceLock::new(),
            irqchip: Mutex::new(false),
            _kvm: kvm.clone(),
            this: this.clone(),
        }))
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(super) fn cpuid(&self) -> &CpuId {
        &self.cpuid
    }

    /// Makes the interrupt controllers, if they are not there yet.
    ///
    /// As late as possible: registering their addresses leaves a slow RCU grace
    /// period behind, for which every memory slot set afterwards would wait
    /// (5 ms a slot on Linux 6.18).
    fn ensure_irqchip(&self) -> Result<(), VmmError> {
        let mut made = self.irqchip.lock().unwrap_or_else(PoisonError::into_inner);
        if !*made {
            self.vm
                .create_irq_chip()
                .map_err(|errno| VmmError::kvm("KVM_CREATE_IRQCHIP", errno))?;
            *made = true;
        }
        Ok(())
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<u32, (u64, HostRange)>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the kernel the whole table: the I/O APIC's pins and every MSI.
    fn load_routes(&self, routes: &BTreeMap<u32, MsiMessage>) -> Result<(), VmmError> {
        let mut entries = Vec::with_capacity(IOAPIC_PINS as usize + routes.len());
        for pin in 0..IOAPIC_PINS {
            let mut entry = kvm_irq_routing_entry {
                gsi: pin,
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                ..Default::default()
            };
            entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
            entry.u.irqchip.pin = pin;
            entries.push(entry);
        }
        for (gsi, message) in routes {
            let mut entry = kvm_irq_routing_entry {
                gsi: *gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                ..Default::default()
            };
            entry.u.msi.address_lo = message.address as u32;
            entry.u.msi.address_hi = (message.address >> 32) as u32;
            entry.u.msi.data = message.data;
            entries.push(entry);
        }
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| VmmError::Hypervisor {
            call: "KVM_SET_GSI_ROUTING",
            source: std::io::Error::from(std::io::ErrorKind::OutOfMemory),
        })?;
        self.vm
            .set_gsi_routing(&table)
            .map_err(|errno| VmmError::kvm("KVM_SET_GSI_ROUTING", errno))
    }
}

impl HvPartition for KvmPartition {
    fn map(&self, slot: u32, gpa: u64, host: HostRange, access: Access) -> Result<(), VmmError> {
        let mut slots = self.slots();
        let region = kvm_userspace_memory_region {
            slot,
            flags: match access {
                Access::ReadWrite => 0,
                Access::ReadOnly => KVM_MEM_READONLY,
            },
            guest_phys_addr: gpa,
            memory_size: host.len(),
            userspace_addr: host.address(),
        };
        // SAFETY: the range stays mapped for as long as the slot does: it is put
        // into `slots` below, which every vCPU keeps alive through its partition.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|errno| VmmError::kvm("KVM_SET_USER_MEMORY_REGION", errno))?;
        slots.insert(slot, (gpa, host));
        Ok(())
    }

    fn unmap(&self, slot: u32) -> Result<(), VmmError> {
        let mut slots = self.slots();
        let Some((gpa, host)) = slots.get(&slot) else {
            return Ok(());
        };
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: *gpa,
            memory_size: 0,
            userspace_addr: host.address(),
        };
        // SAFETY: length 0 deletes the slot; the kernel takes no memory.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|errno| VmmError::kvm("KVM_SET_USER_MEMORY_REGION", errno))?;
        slots.remove(&slot);
        Ok(())
    }

    fn create_vcpu(&self, index: u32, count: u32) -> Result<Box<dyn HvVcpu>, VmmError> {
        self.ensure_irqchip()?;
        let fd = self
            .vm
            .create_vcpu(u64::from(index))
            .map_err(|errno| VmmError::kvm("KVM_CREATE_VCPU", errno))?;
        let this = self.this.upgrade().ok_or(VmmError::Hypervisor {
            call: "KVM_CREATE_VCPU",
            source: std::io::Error::from(std::io::ErrorKind::NotConnected),
        })?;
        let vcpu = KvmVcpu::new(this, fd, index, count)?;
        self.tsc.get_or_init(|| vcpu.tsc());
        Ok(Box::new(vcpu))
    }

    fn connect(
        &self,
        event: BorrowedFd<'_>,
        message: MsiMessage,
    ) -> Result<InterruptRoute, VmmError> {
        self.ensure_irqchip()?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let gsi = (IOAPIC_PINS..MAX_ROUTES)
            .find(|gsi| !routes.contains_key(gsi))
            .ok_or(VmmError::Missing {
                name: "free interrupt route",
                cost: "4072 vectors of one partition are connected already",
            })?;
        routes.insert(gsi, message);
        let done = self.load_routes(&routes).and_then(|()| {
            self.vm
                .register_irqfd(&lent(event), gsi)
                .map_err(|errno| VmmError::kvm("KVM_IRQFD", errno))
        });
        if done.is_err() {
            routes.remove(&gsi);
        }
        done.map(|()| InterruptRoute(gsi))
    }

    fn disconnect(&self, event: BorrowedFd<'_>, route: InterruptRoute) -> Result<(), VmmError> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if !routes.contains_key(&route.0) {
            return Ok(());
        }
        self.vm
            .unregister_irqfd(&lent(event), route.0)
            .map_err(|errno| VmmError::kvm("KVM_IRQFD", errno))?;
        // The stale entry in the kernel's table has no source any more; it goes
        // with the next table.
        routes.remove(&route.0);
        Ok(())
    }

    fn signal(&self, message: MsiMessage) -> Result<(), VmmError> {
        self.ensure_irqchip()?;
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        self.vm
            .signal_msi(msi)
            .map(|_| ())
            .map_err(|errno| VmmError::kvm("KVM_SIGNAL_MSI", errno))
    }

    fn connect_input(&self, event: BorrowedFd<'_>, input: u32) -> Result<(), VmmError> {
        self.ensure_irqchip()?;
        self.vm
            .register_irqfd(&lent(event), input)
            .map_err(|errno| VmmError::kvm("KVM_IRQFD", errno))
    }

    fn set_line(&self, input: u32, asserted: bool) -> Result<(), VmmError> {
        self.ensure_irqchip()?;
        self.vm
            .set_irq_line(input, asserted)
            .map_err(|errno| VmmError::kvm("KVM_IRQ_LINE", errno))
    }

    fn route_doorbell(&self, gpa: u64, value: u32, event: BorrowedFd<'_>) -> Result<(), VmmError> {
        self.vm
            .register_ioevent(&lent(event), &IoEventAddress::Mmio(gpa), value)
            .map_err(|errno| VmmError::kvm("KVM_IOEVENTFD", errno))
    }

    fn unroute_doorbell(
        &self,
        gpa: u64,
        value: u32,
        event: BorrowedFd<'_>,
    ) -> Result<(), VmmError> {
        self.vm
            .unregister_ioevent(&lent(event), &IoEventAddress::Mmio(gpa), value)
            .map_err(|errno| VmmError::kvm("KVM_IOEVENTFD", errno))
    }

    fn tsc(&self) -> (u64, bool) {
        self.tsc.get().copied().unwrap_or((0, false))
    }
}

/// The event in the type that `kvm-ioctls` takes, without owning it.
fn lent(event: BorrowedFd<'_>) -> ManuallyDrop<EventFd> {
    // SAFETY: open for as long as `event` is borrowed, which is longer than the
    // call that this is made for; never closed through this value.
    ManuallyDrop::new(unsafe { EventFd::from_raw_fd(event.as_raw_fd()) })
}
