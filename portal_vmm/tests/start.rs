//! How long a partition takes from `build` to its first instruction, and what it
//! costs the host beyond its RAM.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use portal_vmm::Outcome;
use std::time::Duration;
use std::time::Instant;

image!(exit_at_once, "out 0xf4, eax");
image!(halt, "2: hlt", "jmp 2b");

/// The bars. The one for time gets room here for a machine that is busy with
/// other tests; `portal bench` measures on a quiet one.
const START_BAR: Duration = Duration::from_millis(10);
const BUSY: u32 = 5;
const MEMORY_BAR: u64 = 4 << 20;
/// Partitions started one after the other.
const ROUNDS: usize = 31;

/// Resident bytes of this process, its page tables included.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = |key: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    };
    (kib("VmRSS:") + kib("VmPTE:")) << 10
}

#[test]
fn the_first_instruction_comes_soon_after_the_beginning() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut times = Vec::new();
    let mut builds = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut partition = partition("quick", exit_at_once())
            .ram(64 << 20)
            .build(&hypervisor)
            .unwrap();
        builds.push(begin.elapsed());
        partition.start().unwrap();
        assert!(matches!(partition.wait(PATIENCE), Some(Outcome::Exited(_))));
        // The first instruction is the one that stops it: this is an upper bound.
        times.push(begin.elapsed());
        assert!(partition.stats().first_entry.is_some());
    }
    times.sort_unstable();
    builds.sort_unstable();
    let p50 = times[ROUNDS / 2];
    eprintln!(
        "create to first instruction: min {:?} p50 {p50:?} max {:?}; build p50 {:?}",
        times[0],
        times[ROUNDS - 1],
        builds[ROUNDS / 2]
    );
    assert!(p50 < BUSY * START_BAR, "{p50:?}");
}

#[test]
fn a_partition_costs_little_beyond_its_ram() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let count = 16;
    let ram = 2u64 << 20;
    let mut partitions = Vec::with_capacity(count);
    // The first one brings what all share.
    partitions.push(
        partition("first", halt())
            .ram(ram)
            .build(&hypervisor)
            .unwrap(),
    );
    let before = resident();
    for index in 0..count {
        let mut one = partition(&format!("p{index}"), halt())
            .ram(ram)
            .build(&hypervisor)
            .unwrap();
        one.start().unwrap();
        partitions.push(one);
    }
    std::thread::sleep(Duration::from_millis(50));
    let grown = resident().saturating_sub(before);
    let each = grown / count as u64;
    eprintln!("{each} bytes a partition, guest RAM that was touched included");
    assert!(each < MEMORY_BAR + ram, "{each}");
}
