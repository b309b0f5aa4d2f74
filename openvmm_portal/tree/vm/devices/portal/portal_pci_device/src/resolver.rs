// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! Resolver for region devices on PCI.

use crate::PortalPciDevice;
use crate::binding::Binding;
use crate::binding::Part;
use crate::line::Line;
use anyhow::Context as _;
use chipset_device::mmio::RegisterMmioIntercept;
use guestmem::DoorbellRegistration;
use guestmem::MemoryMapper;
use hv_shmem::layout::PeerId;
use hv_shmem::peers::Rights;
use pci_core::msi::MsiTarget;
use pci_resources::ResolvePciDeviceHandleParams;
use pci_resources::ResolvedPciDevice;
use portal_client::JoinOptions;
use portal_client::Seat;
use portal_client::seat::new_bells;
use portal_device::Access;
use portal_device::Counter;
use portal_device::Device;
use portal_device::standing::Doorbells;
use portal_device::standing::Vectors;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_ivshmem::IvshmemV2;
use portal_ivshmem::IvshmemV2Config;
use portal_ivshmem::Window;
use portal_resources::PciModel;
use portal_resources::PortalPciHandle;
use portal_resources::RegionAccess;
use portal_resources::RegionSource;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
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
        let mapper = input
            .shared_mem_mapper
            .context("this hypervisor cannot map memory for devices")?;
        let device = device(
            &resource,
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
    register_mmio: &mut dyn RegisterMmioIntercept,
    mapper: &dyn MemoryMapper,
    registration: Option<Arc<dyn DoorbellRegistration>>,
    msi: MsiTarget,
    driver: VmTaskDriver,
) -> anyhow::Result<PortalPciDevice> {
    let seat = seat(resource)?;
    let (windows, function) = function(resource, &seat)?;
    let mut traps = BTreeMap::new();
    for bar in function.bars() {
        let trap = register_mmio.new_io_region(&format!("portal-bar{}", bar.bar), bar.len);
        traps.insert(bar.bar, trap);
    }
    let mut parts = BTreeMap::new();
    for window in windows {
        parts.insert(window.offset, part(&seat, &window, mapper)?);
    }
    let bells = (0..resource.vectors).filter_map(|vector| seat.bell(seat.id(), vector));
    let binding = Binding {
        traps,
        parts,
        lines: bells.map(Line::new).collect(),
        vectors: Vectors::new(resource.vectors),
        doorbells: Doorbells::default(),
        registration,
        msi,
        driver,
        waker: Arc::default(),
        maps_refused: Counter::default(),
        unknown: Counter::default(),
    };
    Ok(PortalPciDevice::new(function, binding, seat))
}

/// Takes the place in the region.
fn seat(resource: &PortalPciHandle) -> anyhow::Result<Seat> {
    match &resource.source {
        RegionSource::Switchboard { socket, region } => {
            // Peers have names, for people; no two of a region have the same.
            static DEVICES: AtomicU32 = AtomicU32::new(0);
            let device = DEVICES.fetch_add(1, Ordering::Relaxed);
            let name = format!("openvmm-{}-{device}", std::process::id());
            let rights = match resource.access {
                RegionAccess::ReadOnly => Rights::READ.and(Rights::RING),
                RegionAccess::ReadWrite => Rights::ALL,
            };
            let options = JoinOptions::partition(region, &name)
                .context("region name")?
                .rights(rights)
                .id(resource.peer.map(PeerId))
                .own_bells(new_bells(resource.vectors)?);
            Seat::join(Path::new(socket), &options)
                .with_context(|| format!("region {region} of {socket}"))
        }
        RegionSource::File { path } => {
            anyhow::ensure!(
                resource.vectors == 0,
                "{path}: a region from a file has no doorbells"
            );
            let file: File = fs_err::OpenOptions::new()
                .read(true)
                .write(resource.access == RegionAccess::ReadWrite)
                .open(path)?
                .into();
            let len = file.metadata()?.len();
            Ok(Seat::of_file(path, file.into(), len)?)
        }
    }
}

/// The memory of a window, to be mapped into the guest later.
fn part(seat: &Seat, window: &Window, mapper: &dyn MemoryMapper) -> anyhow::Result<Part> {
    let name = format!("portal-region-{:#x}", window.offset);
    let (memory, backing) = mapper.new_region(window.len.try_into()?, name)?;
    for stretch in seat.stretches(window.offset..window.offset + window.len)? {
        let (at, file) = (stretch.at, File::from(stretch.file));
        let writable = window.access == Access::ReadWrite;
        backing
            .map(
                at as usize,
                &file,
                stretch.offset,
                stretch.len as usize,
                writable,
            )
            .with_context(|| format!("cannot map {window:x?} of the region at {at:#x}"))?;
    }
    let mapped = None;
    Ok(Part { memory, mapped })
}

/// The function, and the parts of the region that it will ask to have mapped.
fn function(
    resource: &PortalPciHandle,
    seat: &Seat,
) -> anyhow::Result<(Vec<Window>, Box<dyn Device>)> {
    let (peer, len) = (seat.id(), seat.region_len());
    let writable = resource.access == RegionAccess::ReadWrite;
    let access = if writable {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    };
    // What another peer writes is read-only to this guest, whatever stands
    // behind it.
    let windows = match seat.layout() {
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
            layout: seat
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
