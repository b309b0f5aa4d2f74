//! What a partition has cost so far: our own counters and the kernel's.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Counters of one vCPU. Each is written by its own thread only.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) entries: AtomicU64,
    pub(crate) interrupted: AtomicU64,
    pub(crate) port_reads: AtomicU64,
    pub(crate) port_writes: AtomicU64,
    pub(crate) mmio_reads: AtomicU64,
    pub(crate) mmio_writes: AtomicU64,
    pub(crate) dropped_stores: AtomicU64,
    pub(crate) unknown_ports: AtomicU64,
    pub(crate) unknown_memory: AtomicU64,
}

/// Adds one; only the owner writes, so no locked operation is needed.
pub(crate) fn count(counter: &AtomicU64) {
    let value = counter.load(Ordering::Relaxed).wrapping_add(1);
    counter.store(value, Ordering::Relaxed);
}

/// Counters of one vCPU at one moment. All are numbers of events since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VcpuStats {
    /// `KVM_RUN` calls that came back: exits to user space for any reason.
    pub user_exits: u64,
    /// Of these, by a kick or a signal.
    pub interrupted: u64,
    /// Of these, by `in`.
    pub port_reads: u64,
    /// Of these, by `out`.
    pub port_writes: u64,
    /// Of these, by a load from a device address.
    pub mmio_reads: u64,
    /// Of these, by a store to a device address.
    pub mmio_writes: u64,
    /// Stores to someone else's section that were dropped.
    pub dropped_stores: u64,
    /// Accesses to ports that nothing answers.
    pub unknown_ports: u64,
    /// Accesses to addresses that nothing answers, where that is no fault.
    pub unknown_memory: u64,
    /// The kernel's own counters by name, empty where it keeps none.
    pub kernel: BTreeMap<String, u64>,
}

impl Counters {
    pub(crate) fn read(&self) -> VcpuStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        VcpuStats {
            user_exits: get(&self.entries),
            interrupted: get(&self.interrupted),
            port_reads: get(&self.port_reads),
            port_writes: get(&self.port_writes),
            mmio_reads: get(&self.mmio_reads),
            mmio_writes: get(&self.mmio_writes),
            dropped_stores: get(&self.dropped_stores),
            unknown_ports: get(&self.unknown_ports),
            unknown_memory: get(&self.unknown_memory),
            kernel: BTreeMap::new(),
        }
    }
}

/// What a partition has cost so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PartitionStats {
    /// Each vCPU, by number.
    pub vcpus: Vec<VcpuStats>,
    /// Each device: its name and its own counters.
    pub devices: Vec<DeviceStats>,
    /// From the beginning of `build` to its end.
    pub build: Duration,
    /// From the beginning of `build` to the first guest entry; `None` before it.
    pub first_entry: Option<Duration>,
    /// RAM of the partition in bytes.
    pub ram_bytes: u64,
    /// Console writes that the sink refused.
    pub console_lost: u64,
}

impl PartitionStats {
    /// Exits to user space of all vCPUs together.
    pub fn user_exits(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.user_exits).sum()
    }

    /// A kernel counter summed over the vCPUs; `None` where no vCPU has it.
    pub fn kernel(&self, name: &str) -> Option<u64> {
        let values = self.vcpus.iter().filter_map(|vcpu| vcpu.kernel.get(name));
        values.copied().reduce(u64::wrapping_add)
    }

    /// Stores to someone else's section that were dropped, over all vCPUs.
    pub fn dropped_stores(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.dropped_stores).sum()
    }
}

/// One device's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DeviceStats {
    /// Name of the device.
    pub name: String,
    /// Name and value of each counter, in the device's order.
    pub counters: Vec<(&'static str, u64)>,
}
