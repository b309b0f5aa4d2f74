//! A partition that comes and goes a hundred times leaves nothing behind: no
//! descriptor, mapping, thread or peer id, here and at a neighbour that stays.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use portal_resources::IvshmemV1Handle;
use portal_resources::PciDevice;
use portal_resources::RegionHandle;
use portal_resources::Resource;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::RegionHost;
use portal_vmm::resolvers;

/// Cycles that count, and those before them in which caches fill.
const CYCLES: u32 = 100;
const WARM_UP: u32 = 10;
const SIZE: u64 = 2 << 20;

image!(exit_at_once, "xor eax, eax", "out 0xf4, eax");
image!(wait, "2: hlt", "jmp 2b");

/// What this process holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// Mappings of regions, vCPUs and whatever else has a name that tells.
    mappings: usize,
    /// Mapped bytes, in units of a partition's RAM.
    memory: u64,
}

fn held() -> Held {
    let entries = |folder| std::fs::read_dir(folder).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let named = |line: &&str| line.contains("memfd:") || line.contains("anon_inode:");
    let size = |line: &str| {
        let (start, rest) = line.split_once('-').unwrap();
        let (end, _) = rest.split_once(' ').unwrap();
        let number = |hex| u64::from_str_radix(hex, 16).unwrap();
        number(end) - number(start)
    };
    Held {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        mappings: maps.lines().filter(named).count(),
        memory: maps.lines().map(size).sum::<u64>() >> 22,
    }
}

fn on_the_lake(
    hypervisor: &Kvm,
    regions: &RegionHost,
    name: &str,
    image: &'static [u8],
) -> Partition {
    let resource = Resource::<PciDevice>::new(&IvshmemV1Handle::new("lake")).unwrap();
    let resolvers = resolvers::standard().unwrap();
    let builder = partition(name, image);
    let builder = builder.resource(&resource, &resolvers, regions).unwrap();
    let mut partition = builder.build(hypervisor).unwrap();
    partition.start().unwrap();
    partition
}

#[test]
fn a_hundred_lives_of_a_partition_leave_nothing_behind() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = RegionHost::new();
    let mut handle = RegionHandle::new("lake", SIZE);
    // The host, the neighbour, and one that comes and goes: a lost id is one too few.
    handle.max_peers = 3;
    regions.create(&handle).unwrap();
    let host = regions
        .join("lake", &Join::host("host", Some(0), 1))
        .unwrap();
    let neighbour = on_the_lake(&hypervisor, &regions, "neighbour", wait());
    let mut before = None;
    for cycle in 0..WARM_UP + CYCLES {
        if cycle == WARM_UP {
            before = Some(held());
        }
        let (image, end) = match cycle % 2 {
            0 => (exit_at_once(), Outcome::Exited(0)),
            _ => (wait(), Outcome::Stopped),
        };
        let guest = on_the_lake(&hypervisor, &regions, "guest", image);
        if end == Outcome::Stopped {
            assert_eq!(guest.stop().unwrap(), end);
        } else {
            assert_eq!(guest.wait(PATIENCE), Some(end));
        }
    }
    assert_eq!(Some(held()), before);
    let stats = neighbour.stats();
    let refused = |name: &str| name == "binding_refused" || name == "peers_refused";
    for (name, value) in stats.devices.iter().flat_map(|device| &device.counters) {
        assert!(!refused(name) || *value == 0, "{name} is {value}");
    }
    let last = regions.join("lake", &Join::host("last", None, 1)).unwrap();
    assert_eq!(last.peer().0, 2);
    // One epoch when it comes and one when it goes, or one for both.
    assert!(last.epoch() > WARM_UP + CYCLES, "epoch {}", last.epoch());
    assert_eq!(neighbour.stop().unwrap(), Outcome::Stopped);
    drop(host);
}
