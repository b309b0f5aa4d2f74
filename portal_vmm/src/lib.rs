//! A small VMM that runs several partitions over one shared region.
//!
//! ```no_run
//! use portal_vmm::{Console, Image, Kvm, Outcome, PartitionBuilder};
//! use std::time::Duration;
//!
//! let hypervisor = Kvm::open()?;
//! // mov eax, 7; out 0xF4, eax
//! let image = Image::Flat(vec![0xB8, 7, 0, 0, 0, 0xE7, 0xF4].into());
//! let mut partition = PartitionBuilder::new("a", image)
//!     .console(Console::stdout("a| "))
//!     .deadline(Duration::from_secs(5))
//!     .build(&hypervisor)?;
//! partition.start()?;
//! assert_eq!(partition.wait(Duration::from_secs(6)), Some(Outcome::Exited(7)));
//! # Ok::<(), portal_vmm::VmmError>(())
//! ```
//!
//! Two partitions on one region, with doorbells, and host code as a third peer:
//!
//! ```no_run
//! use portal_resources::{IvshmemV1Handle, PciDevice, RegionHandle, Resource};
//! use portal_vmm::{Image, Join, Kvm, PartitionBuilder, RegionHost, resolvers};
//! # fn image() -> Image { unimplemented!() }
//!
//! let hypervisor = Kvm::open()?;
//! let regions = RegionHost::new();
//! regions.create(&RegionHandle::new("lake", 64 << 20))?;
//! let host = regions.join("lake", &Join::host("controller", Some(0), 2))?;
//!
//! let device = Resource::<PciDevice>::new(&IvshmemV1Handle::new("lake"))?;
//! let resolvers = resolvers::standard()?;
//! let mut partitions = Vec::new();
//! for name in ["a", "b"] {
//!     let mut partition = PartitionBuilder::new(name, image())
//!         .resource(&device, &resolvers, &regions)?
//!         .build(&hypervisor)?;
//!     partition.start()?;
//!     partitions.push(partition);
//! }
//! let shared = host.region().mapping().mem(); // for `hv_shmem`
//! # let _ = shared;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How the parts hang together
//!
//! | module | owns |
//! |---|---|
//! | [`hv`], [`kvm`] | what is asked of a hypervisor, and KVM's answer |
//! | `builder`, `boot`, `linux`, `firmware` | from a configuration to a partition that could run |
//! | `partition`, `vcpu_thread`, `watchdog` | its life, its threads, its deadline |
//! | `platform`, `address_map`, `pci`, `console` | what a guest's accesses meet |
//! | `binding`, `fabric`, `listener` | effects of devices; doorbells |
//! | `virtqueue`, `storage`, `flusher` | rings of virtio devices; files in memory, made durable |
//! | `region`, `region_host`, [`resolvers`] | regions, their members, devices from handles |
//! | `observer`, `stats` | what an operator sees |
//! | `sandbox` | what a thread may still do |
//!
//! Guests are distrusted, by each other and by this crate: whatever one does, it
//! can end its own run and nothing else. The host's kernel is trusted.

mod address_map;
mod binding;
mod boot;
mod builder;
mod capabilities;
mod console;
mod device_handle;
mod error;
mod fabric;
mod firmware;
mod flusher;
#[cfg(feature = "negative_control")]
pub mod guard;
#[cfg(not(feature = "negative_control"))]
mod guard;
#[cfg(test)]
mod hostile_guest;
pub mod hv;
pub mod kvm;
mod linux;
mod listener;
mod memory;
#[cfg(test)]
mod moved_memory;
mod observer;
mod outcome;
mod partition;
mod pci;
mod platform;
mod region;
mod region_host;
pub mod resolvers;
mod sandbox;
mod served;
mod stats;
mod storage;
mod vcpu_thread;
mod virtqueue;
mod watchdog;

pub use binding::DeviceRegion;
pub use binding::ResolvedDevice;
pub use builder::DEFAULT_DEADLINE;
pub use builder::DEFAULT_RAM;
pub use builder::Image;
pub use builder::PartitionBuilder;
pub use capabilities::Capabilities;
pub use capabilities::CapabilityItem;
pub use console::Captured;
pub use console::Console;
pub use device_handle::DeviceHandle;
pub use error::VmmError;
pub use fabric::Bells;
pub use fabric::Fabric;
pub use kvm::Kvm;
pub use linux::LinuxImage;
pub use memory::HostMemory;
pub use memory::HostRange;
pub use memory::RamBacking;
pub use observer::PartitionObserver;
pub use outcome::Fault;
pub use outcome::FaultKind;
pub use outcome::Outcome;
pub use outcome::Overrun;
pub use partition::Partition;
pub use portal_ivshmem::Writable;
pub use portal_resources::DeniedWrites;
pub use region::RegionAttachment;
pub use region::SharedRegion;
pub use region_host::Join;
pub use region_host::Member;
pub use region_host::RegionHost;
pub use sandbox::Denied;
pub use sandbox::Sandbox;
pub use stats::DeviceStats;
pub use stats::PartitionStats;
pub use stats::VcpuStats;
pub use storage::Storage;
