//! virtio-pmem on real KVM: a driver that finds the capabilities, sets a queue up and
//! flushes; two partitions on one file; a partition that may only read; storage that
//! fails.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use portal_device::Access;
use portal_pmem::VirtioPmem;
use portal_pmem::VirtioPmemConfig;
use portal_resources::GuestAccess;
use portal_resources::PciDevice;
use portal_resources::Resource;
use portal_resources::VirtioPmemHandle;
use portal_virtio_pci::About;
use portal_virtio_pci::VirtioPci;
use portal_vmm::HostMemory;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::PartitionBuilder;
use portal_vmm::RamBacking;
use portal_vmm::RegionHost;
use portal_vmm::ResolvedDevice;
use portal_vmm::Storage;
use portal_vmm::VmmError;
use portal_vmm::resolvers;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;
use std::time::Instant;

const SIZE: u64 = 4 << 20;
/// What a guest is told before it begins, and where it says how far it is.
const STORE_AT: u64 = 0x18_0000;
const STORE: u64 = 0x18_0008;
const WAIT: u64 = 0x18_0010;
const DONE: u64 = 0x18_0020;
const LOADED: u64 = 0x18_0028;
const ANSWER: u64 = 0x18_2004;

// A driver: features, one queue of 8 entries at 0x181000, DRIVER_OK. Stores the word at
// 0x180008 in the memory, at the offset at 0x180000 behind the address that the device's
// configuration says; flushes; polls the used ring; keeps at 0x180028 what a load from
// there gives. Exits with the answer, or spins while 0x180010 is not 0.
image!(
    store_and_flush,
    "mov edx, 0xE0008010",
    "mov ebx, [rdx]",
    "and ebx, 0xFFFFFFF0",
    "mov byte ptr [rbx + 0x14], 0",
    "mov byte ptr [rbx + 0x14], 1",
    "mov byte ptr [rbx + 0x14], 3",
    "mov dword ptr [rbx + 8], 1",
    "mov dword ptr [rbx + 0xC], 1",
    "mov byte ptr [rbx + 0x14], 11",
    "mov word ptr [rbx + 0x16], 0",
    "mov word ptr [rbx + 0x18], 8",
    "mov dword ptr [rbx + 0x20], 0x181000",
    "mov dword ptr [rbx + 0x24], 0",
    "mov dword ptr [rbx + 0x28], 0x181100",
    "mov dword ptr [rbx + 0x2C], 0",
    "mov dword ptr [rbx + 0x30], 0x181200",
    "mov dword ptr [rbx + 0x34], 0",
    "mov word ptr [rbx + 0x1C], 1",
    "mov byte ptr [rbx + 0x14], 15",
    // The memory.
    "mov esi, [rbx + 0x2000]",
    "mov eax, [rbx + 0x2004]",
    "shl rax, 32",
    "or rsi, rax",
    "add rsi, [0x180000]",
    "mov eax, [0x180008]",
    "mov [rsi], eax",
    // The request: a type at 0x182000, an answer at 0x182004.
    "mov dword ptr [0x182000], 0",
    "mov dword ptr [0x182004], 0x77",
    "mov qword ptr [0x181000], 0x182000",
    "mov dword ptr [0x181008], 4",
    "mov word ptr [0x18100C], 1",
    "mov word ptr [0x18100E], 1",
    "mov qword ptr [0x181010], 0x182004",
    "mov dword ptr [0x181018], 4",
    "mov word ptr [0x18101C], 2",
    "mov word ptr [0x181104], 0",
    "mov word ptr [0x181102], 1",
    "mov word ptr [rbx + 0x3000], 0",
    "2: pause",
    "cmp word ptr [0x181202], 1",
    "jne 2b",
    "mov eax, [rsi]",
    "mov [0x180028], eax",
    "mov byte ptr [0x180020], 1",
    "3: pause",
    "cmp dword ptr [0x180010], 0",
    "jne 3b",
    "mov eax, [0x182004]",
    "out 0xf4, eax",
);

fn started(
    hypervisor: &Kvm,
    builder: PartitionBuilder,
    (at, store): (u64, u64),
    wait: bool,
) -> Partition {
    let mut partition = builder.build(hypervisor).unwrap();
    for (place, word) in [(STORE_AT, at), (STORE, store), (WAIT, wait.into())] {
        partition.write_ram(place, &word.to_le_bytes()).unwrap();
    }
    partition.start().unwrap();
    partition
}

fn with_pmem(name: &str, handle: &VirtioPmemHandle) -> PartitionBuilder {
    let resource = Resource::<PciDevice>::new(handle).unwrap();
    let resolvers = resolvers::standard().unwrap();
    partition(name, store_and_flush())
        .resource(&resource, &resolvers, &RegionHost::new())
        .unwrap()
}

fn word(partition: &Partition, at: u64) -> u32 {
    let mut bytes = [0; 4];
    partition.read_ram(at, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn counter(partition: &Partition, name: &str) -> u64 {
    let stats = partition.stats();
    let device = &stats.devices[0];
    let found = device.counters.iter().find(|(each, _)| *each == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).1
}

fn disk() -> (tempfile::TempDir, std::path::PathBuf, std::fs::File) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(SIZE).unwrap();
    (folder, path, file)
}

fn on_disk(file: &std::fs::File, at: u64) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn what_one_partition_flushed_is_there_for_the_other_and_the_host() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let (_folder, path, file) = disk();
    let handle = VirtioPmemHandle::file(&path);
    let at = SIZE - 4096;
    let writer = with_pmem("writer", &handle);
    let writer = started(&hypervisor, writer, (at, 0x1234_5678), true);
    wait_for("the flush is answered", || word(&writer, DONE) == 1);
    assert_eq!(word(&writer, ANSWER), 0);
    assert_eq!(counter(&writer, "flushes"), 1);
    assert_eq!(counter(&writer, "notifications"), 1);
    // Killed while it runs.
    drop(writer);
    assert_eq!(on_disk(&file, at), 0x1234_5678);
    let reader = VirtioPmemHandle {
        access: GuestAccess::ReadOnly,
        ..handle
    };
    let reader = with_pmem("reader", &reader);
    let reader = started(&hypervisor, reader, (at, 0xFFFF), false);
    assert_eq!(reader.wait(PATIENCE), Some(Outcome::Exited(0)));
    assert_eq!(word(&reader, LOADED), 0x1234_5678, "its store was dropped");
    assert_eq!(counter(&reader, "region_writes_dropped"), 1);
    assert_eq!(on_disk(&file, at), 0x1234_5678);
}

#[test]
fn two_partitions_see_each_others_stores_at_once() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let (_folder, path, _file) = disk();
    let handle = VirtioPmemHandle::file(&path);
    let first = with_pmem("first", &handle);
    let first = started(&hypervisor, first, (0, 7), true);
    wait_for("the first has flushed", || word(&first, DONE) == 1);
    // A place of its own, then the other's.
    let second = with_pmem("second", &handle);
    let second = started(&hypervisor, second, (4, 8), true);
    wait_for("the second has flushed", || word(&second, DONE) == 1);
    let third = with_pmem("third", &handle);
    let third = started(&hypervisor, third, (0, 9), false);
    assert_eq!(third.wait(PATIENCE), Some(Outcome::Exited(0)));
    assert_eq!((word(&first, LOADED), word(&second, LOADED)), (7, 8));
    assert_eq!(word(&third, LOADED), 9);
}

#[test]
fn storage_that_fails_is_reported_and_stays_failed() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    // Nothing can make a pipe durable.
    let (_reader, pipe) = std::io::pipe().unwrap();
    let memory = HostMemory::new("memory", SIZE, RamBacking::Memfd).unwrap();
    let access = Access::ReadWrite;
    let storage = Storage::new("a pipe", memory.range(), access, pipe.into());
    let pmem = VirtioPmem::new(VirtioPmemConfig { size: SIZE, access }).unwrap();
    let about = About {
        id: portal_pmem::DEVICE_ID,
        class: 0x05_80_00,
        features: pmem.features(),
        queues: vec![8],
        config_len: portal_pmem::CONFIG_LEN,
        memory: SIZE,
    };
    let builder = partition("guest", store_and_flush()).device(ResolvedDevice {
        name: "pmem".to_owned(),
        device: Box::new(VirtioPci::new(pmem, about).unwrap()),
        slot: None,
        region: None,
        storage: Some(storage),
        fabric: None,
        member: None,
    });
    let guest = started(&hypervisor, builder, (0, 1), false);
    assert_eq!(guest.wait(PATIENCE), Some(Outcome::Exited(u32::MAX)), "-1");
    assert_eq!(counter(&guest, "flushes_failed"), 1);
}

#[test]
fn files_that_cannot_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let of = |handle: VirtioPmemHandle| {
        let resource = Resource::<PciDevice>::new(&handle).unwrap();
        let resolvers = resolvers::standard().unwrap();
        let builder = partition("guest", store_and_flush());
        let regions = RegionHost::new();
        let error = builder.resource(&resource, &resolvers, &regions);
        error.map(|_| ()).unwrap_err().to_string()
    };
    let missing = of(VirtioPmemHandle::file(folder.path().join("none")));
    assert!(missing.contains("none: cannot open it"), "{missing}");
    let no_file = of(VirtioPmemHandle {
        access: GuestAccess::ReadOnly,
        ..VirtioPmemHandle::file(folder.path())
    });
    assert!(no_file.contains("no regular file"), "{no_file}");
    let odd = folder.path().join("odd");
    std::fs::write(&odd, [0; 4096]).unwrap();
    let odd = of(VirtioPmemHandle::file(odd));
    assert!(odd.contains("size is 0x1000"), "{odd}");
}

/// A file as large as all addresses for BARs and more is an error that says so, and so
/// is any on a processor without such addresses; the neighbour is built all the same.
#[test]
fn a_bar_larger_than_the_address_space_is_told_with_its_limit() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vast");
    let sparse = |bytes| {
        std::fs::File::create(&path)
            .unwrap()
            .set_len(bytes)
            .unwrap()
    };
    let build = |hypervisor: &Kvm| {
        let handle = VirtioPmemHandle {
            access: GuestAccess::ReadOnly,
            ..VirtioPmemHandle::file(&path)
        };
        with_pmem("guest", &handle).build(hypervisor).map(|_| ())
    };
    sparse(65 << 30);
    let error = build(&hypervisor).unwrap_err();
    assert!(matches!(error, VmmError::Bar { .. }), "{error}");
    let error = error.to_string();
    for words in [
        "partition \"guest\": BAR 2 of pmem:",
        "vast needs 0x2000000000 bytes",
        "have room for 0x1000000000",
        "make the region or file smaller",
    ] {
        assert!(error.contains(words), "{words:?} not in: {error}");
    }
    sparse(2 << 20);
    build(&hypervisor).unwrap();
    let narrow = hypervisor.without(|it| it.physical_bits = 36);
    let error = build(&narrow).unwrap_err().to_string();
    for words in ["have room for 0x0", "processor has no more addresses"] {
        assert!(error.contains(words), "{words:?} not in: {error}");
    }
    partition("neighbour", store_and_flush())
        .build(&narrow)
        .unwrap();
}
