// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! Resource definitions for devices that give a VM a shared memory region.

#![forbid(unsafe_code)]

use mesh::MeshPayload;
use vm_resource::ResourceId;
use vm_resource::kind::PciDeviceHandleKind;
use vm_resource::kind::VirtioDeviceHandle;

/// Where a region comes from.
#[derive(Clone, Debug, PartialEq, MeshPayload)]
pub enum RegionSource {
    /// A region that a switchboard serves under a name, to many VMs and host
    /// programs at once.
    Switchboard {
        /// Path of the switchboard's Portal socket.
        socket: String,
        /// Name of the region.
        region: String,
    },
    /// A file. Its length is the region's; whoever else maps it shares it.
    File {
        /// Path of the file.
        path: String,
    },
}

/// What the guest may do with the region.
#[derive(Copy, Clone, Debug, PartialEq, MeshPayload)]
pub enum RegionAccess {
    /// Loads only.
    ReadOnly,
    /// Loads, and stores wherever the region lets this VM store.
    ReadWrite,
}

/// The register model of a region's PCI function.
#[derive(Copy, Clone, Debug, PartialEq, MeshPayload)]
pub enum PciModel {
    /// ivshmem as QEMU has it (revision 1).
    IvshmemV1,
    /// ivshmem version 2, as Jailhouse's draft has it.
    IvshmemV2,
}

/// Handle for a PCI function with a region behind one of its BARs.
#[derive(Debug, MeshPayload)]
pub struct PortalPciHandle {
    /// Where the region comes from.
    pub source: RegionSource,
    /// The register model.
    pub model: PciModel,
    /// What the guest may do with the region.
    pub access: RegionAccess,
    /// Number of doorbell vectors that the function receives on; 0 for a
    /// function without doorbells, which is what a region from a file has.
    pub vectors: u16,
    /// Which of the region's peers this VM has to be; any that is free when
    /// absent.
    pub peer: Option<u16>,
}

impl ResourceId<PciDeviceHandleKind> for PortalPciHandle {
    const ID: &'static str = "portal";
}

/// Handle for a served region as persistent memory behind virtio-pmem. A file is
/// `virtio_resources::pmem::VirtioPmemHandle`'s.
#[derive(Debug, MeshPayload)]
pub struct PortalPmemHandle {
    /// Path of the switchboard's Portal socket.
    pub socket: String,
    /// Name of the region.
    pub region: String,
    /// What the guest may do with the region.
    pub access: RegionAccess,
    /// Which of the region's peers this VM has to be; any that is free when
    /// absent.
    pub peer: Option<u16>,
}

impl ResourceId<VirtioDeviceHandle> for PortalPmemHandle {
    const ID: &'static str = "portal-pmem";
}
