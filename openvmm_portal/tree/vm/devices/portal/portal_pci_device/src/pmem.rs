// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! A served region as persistent memory behind virtio-pmem.
//!
//! The device, its queue and what a flush does are `virtio_pmem`'s; here the
//! memory is that of a place in a region ([`Seat`]). A pmem device has no
//! doorbells, and one kind of access to all of the region. So a guest that
//! writes needs a region that is kept in one piece; where each part has a
//! descriptor of its own, which only its owner may write, the guest reads.
//!
//! A flush makes durable what has storage behind it; memory has none, and the
//! flush succeeds. While the switchboard is away the guest notices nothing.

use crate::inspection::Tree;
use crate::resolver::join;
use crate::resolver::map;
use crate::resolver::writable;
use anyhow::Context as _;
use guestmem::MappedMemoryRegion;
use inspect::InspectMut;
use portal_client::seat::Seat;
use portal_device::Access;
use portal_ivshmem::Window;
use portal_resources::PortalPmemHandle;
use portal_resources::RegionAccess;
use std::fs::File;
use std::sync::Arc;
use virtio::DeviceTraits;
use virtio::QueueResources;
use virtio::VirtioDevice;
use virtio::queue::QueueState;
use virtio::resolve::ResolvedVirtioDevice;
use virtio::resolve::VirtioResolveInput;
use virtio::spec::VirtioDeviceFeatures;
use vm_resource::ResolveResource;
use vm_resource::declare_static_resolver;
use vm_resource::kind::VirtioDeviceHandle;
use vmcore::vm_task::VmTaskDriverSource;

/// Linux takes persistent memory in whole units of this size.
const UNIT: u64 = 2 << 20;

/// Resolver for [`PortalPmemHandle`].
pub struct PortalPmemResolver;

declare_static_resolver! {
    PortalPmemResolver,
    (VirtioDeviceHandle, PortalPmemHandle),
}

impl ResolveResource<VirtioDeviceHandle, PortalPmemHandle> for PortalPmemResolver {
    type Output = ResolvedVirtioDevice;
    type Error = anyhow::Error;

    fn resolve(
        &self,
        resource: PortalPmemHandle,
        input: VirtioResolveInput<'_>,
    ) -> Result<Self::Output, Self::Error> {
        let PortalPmemHandle {
            socket,
            region,
            access,
            peer,
        } = resource;
        let seat = join(&socket, &region, access, peer, 0)?;
        let pmem = RegionPmem::new(input.driver_source, seat, access)
            .with_context(|| format!("region {region} of {socket}"))?;
        Ok(pmem.into())
    }
}

/// The device.
pub(crate) struct RegionPmem {
    pmem: virtio_pmem::Device,
    seat: Seat,
    window: Window,
    size: u64,
}

impl RegionPmem {
    pub(crate) fn new(
        driver_source: &VmTaskDriverSource,
        seat: Seat,
        access: RegionAccess,
    ) -> anyhow::Result<Self> {
        let writes = access == RegionAccess::ReadWrite;
        let len = seat.region_len();
        let stretches = seat.stretches(0..len)?;
        anyhow::ensure!(
            !(writes && stretches.len() > 1),
            "its sections are enforced, and a pmem device that writes maps it as one: serve it \
             with sections=advisory, or use access=ro or kind=ivshmem"
        );
        let first = stretches.first().context("the region is empty")?;
        let file = File::from(first.file.try_clone()?);
        Ok(Self {
            pmem: virtio_pmem::Device::new(driver_source, file, writes)?,
            seat,
            window: Window {
                offset: 0,
                len,
                access: writable(access).access(),
            },
            size: len
                .checked_next_multiple_of(UNIT)
                .context("the region is larger than an address space")?,
        })
    }
}

impl VirtioDevice for RegionPmem {
    fn traits(&self) -> DeviceTraits {
        let mut traits = self.pmem.traits();
        traits.shared_memory.size = self.size;
        traits.shared_memory.identity = self.seat.identity().region.into_bytes();
        traits
    }

    async fn read_registers_u32(&mut self, offset: u16) -> u32 {
        self.pmem.read_registers_u32(offset).await
    }

    async fn write_registers_u32(&mut self, offset: u16, value: u32) {
        self.pmem.write_registers_u32(offset, value).await
    }

    fn set_shared_memory_region(
        &mut self,
        region: &Arc<dyn MappedMemoryRegion>,
    ) -> anyhow::Result<()> {
        map(&self.seat, &self.window, &**region)?;
        // The driver takes the device's length for the region's.
        let end = usize::try_from(self.window.len)?;
        let rest = usize::try_from(self.size)? - end;
        if rest > 0 {
            let zeros = sparse_mmap::alloc_shared_memory(rest, "portal-pmem-rest")?;
            let writable = self.window.access == Access::ReadWrite;
            region.map(end, &zeros, 0, rest, writable)?;
        }
        Ok(())
    }

    async fn start_queue(
        &mut self,
        index: u16,
        resources: QueueResources,
        features: &VirtioDeviceFeatures,
        state: Option<QueueState>,
    ) -> anyhow::Result<()> {
        self.pmem
            .start_queue(index, resources, features, state)
            .await?;
        // The guest has found the memory. It has it whatever the switchboard
        // says.
        if let Err(error) = self.seat.ready() {
            tracelimit::warn_ratelimited!(
                error = &error as &dyn std::error::Error,
                region = self.seat.region(),
                "cannot say that the peer is ready"
            );
        }
        Ok(())
    }

    async fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.pmem.stop_queue(index).await
    }

    fn supports_save_restore(&self) -> bool {
        true
    }
}

impl InspectMut for RegionPmem {
    fn inspect_mut(&mut self, req: inspect::Request<'_>) {
        req.respond()
            .merge(inspect::adhoc_mut(|req| self.pmem.inspect_mut(req)))
            .field("seat", Tree(&self.seat.inspect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Memory;
    use chipset_device::mmio::ExternallyManagedMmioIntercepts;
    use guestmem::GuestMemory;
    use pal_async::DefaultDriver;
    use pal_async::async_test;
    use parking_lot::Mutex;
    use pci_core::msi::MsiConnection;
    use sparse_mmap::AsMappableRef;
    use std::io;
    use virtio::PciInterruptModel;
    use virtio::VirtioPciDevice;
    use vmcore::save_restore::SaveRestore as _;
    use vmcore::vm_task::SingleDriverBackend;

    /// Remembers what was mapped: offset, length and whether it can be written.
    #[derive(Default)]
    struct Mapped(Mutex<Vec<(usize, usize, bool)>>);

    impl MappedMemoryRegion for Mapped {
        fn map(
            &self,
            offset: usize,
            _section: &dyn AsMappableRef,
            _file_offset: u64,
            len: usize,
            writable: bool,
        ) -> io::Result<()> {
            self.0.lock().push((offset, len, writable));
            Ok(())
        }

        fn unmap(&self, _offset: usize, _len: usize) -> io::Result<()> {
            Ok(())
        }
    }

    #[async_test]
    async fn the_region_is_mapped_with_the_guests_access(driver: DefaultDriver) {
        const LEN: u64 = 3 << 20;
        for (access, writable) in [
            (RegionAccess::ReadWrite, true),
            (RegionAccess::ReadOnly, false),
        ] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(LEN).unwrap();
            let seat = Seat::of_file("lake", file.into(), LEN).unwrap();
            let source = VmTaskDriverSource::new(SingleDriverBackend::new(driver.clone()));
            let mut device = RegionPmem::new(&source, seat, access).unwrap();
            let traits = device.traits();
            assert_eq!(traits.shared_memory.size, 4 << 20);
            assert_eq!(traits.shared_memory.read_only, !writable);
            let mapped = Arc::new(Mapped::default());
            let region: Arc<dyn MappedMemoryRegion> = mapped.clone();
            device.set_shared_memory_region(&region).unwrap();
            assert_eq!(
                *mapped.0.lock(),
                [(0, 3 << 20, writable), (3 << 20, 1 << 20, writable)]
            );
        }
    }

    #[async_test]
    async fn the_state_of_other_memory_is_refused(driver: DefaultDriver) {
        const LEN: u64 = 2 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEN).unwrap();
        let seat = Seat::of_file("lake", file.into(), LEN).unwrap();
        let source = VmTaskDriverSource::new(SingleDriverBackend::new(driver.clone()));
        let device = RegionPmem::new(&source, seat, RegionAccess::ReadWrite).unwrap();
        let mut pci = VirtioPciDevice::new(
            Box::new(device),
            &driver,
            GuestMemory::empty(),
            PciInterruptModel::Msix(&MsiConnection::new().target()),
            None,
            &mut ExternallyManagedMmioIntercepts,
            Some(&Memory::default()),
        )
        .unwrap();
        let saved = pci.save().unwrap();
        pci.restore(saved).unwrap();
        let text = |error| format!("{:#}", anyhow::Error::from(error));
        let mut saved = pci.save().unwrap();
        saved.shared_memory_identity[15] = 1;
        let error = text(pci.restore(saved).unwrap_err());
        assert!(error.contains("is another one now"), "{error}");
        let mut saved = pci.save().unwrap();
        saved.shared_memory_size = 2 * LEN;
        let error = text(pci.restore(saved).unwrap_err());
        assert!(error.contains("0x400000 bytes"), "{error}");
    }
}
