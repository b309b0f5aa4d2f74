//! A partition that comes and goes a hundred times leaves nothing behind: no
//! descriptor, mapping, thread or peer id, here, at a neighbour that stays, and at the
//! switchboard that serves the region.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use hv_shmem::backing::MappedMem;
use hv_shmem::layout::PeerId;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use portal_resources::IvshmemV1Handle;
use portal_resources::PciDevice;
use portal_resources::RegionHandle;
use portal_resources::Resource;
use portal_serve::Daemon;
use portal_serve::Options;
use portal_serve::PortalSocket;
use portal_serve::RegionConfig;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::RegionHost;
use portal_vmm::SharedRegion;
use portal_vmm::resolvers;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// Cycles that count, and those before them in which caches fill.
const CYCLES: u32 = 100;
const WARM_UP: u32 = 10;
const SIZE: u64 = 2 << 20;
const PEERS: u16 = 3;
/// Bytes by which allocators may grow: less than the RAM of [`CYCLES`] partitions.
const GROWTH: u64 = 128 << 20;

image!(exit_at_once, "xor eax, eax", "out 0xf4, eax");
image!(wait, "2: hlt", "jmp 2b");

/// What this process holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// Mappings of regions, vCPUs and whatever else has a name that tells.
    mappings: usize,
}

impl Held {
    fn is_no_more_than(&self, other: &Self) -> bool {
        self.descriptors <= other.descriptors
            && self.threads <= other.threads
            && self.mappings <= other.mappings
    }
}

fn held() -> Held {
    let entries = |folder| std::fs::read_dir(folder).unwrap().count();
    let named = |line: &&str| line.contains("memfd:") || line.contains("anon_inode:");
    Held {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        mappings: maps().lines().filter(named).count(),
    }
}

fn maps() -> String {
    std::fs::read_to_string("/proc/self/maps").unwrap()
}

/// Bytes mapped, with the RAM of partitions, which has no name.
fn mapped() -> u64 {
    let size = |line: &str| {
        let (start, rest) = line.split_once('-').unwrap();
        let (end, _) = rest.split_once(' ').unwrap();
        let number = |hex| u64::from_str_radix(hex, 16).unwrap();
        number(end) - number(start)
    };
    maps().lines().map(size).sum()
}

/// A thread that was joined, and a client that hung up, are gone a little later.
fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}: {:?}", held());
        std::thread::sleep(Duration::from_millis(1));
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

/// A hundred partitions, one after the other, beside a host process and a neighbour;
/// each has the last of the region's three numbers.
fn a_hundred_lives(hypervisor: &Kvm, regions: &RegionHost, lake: &Arc<SharedRegion>) {
    let read_only = AttachOptions {
        read_only: true,
        expect: None,
    };
    let table: PortalRegion<MappedMem> =
        PortalRegion::attach(lake.mapping().mem(), read_only).unwrap();
    let number = PeerId(2);
    let host = regions
        .join("lake", &Join::host("host", Some(0), 1))
        .unwrap();
    let neighbour = on_the_lake(hypervisor, regions, "neighbour", wait());
    let mut before = None;
    for cycle in 0..WARM_UP + CYCLES {
        if cycle == WARM_UP {
            before = Some((held(), mapped()));
        }
        let (image, end) = match cycle % 2 {
            0 => (exit_at_once(), Outcome::Exited(0)),
            _ => (wait(), Outcome::Stopped),
        };
        let epoch = table.peer(number).unwrap().epoch;
        let guest = on_the_lake(hypervisor, regions, "guest", image);
        if end == Outcome::Stopped {
            // The other kind may have gone already.
            assert!(table.peer(number).unwrap().state.is_live(), "{cycle}");
            assert_eq!(guest.stop().unwrap(), end);
        } else {
            assert_eq!(guest.wait(PATIENCE), Some(end));
            drop(guest);
        }
        // It had the number, and it is free again.
        until("the end of its epoch", || {
            let now = table.peer(number);
            now.is_ok_and(|now| now.epoch > epoch && !now.state.is_live())
        });
    }
    let (held_before, mapped_before) = before.unwrap();
    until(&format!("no more than {held_before:?}"), || {
        held().is_no_more_than(&held_before)
    });
    let grown = mapped().saturating_sub(mapped_before);
    assert!(grown < GROWTH, "{grown} bytes more are mapped");
    let stats = neighbour.stats();
    let refused = |name: &str| name == "binding_refused" || name == "peers_refused";
    for (name, value) in stats.devices.iter().flat_map(|device| &device.counters) {
        assert!(!refused(name) || *value == 0, "{name} is {value}");
    }
    let last = regions.join("lake", &Join::host("last", None, 1)).unwrap();
    assert_eq!(last.peer(), number);
    // One epoch when it comes and one when it goes, or one for both.
    assert!(last.epoch() > WARM_UP + CYCLES, "epoch {}", last.epoch());
    assert_eq!(neighbour.stop().unwrap(), Outcome::Stopped);
    drop(host);
}

#[test]
fn a_hundred_lives_of_a_partition_leave_nothing_behind() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = RegionHost::new();
    let mut handle = RegionHandle::new("lake", SIZE);
    handle.max_peers = PEERS;
    let lake = regions.create(&handle).unwrap();
    a_hundred_lives(&hypervisor, &regions, &lake);

    // The same at a switchboard, whose descriptors are this process's too. One test:
    // what runs beside it would be counted.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("portal.sock");
    let served = format!("lake,size={SIZE},peers={PEERS},sections=enforced");
    let served = RegionConfig::parse(&served, |size| size.parse().ok()).unwrap();
    let options = Options {
        portal: PortalSocket::At(socket.clone()),
        ..Options::default()
    };
    let daemon = Daemon::new(&[served], &options).unwrap();
    let (stop, stopped) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || daemon.run(stopped.as_fd(), &mut |_| ()));
    let regions = RegionHost::new();
    let lake = regions.serve("lake", &socket).unwrap();
    a_hundred_lives(&hypervisor, &regions, &lake);
    drop(stop);
    server.join().unwrap().unwrap();
}
