//! How a partition's run ends: [`Outcome`], and [`Fault`] when the guest did
//! something that no partition may go on after.
//!
//! A fault names partition, vCPU, RIP and address. It stops that partition and
//! nothing else. RIP is where the vCPU stood when it was stopped: the offending
//! instruction or, for a store that was decoded already, the one behind it.

use std::fmt;
use std::time::Duration;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest wrote this code to the exit port.
    Exited(u32),
    /// The guest turned its power off.
    PoweredOff,
    /// The guest asked for a reset. Whoever runs the partition builds it again
    /// from its images, or leaves it at that.
    Reset,
    /// The guest did what it may not, or its backing went away.
    Faulted(Fault),
    /// The deadline passed first.
    Deadline(Overrun),
    /// The host asked for it.
    Stopped,
}

impl Outcome {
    /// Whether the guest ended by itself and well: with code 0 or by turning its
    /// power off.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(0) | Self::PoweredOff)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::PoweredOff => write!(f, "powered off"),
            Self::Reset => write!(f, "reset itself"),
            Self::Faulted(fault) => write!(f, "stopped: {fault}"),
            Self::Deadline(overrun) => write!(f, "stopped: {overrun}"),
            Self::Stopped => write!(f, "stopped by the host"),
        }
    }
}

/// A partition that was still running at its deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Name of the partition.
    pub partition: String,
    /// Time it had.
    pub limit: Duration,
    /// Where each vCPU stood when it was taken out: (number, RIP).
    pub vcpus: Vec<(u32, u64)>,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "partition {:?} still running after its deadline of {:?}",
            self.partition, self.limit
        )?;
        for (index, (vcpu, rip)) in self.vcpus.iter().enumerate() {
            let lead = if index == 0 { ": " } else { ", " };
            write!(f, "{lead}vCPU {vcpu} at RIP {rip:#x}")?;
        }
        Ok(())
    }
}

/// What a guest did that stopped its partition, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Name of the partition.
    pub partition: String,
    /// Number of the vCPU; `None` when no vCPU was at fault.
    pub vcpu: Option<u32>,
    /// Instruction pointer, when it could be read.
    pub rip: Option<u64>,
    /// What happened.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {:?}", self.partition)?;
        if let Some(vcpu) = self.vcpu {
            write!(f, ", vCPU {vcpu}")?;
        }
        if let Some(rip) = self.rip {
            write!(f, ", RIP {rip:#x}")?;
        }
        write!(f, ": ")?;
        write!(f, "{}", self.kind)
    }
}

/// What happened. Addresses are guest physical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A triple fault, or whatever else made the processor shut down.
    Shutdown,
    /// The guest's kernel said that it panicked.
    Panic,
    /// A load or store where there is no memory and no device.
    Unmapped {
        /// The address.
        gpa: u64,
        /// Bytes accessed.
        len: u32,
        /// Whether it was a store.
        write: bool,
    },
    /// A store to a part of a region that belongs to someone else.
    ReadOnly {
        /// Name of the region.
        region: String,
        /// The address.
        gpa: u64,
        /// Offset from the start of the region, in bytes.
        offset: u64,
    },
    /// A region's memory is not there any more: its backing was truncated.
    RegionLost {
        /// Name of the region.
        region: String,
        /// The address.
        gpa: u64,
        /// Offset from the start of the region, in bytes.
        offset: u64,
        /// Whether it was a store.
        write: bool,
    },
    /// The partition's own RAM is not there any more.
    RamLost {
        /// The address.
        gpa: u64,
    },
    /// The hypervisor cannot execute the instruction.
    Emulation {
        /// KVM's suberror number.
        suberror: u32,
        /// The instruction's bytes, when KVM tells.
        bytes: Vec<u8>,
    },
    /// The processor refused to enter the guest.
    Entry {
        /// Reason as the hardware gave it.
        reason: u64,
    },
    /// `hlt` where nothing could ever wake the vCPU.
    Halt,
    /// A device refused to go on.
    Device {
        /// Name of the device.
        device: String,
        /// Its reason.
        reason: String,
    },
    /// The hypervisor failed in a way that this VMM has no name for.
    Hypervisor {
        /// Exit reason or error number, in words.
        what: String,
    },
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = |write: bool| if write { "store to" } else { "load from" };
        match self {
            Self::Shutdown => write!(f, "triple fault"),
            Self::Panic => write!(f, "its kernel panicked"),
            Self::Unmapped { gpa, len, write } => {
                write!(f, "{len}-byte {} unmapped address {gpa:#x}", verb(*write))
            }
            Self::ReadOnly {
                region,
                gpa,
                offset,
            } => write!(
                f,
                "store to address {gpa:#x}, offset {offset:#x} of region {region:?}, which another writes"
            ),
            Self::RegionLost {
                region,
                gpa,
                offset,
                write,
            } => write!(
                f,
                "{} address {gpa:#x}, offset {offset:#x} of region {region:?}, whose backing is gone (truncated?)",
                verb(*write)
            ),
            Self::RamLost { gpa } => {
                write!(f, "RAM at {gpa:#x} has lost its backing (truncated?)")
            }
            Self::Emulation { suberror, bytes } => {
                write!(
                    f,
                    "KVM cannot execute the instruction (suberror {suberror})"
                )?;
                if !bytes.is_empty() {
                    write!(f, ", bytes")?;
                    for byte in bytes {
                        write!(f, " {byte:02x}")?;
                    }
                }
                Ok(())
            }
            Self::Entry { reason } => write!(f, "guest entry refused, reason {reason:#x}"),
            Self::Halt => write!(f, "halted with nothing to wake it"),
            Self::Device { device, reason } => write!(f, "device {device}: {reason}"),
            Self::Hypervisor { what } => write!(f, "hypervisor: {what}"),
        }
    }
}
