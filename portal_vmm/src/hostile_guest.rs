//! A guest that does anything at all, without a hypervisor: random accesses to
//! every port and address, against a partition with two ivshmem functions, an IOMMU,
//! a fixed region and RAM.
//!
//! Holds DESIGN.md's "a guest can stop itself, never its VMM's neighbours": no
//! access panics, no mapping overlaps another or leaves its region, nothing is
//! writable that belongs to someone else, and everything is undone at the end.

#[path = "../tests/evidence/mod.rs"]
mod evidence;

use crate::Bells;
use crate::Capabilities;
use crate::Console;
use crate::DeniedWrites;
use crate::DeviceRegion;
use crate::FaultKind;
use crate::RegionAttachment;
use crate::ResolvedDevice;
use crate::Sandbox;
use crate::SharedRegion;
use crate::VmmError;
use crate::Writable;
use crate::address_map::AddressMap;
use crate::address_map::Place;
use crate::binding::Binding;
use crate::binding::hv_access;
use crate::boot::GuestRam;
use crate::console::Uart;
use crate::firmware;
use crate::hv::Access;
use crate::hv::ExitHandler;
use crate::hv::HvPartition;
use crate::hv::HvVcpu;
use crate::hv::InterruptRoute;
use crate::hv::MsiMessage;
use crate::hv::StopCause;
use crate::linux::iommu;
use crate::linux::iommu::IOMMU_BYTES;
use crate::linux::iommu::IOMMU_GPA;
use crate::linux::iommu::Iommu;
use crate::memory::HostMemory;
use crate::memory::HostRange;
use crate::memory::RamBacking;
use crate::pci;
use crate::platform::Machine;
use crate::platform::Paths;
use crate::platform::Platform;
use crate::platform::Resources;
use crate::platform::VcpuPlatform;
use crate::virtqueue::QueueMemory;
use evidence::Harness;
use evidence::Random;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use portal_boot_abi as abi;
use portal_device::Input;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

const RAM: u64 = 4 << 20;
const SIZE: u64 = 1 << 20;
/// As on a host with everything.
const PATHS: Paths = Paths {
    doorbells: true,
    interrupts: true,
    gap: Duration::ZERO,
    fences: Sandbox::OFF,
};
/// Accesses of one guest's life.
const LIFE: u64 = 5000;

/// Remembers what stands, and refuses what a hypervisor would refuse.
#[derive(Default)]
struct Recorder {
    slots: Mutex<BTreeMap<u32, (u64, HostRange, Access)>>,
    doorbells: Mutex<BTreeSet<(u64, u32)>>,
    routes: Mutex<BTreeMap<u32, i32>>,
    next: AtomicU32,
    signals: AtomicU32,
}

impl HvPartition for Recorder {
    fn map(&self, slot: u32, gpa: u64, host: HostRange, access: Access) -> Result<(), VmmError> {
        let mut slots = self.slots.lock().unwrap();
        assert!(!slots.contains_key(&slot), "slot {slot} is in use");
        for (other, (start, range, _)) in &*slots {
            let apart = gpa + host.len() <= *start || start + range.len() <= gpa;
            assert!(apart, "slot {slot} at {gpa:#x} overlaps slot {other}");
        }
        slots.insert(slot, (gpa, host, access));
        Ok(())
    }

    fn unmap(&self, slot: u32) -> Result<(), VmmError> {
        let gone = self.slots.lock().unwrap().remove(&slot);
        assert!(gone.is_some(), "slot {slot} was not mapped");
        Ok(())
    }

    fn create_vcpu(&self, _: u32, _: u32) -> Result<Box<dyn HvVcpu>, VmmError> {
        Err(VmmError::Missing {
            name: "vCPU",
            cost: "not in this test",
        })
    }

    fn connect(&self, event: BorrowedFd<'_>, _: MsiMessage) -> Result<InterruptRoute, VmmError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.routes.lock().unwrap().insert(id, event.as_raw_fd());
        Ok(InterruptRoute(id))
    }

    fn disconnect(&self, event: BorrowedFd<'_>, route: InterruptRoute) -> Result<(), VmmError> {
        let gone = self.routes.lock().unwrap().remove(&route.0);
        assert_eq!(gone, Some(event.as_raw_fd()));
        Ok(())
    }

    fn signal(&self, _: MsiMessage) -> Result<(), VmmError> {
        self.signals.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn connect_input(&self, _: BorrowedFd<'_>, _: u32) -> Result<(), VmmError> {
        Ok(())
    }

    fn set_line(&self, input: u32, _: bool) -> Result<(), VmmError> {
        assert!((16..24).contains(&input), "input {input} is not for INTx");
        self.signals.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn route_doorbell(&self, gpa: u64, value: u32, _: BorrowedFd<'_>) -> Result<(), VmmError> {
        let new = self.doorbells.lock().unwrap().insert((gpa, value));
        if new {
            return Ok(());
        }
        // What KVM says of a second event for the same store.
        Err(VmmError::Hypervisor {
            call: "KVM_IOEVENTFD",
            source: std::io::Error::from_raw_os_error(17),
        })
    }

    fn unroute_doorbell(&self, gpa: u64, value: u32, _: BorrowedFd<'_>) -> Result<(), VmmError> {
        let gone = self.doorbells.lock().unwrap().remove(&(gpa, value));
        assert!(gone, "{gpa:#x} = {value:#x} was not routed");
        Ok(())
    }

    fn tsc(&self) -> (u64, bool) {
        (0, false)
    }
}

fn region() -> Arc<SharedRegion> {
    let spec = RegionSpec::new(Name::new("r").unwrap(), SIZE, 4).sectioned(true);
    let backing = Backing::create(&spec, &BackingConfig::default()).unwrap();
    SharedRegion::of_backing("r", backing).unwrap()
}

struct Guest {
    recorder: Arc<Recorder>,
    platform: Arc<Platform>,
    vcpu: VcpuPlatform,
    region: Arc<SharedRegion>,
    bells: Arc<Bells>,
}

/// A partition as `build` makes it, on the recorder.
fn guest() -> Guest {
    let recorder = Arc::new(Recorder::default());
    let hv: Arc<dyn HvPartition> = recorder.clone();
    let slots = Capabilities::default().memory_slots.max(32);
    let mut map = AddressMap::new("hostile", slots);
    let memory = HostMemory::new("RAM", RAM, RamBacking::Anonymous).unwrap();
    let ram = GuestRam::new(&memory.range()).unwrap();
    for (gpa, range) in ram.ranges() {
        let slot = map
            .insert(gpa, range.len(), Place::Ram, true)
            .unwrap()
            .unwrap();
        hv.map(slot, gpa, range.clone(), Access::ReadWrite).unwrap();
    }
    map.insert(abi::ECAM_GPA, abi::ECAM_BYTES, Place::Ecam, false)
        .unwrap();
    map.insert(IOMMU_GPA, IOMMU_BYTES, Place::Iommu, false)
        .unwrap();
    let region = region();
    let peer = PeerId(1);
    for part in region.parts(peer, Writable::Own) {
        let place = Place::Region {
            attachment: 0,
            access: part.access,
            offset: part.offset,
        };
        let gpa = abi::WINDOW64_GPA + part.offset;
        let slot = map.insert(gpa, part.len, place, true).unwrap().unwrap();
        let host = region.memory().part(part.offset, part.len).unwrap();
        hv.map(slot, gpa, host, hv_access(part.access)).unwrap();
    }
    let mut plan = map.clone();
    let queue_memory = QueueMemory::new(&ram).unwrap();
    let resources = Resources::new(hv, map, PATHS, queue_memory);
    let bells = Bells::new();
    for peer in 0..4 {
        bells.add(peer, 2).unwrap();
    }
    let mut devices = Vec::new();
    let mut slots = [None; pci::SLOTS];
    for index in 0..2 {
        let device = IvshmemV1::new(IvshmemV1Config {
            peer: peer.0,
            region_len: SIZE,
            windows: region.parts(peer, Writable::Own),
            denied_write: portal_ivshmem::DeniedWrite::Drop,
            vectors: 2,
            intx: index == 1,
        });
        let mut binding = Binding::new(
            index,
            index + 1,
            ResolvedDevice {
                name: format!("d{index}"),
                device: Box::new(device.unwrap()),
                slot: None,
                region: Some(DeviceRegion {
                    region: region.clone(),
                    peer,
                    writable: Writable::Own,
                }),
                storage: None,
                fabric: Some(bells.clone()),
                member: None,
            },
        );
        let window = Capabilities::default().window64();
        firmware::enable(
            "hostile",
            index,
            &mut binding,
            &mut plan,
            &window,
            &resources,
        )
        .unwrap();
        slots[index + 1] = Some(index);
        devices.push(binding);
    }
    let attachment = RegionAttachment {
        region: region.clone(),
        gpa: abi::WINDOW64_GPA,
        peer,
        epoch: 1,
        writable: Writable::Own,
        denied_write: DeniedWrites::Drop,
    };
    let uart = Uart::new(Console::Discard, None);
    let platform = Platform::new(
        Machine::Flat,
        ram,
        resources,
        vec![attachment],
        devices,
        slots,
        uart,
    );
    let platform = Arc::new(platform);
    Guest {
        vcpu: VcpuPlatform {
            platform: platform.clone(),
            counters: Arc::default(),
        },
        recorder,
        platform,
        region,
        bells,
    }
}

/// An address that is likely to be somewhere, or near its edge.
fn address(random: &mut Random, recorder: &Recorder) -> u64 {
    let near = [0, 1, 3, 4, 8, 0xC, 0x10, 0xFC, 0xFF, 0x100, 0xFFF, 0x1000];
    let slots = recorder.slots.lock().unwrap();
    let starts: Vec<_> = slots.values().map(|slot| (slot.0, slot.1.len())).collect();
    drop(slots);
    let (start, len) = random.pick(&starts);
    match random.below(9) {
        // The IOMMU, mostly its registers, and its edges.
        8 => {
            let register = match random.below(4) {
                0 => random.below(IOMMU_BYTES + 8),
                _ => random.pick(&[0, 8, 0x10, 0x18, 0x1C, 0x20, 0x28, 0x2C, 0x34, 0xFC]),
            };
            IOMMU_GPA + register + random.pick(&[0, 0, 0, 1, 2, 3])
        }
        0..4 => {
            // Configuration space, mostly what matters in it.
            let slot = random.below(4);
            let register = random.pick(&[
                0, 4, 6, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x30, 0x34, 0x40, 0x42, 0x44,
            ]);
            abi::ECAM_GPA + (slot << 15) + register + random.pick(&[0, 0, 0, 1, 2, 3])
        }
        4 => abi::BAR32_GPA + (random.below(8) << 12) + random.pick(&near),
        5 => start + random.pick(&near),
        6 => (start + len).wrapping_sub(random.pick(&near)),
        _ => random.next() >> random.below(64),
    }
}

/// A value that means something in a register, or anything.
fn value(random: &mut Random, recorder: &Recorder) -> u64 {
    match random.below(6) {
        0 => random.pick(&[
            0,
            1,
            2,
            4,
            6,
            7,
            0x400,
            0x8000,
            0xC000,
            0xFFFF_FFFF,
            u64::MAX,
        ]),
        1 => abi::BAR32_GPA + (random.below(64) << random.pick(&[8, 12, 16, 20])),
        2 => abi::WINDOW64_GPA >> 32,
        3 => random.below(5) << 16 | random.below(3),
        4 => {
            let slots = recorder.slots.lock().unwrap();
            let starts: Vec<_> = slots.values().map(|slot| slot.0).collect();
            drop(slots);
            random.pick(&starts)
        }
        _ => random.next(),
    }
}

/// What must hold whatever the guest has done.
fn check(guest: &Guest) {
    let base = guest.region.memory().address();
    let own = guest.region.layout().section(PeerId(1));
    for (gpa, host, access) in guest.recorder.slots.lock().unwrap().values() {
        let Some(offset) = host.address().checked_sub(base).filter(|at| *at < SIZE) else {
            assert!(*gpa < RAM, "{gpa:#x} maps neither RAM nor the region");
            continue;
        };
        assert!(offset + host.len() <= SIZE);
        if *access == Access::ReadWrite {
            assert!(own.contains(&offset) && offset + host.len() <= own.end);
        }
    }
    let (unit, fresh) = (*guest.platform.iommu(), Iommu::default());
    for offset in (0..0x100).step_by(4) {
        let now = unit.read(offset);
        match offset {
            // Only what this unit can be commanded to do is reported as done.
            0x1C => assert_eq!(now & !iommu::COMMANDS, 0, "{offset:#x}: {now:#x}"),
            // An invalidation is over when it is asked for.
            0x2C | 0xFC => assert_eq!(now & iommu::GO, 0, "{offset:#x}: {now:#x}"),
            // A driver's to keep.
            0x20 | 0x24 | 0x28 | 0x38..0x48 | 0xF8 => {}
            _ => assert_eq!(now, fresh.read(offset), "{offset:#x}"),
        }
    }
}

/// Moves a BAR as a driver would (decoding off, new address, decoding on), to
/// where something else is, to its edge, or back.
fn move_bar(guest: &mut Guest, random: &mut Random) -> Result<(), StopCause> {
    let slots = guest.recorder.slots.lock().unwrap();
    let taken: Vec<_> = slots.values().map(|slot| (slot.0, slot.1.len())).collect();
    drop(slots);
    let (start, len) = random.pick(&taken);
    let to = match random.below(8) {
        0..4 => start,
        4 => start.wrapping_add(len),
        5 => start.wrapping_sub(SIZE),
        6 => random.pick(&[
            abi::ECAM_GPA,
            abi::BAR32_GPA,
            abi::IOAPIC_GPA,
            abi::LAPIC_GPA,
            IOMMU_GPA,
        ]),
        _ => abi::WINDOW64_GPA + SIZE * random.below(64),
    };
    let function = abi::ECAM_GPA + ((1 + random.below(2)) << 15);
    let mut write = |register: u64, value: u32| {
        let bytes = value.to_le_bytes();
        guest.vcpu.mmio_write(function + register, &bytes)
    };
    let bar = if to >> 32 == 0 {
        0x10 + 4 * random.below(2)
    } else {
        0x18
    };
    write(0x04, 0x4)?;
    write(bar, to as u32)?;
    if bar == 0x18 {
        write(0x1C, (to >> 32) as u32)?;
    }
    write(0x04, 0x6)
}

fn attack(guest: &mut Guest, random: &mut Random) -> Result<(), StopCause> {
    if random.below(16) == 0 {
        return move_bar(guest, random);
    }
    let recorder = guest.recorder.clone();
    let len = random.pick(&[1, 2, 4, 4, 4, 8, 3, 5, 6, 7]);
    let bytes = value(random, &recorder).to_le_bytes();
    let mut data = [0; 8];
    data.copy_from_slice(&bytes);
    let port = match random.below(3) {
        0 => random.pick(&[
            0xCF8, 0xCFB, 0xCFC, 0xCFD, 0xCFE, 0xCFF, 0x3F8, 0x3FD, 0x3FF,
        ]),
        1 => random.below(0x1_0000) as u16,
        _ => 0xCFC,
    };
    if random.below(20) == 0 {
        let latch = 0x8000_0000u32 | (random.below(4) << 11 | random.below(64) << 2) as u32;
        guest.vcpu.port_write(0xCF8, &latch.to_le_bytes())?;
    }
    let gpa = address(random, &recorder);
    match random.below(10) {
        0 => guest.vcpu.port_read(port, &mut data[..len.min(4)]),
        1 if port != abi::EXIT_PORT => guest.vcpu.port_write(port, &data[..len.min(4)]),
        2 | 3 => guest.vcpu.mmio_read(gpa, &mut data[..len]),
        4 => {
            // The switchboard goes on meanwhile.
            let peer = random.below(5) as u16;
            let input = random.pick(&[
                Input::PeerJoined { peer, vectors: 2 },
                Input::PeerReady { peer },
                Input::PeerGone { peer },
                Input::Rung { vector: peer },
            ]);
            guest
                .platform
                .tell(random.below(2) as usize, input)
                .map(|_| ())
        }
        5 if random.below(50) == 0 => {
            let peer = random.below(4) as u16;
            guest.bells.add(peer, 2).unwrap();
            Ok(())
        }
        _ => guest.vcpu.mmio_write(gpa, &data[..len]),
    }
}

/// The bytes of a region that the guest, peer 1, may not write.
fn of_others(region: &SharedRegion) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    region.memory().read(0, &mut bytes).unwrap();
    let own = region.layout().section(PeerId(1));
    bytes.drain(own.start as usize..own.end as usize);
    bytes
}

/// One guest's life of this many accesses. Panics where a promise is broken;
/// `made` is how many there were until then.
fn live(accesses: u64, made: &Cell<u64>, random: &mut Random) {
    let mut guest = guest();
    let before = of_others(&guest.region);
    let at_build = guest.recorder.slots.lock().unwrap().len();
    for access in 0..accesses {
        made.set(access + 1);
        let mapped = guest.recorder.slots.lock().unwrap().len();
        if let Err(StopCause::Fault(kind)) = attack(&mut guest, random) {
            let expected = matches!(kind, FaultKind::Unmapped { .. } | FaultKind::RamLost { .. });
            assert!(expected, "access {access}: {kind}");
        }
        let after = guest.recorder.slots.lock().unwrap().len();
        if mapped != after || access % 64 == 0 {
            check(&guest);
        }
    }
    check(&guest);
    assert_eq!(of_others(&guest.region), before, "what others write");
    for device in 0..2 {
        guest.platform.tell(device, Input::Detach).unwrap();
    }
    let fixed = guest.region.parts(PeerId(1), Writable::Own).len();
    assert_eq!(guest.recorder.slots.lock().unwrap().len(), 1 + fixed);
    assert!(at_build > 1 + fixed, "the BARs were mapped to begin with");
    assert!(guest.recorder.doorbells.lock().unwrap().is_empty());
    assert!(guest.recorder.routes.lock().unwrap().is_empty());
}

const HARNESS: Harness = Harness {
    threat: "T17",
    what: "any access to any port or address of a partition",
    cases: 40_000,
};

/// A life as a batch of cases; a broken promise ends it as one failure.
fn batch(left: u64, random: &mut Random) -> (u64, u64) {
    let made = Cell::new(0);
    let life = || live(left.min(LIFE), &made, random);
    let lived = catch_unwind(AssertUnwindSafe(life));
    (made.get(), u64::from(lived.is_err()))
}

#[test]
fn t17_any_access_leaves_the_neighbours_alone() {
    HARNESS.holds(batch);
}

#[cfg(feature = "negative_control")]
#[test]
fn control_t17_addresses_are_given_out_once() {
    // Every broken promise is a panic here, and all of them are expected.
    std::panic::set_hook(Box::new(|_| ()));
    HARNESS.fails(
        "guest physical addresses are given out once",
        |left, random| crate::guard::without(crate::guard::Guard::Overlap, || batch(left, random)),
    );
}

#[cfg(feature = "negative_control")]
#[test]
fn control_t17_commands_are_those_of_the_unit() {
    std::panic::set_hook(Box::new(|_| ()));
    HARNESS.fails("an IOMMU does only what it can", |left, random| {
        crate::guard::without(crate::guard::Guard::Commands, || batch(left, random))
    });
}

#[test]
fn the_random_guest_gets_everywhere() {
    // Without this the harness above might hold because nothing happens in it.
    let mut guest = guest();
    let mut random = Random::new(7);
    let mut faults = BTreeSet::new();
    let mut remapped = 0;
    let mut units = 0;
    for _ in 0..40_000 {
        let before = guest.recorder.slots.lock().unwrap().len();
        let unit = *guest.platform.iommu();
        if let Err(StopCause::Fault(kind)) = attack(&mut guest, &mut random) {
            faults.insert(match kind {
                FaultKind::Unmapped { .. } => "unmapped",
                _ => "RAM lost",
            });
        }
        remapped += u64::from(before != guest.recorder.slots.lock().unwrap().len());
        units += u64::from(unit != *guest.platform.iommu());
    }
    assert!(remapped > 50, "{remapped}");
    assert!(units > 50, "{units}");
    assert_eq!(faults.len(), 2, "{faults:?}");
    let own = guest.region.layout().section(PeerId(1));
    let mut bytes = vec![0; (own.end - own.start) as usize];
    guest.region.memory().read(own.start, &mut bytes).unwrap();
    assert!(bytes.iter().any(|byte| *byte != 0), "no store came through");
}

/// A device with a mistake: on every write it asks for what it may not have.
struct Greedy;

impl portal_device::Device for Greedy {
    fn step(&mut self, input: Input, effects: &mut portal_device::Effects) {
        let Input::ConfigWrite { value, .. } = input else {
            return;
        };
        let other = u64::from(value) % SIZE;
        let free = abi::WINDOW64_GPA + (8 << 30);
        let cases = [
            (free, other, 4096, portal_device::Access::ReadWrite),
            (free, SIZE - 4096, 8192, portal_device::Access::ReadOnly),
            (free, u64::MAX - 4095, 4096, portal_device::Access::ReadOnly),
            (0x10_0000, 0, 4096, portal_device::Access::ReadOnly),
            (abi::WINDOW64_GPA, 0, SIZE, portal_device::Access::ReadOnly),
        ];
        for (gpa, offset, len, access) in cases {
            effects.push(portal_device::Effect::Map {
                bar: 2,
                gpa,
                offset,
                len,
                access,
            });
        }
    }

    fn bars(&self) -> &[portal_device::BarInfo] {
        &[]
    }

    fn save(&self) -> portal_device::Saved {
        portal_device::Saved::Never("a test")
    }

    fn restore(
        &mut self,
        _: &portal_device::SavedState,
        _: &mut portal_device::Effects,
    ) -> Result<(), portal_device::RestoreError> {
        Ok(())
    }

    fn inspect(&self) -> portal_device::inspect::Node {
        portal_device::inspect::Node::new()
    }

    fn counters(&self, _: &mut dyn FnMut(&'static str, u64)) {}
}

#[test]
fn a_device_that_asks_for_too_much_gets_nothing() {
    let guest = guest();
    let other = guest.region.layout().section(PeerId(2)).start;
    let mut binding = Binding::new(
        7,
        8,
        ResolvedDevice {
            name: "greedy".to_owned(),
            device: Box::new(Greedy),
            slot: None,
            region: Some(DeviceRegion {
                region: guest.region.clone(),
                peer: PeerId(1),
                writable: Writable::Own,
            }),
            storage: None,
            fabric: None,
            member: None,
        },
    );
    let before = guest.recorder.slots.lock().unwrap().len();
    let ask = |value: u64| Input::ConfigWrite {
        offset: 0,
        len: 4,
        value: value as u32,
    };
    binding.step(ask(other), &guest.platform.resources).unwrap();
    assert_eq!(guest.recorder.slots.lock().unwrap().len(), before);
    assert_eq!(binding.counts().refused.get(), 5);
    // Control: its own section at the free address is what it may have.
    let own = guest.region.layout().section(PeerId(1)).start;
    binding.step(ask(own), &guest.platform.resources).unwrap();
    assert_eq!(guest.recorder.slots.lock().unwrap().len(), before + 1);
    assert_eq!(binding.counts().refused.get(), 9);
}
