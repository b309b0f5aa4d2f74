//! What can go wrong on the host's side, in two halves: [`VmmError`] is *we
//! failed* (or were asked for something impossible) and goes to the caller;
//! *the guest misbehaved* is a [`crate::Fault`] and stops that partition only.

use std::io;
use std::time::Duration;

/// A host-side failure. Each message names the thing, the value and, where there
/// is one, the limit or the remedy.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// `/dev/kvm` cannot be opened.
    #[error("cannot open /dev/kvm: {source}; {remedy}")]
    NoKvm {
        /// What the system said.
        source: io::Error,
        /// What the user can do about it.
        remedy: &'static str,
    },
    /// The kernel lacks something without which no partition can be made.
    #[error("this host's KVM has no {name}: {cost}")]
    Missing {
        /// Name of the capability.
        name: &'static str,
        /// What does not work without it.
        cost: &'static str,
    },
    /// A hypervisor call failed.
    #[error("{call} failed: {source}")]
    Hypervisor {
        /// The call, by the kernel's name.
        call: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Host memory could not be had.
    #[error("cannot get {bytes} bytes of host memory for {what}: {source}")]
    Memory {
        /// What it was for.
        what: String,
        /// Bytes asked for.
        bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A value in the partition's configuration is impossible.
    #[error("partition {partition:?}: {field} is {value}, {limit}")]
    Config {
        /// Name of the partition.
        partition: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        limit: String,
    },
    /// A region cannot be mapped or shared as asked.
    #[error("region {region:?}: {reason}")]
    Region {
        /// Name of the region.
        region: String,
        /// Why.
        reason: String,
    },
    /// A file that cannot be a device's storage.
    #[error("storage {storage}: {reason}")]
    Storage {
        /// Path of the file, or the region that it holds.
        storage: String,
        /// Why.
        reason: String,
    },
    /// Two things claim the same guest physical addresses.
    #[error("partition {partition:?}: {what} at {gpa:#x}, {len:#x} bytes, overlaps {other}")]
    Overlap {
        /// Name of the partition.
        partition: String,
        /// What was to be placed.
        what: String,
        /// Its guest physical address.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
        /// What lies there already.
        other: String,
    },
    /// A BAR is larger than what is left of the addresses for BARs of its kind.
    #[error(
        "partition {partition:?}: BAR {bar} of {device} needs {len:#x} bytes; addresses for it, \
         {start:#x}..{end:#x}, have room for {room:#x}; {remedy}"
    )]
    Bar {
        /// Name of the partition.
        partition: String,
        /// Name of the device.
        device: String,
        /// Number of the BAR.
        bar: u8,
        /// Bytes that it needs, a power of two.
        len: u64,
        /// First of the addresses.
        start: u64,
        /// End (exclusive) of the addresses.
        end: u64,
        /// Bytes of the largest BAR that there is room for; 0 for none.
        room: u64,
        /// What the user can do about it.
        remedy: &'static str,
    },
    /// No room is left for a slot, an interrupt route or a PCI device.
    #[error("partition {partition:?}: no room for {what}: limit {limit}")]
    Exhausted {
        /// Name of the partition.
        partition: String,
        /// What there was no room for.
        what: String,
        /// How many or how much there can be.
        limit: u64,
    },
    /// No resolver is registered for a handle's kind.
    #[error("no resolver for device kind {kind:?}; registered: {known}")]
    NoResolver {
        /// The handle's kind.
        kind: String,
        /// Kinds that have one, comma-separated.
        known: String,
    },
    /// A resolver or a device refused its configuration.
    #[error("device {device}: {reason}")]
    Device {
        /// Kind or name of the device.
        device: String,
        /// Why.
        reason: String,
    },
    /// A thread could not be started, pinned or locked in.
    #[error("partition {partition:?}, vCPU {vcpu}: {what}: {source}")]
    Thread {
        /// Name of the partition.
        partition: String,
        /// Number of the vCPU.
        vcpu: u32,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The sandbox could not be put in place and was not turned off.
    #[error("sandbox: {what}: {reason}; --no-sandbox runs without it")]
    Sandbox {
        /// Which part.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A call that does not fit the partition's state.
    #[error("partition {partition:?} is {state}: cannot {action}")]
    State {
        /// Name of the partition.
        partition: String,
        /// The state it is in.
        state: &'static str,
        /// What was asked for.
        action: &'static str,
    },
    /// A partition did not come to rest in time.
    #[error("partition {partition:?}: {running} vCPU(s) still in the guest after {waited:?}")]
    Stuck {
        /// Name of the partition.
        partition: String,
        /// vCPUs that had not come out.
        running: usize,
        /// How long was waited.
        waited: Duration,
    },
}

impl VmmError {
    pub(crate) fn kvm(call: &'static str, errno: kvm_ioctls::Error) -> Self {
        Self::Hypervisor {
            call,
            source: io::Error::from_raw_os_error(errno.errno()),
        }
    }
}
