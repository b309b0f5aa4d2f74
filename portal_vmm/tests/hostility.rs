//! The threats of TRUST.md that only real partitions can show: stores to others'
//! sections, backings that go away, partitions that die, doorbells without end.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod evidence;
mod guest;
#[path = "guest/hear.rs"]
mod hear;

use evidence::Harness;
use evidence::Random;
use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::Storage;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use portal_boot_abi::WINDOW64_GPA;
use portal_resources::IvshmemV1Handle;
use portal_resources::PciDevice;
use portal_resources::RegionHandle;
use portal_resources::Resource;
use portal_vmm::Bells;
use portal_vmm::DeniedWrites;
use portal_vmm::Fabric;
use portal_vmm::FaultKind;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::RegionAttachment;
use portal_vmm::RegionHost;
use portal_vmm::SharedRegion;
use portal_vmm::Writable;
use portal_vmm::hv::Hypervisor as _;
use portal_vmm::resolvers;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// The hypervisor, to one test at a time: the flood looks at this process's memory.
fn alone() -> Option<(Kvm, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    hypervisor().map(|hypervisor| (hypervisor, one))
}

const SIZE: u64 = 1 << 20;
const PEERS: u16 = 4;
/// Where the host leaves offsets for a guest, and how many fit.
const TABLE: u64 = 0x19_0000;
const TABLE_ENTRIES: u64 = 4096;

// Stores 4 bytes to the region at each of the offsets in the table; their number
// is at 0x180000.
image!(
    store_to_many,
    "mov rbx, [rdi + 128]",
    "mov ecx, [0x180000]",
    "mov esi, 0x190000",
    "cld",
    "2: lodsq",
    "mov dword ptr [rbx + rax], 0x5A5A5A5A",
    "dec ecx",
    "jnz 2b",
    "xor eax, eax",
    "out 0xf4, eax",
);

image!(
    load_for_ever,
    "mov rax, [rdi + 128]",
    "add rax, [0x180000]",
    "2: mov ebx, [rax]",
    "inc dword ptr [0x180010]",
    "jmp 2b",
);

image!(spin, "2: pause", "jmp 2b");
image!(trip, "ud2");
image!(leave, "out 0xf4, eax");

fn region(sectioned: bool, storage: Storage) -> Arc<SharedRegion> {
    let spec = RegionSpec::new(Name::new("shared").unwrap(), SIZE, PEERS).sectioned(sectioned);
    let config = BackingConfig {
        storage,
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).unwrap();
    SharedRegion::of_backing("shared", backing).unwrap()
}

fn at(region: &Arc<SharedRegion>, peer: u16, writable: Writable) -> RegionAttachment {
    RegionAttachment {
        region: region.clone(),
        gpa: WINDOW64_GPA,
        peer: PeerId(peer),
        epoch: 1,
        writable,
        denied_write: DeniedWrites::Drop,
    }
}

fn count(partition: &Partition) -> u32 {
    let mut bytes = [0; 4];
    partition.read_ram(0x18_0010, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn wait_for(partition: &Partition, mut what: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !what() {
        assert!(
            begin.elapsed() < PATIENCE,
            "{:?}",
            partition.wait(Duration::ZERO)
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

const STORES: Harness = Harness {
    threat: "T4",
    what: "a guest stores to what other peers and the host write",
    cases: 2000,
};

/// One guest that stores to a table of places that are not its own.
fn stores(hypervisor: &Kvm, left: u64, random: &mut Random) -> (u64, u64) {
    let region = region(true, Storage::Memfd);
    let own = region.layout().section(PeerId(1));
    // Behind the sections nobody writes, not even the host.
    let end = region.layout().section(PeerId(PEERS - 1)).end;
    let mut offsets = Vec::new();
    while offsets.len() < left.min(TABLE_ENTRIES) as usize {
        let page = random.below(end / 4096) * 4096;
        let offset = page + random.pick(&[0, 4, 8, 0x123 * 4, 4092, 4088]);
        if !own.contains(&offset) {
            offsets.push(offset);
        }
    }
    let mem = region.mapping().mem();
    for offset in &offsets {
        mem.store_u32(*offset, 7, hv_shmem::mem::Ordering::Relaxed);
    }
    let builder = partition("greedy", store_to_many());
    let builder = builder.region(at(&region, 1, Writable::Own));
    let mut guest = builder.build(hypervisor).unwrap();
    let bytes: Vec<u8> = offsets.iter().flat_map(|at| at.to_le_bytes()).collect();
    guest.write_ram(TABLE, &bytes).unwrap();
    guest
        .write_ram(0x18_0000, &offsets.len().to_le_bytes())
        .unwrap();
    guest.start().unwrap();
    assert_eq!(guest.wait(PATIENCE), Some(Outcome::Exited(0)));
    let arrived = |offset: &&u64| mem.load_u32(**offset, hv_shmem::mem::Ordering::Relaxed) != 7;
    let failures = offsets.iter().filter(arrived).count() as u64;
    let dropped = guest.stats().dropped_stores();
    let cases = offsets.len() as u64;
    assert_eq!(dropped, if failures == 0 { cases } else { 0 });
    (cases, failures)
}

#[test]
fn t4_stores_to_others_sections() {
    if let Some((hypervisor, _alone)) = alone() {
        STORES.holds(|left, random| stores(&hypervisor, left, random));
    }
}

const TRUNCATIONS: Harness = Harness {
    threat: "T13",
    what: "a region file truncated under a running partition",
    cases: 20,
};

/// One victim whose file is truncated, beside a neighbour on another region; it has so
/// long to stop.
fn truncation(hypervisor: &Kvm, random: &mut Random, patience: Duration) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let lost = region(false, Storage::File(path.clone()));
    let kept = region(true, Storage::Memfd);
    let offset = SIZE - 4096 * (1 + random.below(16)) + 4 * random.below(1024);
    let looking = |name: &str, region: &Arc<SharedRegion>, writable| {
        let builder = partition(name, load_for_ever()).region(at(region, 0, writable));
        let mut partition = builder.build(hypervisor).unwrap();
        partition
            .write_ram(0x18_0000, &offset.to_le_bytes())
            .unwrap();
        partition.start().unwrap();
        wait_for(&partition, || count(&partition) > 2);
        partition
    };
    let neighbour = looking("neighbour", &kept, Writable::Own);
    let victim = looking("victim", &lost, Writable::All);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(4096 * random.below(16)).unwrap();
    let outcome = victim.wait(patience);
    let told = match &outcome {
        Some(Outcome::Faulted(fault)) => match &fault.kind {
            FaultKind::RegionLost { gpa, .. } => *gpa == WINDOW64_GPA + offset,
            // A kernel that says which address it was says it; an older one cannot.
            FaultKind::Hypervisor { what } => {
                !hypervisor.capabilities().memory_fault_info && what.contains("lost its backing")
            }
            _ => false,
        },
        _ => false,
    };
    let before = count(&neighbour);
    wait_for(&neighbour, || count(&neighbour) != before);
    (1, u64::from(!told))
}

#[test]
fn t13_truncated_under_a_partition() {
    if let Some((hypervisor, _alone)) = alone() {
        TRUNCATIONS.holds(|_, random| truncation(&hypervisor, random, PATIENCE));
    }
}

const DEATHS: Harness = Harness {
    threat: "T10",
    what: "a partition dies; its neighbours are told within a second",
    cases: 20,
};

/// How long the others may take to know.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// One partition that joins a region and ends in one of four ways.
fn death(hypervisor: &Kvm, random: &mut Random) -> (u64, u64) {
    let regions = RegionHost::new();
    let mut handle = RegionHandle::new("lake", SIZE);
    handle.max_peers = PEERS;
    regions.create(&handle).unwrap();
    let survivor = regions
        .join("lake", &Join::host("survivor", Some(0), 1))
        .unwrap();
    let how = random.below(4);
    let image = match how {
        0 => trip(),
        1 => leave(),
        _ => spin(),
    };
    let resource = Resource::<PciDevice>::new(&IvshmemV1Handle::new("lake")).unwrap();
    let builder = partition("mortal", image);
    let builder = builder
        .resource(&resource, &resolvers::standard().unwrap(), &regions)
        .unwrap();
    let mut mortal = builder.build(hypervisor).unwrap();
    assert!(survivor.doorbell(PeerId(1), 0).is_some());
    mortal.start().unwrap();
    std::thread::sleep(Duration::from_micros(random.below(500)));
    match how {
        0 | 1 => assert!(mortal.wait(PATIENCE).is_some()),
        2 => assert_eq!(mortal.stop().unwrap(), Outcome::Stopped),
        _ => drop(mortal),
    }
    let begin = Instant::now();
    while survivor.doorbell(PeerId(1), 0).is_some() && begin.elapsed() < TOLD_WITHIN {
        std::thread::sleep(Duration::from_millis(1));
    }
    let told = survivor.doorbell(PeerId(1), 0).is_none();
    // The place is free, under a later epoch.
    let heir = regions.join("lake", &Join::host("heir", Some(1), 0));
    let free = heir.is_ok_and(|heir| heir.epoch() > survivor.epoch());
    (1, u64::from(!told || !free))
}

#[test]
fn t10_a_partition_dies() {
    if let Some((hypervisor, _alone)) = alone() {
        DEATHS.holds(|_, random| death(&hypervisor, random));
    }
}

const FLOOD: Harness = Harness {
    threat: "T3",
    what: "a second of rings flat out; interrupts within the budget, memory constant",
    cases: 1,
};

/// Interrupts a second that the victim of a flood has set.
const BUDGET: u32 = 100;
/// Interrupts that may come in beside the budget's: the first, and one under way.
const SLACK: f64 = 2.0;
/// Most that this process may grow by while it is flooded, in KiB.
const GROWTH_KIB: u64 = 1024;

/// Memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.expect("a number of KiB")
}

/// Seconds of one flood, by a thread that does nothing but ring: seven million
/// times a second, where a partition comes to some thirty thousand. Each second
/// is a case.
fn flood(hypervisor: &Kvm, seconds: u64) -> (u64, u64) {
    let region = region(true, Storage::Memfd);
    let bells = Bells::new();
    bells.add(1, 2).unwrap();
    let victim = partition("victim", hear::hear_vector_0())
        .deadline(Duration::from_secs(seconds + 30))
        .interrupt_budget(BUDGET.try_into().unwrap())
        .device(hear::ivshmem(&region, 1, &bells));
    let mut victim = victim.build(hypervisor).unwrap();
    victim
        .write_ram(0x18_0000, &u32::MAX.to_le_bytes())
        .unwrap();
    victim.start().unwrap();
    let mut listens = [0];
    wait_for(&victim, || {
        victim.read_ram(0x18_0020, &mut listens).unwrap();
        listens == [1]
    });
    let bell = bells.bell(1, 0).unwrap();
    let before = resident();
    let over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let failures = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(relaxed) {
                bell.ring().unwrap();
            }
        });
        let failed = (0..seconds).filter(|_| {
            let begin = Instant::now();
            let taken = count(&victim);
            std::thread::sleep(Duration::from_secs(1));
            let taken = f64::from(count(&victim) - taken);
            let allowed = f64::from(BUDGET) * begin.elapsed().as_secs_f64() + SLACK;
            let grown = resident().saturating_sub(before);
            // Some must come: the flood does not silence the doorbell either.
            let held = (1.0..=allowed).contains(&taken) && grown < GROWTH_KIB;
            if !held {
                eprintln!("{taken} interrupts, {allowed:.0} allowed; {grown} KiB more");
            }
            !held
        });
        let failed = failed.count() as u64;
        over.store(true, relaxed);
        failed
    });
    assert_eq!(victim.stop().unwrap(), Outcome::Stopped);
    (seconds, failures)
}

#[test]
fn t3_a_flood_of_doorbells_stays_within_the_budget() {
    if let Some((hypervisor, _alone)) = alone() {
        FLOOD.holds(|left, _| flood(&hypervisor, left));
    }
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_vmm::guard::Guard;
    use portal_vmm::guard::without;

    #[test]
    fn control_t4_second_stage() {
        if let Some((hypervisor, _alone)) = alone() {
            let name = "what others write is read-only in the second stage";
            STORES.fails(name, |left, random| {
                without(Guard::SecondStage, || stores(&hypervisor, left, random))
            });
        }
    }

    #[test]
    fn control_t13_lost_backing() {
        if let Some((hypervisor, _alone)) = alone() {
            let name = "a load from a region that is gone is not answered";
            TRUNCATIONS.fails(name, |_, random| {
                let patience = Duration::from_secs(1);
                without(Guard::LostBacking, || {
                    truncation(&hypervisor, random, patience)
                })
            });
        }
    }

    #[test]
    fn control_t3_budget() {
        if let Some((hypervisor, _alone)) = alone() {
            let name = "a vector interrupts no more often than the budget";
            FLOOD.fails(name, |_, _| {
                without(Guard::Budget, || flood(&hypervisor, 1))
            });
        }
    }

    #[test]
    fn control_t10_leaving() {
        if let Some((hypervisor, _alone)) = alone() {
            let name = "a partition's end ends its places in regions";
            DEATHS.fails(name, |_, random| {
                without(Guard::Leaving, || death(&hypervisor, random))
            });
        }
    }
}
