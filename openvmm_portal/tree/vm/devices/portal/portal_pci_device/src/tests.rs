// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! The function as a guest sees it, over a region that is a file.

use crate::PortalPciDevice;
use crate::line::Line;
use crate::resolver;
use chipset_device::mmio::ControlMmioIntercept;
use chipset_device::mmio::MmioIntercept;
use chipset_device::mmio::RegisterMmioIntercept;
use chipset_device::pci::ByteEnabledDwordRead;
use chipset_device::pci::ByteEnabledDwordWrite;
use chipset_device::pci::PciConfigByteEnable;
use chipset_device::pci::PciConfigSpace;
use guestmem::MappableGuestMemory;
use guestmem::MappedMemoryRegion;
use guestmem::MemoryMapper;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use pal_async::DefaultDriver;
use pal_async::async_test;
use parking_lot::Mutex;
use pci_core::msi::MsiTarget;
use portal_resources::PciModel;
use portal_resources::PortalPciHandle;
use portal_resources::RegionAccess;
use portal_resources::RegionSource;
use sparse_mmap::AsMappableRef;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use vmcore::device_state::ChangeDeviceState;
use vmcore::save_restore::SaveRestore;
use vmcore::vm_task::SingleDriverBackend;
use vmcore::vm_task::VmTaskDriverSource;

const LEN: u64 = 1 << 20;
const REGISTERS: u64 = 0x8000_0000;
const REGION: u64 = 0x10_0000_0000;

/// A BAR that is trapped.
struct Trap(String, u64, Option<u64>);

impl ControlMmioIntercept for Trap {
    fn region_name(&self) -> &str {
        &self.0
    }
    fn map(&mut self, addr: u64) {
        assert_eq!(self.2.replace(addr), None, "{} is mapped already", self.0);
    }
    fn unmap(&mut self) {
        assert!(self.2.take().is_some(), "{} is not mapped", self.0);
    }
    fn addr(&self) -> Option<u64> {
        self.2
    }
    fn len(&self) -> u64 {
        self.1
    }
    fn offset_of(&self, addr: u64) -> Option<u64> {
        let offset = addr.checked_sub(self.2?)?;
        (offset < self.1).then_some(offset)
    }
}

struct Traps;

impl RegisterMmioIntercept for Traps {
    fn new_io_region(&mut self, name: &str, len: u64) -> Box<dyn ControlMmioIntercept> {
        Box::new(Trap(name.to_owned(), len, None))
    }
}

/// Where the region is in the guest, and whether the guest may write there.
type Place = Option<(u64, bool)>;

#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Place>>);

impl MemoryMapper for Memory {
    fn new_region(
        &self,
        _len: usize,
        _debug_name: String,
    ) -> io::Result<(Box<dyn MappableGuestMemory>, Arc<dyn MappedMemoryRegion>)> {
        Ok((Box::new(self.clone()), Arc::new(self.clone())))
    }
}

impl MappableGuestMemory for Memory {
    fn map_to_guest(&mut self, gpa: u64, writable: bool) -> io::Result<()> {
        *self.0.lock() = Some((gpa, writable));
        Ok(())
    }
    fn unmap_from_guest(&mut self) {
        *self.0.lock() = None;
    }
}

impl MappedMemoryRegion for Memory {
    fn map(
        &self,
        _offset: usize,
        _section: &dyn AsMappableRef,
        _file_offset: u64,
        _len: usize,
        _writable: bool,
    ) -> io::Result<()> {
        Ok(())
    }
    fn unmap(&self, _offset: usize, _len: usize) -> io::Result<()> {
        Ok(())
    }
}

struct World {
    device: PortalPciDevice,
    memory: Memory,
    _file: tempfile::NamedTempFile,
}

impl World {
    fn new(driver: &DefaultDriver, access: RegionAccess) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LEN).unwrap();
        let handle = PortalPciHandle {
            source: RegionSource::File {
                path: file.path().to_str().unwrap().to_owned(),
            },
            model: PciModel::IvshmemV1,
            access,
            vectors: 0,
            peer: None,
        };
        let memory = Memory::default();
        let driver_source = VmTaskDriverSource::new(SingleDriverBackend::new(driver.clone()));
        let device = resolver::device(
            &handle,
            &mut Traps,
            &memory,
            None,
            MsiTarget::disconnected(),
            driver_source.simple(),
        )
        .unwrap();
        Self {
            device,
            memory,
            _file: file,
        }
    }

    fn read(&mut self, offset: u16) -> u32 {
        let mut value = 0;
        let read = ByteEnabledDwordRead::with_all_bytes_enabled(&mut value);
        self.device.pci_cfg_read(offset, read).unwrap();
        value
    }

    fn write(&mut self, offset: u16, value: u32) {
        let write = ByteEnabledDwordWrite::with_all_bytes_enabled(value);
        self.device.pci_cfg_write(offset, write).unwrap();
    }

    fn set_decoding(&mut self, on: bool) {
        // A word access, as drivers do it.
        let write = ByteEnabledDwordWrite::new(u32::from(on) << 1, PciConfigByteEnable::LOW_WORD);
        self.device.pci_cfg_write(4, write).unwrap();
    }

    fn place(&self) -> Place {
        *self.memory.0.lock()
    }

    fn boot(&mut self) {
        self.write(0x10, REGISTERS as u32);
        self.write(0x18, REGION as u32);
        self.write(0x1c, (REGION >> 32) as u32);
        self.set_decoding(true);
    }
}

#[async_test]
async fn the_region_is_where_the_guest_put_it(driver: DefaultDriver) {
    let mut world = World::new(&driver, RegionAccess::ReadWrite);
    assert_eq!(world.read(0), 0x1110_1af4);
    world.write(0x18, !0);
    assert_eq!(world.read(0x18) & !0xf, !(LEN as u32 - 1));
    assert_eq!(world.place(), None);
    world.boot();
    assert_eq!(world.place(), Some((REGION, true)));
    world.set_decoding(false);
    assert_eq!(world.place(), None);
    world.boot();
    world.write(0x1c, 0x11);
    assert_eq!(world.place(), Some((0x11_0000_0000, true)), "moved");
}

#[async_test]
async fn a_read_only_region_is_read_only_to_the_guest(driver: DefaultDriver) {
    let mut world = World::new(&driver, RegionAccess::ReadOnly);
    world.boot();
    assert_eq!(world.place(), Some((REGION, false)));
    // What the hypervisor hands over of a store to it has no effect.
    world.device.mmio_write(REGION, &[1; 4]).unwrap();
    let dropped = world.device.function.inspect();
    let dropped = dropped.get("counters/region_writes_dropped").cloned();
    assert_eq!(dropped, Some(portal_device::inspect::Value::Number(1)));
}

#[async_test]
async fn no_access_of_a_guest_is_too_odd(driver: DefaultDriver) {
    let mut world = World::new(&driver, RegionAccess::ReadWrite);
    world.boot();
    for len in [1, 2, 3, 4, 5, 8, 16, 64, 300] {
        for offset in [0, 1, 0xc, 0xfc, 0xff] {
            let mut data = vec![0; len];
            world
                .device
                .mmio_read(REGISTERS + offset, &mut data)
                .unwrap();
            world.device.mmio_write(REGISTERS + offset, &data).unwrap();
        }
    }
    for offset in (0..4096).step_by(4) {
        for lanes in 1..16 {
            let lanes = PciConfigByteEnable::new(lanes);
            let Some(lanes) = lanes else { continue };
            let write = ByteEnabledDwordWrite::new(!0, lanes);
            world.device.pci_cfg_write(offset, write).unwrap();
        }
        world.read(offset);
    }
}

#[async_test]
async fn what_was_saved_stands_again(driver: DefaultDriver) {
    let mut world = World::new(&driver, RegionAccess::ReadWrite);
    world.boot();
    let saved = world.device.save().unwrap();
    world.device.reset().await;
    assert_eq!(world.place(), None);
    world.device.restore(saved).unwrap();
    assert_eq!(world.place(), Some((REGION, true)));
    assert_eq!(world.read(0x10), REGISTERS as u32);
}

#[async_test]
async fn the_state_of_another_region_is_refused(driver: DefaultDriver) {
    let mut world = World::new(&driver, RegionAccess::ReadWrite);
    let mut saved = world.device.save().unwrap();
    saved.region[0] = 1;
    let error = world.device.restore(saved).unwrap_err().to_string();
    assert!(error.contains("is another one now"), "{error}");
    let mut saved = world.device.save().unwrap();
    saved.peer = 7;
    let error = world.device.restore(saved).unwrap_err().to_string();
    assert!(error.contains("peer 7"), "{error}");
}

/// An event whose reader sleeps, as any peer that has it can make it.
#[async_test]
async fn no_line_sleeps_on_what_a_peer_did_to_its_event(driver: DefaultDriver) {
    let driver = VmTaskDriverSource::new(SingleDriverBackend::new(driver)).simple();
    let event = Arc::new(EventFd::new().unwrap());
    let mut line = Line::new(event.clone());
    assert!(!line.take());
    for _ in 0..3 {
        assert!(!poll_fn(|cx| Poll::Ready(line.poll(&driver, cx))).await);
        event.ring().unwrap();
        poll_fn(|cx| match line.poll(&driver, cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        // Taken by the peer: ready, and nothing there.
        event.ring().unwrap();
        assert!(event.take().unwrap());
        assert!(!poll_fn(|cx| Poll::Ready(line.poll(&driver, cx))).await);
    }
    line.ring_again();
    assert!(line.take() && !line.take());
}
