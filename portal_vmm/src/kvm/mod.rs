//! The hypervisor that this VMM runs on today: Linux KVM on x86-64 (kernel
//! documentation, `virt/kvm/api.rst`).
//!
//! Requires the in-kernel interrupt controllers and MSI routing; takes irqfd,
//! ioeventfd, read-only slots, statistics and XSAVE where they are. Nothing
//! here trusts the guest; the kernel is trusted.

mod cpuid;
mod kick;
mod partition;
mod stats;
mod vcpu;

pub use stats::StatsError;
pub use stats::StatsReader;

use crate::Capabilities;
use crate::VmmError;
use crate::hv::HvPartition;
use crate::hv::Hypervisor;
use kvm_bindings::CpuId;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Cap;
use partition::KvmPartition;
use std::io;
use std::sync::Arc;

/// `KVM_CAP_BINARY_STATS_FD`, which `kvm-ioctls` has no name for.
const CAP_BINARY_STATS_FD: std::ffi::c_ulong = 203;
/// XCR0 bits: x87 and SSE, AVX, and the three of AVX-512 (Intel SDM 1, 13.3).
const XCR0_BASE: u64 = 0b11;
const XCR0_AVX: u64 = 0b100;
const XCR0_AVX512: u64 = 0b1110_0000;

/// An open `/dev/kvm` with what it can do.
pub struct Kvm {
    kvm: Arc<kvm_ioctls::Kvm>,
    capabilities: Capabilities,
    cpuid: CpuId,
}

impl Kvm {
    /// Opens `/dev/kvm` and probes it.
    ///
    /// # Errors
    /// [`VmmError::NoKvm`] with what to do about it; [`VmmError::Missing`] when
    /// the kernel lacks something required; [`VmmError::Hypervisor`].
    pub fn open() -> Result<Self, VmmError> {
        let kvm = Self::probe_device()?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|errno| VmmError::kvm("KVM_GET_SUPPORTED_CPUID", errno))?;
        let capabilities = probe(&kvm, &cpuid);
        if capabilities.api_version != 12 {
            return Err(VmmError::Missing {
                name: "API version 12",
                cost: "the kernel is too old or is not KVM",
            });
        }
        if let Some(item) = capabilities.missing() {
            return Err(VmmError::Missing {
                name: item.name,
                cost: item.cost,
            });
        }
        Ok(Self {
            kvm: Arc::new(kvm),
            capabilities,
            cpuid,
        })
    }

    /// The same host with some capabilities declared absent, for paths that
    /// this host would not take and for measuring what they cost.
    pub fn without(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(&mut self.capabilities);
        self
    }

    /// Only what this host has, without refusing hosts that lack something
    /// required: for reports.
    ///
    /// # Errors
    /// [`VmmError::NoKvm`]; [`VmmError::Hypervisor`].
    pub fn capabilities_of_host() -> Result<Capabilities, VmmError> {
        let kvm = Self::probe_device()?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|errno| VmmError::kvm("KVM_GET_SUPPORTED_CPUID", errno))?;
        Ok(probe(&kvm, &cpuid))
    }

    fn probe_device() -> Result<kvm_ioctls::Kvm, VmmError> {
        kvm_ioctls::Kvm::new().map_err(|errno| {
            let source = io::Error::from_raw_os_error(errno.errno());
            let remedy = match source.kind() {
                io::ErrorKind::NotFound => {
                    "load the module (modprobe kvm_intel or kvm_amd), enable virtualisation in \
                     the firmware, or pass /dev/kvm into the container"
                }
                io::ErrorKind::PermissionDenied => {
                    "add yourself to the group that owns it (usually: usermod -aG kvm $USER) and \
                     log in again"
                }
                _ => "check `ls -l /dev/kvm` and the kernel log",
            };
            VmmError::NoKvm { source, remedy }
        })
    }
}

impl Hypervisor for Kvm {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn create_partition(&self) -> Result<Arc<dyn HvPartition>, VmmError> {
        Ok(KvmPartition::create(
            &self.kvm,
            self.capabilities.clone(),
            self.cpuid.clone(),
        )?)
    }
}

fn probe(kvm: &kvm_ioctls::Kvm, cpuid: &CpuId) -> Capabilities {
    let has = |cap| kvm.check_extension(cap);
    let leaf = |function: u32, index: u32| {
        cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == function && entry.index == index)
    };
    let xsave = leaf(1, 0).is_some_and(|entry| entry.ecx & (1 << 26) != 0);
    let mut xcr0 = 0;
    if has(Cap::Xcrs) && xsave {
        let host = leaf(0xD, 0).map_or(0, |entry| u64::from(entry.eax));
        xcr0 = host & XCR0_BASE;
        if host & XCR0_AVX != 0 {
            xcr0 |= XCR0_AVX;
            if host & XCR0_AVX512 == XCR0_AVX512 {
                xcr0 |= XCR0_AVX512;
            }
        }
    }
    Capabilities {
        api_version: u32::try_from(kvm.get_api_version()).unwrap_or(0),
        irqchip: has(Cap::Irqchip),
        irqfd: has(Cap::Irqfd),
        ioeventfd: has(Cap::Ioeventfd),
        irq_routing: has(Cap::IrqRouting),
        signal_msi: has(Cap::SignalMsi),
        readonly_memory: has(Cap::ReadonlyMem),
        immediate_exit: has(Cap::ImmediateExit),
        statistics: kvm.check_extension_raw(CAP_BINARY_STATS_FD) > 0,
        xcrs: has(Cap::Xcrs),
        xcr0,
        gib_pages: leaf(0x8000_0001, 0).is_some_and(|entry| entry.edx & (1 << 26) != 0),
        physical_bits: leaf(0x8000_0008, 0).map_or(0, |entry| entry.eax & 0xFF),
        x2apic: leaf(1, 0).is_some_and(|entry| entry.ecx & (1 << 21) != 0),
        tsc_offset: vcpu::can_set_tsc_offset(kvm),
        user_space_msr: has(Cap::X86UserSpaceMsr),
        msr_filter: has(Cap::X86MsrFilter),
        hyperv: has(Cap::Hyperv),
        hyperv_synic: has(Cap::HypervSynic) || has(Cap::HypervSynic2),
        memory_fault_info: has(Cap::MemoryFaultInfo),
        max_vcpus: u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX),
        memory_slots: u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX),
    }
}
