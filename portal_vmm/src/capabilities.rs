//! What the host's hypervisor can do, probed once when it is opened, with what
//! each missing thing costs. `portal doctor` prints [`Capabilities::items`];
//! the VMM decides by the fields and never by what a host ought to have.

use portal_boot_abi as abi;
use std::ops::Range;

/// What was found. `false` or 0 means absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Capabilities {
    /// KVM API version; 12 for every kernel since 2.6.22.
    pub api_version: u32,
    /// Interrupt controllers in the kernel (`KVM_CREATE_IRQCHIP`).
    pub irqchip: bool,
    /// An eventfd as interrupt source (`KVM_IRQFD`).
    pub irqfd: bool,
    /// A guest store that signals an eventfd (`KVM_IOEVENTFD`).
    pub ioeventfd: bool,
    /// Interrupt routing tables with MSIs (`KVM_SET_GSI_ROUTING`).
    pub irq_routing: bool,
    /// Interrupts by a call (`KVM_SIGNAL_MSI`).
    pub signal_msi: bool,
    /// Memory slots that guests cannot write (`KVM_MEM_READONLY`).
    pub readonly_memory: bool,
    /// Leaving `KVM_RUN` without a race (`immediate_exit`).
    pub immediate_exit: bool,
    /// Statistics by file descriptor (`KVM_GET_STATS_FD`).
    pub statistics: bool,
    /// Setting extended control registers (`KVM_SET_XCRS`).
    pub xcrs: bool,
    /// `XCR0` that guests are started with; 0 without XSAVE.
    pub xcr0: u64,
    /// 1 GiB pages in guest page tables.
    pub gib_pages: bool,
    /// Width of physical addresses in bits; 0 where the processor does not say.
    pub physical_bits: u32,
    /// x2APIC mode of the local APIC.
    pub x2apic: bool,
    /// The guest's TSC offset can be set, so that it reads as the host's.
    pub tsc_offset: bool,
    /// Guest MSR accesses can go to user space (`KVM_CAP_X86_USER_SPACE_MSR`).
    pub user_space_msr: bool,
    /// MSR accesses can be filtered (`KVM_CAP_X86_MSR_FILTER`).
    pub msr_filter: bool,
    /// Hyper-V emulation in the kernel.
    pub hyperv: bool,
    /// The Hyper-V synthetic interrupt controller in the kernel.
    pub hyperv_synic: bool,
    /// Memory-fault details on failed guest entries.
    pub memory_fault_info: bool,
    /// Most vCPUs of one partition.
    pub max_vcpus: u32,
    /// Most memory slots of one partition.
    pub memory_slots: u32,
}

/// One line of `portal doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CapabilityItem {
    /// The capability, by KVM's name.
    pub name: &'static str,
    /// Whether this host has it.
    pub present: bool,
    /// Whether no partition can be made without it.
    pub required: bool,
    /// What its absence costs.
    pub cost: &'static str,
}

/// What is missed without what Hyper-V interfaces would be built on.
const HYPERV: &str = "none: no partition is offered Hyper-V's interfaces yet";

impl Capabilities {
    /// Every capability that the VMM looks at, required ones first.
    pub fn items(&self) -> Vec<CapabilityItem> {
        let need = |name, present, cost| CapabilityItem {
            name,
            present,
            required: true,
            cost,
        };
        let like = |name, present, cost| CapabilityItem {
            name,
            present,
            required: false,
            cost,
        };
        vec![
            need(
                "KVM_CAP_IRQCHIP",
                self.irqchip,
                "no in-kernel APIC: guests get no interrupts and `hlt` cannot wait",
            ),
            need(
                "KVM_CAP_IMMEDIATE_EXIT",
                self.immediate_exit,
                "a running guest cannot be paused or stopped without a race",
            ),
            need(
                "KVM_CAP_IRQ_ROUTING",
                self.irq_routing,
                "no MSI routing: doorbells cannot become guest interrupts",
            ),
            like(
                "KVM_CAP_IRQFD",
                self.irqfd,
                "every doorbell takes a hop through a thread of ours at the receiver",
            ),
            like(
                "KVM_CAP_IOEVENTFD",
                self.ioeventfd,
                "every doorbell leaves the guest for user space (tens of microseconds)",
            ),
            like(
                "KVM_CAP_READONLY_MEM",
                self.readonly_memory,
                "sections cannot be enforced: only flat regions, kept apart by checks alone",
            ),
            like(
                "KVM_CAP_SIGNAL_MSI",
                self.signal_msi,
                "pending vectors are not delivered when the guest unmasks them",
            ),
            like(
                "KVM_CAP_BINARY_STATS_FD",
                self.statistics,
                "exits cannot be taken from the kernel's own counters",
            ),
            like(
                "KVM_CAP_XCRS",
                self.xcrs,
                "guests start without AVX: ring-3 code is limited to SSE2",
            ),
            like(
                "1 GiB guest pages",
                self.gib_pages,
                "boot page tables are larger; flat images get at most 40 GiB of RAM and regions",
            ),
            like(
                "37 address bits",
                self.window64().end == abi::WINDOW64_END,
                "less room than 64 GiB, or none, for regions behind BARs and at fixed addresses",
            ),
            like("x2APIC", self.x2apic, "guests use the memory-mapped APIC"),
            like(
                "KVM_VCPU_TSC_OFFSET",
                self.tsc_offset,
                "time stamps of different partitions cannot be compared",
            ),
            like(
                "KVM_CAP_MEMORY_FAULT_INFO",
                self.memory_fault_info,
                "a lost backing may be reported without its address",
            ),
            like("KVM_CAP_X86_USER_SPACE_MSR", self.user_space_msr, HYPERV),
            like(
                "KVM_CAP_X86_MSR_FILTER",
                self.msr_filter,
                "MSRs that KVM knows cannot be taken over by user space",
            ),
            like("KVM_CAP_HYPERV", self.hyperv, HYPERV),
            like("KVM_CAP_HYPERV_SYNIC", self.hyperv_synic, HYPERV),
        ]
    }

    /// Guest physical addresses for regions and 64-bit BARs: the window of
    /// `portal_boot_abi`, as far as the processor can address it. Empty where it
    /// cannot.
    pub fn window64(&self) -> Range<u64> {
        let reach = match self.physical_bits {
            0 => u64::MAX,
            bits => 1u64.checked_shl(bits).unwrap_or(u64::MAX),
        };
        abi::WINDOW64_GPA..abi::WINDOW64_END.min(reach).max(abi::WINDOW64_GPA)
    }

    /// The first required thing that is missing, if any.
    pub fn missing(&self) -> Option<CapabilityItem> {
        self.items()
            .into_iter()
            .find(|item| item.required && !item.present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_ends_where_addresses_do() {
        let of = |physical_bits| {
            let found = Capabilities {
                physical_bits,
                ..Capabilities::default()
            };
            found.window64()
        };
        let whole = abi::WINDOW64_GPA..abi::WINDOW64_END;
        for bits in [0, 37, 39, 48, 52, 64] {
            assert_eq!(of(bits), whole, "{bits} bits");
        }
        for bits in [1, 32, 36] {
            assert!(of(bits).is_empty(), "{bits} bits");
        }
    }

    #[test]
    fn a_host_with_nothing_misses_something_required() {
        let none = Capabilities::default();
        assert_eq!(none.missing().unwrap().name, "KVM_CAP_IRQCHIP");
        let enough = Capabilities {
            irqchip: true,
            immediate_exit: true,
            irq_routing: true,
            ..none
        };
        assert_eq!(enough.missing(), None);
        assert!(enough.items().iter().all(|item| !item.cost.is_empty()));
    }
}
