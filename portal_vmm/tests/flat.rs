//! Flat images on real KVM: entry state, console, exit, and the ways a run ends.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use portal_vmm::Console;
use portal_vmm::FaultKind;
use portal_vmm::Outcome;
use portal_vmm::PartitionBuilder;
use portal_vmm::RamBacking;
use std::time::Duration;
use std::time::Instant;

image!(
    exit_with_ram_mib,
    "mov rax, [rdi + 16]",
    "shr rax, 20",
    "out 0xf4, eax",
);

image!(
    say_hello,
    "lea rsi, [rip + 3f]",
    "mov ecx, 6",
    "mov edx, 0x3f8",
    "cld",
    "rep outsb",
    "xor eax, eax",
    "out 0xf4, eax",
    "3: .ascii \"hello\\n\"",
);

image!(spin, "2: jmp 2b");

image!(halt, "2: hlt", "jmp 2b");

image!(triple_fault, "ud2");

// 0x20_0000_0000 is mapped by no table: #PF without an IDT is a triple fault. The
// hole behind RAM is mapped by the tables but has no memory.
image!(load_behind_ram, "mov rax, [0x30000000]");

image!(
    store_behind_ram,
    "mov rdx, 0x30000000",
    "mov dword ptr [rdx], 5"
);

// Every vCPU adds its index + 1 to a word; the first waits for the sum.
image!(
    meet,
    "mov eax, [rdi + 32]",
    "inc eax",
    "lock add [0x180000], eax",
    "cmp eax, 1",
    "jne 4f",
    "2: pause",
    "mov eax, [0x180000]",
    "cmp eax, 10",
    "jne 2b",
    "out 0xf4, eax",
    "4: hlt",
    "jmp 4b",
);

// Counts in memory for ever, in ring 3 so that it runs at full speed.
image!(
    count_in_ring3,
    "mov rax, 0x1b",
    "push rax",
    "push rsp",
    "pushfq",
    "mov rax, 0x23",
    "push rax",
    "lea rax, [rip + 2f]",
    "push rax",
    "iretq",
    "2: inc qword ptr [0x180000]",
    "jmp 2b",
);

// Ring 3 uses AVX when BootInfo says so, and leaves the sum in memory.
image!(
    avx_in_ring3,
    "mov r8, [rdi + 88]",
    "mov rax, 0x1b",
    "push rax",
    "push rsp",
    "pushfq",
    "mov rax, 0x23",
    "push rax",
    "lea rax, [rip + 2f]",
    "push rax",
    "iretq",
    "2: mov eax, 0x00070005",
    "movd xmm1, eax",
    "paddw xmm1, xmm1",
    "test r8, 4",
    "jz 3f",
    "vpaddw ymm1, ymm1, ymm1",
    "jmp 4f",
    "3: paddw xmm1, xmm1",
    "4: movd eax, xmm1",
    "mov [0x180000], eax",
    "mov byte ptr [0x180008], 1",
    "5: jmp 5b",
);

// Ring 0 may use what KVM's emulator knows; where ring 0 is emulated, this is
// beyond it.
image!(
    beyond_the_emulator,
    "lock cmpxchg16b [0x180000]",
    "mov eax, 9",
    "out 0xf4, eax",
);

// Stores behind 4 GiB and reads it back.
image!(
    use_high_ram,
    "mov rbx, 0x100001000",
    "mov dword ptr [rbx], 77",
    "mov eax, [rbx]",
    "out 0xf4, eax",
);

fn run(builder: PartitionBuilder) -> Option<Outcome> {
    let hypervisor = hypervisor()?;
    let mut partition = builder.build(&hypervisor).unwrap();
    partition.start().unwrap();
    Some(partition.wait(PATIENCE).expect("the deadline ends it"))
}

#[test]
fn exit_code_is_what_the_guest_wrote() {
    if let Some(outcome) = run(partition("a", exit_with_ram_mib()).ram(6 << 20)) {
        assert_eq!(outcome, Outcome::Exited(6));
    }
}

#[test]
fn console_output_arrives() {
    let (console, captured) = Console::capture();
    if let Some(outcome) = run(partition("a", say_hello()).console(console)) {
        assert_eq!(outcome, Outcome::Exited(0));
        assert_eq!(captured.text(), "hello\n");
    }
}

#[test]
fn a_hang_ends_at_its_deadline_and_says_where() {
    for image in [spin(), halt()] {
        let begin = Instant::now();
        let limit = Duration::from_millis(200);
        let Some(outcome) = run(partition("hung", image).deadline(limit)) else {
            return;
        };
        assert!(begin.elapsed() >= limit);
        let Outcome::Deadline(overrun) = &outcome else {
            panic!("{outcome}");
        };
        assert_eq!(overrun.partition, "hung");
        assert_eq!(overrun.vcpus.len(), 1);
        let rip = overrun.vcpus[0].1;
        assert!((0x10_0000..0x10_0010).contains(&rip), "{rip:#x}");
        assert!(outcome.to_string().contains("hung"), "{outcome}");
    }
}

#[test]
fn a_triple_fault_names_partition_vcpu_and_rip() {
    let Some(outcome) = run(partition("tripped", triple_fault())) else {
        return;
    };
    let Outcome::Faulted(fault) = &outcome else {
        panic!("{outcome}");
    };
    assert_eq!(fault.kind, FaultKind::Shutdown);
    assert_eq!((fault.partition.as_str(), fault.vcpu), ("tripped", Some(0)));
    assert!(outcome.to_string().contains("triple fault"), "{outcome}");
}

#[test]
fn an_access_without_memory_names_the_address() {
    for (image, store) in [(load_behind_ram(), false), (store_behind_ram(), true)] {
        let Some(outcome) = run(partition("stray", image)) else {
            return;
        };
        let Outcome::Faulted(fault) = &outcome else {
            panic!("{outcome}");
        };
        match fault.kind {
            FaultKind::Unmapped { gpa, write, .. } => {
                assert_eq!(gpa, 0x3000_0000);
                assert_eq!(write, store);
            }
            _ => panic!("{outcome}"),
        }
        assert!(fault.rip.is_some_and(|rip| rip >= 0x10_0000));
        assert!(outcome.to_string().contains("0x30000000"), "{outcome}");
    }
}

#[test]
fn an_instruction_that_kvm_cannot_execute_is_told_or_runs() {
    let Some(outcome) = run(partition("beyond", beyond_the_emulator())) else {
        return;
    };
    match &outcome {
        // With hardware virtualisation nothing is emulated.
        Outcome::Exited(9) => {}
        Outcome::Faulted(fault) => {
            assert!(
                matches!(fault.kind, FaultKind::Emulation { .. }),
                "{outcome}"
            );
            assert_eq!(fault.rip, Some(0x10_0000));
            eprintln!("{outcome}");
        }
        _ => panic!("{outcome}"),
    }
}

#[test]
fn ram_goes_on_behind_the_hole_below_four_gib() {
    let image = use_high_ram();
    if let Some(outcome) = run(partition("large", image).ram((3 << 30) + (2 << 20))) {
        assert_eq!(outcome, Outcome::Exited(77));
    }
    let Some(outcome) = run(partition("small", image)) else {
        return;
    };
    assert!(matches!(outcome, Outcome::Faulted(_)), "{outcome}");
}

#[test]
fn ram_may_come_from_a_memfd_or_huge_pages() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    for backing in [RamBacking::Memfd, RamBacking::HugePages] {
        match partition("backed", exit_with_ram_mib())
            .ram_backing(backing)
            .build(&hypervisor)
        {
            Ok(mut partition) => {
                partition.start().unwrap();
                assert_eq!(partition.wait(PATIENCE), Some(Outcome::Exited(4)));
            }
            Err(error) => {
                assert_eq!(backing, RamBacking::HugePages, "{error}");
                assert!(error.to_string().contains("nr_hugepages"), "{error}");
            }
        }
    }
}

#[test]
fn a_pinned_vcpu_runs_on_its_cpu_only() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut partition = partition("pinned", spin())
        .pin([0])
        .build(&hypervisor)
        .unwrap();
    partition.start().unwrap();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let allowed = tasks.filter_map(|task| {
        let folder = task.unwrap().path();
        let name = std::fs::read_to_string(folder.join("comm")).ok()?;
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        (name.trim() == "vcpu0-pinned").then(|| line.trim().to_owned())
    });
    assert_eq!(allowed.collect::<Vec<_>>(), ["0"]);
}

#[test]
fn four_vcpus_start_together() {
    if let Some(outcome) = run(partition("four", meet()).vcpus(4)) {
        assert_eq!(outcome, Outcome::Exited(10));
    }
}

#[test]
fn pause_stops_the_guest_and_resume_lets_it_go_on() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut partition = partition("pausing", count_in_ring3())
        .build(&hypervisor)
        .unwrap();
    assert!(partition.pause().is_err());
    partition.start().unwrap();
    assert!(partition.start().is_err());
    let value = |partition: &portal_vmm::Partition| {
        let mut bytes = [0; 8];
        partition.read_ram(0x18_0000, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let begin = Instant::now();
    while value(&partition) == 0 {
        assert!(
            begin.elapsed() < PATIENCE,
            "{:?}",
            partition.wait(Duration::ZERO)
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..20 {
        partition.pause().unwrap();
        let (first, _) = (
            value(&partition),
            std::thread::sleep(Duration::from_millis(5)),
        );
        assert_eq!(value(&partition), first);
        partition.resume().unwrap();
        let begin = Instant::now();
        while value(&partition) == first {
            assert!(begin.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
    }
    assert_eq!(partition.stop().unwrap(), Outcome::Stopped);
    assert!(partition.resume().is_err());
    assert_eq!(partition.wait(Duration::ZERO), Some(Outcome::Stopped));
}

#[test]
fn ring_3_may_use_vector_registers() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut partition = partition("avx", avx_in_ring3()).build(&hypervisor).unwrap();
    partition.start().unwrap();
    let begin = Instant::now();
    let mut bytes = [0; 16];
    while bytes[8] != 1 {
        partition.read_ram(0x18_0000, &mut bytes).unwrap();
        assert!(begin.elapsed() < PATIENCE);
        assert_eq!(partition.wait(Duration::from_millis(1)), None);
    }
    assert_eq!(bytes[..4], 0x001C_0014u32.to_le_bytes());
}

#[test]
fn a_neighbour_goes_on_when_a_partition_faults() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut neighbour = partition("neighbour", count_in_ring3())
        .build(&hypervisor)
        .unwrap();
    neighbour.start().unwrap();
    let mut faulty = partition("faulty", triple_fault())
        .build(&hypervisor)
        .unwrap();
    faulty.start().unwrap();
    assert!(matches!(faulty.wait(PATIENCE), Some(Outcome::Faulted(_))));
    drop(faulty);
    let value = |at: u64| {
        let mut bytes = [0; 8];
        neighbour.read_ram(at, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let before = value(0x18_0000);
    let begin = Instant::now();
    while value(0x18_0000) == before {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert!(!neighbour.ended());
}

#[test]
fn a_stop_before_the_start_and_a_drop_while_running_are_clean() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut never = partition("never", spin()).build(&hypervisor).unwrap();
    assert_eq!(never.stop().unwrap(), Outcome::Stopped);
    assert!(never.start().is_err());
    let mut dropped = partition("dropped", spin())
        .vcpus(2)
        .build(&hypervisor)
        .unwrap();
    dropped.start().unwrap();
    drop(dropped);
}

#[test]
fn impossible_configurations_name_the_field() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let refused = |builder: PartitionBuilder, field: &str| {
        let error = builder.build(&hypervisor).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    };
    refused(partition("x", spin()).vcpus(0), "vcpus");
    refused(partition("x", spin()).vcpus(65), "vcpus");
    refused(partition("x", spin()).ram((4 << 20) + 1), "ram");
    refused(partition("x", spin()).ram(1 << 20), "ram");
    refused(partition("x", &[]), "image");
    refused(partition("x", spin()).cmdline("x".repeat(5000)), "cmdline");
    refused(partition("x", spin()).pin([0, 1]), "pin");
    refused(
        partition("x", spin()).iommu(true),
        "iommu is true, but only",
    );
    let mut far = partition("x", spin())
        .pin([900])
        .build(&hypervisor)
        .unwrap();
    let error = far.start().unwrap_err().to_string();
    assert!(error.contains("pinned"), "{error}");
}

#[test]
fn user_exits_are_counted_and_the_kernel_counts_too() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let (console, _) = Console::capture();
    let mut partition = partition("counted", say_hello())
        .console(console)
        .build(&hypervisor)
        .unwrap();
    partition.start().unwrap();
    assert_eq!(partition.wait(PATIENCE), Some(Outcome::Exited(0)));
    let stats = partition.stats();
    assert!(stats.first_entry.is_some_and(|time| time >= stats.build));
    assert!(stats.vcpus[0].port_writes >= 2);
    assert!(stats.user_exits() >= stats.vcpus[0].port_writes);
    if portal_vmm::hv::Hypervisor::capabilities(&hypervisor).statistics {
        assert!(
            stats.kernel("io_exits").is_some(),
            "{:?}",
            stats.vcpus[0].kernel
        );
    }
}
