//! Regions on real KVM: several partitions on one, others' sections read-only
//! in the second stage, backings that go away, doorbells without exits.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;
#[path = "guest/hear.rs"]
mod hear;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use hear::hear_vector_0;
use hear::ivshmem;
use hear::writable;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::Storage;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use portal_boot_abi::WINDOW64_GPA;
use portal_vmm::Bells;
use portal_vmm::DeniedWrites;
use portal_vmm::FaultKind;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::PartitionBuilder;
use portal_vmm::RegionAttachment;
use portal_vmm::SharedRegion;
use portal_vmm::hv::Hypervisor as _;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

const SIZE: u64 = 1 << 20;
const PEERS: u16 = 4;

// Stores to the region at the offset that the host has put at 0x180000, then
// exits with what a load from there gives.
image!(
    store_at_offset,
    "mov rax, [rdi + 128]",
    "add rax, [0x180000]",
    "mov dword ptr [rax], 0x5A",
    "mov eax, [rax]",
    "out 0xf4, eax",
);

image!(
    load_at_offset_for_ever,
    "mov rax, [rdi + 128]",
    "add rax, [0x180000]",
    "2: mov ebx, [rax]",
    "inc dword ptr [0x180010]",
    "jmp 2b",
);

// Rings peer 1, vector 0, as often as the word at 0x180000 says.
image!(
    ring_peer_1,
    "mov edx, 0xE0008010",
    "mov ebx, [rdx]",
    "and ebx, 0xFFFFFFF0",
    "mov ecx, [0x180000]",
    "2: mov dword ptr [rbx + 12], 0x10000",
    "dec ecx",
    "jnz 2b",
    "xor eax, eax",
    "out 0xf4, eax",
);

// Leaves MSI-X off: INTx of slot 1 goes to the input of the I/O APIC that the
// interrupt line register names, level-triggered, interrupt 0x40. Halts until it
// has come; its handler reads the status, which lowers the pin again.
image!(
    hear_intx,
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
    "mov edx, 0xE000803C",
    "movzx ecx, byte ptr [rdx]",
    "shl ecx, 1",
    "add ecx, 0x10",
    "mov edx, 0xFEC00000",
    "mov [rdx], ecx",
    "mov dword ptr [rdx + 0x10], 0x8040",
    "inc ecx",
    "mov [rdx], ecx",
    "mov dword ptr [rdx + 0x10], 0",
    "mov edx, 0xE0008010",
    "mov ebp, [rdx]",
    "and ebp, 0xFFFFFFF0",
    "mov dword ptr [rbp], 0xFFFFFFFF",
    "mov byte ptr [0x180020], 1",
    "3: cli",
    "mov eax, [0x180010]",
    "cmp eax, [0x180000]",
    "jae 4f",
    "sti",
    "hlt",
    "jmp 3b",
    "4: out 0xf4, eax",
    "5: inc dword ptr [0x180010]",
    "push rdx",
    "mov edx, [rbp + 4]",
    "mov edx, 0xFEE000B0",
    "mov dword ptr [rdx], 0",
    "pop rdx",
    "iretq",
);

fn region(sectioned: bool, storage: Storage) -> Arc<SharedRegion> {
    let spec = RegionSpec::new(Name::new("shared").unwrap(), SIZE, PEERS).sectioned(sectioned);
    let config = BackingConfig {
        storage,
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).unwrap();
    SharedRegion::of_backing("shared", backing).unwrap()
}

fn at(region: &Arc<SharedRegion>, peer: u16, denied_write: DeniedWrites) -> RegionAttachment {
    RegionAttachment {
        region: region.clone(),
        gpa: WINDOW64_GPA,
        peer: PeerId(peer),
        epoch: 1,
        writable: writable(region),
        denied_write,
    }
}

/// Builds, sets the word at 0x180000, starts.
fn started(hypervisor: &Kvm, builder: PartitionBuilder, word: u64) -> Partition {
    let mut partition = builder.build(hypervisor).unwrap();
    partition.write_ram(0x18_0000, &word.to_le_bytes()).unwrap();
    partition.start().unwrap();
    partition
}

fn word(partition: &Partition, gpa: u64) -> u32 {
    let mut bytes = [0; 4];
    partition.read_ram(gpa, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn wait_for(partition: &Partition, what: impl Fn() -> bool) {
    let begin = Instant::now();
    while !what() {
        assert!(
            begin.elapsed() < PATIENCE,
            "{:?}",
            partition.wait(Duration::ZERO)
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_store_to_the_own_section_is_seen_by_host_and_neighbour() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    for sectioned in [true, false] {
        let region = region(sectioned, Storage::Memfd);
        let own = region.layout().section(PeerId(2)).start + 0x123 * 8;
        let mem = region.mapping().mem();
        assert_eq!(mem.load_u32(own, hv_shmem::mem::Ordering::Relaxed), 0);
        let builder =
            partition("writer", store_at_offset()).region(at(&region, 2, DeniedWrites::Stop));
        let writer = started(&hypervisor, builder, own);
        assert_eq!(writer.wait(PATIENCE), Some(Outcome::Exited(0x5A)));
        assert_eq!(mem.load_u32(own, hv_shmem::mem::Ordering::Relaxed), 0x5A);
        let builder = partition("reader", load_at_offset_for_ever());
        let reader = started(
            &hypervisor,
            builder.region(at(&region, 1, DeniedWrites::Stop)),
            own,
        );
        wait_for(&reader, || word(&reader, 0x18_0010) > 10);
    }
}

#[test]
fn a_store_to_anothers_section_stops_the_partition() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let region = region(true, Storage::Memfd);
    let other = region.layout().section(PeerId(1)).start + 64;
    for offset in [other, 0x1000] {
        let builder =
            partition("greedy", store_at_offset()).region(at(&region, 0, DeniedWrites::Stop));
        let outcome = started(&hypervisor, builder, offset)
            .wait(PATIENCE)
            .unwrap();
        let Outcome::Faulted(fault) = &outcome else {
            panic!("{outcome}");
        };
        let expected = FaultKind::ReadOnly {
            region: "shared".to_owned(),
            gpa: WINDOW64_GPA + offset,
            offset,
        };
        assert_eq!(fault.kind, expected);
        let mem = region.mapping().mem();
        assert_eq!(mem.load_u32(offset, hv_shmem::mem::Ordering::Relaxed), 0);
    }
}

#[test]
fn a_store_to_anothers_section_can_be_dropped_and_counted() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let region = region(true, Storage::Memfd);
    let other = region.layout().section(PeerId(1)).start + 64;
    let builder = partition("greedy", store_at_offset()).region(at(&region, 0, DeniedWrites::Drop));
    let greedy = started(&hypervisor, builder, other);
    assert_eq!(greedy.wait(PATIENCE), Some(Outcome::Exited(0)));
    assert_eq!(greedy.stats().dropped_stores(), 1);
    let mem = region.mapping().mem();
    assert_eq!(mem.load_u32(other, hv_shmem::mem::Ordering::Relaxed), 0);
}

#[test]
fn the_same_store_reaches_a_flat_region() {
    // Negative control of the two tests above.
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let region = region(false, Storage::Memfd);
    let other = region.layout().section(PeerId(1)).start + 64;
    let builder = partition("greedy", store_at_offset()).region(at(&region, 0, DeniedWrites::Stop));
    let greedy = started(&hypervisor, builder, other);
    assert_eq!(greedy.wait(PATIENCE), Some(Outcome::Exited(0x5A)));
    let mem = region.mapping().mem();
    assert_eq!(mem.load_u32(other, hv_shmem::mem::Ordering::Relaxed), 0x5A);
}

#[test]
fn a_truncated_backing_stops_its_users_only() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let lost = region(false, Storage::File(path.clone()));
    let kept = region(true, Storage::Memfd);
    let offset = SIZE - 4096;
    let looking = |name: &str, region: &Arc<SharedRegion>| {
        let builder = partition(name, load_at_offset_for_ever());
        let builder = builder.region(at(region, 0, DeniedWrites::Stop));
        let partition = started(&hypervisor, builder, offset);
        wait_for(&partition, || word(&partition, 0x18_0010) > 2);
        partition
    };
    let neighbour = looking("neighbour", &kept);
    let victim = looking("victim", &lost);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    let outcome = victim.wait(PATIENCE).expect("the fault ends it");
    let Outcome::Faulted(fault) = &outcome else {
        panic!("{outcome}");
    };
    eprintln!("{outcome}");
    match &fault.kind {
        FaultKind::RegionLost { region, gpa, .. } => {
            assert_eq!((region.as_str(), *gpa), ("shared", WINDOW64_GPA + offset));
        }
        // A kernel that says which address it was says it; an older one cannot.
        FaultKind::Hypervisor { what } if !hypervisor.capabilities().memory_fault_info => {
            assert!(what.contains("lost its backing"), "{outcome}");
        }
        _ => panic!("{outcome}"),
    }
    let before = word(&neighbour, 0x18_0010);
    wait_for(&neighbour, || word(&neighbour, 0x18_0010) != before);
}

#[test]
fn overlapping_and_misplaced_regions_are_refused() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let region = region(true, Storage::Memfd);
    let refused = |gpas: &[u64], word: &str| {
        let mut builder = partition("p", store_at_offset());
        for gpa in gpas {
            let mut attachment = at(&region, 0, DeniedWrites::Stop);
            attachment.gpa = *gpa;
            builder = builder.region(attachment);
        }
        let error = builder.build(&hypervisor).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(&[WINDOW64_GPA, WINDOW64_GPA + SIZE / 2], "overlaps");
    refused(&[0x10_0000], "gpa");
    refused(&[WINDOW64_GPA + 1], "gpa");
    refused(&[u64::MAX - 4095], "gpa");
}

/// Two partitions with ivshmem on one region, B listening before A rings.
fn ring(hypervisor: &Kvm, rings: u64, heard: u64, kernel: bool) -> (Partition, Partition) {
    ring_to(hypervisor, hear_vector_0(), rings, heard, kernel)
}

fn ring_to(
    hypervisor: &Kvm,
    hear: &'static [u8],
    rings: u64,
    heard: u64,
    kernel: bool,
) -> (Partition, Partition) {
    let region = region(true, Storage::Memfd);
    let bells = Bells::new();
    bells.add(0, 2).unwrap();
    bells.add(1, 2).unwrap();
    let b = partition("b", hear).device(ivshmem(&region, 1, &bells));
    let b = started(hypervisor, b, heard);
    b.device("ivshmem0").unwrap().peer_joined(0, 2);
    wait_for(&b, || word(&b, 0x18_0020) == 1);
    let a = partition("a", ring_peer_1())
        .kernel_doorbells(kernel)
        .device(ivshmem(&region, 0, &bells));
    let mut a = a.build(hypervisor).unwrap();
    a.device("ivshmem0").unwrap().peer_joined(1, 2);
    a.write_ram(0x18_0000, &rings.to_le_bytes()).unwrap();
    a.start().unwrap();
    assert_eq!(
        a.wait(PATIENCE),
        Some(Outcome::Exited(0)),
        "{:?}",
        a.stats()
    );
    (a, b)
}

#[test]
fn doorbells_reach_the_other_partition_without_exits() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let rings = 2000;
    let (a, b) = ring(&hypervisor, rings, 1, true);
    assert!(
        matches!(b.wait(PATIENCE), Some(Outcome::Exited(1..))),
        "{:?}",
        b.stats()
    );
    let stats = a.stats();
    // Reading BAR0's address is one exit, leaving is another.
    assert!(stats.user_exits() < 10, "{stats:#?}");
    assert!(b.stats().user_exits() < 40, "{:#?}", b.stats());
    if let Some(exits) = stats.kernel("mmio_exits") {
        assert!(exits < 10, "{stats:#?}");
    }
    eprintln!(
        "A {rings} rings, {} exits; B {:?}",
        stats.user_exits(),
        b.stats().user_exits()
    );
}

#[test]
fn without_the_kernels_path_every_doorbell_is_an_exit_and_arrives() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let off = Kvm::open().unwrap().without(|caps| caps.ioeventfd = false);
    for (hypervisor, kernel) in [(&hypervisor, false), (&off, true)] {
        let (a, b) = ring(hypervisor, 300, 1, kernel);
        assert!(matches!(b.wait(PATIENCE), Some(Outcome::Exited(1..))));
        assert!(a.stats().vcpus[0].mmio_writes >= 300, "{:#?}", a.stats());
    }
}

#[test]
fn doorbells_arrive_as_intx_where_the_guest_leaves_msix_off() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let (_a, b) = ring_to(&hypervisor, hear_intx(), 20, 1, true);
    assert!(
        matches!(b.wait(PATIENCE), Some(Outcome::Exited(1..))),
        "{:#?}",
        b.stats()
    );
}

#[test]
fn without_irqfd_a_thread_brings_doorbells_in() {
    if hypervisor().is_none() {
        return;
    }
    let off = Kvm::open().unwrap().without(|caps| caps.irqfd = false);
    let (_a, b) = ring(&off, 20, 1, true);
    assert!(
        matches!(b.wait(PATIENCE), Some(Outcome::Exited(1..))),
        "{:#?}",
        b.stats()
    );
}

#[test]
fn a_store_through_bar2_to_anothers_section_stops_the_partition() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let region = region(true, Storage::Memfd);
    let bells = Bells::new();
    bells.add(0, 2).unwrap();
    let own = region.layout().section(PeerId(0)).start;
    let other = region.layout().section(PeerId(1)).start;
    for (offset, works) in [(own, true), (other, false)] {
        let builder = partition("bar", store_through_bar2()).device(ivshmem(&region, 0, &bells));
        let outcome = started(&hypervisor, builder, offset)
            .wait(PATIENCE)
            .unwrap();
        match &outcome {
            Outcome::Exited(0x5A) => assert!(works),
            Outcome::Faulted(fault) => {
                assert!(!works, "{outcome}");
                assert!(
                    matches!(fault.kind, FaultKind::ReadOnly { .. }),
                    "{outcome}"
                );
            }
            _ => panic!("{outcome}"),
        }
        let mem = region.mapping().mem();
        let value = mem.load_u32(offset, hv_shmem::mem::Ordering::Relaxed);
        assert_eq!(value == 0x5A, works);
    }
}

image!(
    store_through_bar2,
    "mov edx, 0xE0008018",
    "mov eax, [rdx]",
    "and eax, 0xFFFFFFF0",
    "mov ecx, [rdx + 4]",
    "shl rcx, 32",
    "or rax, rcx",
    "add rax, [0x180000]",
    "mov dword ptr [rax], 0x5A",
    "mov eax, [rax]",
    "out 0xf4, eax",
);
