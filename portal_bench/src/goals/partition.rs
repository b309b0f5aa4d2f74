//! Goals 7 and 101-103: two partitions against two processes, spans from one to
//! the other, and what a partition costs to start and to keep.

use super::Bench;
use super::Measured;
use super::process;
use super::rig;
use super::rig::Rig;
use super::rig::Shape;
use super::rig::failed;
use crate::BenchError;
use crate::base::memory::Stream;
use crate::base::memory::Writing;
use crate::goal::GoalSpec;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::rtt;
use hv_shmem::layout::PeerId;
use portal_agent_abi::Command;
use portal_agent_abi::command::Drain;
use portal_agent_abi::command::Fill;
use portal_host::Answer;
use portal_vmm::Kvm;
use portal_vmm::Partition;
use std::cell::RefCell;
use std::fs;
use std::time::Duration;
use std::time::Instant;

/// Two partitions; a section holds a few spans of 1 MiB.
const PAIR: Shape = Shape {
    partitions: 2,
    region: 64 << 20,
    common: 2 << 20,
};

/// Round trips of a sample, each timed by itself: 10 ms.
const ROUNDS: u32 = 30_000;

/// Typical round trip in nanoseconds, by the rate that this process measured (the
/// agents read the same counter), and the distribution in ticks.
fn typical_trip(answer: &Answer) -> Result<Sample, BenchError> {
    let mut singles = rtt::empty();
    for &(ticks, count) in &answer.counts.values {
        singles.saturating_record_n(ticks, count.into());
    }
    if singles.is_empty() {
        return Err(BenchError::Broken("the agent timed no round trip".into()));
    }
    Ok(Sample::one_by_one(singles, 0))
}

/// Goal 7: the same rings, polled the same way, each round trip timed by itself
/// on both sides of the comparison.
pub(super) fn round_trip(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let rig = RefCell::new(Rig::start(&rig::kvm()?, &PAIR, &bench.pair.cores)?);
    let partitions = Contender::new("two partitions", || {
        let rounds = ROUNDS;
        let ping = Command::Ping {
            peer: PeerId(2),
            rounds,
        };
        let pong = Command::Pong {
            peer: PeerId(1),
            rounds,
        };
        let (pinged, _) = rig.borrow_mut().pair((1, ping), (2, pong))?;
        typical_trip(&pinged)
    });
    let processes = process::each_timed(bench.pair, ROUNDS as usize)?;
    let in_place = Contender::new("two partitions, answered in place", || {
        let rounds = ROUNDS;
        let ping = Command::InPlacePing {
            peer: PeerId(2),
            rounds,
        };
        let pong = Command::InPlacePong {
            peer: PeerId(1),
            rounds,
        };
        let (pinged, _) = rig.borrow_mut().pair((1, ping), (2, pong))?;
        typical_trip(&pinged)
    });
    let contenders = vec![partitions, processes, in_place];
    bench.contest(spec, Against::Contender(1), 2, contenders)
}

/// Goal 101: one partition writes 1 MiB spans, the other reads them.
pub(super) fn bulk(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const SPAN: u32 = 1 << 20;
    const WINDOW: u8 = 4;
    const TOTAL: u64 = 512 << 20;
    let pair = bench.pair;
    let rig = RefCell::new(Rig::start(&rig::kvm()?, &PAIR, &pair.cores)?);
    let send = |fill, drain| {
        let source = Command::Source {
            to: PeerId(2),
            fill,
            span_bytes: SPAN,
            window: WINDOW,
            total: TOTAL,
        };
        let sink = Command::Sink {
            from: PeerId(1),
            drain,
        };
        let (sent, received) = rig.borrow_mut().pair((1, source), (2, sink))?;
        if received.report.bytes != TOTAL {
            return Err(BenchError::Broken(format!(
                "{} of {TOTAL} bytes arrived",
                received.report.bytes
            )));
        }
        let ns = crate::harness::clock::to_ns(sent.report.ticks);
        Ok(Sample::of(TOTAL as f64 / ns, 0))
    };
    let portal = Contender::new("1 MiB spans", || send(Fill::Pattern, Drain::Read));
    let handed = Contender::new("1 MiB spans, neither written nor read", || {
        send(Fill::Nothing, Drain::Count)
    });
    let stream = |by| Stream::new(SPAN as usize, WINDOW.into(), by);
    let (strings, stores) = (stream(Writing::Strings), stream(Writing::Stores));
    let turns = TOTAL / u64::from(SPAN);
    let baseline = Contender::new("write-read stream of 1 MiB buffers", || {
        strings.sample(&pair, turns)
    });
    let stored = Contender::new("the same stream, written by plain stores", || {
        stores.sample(&pair, turns)
    });
    bench.contest(
        spec,
        Against::Contender(1),
        2,
        vec![portal, baseline, handed, stored],
    )
}

/// Goal 102: a partition with RAM, region and device, from nothing to its first
/// instruction.
pub(super) fn start(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let kvm = rig::kvm()?;
    let (regions, _member) = rig::region(&PAIR)?;
    let started = Contender::new("partition", || {
        let begun = Instant::now();
        let builder = rig::builder(&regions, 1, Some(bench.pair.cores[0]))?;
        let resolved = begun.elapsed();
        let mut partition = builder.build(&kvm).map_err(failed)?;
        partition.start().map_err(failed)?;
        let entered = first_entry(&partition)?;
        partition.stop().map_err(failed)?;
        Ok(Sample::of((resolved + entered).as_secs_f64() * 1e3, 0))
    });
    bench.contest(spec, Against::Limit(10.0), 1, vec![started])
}

/// Waits until the partition has been entered; how long that took.
fn first_entry(partition: &Partition) -> Result<Duration, BenchError> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(took) = partition.stats().first_entry {
            return Ok(took);
        }
        if Instant::now() >= until {
            return Err(BenchError::Stuck("a partition's first instruction"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Goal 103: what this process's own memory grows by for each running partition.
/// Guest RAM and regions are files in memory, and counted apart by the kernel.
pub(super) fn memory(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const PARTITIONS: u16 = 8;
    let shape = Shape {
        partitions: PARTITIONS,
        region: 16 << 20,
        common: 0,
    };
    let kvm = rig::kvm()?;
    let kernel = RefCell::new(Vec::new());
    // Once, before the first partition: memory that the allocator keeps from one
    // round to the next must not hide what partitions need.
    let own = own_memory()?;
    let grown = Contender::new("process memory", || {
        let free = free_memory()?;
        let shared = of_status("RssShmem")?;
        let rig = Rig::start(&kvm, &shape, &bench.pair.cores)?;
        let each = |grown: f64| grown / f64::from(PARTITIONS);
        let value = each(own_memory()? - own);
        let taken = free - free_memory()? - (of_status("RssShmem")? - shared);
        kernel.borrow_mut().push(each(taken));
        drop(rig);
        Ok(Sample::of(value.max(0.0), 0))
    });
    let mut measured = bench.few(spec, Against::Limit(4.0), 1, vec![grown])?;
    let mut system = kernel.into_inner();
    system.sort_by(f64::total_cmp);
    if let [least, .., most] = system[..] {
        measured.goal.notes.push(format!(
            "free memory of the whole system, guest RAM and region apart, fell by {least:.2} to \
             {most:.2} MiB a partition (the kernel's part included)"
        ));
    }
    Ok(measured)
}

/// A line of this process's status, in MiB.
fn of_status(name: &str) -> Result<f64, BenchError> {
    of_file("/proc/self/status", name)
}

fn of_file(path: &str, name: &str) -> Result<f64, BenchError> {
    let text = fs::read_to_string(path).map_err(BenchError::os("reading memory use"))?;
    crate::harness::machine::field(&text, name)
        .and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok())
        .map(|kib| kib / 1024.0)
        .ok_or_else(|| BenchError::Unavailable(format!("{path} has no {name}")))
}

/// Memory of this process that is neither shared nor a file in memory, in MiB.
fn own_memory() -> Result<f64, BenchError> {
    Ok(of_status("RssAnon")? + of_status("RssFile")? + of_status("VmPTE")?)
}

fn free_memory() -> Result<f64, BenchError> {
    of_file("/proc/meminfo", "MemAvailable")
}

/// Goal 104: 64 partitions of one process on one region; each pair rings.
pub(super) fn crowd(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const PARTITIONS: u16 = 64;
    const RINGS: u32 = 10;
    let shape = Shape {
        partitions: PARTITIONS,
        // Sections of 2 MiB, so that the host's has room for all command rings.
        region: 256 << 20,
        common: 0,
    };
    let kvm = rig::kvm()?;
    let all = Contender::new("64 partitions", || {
        let begun = Instant::now();
        let mut rig = Rig::start(&kvm, &shape, &bench.pair.cores)?;
        for first in (1..PARTITIONS).step_by(2) {
            ring(&mut rig, first, first + 1, RINGS)?;
        }
        Ok(Sample::of(begun.elapsed().as_secs_f64(), 0))
    });
    bench.few(spec, Against::Limit(5.0), 1, vec![all])
}

fn ring(rig: &mut Rig, first: u16, second: u16, rounds: u32) -> Result<Answer, BenchError> {
    use portal_agent_abi::command::Listen;
    let ping = Command::DoorbellPing {
        peer: PeerId(second),
        rounds,
        listen: Listen::Halt,
    };
    let echo = Command::DoorbellEcho {
        peer: PeerId(first),
        rounds,
        listen: Listen::Halt,
    };
    let (answer, _) = rig.pair((first, ping), (second, echo))?;
    if answer.report.count != u64::from(rounds) {
        return Err(BenchError::Broken(format!(
            "{} of {rounds} doorbells came back",
            answer.report.count
        )));
    }
    Ok(answer)
}

/// Goal 105: exits to user space that a doorbell costs, sender and receiver
/// together: what 1,000 more doorbells add.
pub(super) fn exits(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const FEW: u32 = 100;
    const MANY: u32 = 600;
    let kvm = rig::kvm()?;
    let rig = RefCell::new(Rig::start(&kvm, &PAIR, &bench.pair.cores)?);
    let kernel = RefCell::new(Vec::new());
    let counted = Contender::new("two partitions", || {
        let rig = &mut *rig.borrow_mut();
        let mut added = |rounds| -> Result<(f64, Option<f64>), BenchError> {
            let before = totals(rig);
            ring(rig, 1, 2, rounds)?;
            let after = totals(rig);
            let exits = after.0 as f64 - before.0 as f64;
            let kernel = after.1.zip(before.1).map(|(a, b)| a as f64 - b as f64);
            Ok((exits, kernel))
        };
        let (few, many) = (added(FEW)?, added(MANY)?);
        // There and back: two doorbells a round.
        let doorbells = f64::from(2 * (MANY - FEW));
        if let Some((few, many)) = few.1.zip(many.1) {
            kernel.borrow_mut().push((many - few) / doorbells);
        }
        Ok(Sample::of(((many.0 - few.0) / doorbells).max(0.0), 0))
    });
    let mut measured = bench.few(spec, Against::Limit(1.0), 1, vec![counted])?;
    measured.goal.notes.push(trapped(&kvm, bench)?);
    let mut seen = kernel.into_inner();
    seen.sort_by(f64::total_cmp);
    measured.goal.notes.push(match seen[..] {
        [] => "the kernel keeps no count of exits to user space here".into(),
        [.., most] => format!("the kernel's own count: at most {most:.4} a doorbell"),
    });
    Ok(measured)
}

/// The same count where every doorbell is made to leave the guest: it has to be
/// at least one, or the count means nothing.
fn trapped(kvm: &Kvm, bench: &Bench) -> Result<String, BenchError> {
    const RINGS: u32 = 100;
    let mut rig = Rig::start_with(kvm, &PAIR, &bench.pair.cores, |it| {
        it.kernel_doorbells(false)
    })?;
    let before = totals(&rig);
    ring(&mut rig, 1, 2, RINGS)?;
    let after = totals(&rig);
    let each = (after.0 - before.0) as f64 / f64::from(2 * RINGS);
    if each < 1.0 {
        return Err(BenchError::Broken(format!(
            "{each:.2} exits for each trapped doorbell: the count misses some"
        )));
    }
    Ok(format!(
        "with the kernel's path off, the same count is {each:.2}"
    ))
}

/// Exits to user space so far: the VMM's count and the kernel's.
fn totals(rig: &Rig) -> (u64, Option<u64>) {
    let stats = rig.stats();
    let ours = stats.iter().map(|it| it.user_exits()).sum();
    // `mmio_exits` and `signal_exits` are what KVM calls its returns to user
    // space for device access and for signals.
    let kernel = ["mmio_exits", "io_exits", "signal_exits"];
    let found = kernel.iter().flat_map(|name| {
        let each = stats.iter().map(|it| it.kernel(name));
        each.collect::<Vec<_>>()
    });
    (ours, found.flatten().reduce(u64::wrapping_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_figures_of_this_process_are_there() {
        assert!(own_memory().expect("own") > 0.5);
        assert!(free_memory().expect("free") > 1.0);
        assert!(of_status("NoSuchLine").is_err());
    }
}
