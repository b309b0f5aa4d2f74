//! The WARP kernel under an agent that was built like anybody's own: boot, ring 3,
//! interrupts, system calls, and exceptions that are told by name.

use crate::pair::PATIENCE;
use crate::pair::hypervisor;
use portal_vmm::Captured;
use portal_vmm::Console;
use portal_vmm::Image;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::PartitionBuilder;
use std::path::Path;
use std::sync::OnceLock;

/// The trial agent's image, built once a test run by the public builder.
fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("trial/Cargo.toml");
        let built = portal_warp_image::Agent::new(manifest)
            .folder(env!("CARGO_TARGET_TMPDIR"))
            .build();
        let path = built.unwrap_or_else(|error| panic!("{error}"));
        std::fs::read(path).unwrap()
    })
}

/// Runs one trial; gives how it ended and what it printed.
fn run(hypervisor: &Kvm, trial: &str) -> (Outcome, String) {
    let (console, captured): (Console, Captured) = Console::capture();
    let mut partition = PartitionBuilder::new(trial, Image::Flat(image().into()))
        .ram(16 << 20)
        .cmdline(format!("quiet do={trial} last=1"))
        .console(console)
        .deadline(PATIENCE)
        .build(hypervisor)
        .unwrap();
    partition.start().unwrap();
    let outcome = partition.wait(PATIENCE).expect("the deadline ends it");
    (outcome, captured.text())
}

#[test]
fn trials_that_must_succeed_do() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    for trial in ["sleep", "clock", "memory", "simd", "long-line"] {
        let (outcome, text) = run(&hypervisor, trial);
        assert_eq!(outcome, Outcome::Exited(0), "{trial}: {text}");
        if trial == "long-line" {
            assert_eq!(text.matches("0123456789").count(), 100, "{text}");
        }
    }
}

#[test]
fn an_agent_sees_its_boot_info_and_arguments() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let (outcome, text) = run(&hypervisor, "hello");
    assert_eq!(outcome, Outcome::Exited(42), "{text}");
    assert_eq!(
        text,
        "hello vcpu=0 ram=16777216 apic=0 args=quiet do=hello last=1\n"
    );
}

#[test]
fn an_agent_exits_with_its_code_and_panics_with_its_message() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    assert_eq!(run(&hypervisor, "exit").0, Outcome::Exited(7));
    assert_eq!(run(&hypervisor, "nonsense").0, Outcome::Exited(99));
    let (outcome, text) = run(&hypervisor, "panic");
    assert_eq!(outcome, Outcome::Exited(0xE000_0100));
    assert!(text.contains("on purpose"), "{text}");
    assert!(text.contains("trial/src/lib.rs"), "{text}");
}

#[test]
fn exceptions_are_told_by_name_with_their_address() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    // Trial, vector, name, faulting address where one is known.
    let cases: [(&str, u32, &str, Option<u64>); 10] = [
        ("divide", 0, "#DE divide error", None),
        ("opcode", 6, "#UD invalid opcode", None),
        ("privileged", 13, "#GP general protection", None),
        ("null", 14, "#PF page fault", Some(8)),
        ("kernel-read", 14, "#PF page fault", Some(0x10_0000)),
        ("kernel-write", 14, "#PF page fault", Some(0x10_5000)),
        ("text-write", 14, "#PF page fault", None),
        ("data-run", 14, "#PF page fault", None),
        ("read-only", 14, "#PF page fault", Some(0xF_0000)),
        ("stack", 14, "#PF page fault", None),
    ];
    for (trial, vector, name, address) in cases {
        let (outcome, text) = run(&hypervisor, trial);
        assert_eq!(
            outcome,
            Outcome::Exited(0xE000_0000 | vector),
            "{trial}: {text}"
        );
        assert!(
            text.starts_with(&format!("WARP: exception {name}: rip=0x")),
            "{trial}: {text}"
        );
        assert!(text.contains("cs=0x0000000000000023"), "{trial}: {text}");
        if let Some(address) = address {
            assert!(
                text.contains(&format!("cr2=0x{address:016x}")),
                "{trial}: {text}"
            );
        }
    }
}

#[test]
fn an_access_to_no_memory_stops_the_partition_with_a_message() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    // Mapped by the page tables, but beyond the partition's RAM.
    let (outcome, text) = run(&hypervisor, "no-ram");
    match &outcome {
        Outcome::Faulted(fault) => {
            assert!(fault.to_string().contains("0x20000000"), "{fault}");
        }
        other => panic!("{other:?}: {text}"),
    }
}
