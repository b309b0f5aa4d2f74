//! What a partition costs the host beyond its RAM. (How long it takes to start is
//! `portal bench`'s to measure.)
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use portal_vmm::Partition;
use std::time::Duration;
use std::time::Instant;

image!(halt, "2: hlt", "jmp 2b");

const MEMORY_BAR: u64 = 4 << 20;

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
    let begin = Instant::now();
    let runs = |partition: &Partition| partition.stats().first_entry.is_some();
    while !partitions.iter().skip(1).all(runs) {
        assert!(begin.elapsed() < PATIENCE, "they do not start");
        std::thread::sleep(Duration::from_millis(1));
    }
    let grown = resident().saturating_sub(before);
    let each = grown / count as u64;
    eprintln!("{each} bytes a partition, guest RAM that was touched included");
    assert!(each < MEMORY_BAR + ram, "{each}");
}
