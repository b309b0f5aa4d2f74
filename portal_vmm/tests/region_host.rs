//! Handles, resolvers and members on real KVM: partitions that join a region by
//! configuration alone, come and go, and ring each other.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use hv_shmem::backing::View;
use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::Heard;
use hv_shmem::header::HEADER_BYTES;
use hv_shmem::header::Header;
use hv_shmem::layout::HEADER_AT;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use portal_device::BarBacking;
use portal_device::BarInfo;
use portal_device::BarKind;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_device::inspect::Node;
use portal_resources::DeniedWrites;
use portal_resources::FixedRegionHandle;
use portal_resources::HandleOf;
use portal_resources::IvshmemV1Handle;
use portal_resources::PciDevice;
use portal_resources::RegionHandle;
use portal_resources::ResolveError;
use portal_resources::Resource;
use portal_vmm::FaultKind;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::PartitionBuilder;
use portal_vmm::RegionHost;
use portal_vmm::ResolvedDevice;
use portal_vmm::resolvers;
use portal_vmm::resolvers::DeviceContext;
use std::time::Duration;
use std::time::Instant;

/// Room for 65 sections.
const SIZE: u64 = 4 << 20;

// Rings peer 0, vector 1, as often as the word at 0x180000 says, then spins.
image!(
    ring_peer_0,
    "mov edx, 0xE0008010",
    "mov ebx, [rdx]",
    "and ebx, 0xFFFFFFF0",
    "mov ecx, [0x180000]",
    "2: mov dword ptr [rbx + 12], 1",
    "dec ecx",
    "jnz 2b",
    "mov byte ptr [0x180020], 1",
    "3: pause",
    "jmp 3b",
);

// The same once, then waits for an interrupt that never comes.
image!(
    ring_then_halt,
    "mov edx, 0xE0008010",
    "mov ebx, [rdx]",
    "and ebx, 0xFFFFFFF0",
    "mov dword ptr [rbx + 12], 1",
    "mov byte ptr [0x180020], 1",
    "2: hlt",
    "jmp 2b",
);

image!(
    ring_then_exit,
    "mov edx, 0xE0008010",
    "mov ebx, [rdx]",
    "and ebx, 0xFFFFFFF0",
    "mov dword ptr [rbx + 12], 1",
    "mov dword ptr [rbx + 12], 0x50007",
    "xor eax, eax",
    "out 0xf4, eax",
);

// Stores to host pages at the fixed address, then exits with 3.
image!(
    store_to_host_pages,
    "mov rax, [rdi + 128]",
    "mov dword ptr [rax + 0x1000], 7",
    "mov eax, 3",
    "out 0xf4, eax",
);

// Reads BAR 0 of slot 5 three times through ports CF8h and CFCh and the address
// found there; exits with the last value.
image!(
    read_thrice,
    "mov edx, 0xCF8",
    "mov eax, 0x80002810",
    "out dx, eax",
    "mov edx, 0xCFC",
    "in eax, dx",
    "and eax, 0xFFFFFFF0",
    "mov ebx, eax",
    "mov eax, [rbx]",
    "mov eax, [rbx]",
    "mov eax, [rbx]",
    "out 0xf4, eax",
);

fn regions(peers: u16) -> RegionHost {
    let host = RegionHost::new();
    let mut handle = RegionHandle::new("lake", SIZE);
    handle.max_peers = peers;
    host.create(&handle).unwrap();
    host
}

fn with_ivshmem(builder: PartitionBuilder, regions: &RegionHost) -> PartitionBuilder {
    let mut handle = IvshmemV1Handle::new("lake");
    handle.vectors = 2;
    let resource = Resource::<PciDevice>::new(&handle).unwrap();
    let resolvers = resolvers::standard().unwrap();
    builder.resource(&resource, &resolvers, regions).unwrap()
}

fn started(hypervisor: &Kvm, builder: PartitionBuilder, word: u32) -> Partition {
    let mut partition = builder.build(hypervisor).unwrap();
    partition.write_ram(0x18_0000, &word.to_le_bytes()).unwrap();
    partition.start().unwrap();
    partition
}

#[test]
fn a_partition_rings_host_code_and_its_end_is_told() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = regions(4);
    let controller = regions
        .join("lake", &Join::host("controller", Some(0), 2))
        .unwrap();
    let other = regions.join("lake", &Join::host("other", None, 1)).unwrap();
    assert_eq!((controller.peer(), other.peer()), (PeerId(0), PeerId(1)));
    let builder = with_ivshmem(partition("guest", ring_then_exit()), &regions);
    assert!(controller.doorbell(PeerId(2), 1).is_some());
    let guest = started(&hypervisor, builder, 0);
    let bell = controller.bell(1).unwrap();
    assert_eq!(bell.wait(Some(PATIENCE)).unwrap(), Heard::Rang);
    assert_eq!(guest.wait(PATIENCE), Some(Outcome::Exited(0)));
    // The end of the run is the end of the member, before the partition is dropped.
    assert!(controller.doorbell(PeerId(2), 1).is_none());
    let again = regions
        .join("lake", &Join::host("successor", Some(2), 1))
        .unwrap();
    assert!(again.epoch() > controller.epoch());
    drop(guest);
    assert!(controller.ring(PeerId(2), 0));
    assert_eq!(
        again.bell(0).unwrap().wait(Some(PATIENCE)).unwrap(),
        Heard::Rang
    );
    let counters = regions.inspect().to_string();
    assert!(counters.contains("successor"), "{counters}");
}

#[test]
fn a_peer_that_leaves_is_unrouted_and_one_that_comes_is_routed() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = regions(4);
    let first = regions
        .join("lake", &Join::host("first", Some(0), 2))
        .unwrap();
    let old = first.bell(1).unwrap();
    let builder = with_ivshmem(partition("guest", ring_peer_0()), &regions);
    let guest = started(&hypervisor, builder, u32::MAX);
    assert_eq!(old.wait(Some(PATIENCE)).unwrap(), Heard::Rang);
    drop(first);
    // What was under way has been heard by now; nothing more comes.
    let _ = old.wait(Some(Duration::ZERO));
    assert_eq!(
        old.wait(Some(Duration::from_millis(50))).unwrap(),
        Heard::TimedOut
    );
    let second = regions
        .join("lake", &Join::host("second", Some(0), 2))
        .unwrap();
    let new = second.bell(1).unwrap();
    assert_eq!(new.wait(Some(PATIENCE)).unwrap(), Heard::Rang);
    assert_eq!(guest.stop().unwrap(), Outcome::Stopped);
}

#[test]
fn a_fixed_region_comes_from_its_handle() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = regions(4);
    let mut handle = FixedRegionHandle::new("lake", 0x10_4000_0000);
    for (denied, expected) in [(DeniedWrites::Drop, Some(3)), (DeniedWrites::Stop, None)] {
        handle.denied_writes = denied;
        let builder = partition("fixed", store_to_host_pages());
        let builder = builder.fixed_region(&handle, &regions).unwrap();
        let outcome = started(&hypervisor, builder, 0).wait(PATIENCE).unwrap();
        match (&outcome, expected) {
            (Outcome::Exited(code), Some(expected)) => assert_eq!(*code, expected),
            (Outcome::Faulted(fault), None) => {
                let FaultKind::ReadOnly { region, offset, .. } = &fault.kind else {
                    panic!("{outcome}");
                };
                assert_eq!((region.as_str(), *offset), ("lake", 0x1000));
            }
            _ => panic!("{outcome}"),
        }
    }
}

#[test]
fn mistakes_in_handles_are_named() {
    let regions = regions(2);
    let error = regions
        .create(&RegionHandle::new("lake", SIZE))
        .unwrap_err();
    assert!(error.to_string().contains("lake"), "{error}");
    let error = regions
        .create(&RegionHandle::new("odd", SIZE + 1))
        .unwrap_err();
    assert!(error.to_string().contains("size"), "{error}");
    let error = regions.join("sea", &Join::host("a", None, 1)).unwrap_err();
    assert!(error.to_string().contains("there are: lake"), "{error}");
    let _a = regions.join("lake", &Join::host("a", None, 1)).unwrap();
    let error = regions
        .join("lake", &Join::host("b", Some(0), 1))
        .unwrap_err();
    assert!(error.to_string().contains('a'), "{error}");
    let _b = regions.join("lake", &Join::host("b", None, 1)).unwrap();
    assert!(regions.join("lake", &Join::host("c", None, 1)).is_err());
    let builder = partition("p", ring_peer_0());
    let resource: Resource<PciDevice> =
        serde_json::from_str(r#"{"id":"ivshmem-v9","handle":{}}"#).unwrap();
    let resolvers = resolvers::standard().unwrap();
    let error = builder
        .resource(&resource, &resolvers, &regions)
        .unwrap_err();
    assert!(
        error.to_string().contains("there are: ivshmem-v1"),
        "{error}"
    );
}

/// A device that this crate has never heard of: reads count up.
struct Tally {
    gpa: u64,
    step: u64,
    reads: u64,
    bars: [BarInfo; 1],
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TallyHandle {
    step: u64,
}

impl HandleOf<PciDevice> for TallyHandle {
    const ID: &'static str = "tally";
}

impl Device for Tally {
    fn step(&mut self, input: Input, effects: &mut Effects) {
        match input {
            Input::ConfigRead { offset: 0x10, .. } => effects.answer(self.gpa),
            Input::ConfigWrite {
                offset: 0x10,
                value,
                ..
            } => self.gpa = u64::from(value),
            Input::Attach => effects.push(Effect::Trap {
                bar: 0,
                gpa: self.gpa,
                len: 4096,
            }),
            Input::BarRead { .. } => {
                self.reads += self.step;
                effects.answer(self.reads);
            }
            _ => {}
        }
    }

    fn bars(&self) -> &[BarInfo] {
        &self.bars
    }

    fn save(&self) -> Saved {
        Saved::Never("a test")
    }

    fn restore(&mut self, _: &SavedState, _: &mut Effects) -> Result<(), RestoreError> {
        Err(RestoreError::WrongDevice {
            found: 0,
            expected: 1,
        })
    }

    fn inspect(&self) -> Node {
        Node::new().with("reads", self.reads)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("reads", self.reads);
    }
}

fn tally(handle: TallyHandle, context: &mut DeviceContext) -> Result<ResolvedDevice, ResolveError> {
    Ok(ResolvedDevice {
        name: format!("tally of {}", context.partition),
        device: Box::new(Tally {
            gpa: 0,
            step: handle.step,
            reads: 0,
            bars: [BarInfo {
                bar: 0,
                len: 4096,
                kind: BarKind::Memory32,
                backing: BarBacking::Registers,
            }],
        }),
        slot: Some(5),
        region: None,
        storage: None,
        fabric: None,
        member: None,
    })
}

#[test]
fn a_device_joins_by_one_registered_resolver() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut resolvers = resolvers::standard().unwrap();
    resolvers.register(tally).unwrap();
    let resource: Resource<PciDevice> =
        serde_json::from_str(r#"{"id":"tally","handle":{"step":7}}"#).unwrap();
    let builder = partition("counting", read_thrice());
    let builder = builder
        .resource(&resource, &resolvers, &RegionHost::new())
        .unwrap();
    let guest = started(&hypervisor, builder, 0);
    assert_eq!(guest.wait(PATIENCE), Some(Outcome::Exited(21)));
    let device = guest.device("tally of counting").unwrap();
    assert_eq!(device.inspect().unwrap().to_string(), "reads: 21\n");
    assert_eq!(guest.stats().devices[0].counters[0], ("reads", 21));
}

#[test]
fn partitions_come_and_go_at_once_without_a_deadlock() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = regions(16);
    let controller = regions
        .join("lake", &Join::host("controller", Some(0), 2))
        .unwrap();
    let (done, all) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (hypervisor, regions, done) = (&hypervisor, &regions, done.clone());
            scope.spawn(move || {
                for round in 0..12 {
                    let image = match round % 3 {
                        0 => ring_then_exit(),
                        1 => ring_then_halt(),
                        _ => ring_peer_0(),
                    };
                    let name = format!("p{thread}-{round}");
                    let guest = started(
                        hypervisor,
                        with_ivshmem(partition(&name, image), regions),
                        50,
                    );
                    if guest.pause().is_ok() {
                        let _ = guest.resume();
                    }
                    let _ = guest.ready();
                    match round % 4 {
                        0 => drop(guest),
                        1 => assert!(guest.stop().is_ok()),
                        _ => drop(guest.wait(Duration::from_millis(2))),
                    }
                }
                done.send(()).unwrap();
            });
        }
        for _ in 0..4 {
            if all.recv_timeout(2 * PATIENCE).is_err() {
                // Waiting for the threads would hang with them.
                eprintln!("deadlock: not all threads came to their end");
                std::process::abort();
            }
        }
    });
    for peer in 1..16 {
        assert!(
            controller.doorbell(PeerId(peer), 0).is_none(),
            "peer {peer} has left"
        );
    }
}

#[test]
fn a_region_file_is_taken_over_with_its_generation_moved() {
    let folder = tempfile::tempdir().unwrap();
    let mut handle = RegionHandle::new("lake", SIZE);
    handle.sectioned = false;
    handle.backing = portal_resources::BackingHandle::File {
        path: folder.path().join("lake"),
    };
    let generation = |region: &portal_vmm::SharedRegion| {
        let mut bytes = [0; HEADER_BYTES];
        region.mapping().mem().read(HEADER_AT, &mut bytes);
        Header::from_bytes(&bytes).unwrap().generation
    };
    let first = RegionHost::new();
    let before = generation(&first.create(&handle).unwrap());
    let error = RegionHost::new().create(&handle).unwrap_err();
    assert!(
        error.to_string().contains("lake"),
        "one host at a time: {error}"
    );
    drop(first);
    let second = RegionHost::new();
    assert_eq!(generation(&second.create(&handle).unwrap()), before + 1);
    drop(second);
    handle.size = SIZE / 2;
    let error = RegionHost::new().create(&handle).unwrap_err();
    assert!(error.to_string().contains("the file holds"), "{error}");
}

#[test]
fn a_region_in_memory_is_sealed_when_its_owner_has_mapped_it() {
    let host = RegionHost::new();
    for sectioned in [false, true] {
        let mut handle = RegionHandle::new(format!("lake{sectioned}"), SIZE);
        handle.sectioned = sectioned;
        let region = host.create(&handle).unwrap();
        let backing = region.backing().unwrap();
        assert!(backing.map(View::OWNER).is_err(), "sealed");
        backing.map(View::OBSERVER).unwrap();
        // The owner's own mapping goes on working.
        region.mapping().mem().write(SIZE / 2, b"live");
    }
}

#[test]
fn sixty_four_partitions_join_one_region_and_ring() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let begin = Instant::now();
    let regions = regions(65);
    let controller = regions
        .join("lake", &Join::host("controller", Some(0), 2))
        .unwrap();
    let mut partitions = Vec::new();
    for index in 0..64 {
        let builder = with_ivshmem(partition(&format!("p{index}"), ring_then_halt()), &regions);
        // The first waits for the last to start, which takes its time on two CPUs.
        let builder = builder.ram(2 << 20).deadline(Duration::MAX);
        partitions.push(started(&hypervisor, builder, 1));
    }
    for partition in &partitions {
        let rang = || {
            let mut byte = [0];
            partition.read_ram(0x18_0020, &mut byte).unwrap();
            byte[0] == 1
        };
        let waiting = Instant::now();
        while !rang() {
            assert!(
                waiting.elapsed() < PATIENCE,
                "{:?}",
                partition.wait(Duration::ZERO)
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        partition.pause().unwrap();
    }
    assert_eq!(
        controller.bell(1).unwrap().wait(Some(PATIENCE)).unwrap(),
        Heard::Rang
    );
    for peer in 1..=64 {
        assert!(controller.ring(PeerId(peer), 0));
    }
    eprintln!(
        "64 partitions joined and ringing after {:?}",
        begin.elapsed()
    );
    drop(partitions);
    assert!(!controller.ring(PeerId(1), 0));
    eprintln!("and gone after {:?}", begin.elapsed());
}
