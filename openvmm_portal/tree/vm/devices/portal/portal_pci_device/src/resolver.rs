// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! Resolver for region devices on PCI.

use crate::PortalPciDevice;
use crate::binding::Binding;
use anyhow::Context as _;
use chipset_device::mmio::RegisterMmioIntercept;
use guestmem::DoorbellRegistration;
use guestmem::MemoryMapper;
use hv_shmem::layout::PeerId;
use pci_core::msi::MsiTarget;
use pci_resources::ResolvePciDeviceHandleParams;
use pci_resources::ResolvedPciDevice;
use portal_device::Access;
use portal_device::Device;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_ivshmem::IvshmemV2;
use portal_ivshmem::IvshmemV2Config;
use portal_ivshmem::Window;
use portal_member::Member;
use portal_resources::PciModel;
use portal_resources::PortalPciHandle;
use portal_resources::RegionAccess;
use std::sync::Arc;
use vm_resource::ResolveResource;
use vm_resource::declare_static_resolver;
use vm_resource::kind::PciDeviceHandleKind;
use vmcore::vm_task::VmTaskDriver;

/// The protocol type that an ivshmem v2 function shows: the first of those that
/// the draft leaves to users.
const PROTOCOL: u16 = 0x4000;

/// Resolver for [`PortalPciHandle`].
pub struct PortalPciResolver;

declare_static_resolver! {
    PortalPciResolver,
    (PciDeviceHandleKind, PortalPciHandle),
}

impl ResolveResource<PciDeviceHandleKind, PortalPciHandle> for PortalPciResolver {
    type Output = ResolvedPciDevice;
    type Error = anyhow::Error;

    fn resolve(
        &self,
        resource: PortalPciHandle,
        input: ResolvePciDeviceHandleParams<'_>,
    ) -> Result<Self::Output, Self::Error> {
        let member = Member::join(&resource.source, resource.access, resource.vectors)?;
        let mapper = input
            .shared_mem_mapper
            .context("this hypervisor cannot map memory for devices")?;
        let device = device(
            &resource,
            member,
            input.register_mmio,
            mapper,
            input.doorbell_registration,
            input.dma_target.msi_target().clone(),
            input.driver_source.simple(),
        )?;
        Ok(device.into())
    }
}

pub(crate) fn device(
    resource: &PortalPciHandle,
    member: Member,
    register_mmio: &mut dyn RegisterMmioIntercept,
    mapper: &dyn MemoryMapper,
    doorbells: Option<Arc<dyn DoorbellRegistration>>,
    msi: MsiTarget,
    driver: VmTaskDriver,
) -> anyhow::Result<PortalPciDevice> {
    let (windows, function) = function(resource, &member)?;
    let binding = Binding::new(
        function.bars(),
        &windows,
        &member,
        register_mmio,
        mapper,
        doorbells,
        msi,
        driver,
    )?;
    Ok(PortalPciDevice::new(function, binding, member))
}

/// The function, and the parts of the region that it will ask to have mapped.
fn function(
    resource: &PortalPciHandle,
    member: &Member,
) -> anyhow::Result<(Vec<Window>, Box<dyn Device>)> {
    let (peer, len) = (PeerId(member.peer()), member.region_len());
    let writable = resource.access == RegionAccess::ReadWrite;
    let access = if writable {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    };
    // What another peer writes is read-only to this guest, whatever stands
    // behind it.
    let windows = match member.layout() {
        Some(layout) => Window::sectioned(layout, peer, writable, writable),
        None => Window::flat(len, access),
    };
    let denied_write = DeniedWrite::Drop;
    let function: Box<dyn Device> = match resource.model {
        PciModel::IvshmemV1 => Box::new(IvshmemV1::new(IvshmemV1Config {
            peer: peer.0,
            region_len: len,
            windows: windows.clone(),
            denied_write,
            vectors: resource.vectors,
            // A PCIe port has no interrupt pins.
            intx: false,
        })?),
        PciModel::IvshmemV2 => Box::new(IvshmemV2::new(IvshmemV2Config {
            peer,
            layout: member
                .layout()
                .context("a file is no region with peers")?
                .clone(),
            vectors: resource.vectors,
            protocol: PROTOCOL,
            base: None,
            access,
            one_shot: false,
            denied_write,
        })?),
    };
    Ok((windows, function))
}
