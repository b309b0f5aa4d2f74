//! ivshmem v2 on real KVM: states, their interrupt, sections that only their
//! owner writes, and the death of a peer.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use portal_resources::DeniedWrites;
use portal_resources::GuestAccess;
use portal_resources::IvshmemV2Handle;
use portal_resources::PciDevice;
use portal_resources::RegionHandle;
use portal_resources::Resource;
use portal_vmm::FaultKind;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::RegionHost;
use portal_vmm::resolvers;
use std::time::Duration;
use std::time::Instant;

const SIZE: u64 = 1 << 20;
/// Word that a guest reads before it begins, and places where it says how far it
/// is.
const WORD: u64 = 0x18_0000;
const OFFSET: u64 = 0x18_0008;
const DONE: u64 = 0x18_0020;
const READ_BACK: u64 = 0x18_0030;
const COUNT: u64 = 0x18_0010;
const SEEN: u64 = 0x18_0040;

// Publishes the state at 0x180000, stores to the region at the offset at
// 0x180008, keeps at 0x180030 what a load from there gives, spins.
image!(
    publish_and_store,
    "mov edx, 0xE0008010",
    "mov ebx, [rdx]",
    "and ebx, 0xFFFFFFF0",
    "mov edx, 0xE0008018",
    "mov esi, [rdx]",
    "and esi, 0xFFFFFFF0",
    "mov eax, [rdx + 4]",
    "shl rax, 32",
    "or rsi, rax",
    "mov eax, [0x180000]",
    "mov [rbx + 0x10], eax",
    "add rsi, [0x180008]",
    "mov dword ptr [rsi], 0x5A",
    "mov eax, [rsi]",
    "mov [0x180030], eax",
    "mov byte ptr [0x180020], 1",
    "3: pause",
    "jmp 3b",
);

// MSI-X vector 0 is interrupt 0x40, interrupts on; after each one keeps the
// count at 0x180010 and peer 0's state at 0x180040; exits with the state after as
// many as 0x180000 says.
image!(
    hear_states,
    "lea rax, [rip + 5f]",
    "mov rbx, 0x170400",
    "mov [rbx], ax",
    "mov word ptr [rbx + 2], 8",
    "mov byte ptr [rbx + 5], 0x8E",
    "shr rax, 16",
    "mov [rbx + 6], ax",
    "mov rbx, 0x160000",
    "mov word ptr [rbx], 0xFFF",
    "mov dword ptr [rbx + 2], 0x170000",
    "lidt [rbx]",
    "mov edx, 0xFEE000F0",
    "mov dword ptr [rdx], 0x1FF",
    "mov edx, 0xE0008018",
    "mov esi, [rdx]",
    "and esi, 0xFFFFFFF0",
    "mov eax, [rdx + 4]",
    "shl rax, 32",
    "or rsi, rax",
    "mov edx, 0xE0008014",
    "mov eax, [rdx]",
    "and eax, 0xFFFFFFF0",
    "mov dword ptr [rax], 0xFEE00000",
    "mov dword ptr [rax + 4], 0",
    "mov dword ptr [rax + 8], 0x40",
    "mov dword ptr [rax + 12], 0",
    // The MSI-X capability is the second one.
    "mov edx, 0xE0008034",
    "movzx eax, byte ptr [rdx]",
    "mov edx, 0xE0008000",
    "add edx, eax",
    "movzx eax, byte ptr [rdx + 1]",
    "mov edx, 0xE0008000",
    "add edx, eax",
    "mov word ptr [rdx + 2], 0x8000",
    "mov edx, 0xE0008010",
    "mov ebx, [rdx]",
    "and ebx, 0xFFFFFFF0",
    "mov dword ptr [rbx + 8], 1",
    "mov byte ptr [0x180020], 1",
    "3: cli",
    "mov eax, [rsi]",
    "mov [0x180040], eax",
    "mov ecx, [0x180010]",
    "cmp ecx, [0x180000]",
    "jae 4f",
    "sti",
    "hlt",
    "jmp 3b",
    "4: out 0xf4, eax",
    "5: inc dword ptr [0x180010]",
    "push rdx",
    "mov edx, 0xFEE000B0",
    "mov dword ptr [rdx], 0",
    "pop rdx",
    "iretq",
);

fn regions() -> RegionHost {
    let host = RegionHost::new();
    let mut handle = RegionHandle::new("lake", SIZE);
    handle.max_peers = 4;
    host.create(&handle).unwrap();
    host
}

fn v2(peer: u16) -> IvshmemV2Handle {
    let mut handle = IvshmemV2Handle::new("lake");
    handle.vectors = 1;
    handle.peer = Some(peer);
    handle
}

fn started(
    hypervisor: &Kvm,
    name: &str,
    image: &'static [u8],
    handle: &IvshmemV2Handle,
    regions: &RegionHost,
    words: [u64; 2],
) -> Partition {
    let resource = Resource::<PciDevice>::new(handle).unwrap();
    let resolvers = resolvers::standard().unwrap();
    let builder = partition(name, image);
    let builder = builder.resource(&resource, &resolvers, regions).unwrap();
    let mut partition = builder.build(hypervisor).unwrap();
    for (at, word) in [WORD, OFFSET].into_iter().zip(words) {
        partition.write_ram(at, &word.to_le_bytes()).unwrap();
    }
    partition.start().unwrap();
    partition
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

#[test]
fn a_state_and_then_the_death_of_its_peer_interrupt_the_survivor() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = regions();
    let table = regions.region("lake").unwrap().mapping().mem();
    let survivor = started(
        &hypervisor,
        "survivor",
        hear_states(),
        &v2(1),
        &regions,
        [2, 0],
    );
    wait_for("the survivor listens", || word(&survivor, DONE) == 1);
    assert_eq!(word(&survivor, COUNT), 0);
    let mortal = started(
        &hypervisor,
        "mortal",
        publish_and_store(),
        &v2(0),
        &regions,
        [0x4242, SIZE / 2],
    );
    wait_for("the state arrives", || word(&survivor, SEEN) == 0x4242);
    assert_eq!(word(&survivor, COUNT), 1, "one change, one interrupt");
    assert_eq!(table.load_u32(0, Ordering::Acquire), 0x4242);
    drop(mortal);
    // The second interrupt, and the state that it finds.
    assert_eq!(survivor.wait(PATIENCE), Some(Outcome::Exited(0)));
    assert_eq!(word(&survivor, COUNT), 2);
    assert_eq!(table.load_u32(0, Ordering::Acquire), 0);
}

#[test]
fn a_member_without_the_device_publishes_through_the_host() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = regions();
    let guest = started(
        &hypervisor,
        "guest",
        hear_states(),
        &v2(1),
        &regions,
        [1, 0],
    );
    wait_for("the guest listens", || word(&guest, DONE) == 1);
    let member = regions
        .join("lake", &Join::host("host", Some(0), 0))
        .unwrap();
    member.publish(7).unwrap();
    assert_eq!(guest.wait(PATIENCE), Some(Outcome::Exited(7)));
}

#[test]
fn a_store_to_anothers_section_is_dropped_and_counted() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = regions();
    let region = regions.region("lake").unwrap();
    let layout = region.layout().clone();
    let mem = region.mapping().mem();
    let own = layout.section(PeerId(0)).start;
    let others = [0, 0x1000, layout.section(PeerId(1)).start, SIZE - 4];
    for (offset, kept, dropped) in [(own, 0x5A, 0)]
        .into_iter()
        .chain(others.map(|offset| (offset, 0, 1)))
    {
        // What the host keeps in its own pages stays as it is.
        let before = mem.load_u32(offset, Ordering::Acquire);
        let kept = if dropped == 1 && offset == 0x1000 {
            before
        } else {
            kept
        };
        let guest = started(
            &hypervisor,
            "guest",
            publish_and_store(),
            &v2(0),
            &regions,
            [0, offset],
        );
        wait_for("the store is done", || word(&guest, DONE) == 1);
        assert_eq!(word(&guest, READ_BACK), kept, "offset {offset:#x}");
        assert_eq!(mem.load_u32(offset, Ordering::Acquire), kept);
        assert_eq!(counter(&guest, "region_writes_dropped"), dropped);
        assert!(!guest.ended());
    }
}

#[test]
fn a_read_only_peer_writes_nothing_and_may_be_stopped_for_trying() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let regions = regions();
    let region = regions.region("lake").unwrap();
    let own = region.layout().section(PeerId(0)).start;
    let handle = IvshmemV2Handle {
        access: GuestAccess::ReadOnly,
        denied_writes: DeniedWrites::Stop,
        ..v2(0)
    };
    let image = publish_and_store();
    let guest = started(&hypervisor, "guest", image, &handle, &regions, [0, own]);
    let outcome = guest.wait(PATIENCE).unwrap();
    let Outcome::Faulted(fault) = &outcome else {
        panic!("{outcome}");
    };
    let FaultKind::ReadOnly { region, offset, .. } = &fault.kind else {
        panic!("{outcome}");
    };
    assert_eq!((region.as_str(), *offset), ("lake", own));
}
