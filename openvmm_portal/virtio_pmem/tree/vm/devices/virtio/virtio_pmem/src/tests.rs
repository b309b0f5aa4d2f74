// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! What a mainline Linux guest needs to see.

use crate::Device;
use chipset_device::io::IoResult;
use chipset_device::mmio::ExternallyManagedMmioIntercepts;
use chipset_device::mmio::MmioIntercept;
use chipset_device::pci::ByteEnabledDwordWrite;
use chipset_device::pci::PciConfigSpace;
use guestmem::GuestMemory;
use guestmem::MappableGuestMemory;
use guestmem::MappedMemoryRegion;
use guestmem::MemoryMapper;
use pal_async::DefaultDriver;
use pal_async::async_test;
use parking_lot::Mutex;
use pci_core::msi::MsiConnection;
use sparse_mmap::AsMappableRef;
use std::io;
use std::sync::Arc;
use virtio::PciInterruptModel;
use virtio::VirtioDevice;
use virtio::VirtioPciDevice;
use vmcore::vm_task::SingleDriverBackend;
use vmcore::vm_task::VmTaskDriverSource;

/// Smallest region that Linux makes a device of.
const LEAST: u64 = 2 << 20;

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

/// Remembers where a region is in the guest, and whether the guest can store to
/// it there.
#[derive(Clone, Default)]
struct Guest(Arc<Mutex<Option<(u64, bool)>>>);

impl MemoryMapper for Guest {
    fn new_region(
        &self,
        _len: usize,
        _debug_name: String,
    ) -> io::Result<(Box<dyn MappableGuestMemory>, Arc<dyn MappedMemoryRegion>)> {
        Ok((Box::new(self.clone()), Arc::new(Mapped::default())))
    }
}

impl MappableGuestMemory for Guest {
    fn map_to_guest(&mut self, gpa: u64, writable: bool) -> io::Result<()> {
        *self.0.lock() = Some((gpa, writable));
        Ok(())
    }

    fn unmap_from_guest(&mut self) {
        *self.0.lock() = None;
    }
}

fn device(driver: DefaultDriver, len: u64, writable: bool) -> Device {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    let driver_source = VmTaskDriverSource::new(SingleDriverBackend::new(driver));
    Device::new(&driver_source, file, writable).unwrap()
}

fn mapped(device: &mut Device) -> Vec<(usize, usize, bool)> {
    let mapped = Arc::new(Mapped::default());
    let region: Arc<dyn MappedMemoryRegion> = mapped.clone();
    device.set_shared_memory_region(&region).unwrap();
    let mapped = mapped.0.lock();
    mapped.clone()
}

#[async_test]
async fn offers_the_shared_memory_region_feature(driver: DefaultDriver) {
    // Bit 0 tells the driver to take start and length from the region and not
    // from the configuration registers, which know no address.
    let traits = device(driver, LEAST, true).traits();
    assert_eq!(traits.device_features.bank(0) & 1, 1);
    assert_eq!(traits.shared_memory.id, 0);
}

#[async_test]
async fn the_whole_region_is_backed(driver: DefaultDriver) {
    // The driver takes the region's length for the device's.
    for (file, region) in [
        (4096, LEAST),
        (LEAST + 4096, 2 * LEAST),
        (3 * LEAST, 3 * LEAST),
    ] {
        let mut device = device(driver.clone(), file, true);
        assert_eq!(device.traits().shared_memory.size, region);
        let mut end = 0;
        for (offset, len, _) in mapped(&mut device) {
            assert_eq!(offset, end);
            end += len;
        }
        assert_eq!(end as u64, region);
    }
}

#[async_test]
async fn only_a_writable_device_can_be_written(driver: DefaultDriver) {
    for writable in [true, false] {
        let mut device = device(driver.clone(), LEAST, writable);
        assert_eq!(mapped(&mut device), [(0, LEAST as usize, writable)]);
    }
}

#[async_test]
async fn a_store_to_a_read_only_device_is_dropped(driver: DefaultDriver) {
    const BAR4: u16 = 0x20;
    const COMMAND: u16 = 4;
    const MMIO_ENABLED: u32 = 1 << 1;
    const GPA: u64 = 0x1_0000_0000;
    for writable in [true, false] {
        let guest = Guest::default();
        let mut pci = VirtioPciDevice::new(
            Box::new(device(driver.clone(), LEAST, writable)),
            &driver,
            GuestMemory::empty(),
            PciInterruptModel::Msix(&MsiConnection::new().target()),
            None,
            &mut ExternallyManagedMmioIntercepts,
            Some(&guest),
        )
        .unwrap();
        for (register, value) in [
            (BAR4, GPA as u32),
            (BAR4 + 4, (GPA >> 32) as u32),
            (COMMAND, MMIO_ENABLED),
        ] {
            let value = ByteEnabledDwordWrite::with_all_bytes_enabled(value);
            pci.pci_cfg_write(register, value).unwrap();
        }
        // Memory that the host cannot store to is not mapped for stores: they
        // are intercepts, and end there.
        assert_eq!(*guest.0.lock(), Some((GPA, writable)));
        if !writable {
            let store = pci.mmio_write(GPA + 8, &[1; 8]);
            assert!(matches!(store, IoResult::Ok), "{store:?}");
        }
        pci.pci_cfg_write(COMMAND, ByteEnabledDwordWrite::with_all_bytes_enabled(0))
            .unwrap();
        assert_eq!(*guest.0.lock(), None);
    }
}
