//! A guest whose memory slot is not there when it looks, while the map says that it is:
//! what a vCPU meets that loads from a BAR while another one moves it away and back.
//! Here the slot stays away, so that every access is such a one. Needs KVM.

use crate::FaultKind;
use crate::Image;
use crate::Kvm;
use crate::Outcome;
use crate::Partition;
use crate::PartitionBuilder;
use crate::RegionHost;
use crate::address_map::Place;
use crate::resolvers;
use portal_boot_abi::WINDOW64_GPA;
use portal_resources::BackingHandle;
use portal_resources::FixedRegionHandle;
use portal_resources::IvshmemV1Handle;
use portal_resources::PciDevice;
use portal_resources::RegionHandle;
use portal_resources::Resource;
use portal_resources::VirtioPmemHandle;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

const SIZE: u64 = 4 << 20;
/// Where the word lies that the guest loads; behind it is the one that it stores. In the
/// last page, which is in no peer's section: of a flat region it is writable too.
const WORD: u64 = SIZE - 4096;
const PATIENCE: Duration = Duration::from_secs(30);

/// Copies the word at the address at 0x180000 to 0x180010 and to the word behind it,
/// for ever.
const COPY: [u8; 22] = [
    0x48, 0x8B, 0x04, 0x25, 0x00, 0x00, 0x18, 0x00, // mov rax, [0x180000]
    0x8B, 0x18, // mov ebx, [rax]
    0x89, 0x1C, 0x25, 0x10, 0x00, 0x18, 0x00, // mov [0x180010], ebx
    0x89, 0x58, 0x04, // mov [rax + 4], ebx
    0xEB, 0xF2, // jmp to the load
];

/// What shows a file to a partition.
enum Carrier {
    Fixed,
    Ivshmem,
    Pmem,
}

fn builder(carrier: &Carrier, path: &Path) -> PartitionBuilder {
    let builder = PartitionBuilder::new("looking", Image::Flat(COPY.as_slice().into()))
        .ram(4 << 20)
        .deadline(2 * PATIENCE);
    let regions = RegionHost::new();
    let mut lake = RegionHandle::new("lake", SIZE);
    lake.sectioned = false;
    let resource = match carrier {
        Carrier::Pmem => {
            File::create(path).unwrap().set_len(SIZE).unwrap();
            Resource::new(&VirtioPmemHandle::file(path))
        }
        Carrier::Fixed | Carrier::Ivshmem => {
            lake.backing = BackingHandle::File {
                path: path.to_owned(),
            };
            regions.create(&lake).unwrap();
            Resource::<PciDevice>::new(&IvshmemV1Handle::new("lake"))
        }
    };
    let built = if matches!(carrier, Carrier::Fixed) {
        let handle = FixedRegionHandle::new("lake", WINDOW64_GPA);
        builder.fixed_region(&handle, &regions)
    } else {
        let resolvers = resolvers::standard().unwrap();
        builder.resource(&resource.unwrap(), &resolvers, &regions)
    };
    built.unwrap()
}

/// Where the guest finds the file's word, and the slot of the memory there.
fn place(partition: &Partition) -> (u64, u32) {
    let mut map = partition.shared.platform.resources.map_mut();
    let (gpa, len) = map
        .within(0..u64::MAX)
        .into_iter()
        .find(|(gpa, _)| {
            let place = map.find(*gpa).unwrap().place;
            matches!(place, Place::Region { .. } | Place::DeviceMemory { .. })
        })
        .unwrap();
    let there = map.find(gpa).unwrap().place;
    // Off the map and on it again: the lowest slot that is free is the same one.
    let slot = map.remove(gpa, |_| true).unwrap().unwrap();
    let again = map.insert(gpa, len, there, true).unwrap();
    assert_eq!((again, len), (Some(slot), SIZE));
    (gpa + WORD, slot)
}

fn seen(partition: &Partition) -> u32 {
    let mut word = [0; 4];
    partition.read_ram(0x18_0010, &mut word).unwrap();
    u32::from_le_bytes(word)
}

#[test]
fn memory_without_a_slot_is_answered_and_memory_without_a_backing_stops() {
    let hypervisor = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    for carrier in [Carrier::Fixed, Carrier::Ivshmem, Carrier::Pmem] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lake");
        let mut guest = builder(&carrier, &path).build(&hypervisor).unwrap();
        let (gpa, slot) = place(&guest);
        guest.write_ram(0x18_0000, &gpa.to_le_bytes()).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let stored = || {
            let mut word = [0; 4];
            file.read_exact_at(&mut word, WORD + 4).unwrap();
            u32::from_le_bytes(word)
        };
        let copies = |guest: &Partition, value: u32| {
            file.write_all_at(&value.to_le_bytes(), WORD).unwrap();
            let begin = Instant::now();
            while (seen(guest), stored()) != (value, value) {
                let ended = guest.wait(Duration::from_millis(1));
                assert!(ended.is_none(), "{}", ended.unwrap());
                assert!(begin.elapsed() < PATIENCE, "{value} does not come back");
            }
        };
        guest.start().unwrap();
        copies(&guest, 1);
        let hv = &guest.shared.platform.resources.hv;
        hv.unmap(slot).unwrap();
        copies(&guest, 2);
        copies(&guest, 3);
        let exits = &guest.stats().vcpus[0];
        assert!(exits.mmio_reads > 1 && exits.mmio_writes > 1, "{exits:?}");
        file.set_len(WORD).unwrap();
        let outcome = guest.wait(PATIENCE).expect("it stops");
        let Outcome::Faulted(fault) = &outcome else {
            panic!("{outcome}");
        };
        let FaultKind::RegionLost {
            gpa: at, offset, ..
        } = fault.kind
        else {
            panic!("{outcome}");
        };
        assert_eq!((at & !7, offset & !7), (gpa, WORD), "{outcome}");
    }
}
