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
use guestmem::MappedMemoryRegion;
use guestmem::MemoryMapper;
use hv_shmem::layout::PeerId;
use pci_core::msi::MsiTarget;
use pci_resources::ResolvePciDeviceHandleParams;
use pci_resources::ResolvedPciDevice;
use portal_client::JoinOptions;
use portal_client::Seat;
use portal_client::seat::new_bells;
use portal_device::Access;
use portal_device::Counter;
use portal_device::standing::Doorbells;
use portal_device::standing::Vectors;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::Model;
use portal_ivshmem::Place;
use portal_ivshmem::Window;
use portal_ivshmem::Writable;
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
    let place = Place {
        peer: seat.id(),
        len: seat.region_len(),
        layout: seat.layout(),
        writable: writable(resource.access),
        vectors: resource.vectors,
        denied_write: DeniedWrite::Drop,
    };
    let function = place.function(match resource.model {
        // A PCIe port has no interrupt pins.
        PciModel::IvshmemV1 => Model::V1 { intx: false },
        PciModel::IvshmemV2 => Model::V2 {
            protocol: PROTOCOL,
            one_shot: false,
        },
    })?;
    let mut traps = BTreeMap::new();
    for bar in function.bars() {
        let trap = register_mmio.new_io_region(&format!("portal-bar{}", bar.bar), bar.len);
        traps.insert(bar.bar, trap);
    }
    let mut parts = BTreeMap::new();
    for window in place.windows() {
        let name = format!("portal-region-{:#x}", window.offset);
        let (memory, backing) = mapper.new_region(window.len.try_into()?, name)?;
        map(&seat, &window, &*backing)?;
        let mapped = None;
        parts.insert(window.offset, Part { memory, mapped });
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

/// What a guest of this access may store to.
pub(crate) fn writable(access: RegionAccess) -> Writable {
    match access {
        RegionAccess::ReadOnly => Writable::Nothing,
        RegionAccess::ReadWrite => Writable::Own,
    }
}

/// Takes the place in the region.
fn seat(resource: &PortalPciHandle) -> anyhow::Result<Seat> {
    match &resource.source {
        RegionSource::Switchboard { socket, region } => {
            let PortalPciHandle {
                access,
                peer,
                vectors,
                ..
            } = *resource;
            join(socket, region, access, peer, vectors)
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

/// Takes a place in a region of the switchboard at `socket`.
pub(crate) fn join(
    socket: &str,
    region: &str,
    access: RegionAccess,
    peer: Option<u16>,
    vectors: u16,
) -> anyhow::Result<Seat> {
    // Peers have names, for people; no two of a region have the same.
    static DEVICES: AtomicU32 = AtomicU32::new(0);
    let device = DEVICES.fetch_add(1, Ordering::Relaxed);
    let name = format!("openvmm-{}-{device}", std::process::id());
    let options = JoinOptions::partition(region, &name)
        .context("region name")?
        .rights(writable(access).rights())
        .id(peer.map(PeerId))
        .own_bells(new_bells(vectors)?);
    Seat::join(Path::new(socket), &options).with_context(|| format!("region {region} of {socket}"))
}

/// Maps a window of the region to the beginning of `to`.
pub(crate) fn map(seat: &Seat, window: &Window, to: &dyn MappedMemoryRegion) -> anyhow::Result<()> {
    let writable = window.access == Access::ReadWrite;
    for stretch in seat.stretches(window.offset..window.offset + window.len)? {
        let (at, len) = (stretch.at.try_into()?, stretch.len.try_into()?);
        to.map(at, &stretch.file, stretch.offset, len, writable)
            .with_context(|| format!("cannot map {window:x?} of the region at {at:#x}"))?;
    }
    Ok(())
}
