//! The built-in agents in real partitions, driven as a user would.

use crate::pair::Carrier;
use crate::pair::PATIENCE;
use crate::pair::Pair;
use crate::pair::Plan;
use crate::pair::hypervisor;
use hv_shmem::layout::PeerId;
use portal_agent_abi::Command;
use portal_agent_abi::Status;
use portal_agent_abi::command::Drain;
use portal_agent_abi::command::Fill;
use portal_agent_abi::command::Listen;
use portal_host::Answer;
use portal_host::HostError;
use portal_host::StreamOptions;
use portal_vmm::Outcome;
use std::time::Duration;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);

/// Has A and B do a job together; fails with what they printed.
fn together(pair: &mut Pair, a: Command, b: Command) -> (Answer, Answer) {
    match pair.host.pair((A, a), (B, b), PATIENCE) {
        Ok(answers) => answers,
        Err(error) => panic!("{a:?}, {b:?}: {error}\n{}", pair.story()),
    }
}

fn ping(rounds: u32) -> (Command, Command) {
    (
        Command::Ping { peer: B, rounds },
        Command::Pong { peer: A, rounds },
    )
}

fn check_rounds(rounds: u32, answer: &Answer) {
    assert_eq!(answer.report.count, u64::from(rounds));
    assert_eq!(answer.report.recorded, u64::from(rounds));
    let recorded: u64 = answer
        .counts
        .values
        .iter()
        .map(|(_, n)| u64::from(*n))
        .sum();
    assert_eq!(recorded, u64::from(rounds));
    assert!(answer.report.min > 0 && answer.report.min <= answer.report.max);
}

#[test]
fn agents_join_on_every_carrier_and_leave_when_told() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    for carrier in [Carrier::Fixed, Carrier::FixedSilent, Carrier::Bar] {
        let mut pair = Pair::start(
            &hypervisor,
            Plan {
                carrier,
                ..Plan::default()
            },
        );
        for agent in [A, B] {
            pair.host.send(agent, &Command::Nop, PATIENCE).unwrap();
            let answer = pair.host.answer(agent, PATIENCE).unwrap();
            assert!(answer.result > 0, "the TSC");
            let code = 40 + u32::from(agent.0);
            let exit = Command::Exit { code };
            pair.host.send(agent, &exit, PATIENCE).unwrap();
            pair.host.answer(agent, PATIENCE).unwrap();
            assert_eq!(
                pair.outcome(agent.0),
                Some(Outcome::Exited(code)),
                "{carrier:?}\n{}",
                pair.story()
            );
        }
    }
}

#[test]
fn ping_and_pong_count_every_round_again_and_again() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    for rounds in [1, 1000, 20_000] {
        let (a, b) = ping(rounds);
        let (answer, other) = together(&mut pair, a, b);
        check_rounds(rounds, &answer);
        assert_eq!(other.report.count, u64::from(rounds));
        eprintln!(
            "ping x {rounds}: min {:?} p50 {:?}",
            answer.in_time(answer.report.min),
            answer.counts.quantile(0.5).and_then(|t| answer.in_time(t)),
        );
    }
}

#[test]
fn calls_are_answered_in_place() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    for rounds in [1, 20_000] {
        let (answer, _) = together(
            &mut pair,
            Command::InPlacePing { peer: B, rounds },
            Command::InPlacePong { peer: A, rounds },
        );
        check_rounds(rounds, &answer);
        eprintln!(
            "in place x {rounds}: min {:?} p50 {:?}",
            answer.in_time(answer.report.min),
            answer.counts.quantile(0.5).and_then(|t| answer.in_time(t)),
        );
    }
}

#[test]
fn doorbells_come_one_for_one() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    for listen in [Listen::Halt, Listen::Spin] {
        let rounds = 200;
        let before = pair.partitions[0].lock().unwrap().stats().user_exits();
        let (answer, other) = together(
            &mut pair,
            Command::DoorbellPing {
                peer: B,
                rounds,
                listen,
            },
            Command::DoorbellEcho {
                peer: A,
                rounds,
                listen,
            },
        );
        check_rounds(rounds, &answer);
        assert_eq!(answer.report.interrupts, u64::from(rounds));
        assert_eq!(other.report.interrupts, u64::from(rounds));
        let exits = pair.partitions[0].lock().unwrap().stats().user_exits() - before;
        assert!(exits < 20, "{exits} exits for {rounds} doorbells");
        eprintln!(
            "doorbell {listen:?}: p50 {:?}, {exits} exits",
            answer.counts.quantile(0.5).and_then(|t| answer.in_time(t)),
        );
    }
}

#[test]
fn a_stream_arrives_whole_whatever_its_size_and_window() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    for (total, span_bytes, window, fill, drain) in [
        (0, 4096, 1, Fill::Pattern, Drain::Hash),
        (1, 4096, 1, Fill::Pattern, Drain::Hash),
        (1_000_003, 4096, 64, Fill::Pattern, Drain::Hash),
        (1_000_003, 300_001, 2, Fill::Pattern, Drain::Hash),
        (1_000_003, 64, 3, Fill::Nothing, Drain::Count),
        (256 << 20, 1 << 20, 4, Fill::Pattern, Drain::Read),
        // More than the arena holds at once.
        (64 << 20, 4 << 20, 64, Fill::Pattern, Drain::Read),
    ] {
        let (sent, taken) = together(
            &mut pair,
            Command::Source {
                to: B,
                fill,
                span_bytes,
                window,
                total,
            },
            Command::Sink { from: A, drain },
        );
        assert_eq!(sent.report.bytes, total);
        assert_eq!(taken.report.bytes, total);
        assert_eq!(taken.report.count, total.div_ceil(span_bytes.into()));
        if drain == Drain::Hash {
            assert_eq!(taken.report.digest, pattern_hash(total, span_bytes));
        }
        eprintln!(
            "{total} bytes in {span_bytes} x {window}: {:.2} GB/s",
            sent.bytes_per_second().unwrap_or(0.0) / 1e9
        );
    }
}

/// BLAKE3 of the pattern that a source writes.
fn pattern_hash(total: u64, span_bytes: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut left = total;
    let mut seed: u64 = 0;
    while left > 0 {
        let len = left.min(span_bytes.into()) as usize;
        let mut span = Vec::with_capacity(len + 8);
        while span.len() < len {
            let block = span.len() as u64 >> 16;
            let word = seed.wrapping_add(block.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            span.extend_from_slice(&word.to_le_bytes());
        }
        hasher.update(&span[..len]);
        left -= len as u64;
        seed += 1;
    }
    *hasher.finalize().as_bytes()
}

#[test]
fn a_file_goes_through_both_partitions_unchanged() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    for len in [0_usize, 1, 4095, (3 << 20) + 17, 64 << 20] {
        let file: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        let sink = Command::Sink {
            from: A,
            drain: Drain::Hash,
        };
        let source = Command::Source {
            to: B,
            fill: Fill::Relay,
            span_bytes: 1 << 20,
            window: 4,
            total: 0,
        };
        pair.host.send(B, &sink, PATIENCE).unwrap();
        pair.host.send(A, &source, PATIENCE).unwrap();
        let begin = std::time::Instant::now();
        let streamed = pair
            .host
            .stream(A, &mut file.as_slice(), StreamOptions::default(), |_| {});
        let streamed = streamed.unwrap_or_else(|error| panic!("{error}\n{}", pair.story()));
        assert_eq!(streamed.bytes, len as u64);
        let sent = pair.host.answer(A, PATIENCE).unwrap();
        let taken = pair.host.answer(B, PATIENCE).unwrap();
        let took = begin.elapsed();
        assert_eq!(sent.report.bytes, len as u64);
        assert_eq!(taken.report.bytes, len as u64);
        assert_eq!(taken.report.digest, *blake3::hash(&file).as_bytes());
        eprintln!("{len} bytes relayed and hashed in {took:?}");
    }
}

#[test]
fn a_host_can_be_the_source_itself() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let bytes = vec![0x5A; (5 << 20) + 1];
    let sink = Command::Sink {
        from: PeerId(0),
        drain: Drain::Hash,
    };
    pair.host.send(B, &sink, PATIENCE).unwrap();
    pair.host
        .stream(B, &mut bytes.as_slice(), StreamOptions::default(), |_| {})
        .unwrap_or_else(|error| panic!("{error}\n{}", pair.story()));
    let taken = pair.host.answer(B, PATIENCE).unwrap();
    assert_eq!(taken.report.digest, *blake3::hash(&bytes).as_bytes());
}

#[test]
fn an_agent_left_alone_gives_up_and_serves_on() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let idle = Duration::from_millis(50);
    let (a, b) = ping(10);
    for lonely in [
        a,
        b,
        Command::InPlacePing { peer: B, rounds: 1 },
        Command::DoorbellPing {
            peer: B,
            rounds: 1,
            listen: Listen::Halt,
        },
        Command::DoorbellEcho {
            peer: B,
            rounds: 1,
            listen: Listen::Halt,
        },
        Command::Source {
            to: B,
            fill: Fill::Pattern,
            span_bytes: 4096,
            window: 1,
            total: 1,
        },
        Command::Sink {
            from: B,
            drain: Drain::Hash,
        },
    ] {
        pair.host.send(A, &lonely, idle).unwrap();
        match pair.host.answer(A, PATIENCE) {
            Err(HostError::Command {
                status: Ok(Status::TimedOut),
                ..
            }) => {}
            other => panic!("{lonely:?}: {other:?}\n{}", pair.story()),
        }
    }
    // Nothing of that is left over.
    let (a, b) = ping(100);
    let (answer, _) = together(&mut pair, a, b);
    check_rounds(100, &answer);
}

#[test]
fn a_job_with_a_peer_that_does_not_exist_is_refused() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let nobody = Command::Ping {
        peer: PeerId(999),
        rounds: 1,
    };
    pair.host.send(A, &nobody, Duration::from_secs(1)).unwrap();
    match pair.host.answer(A, PATIENCE) {
        Err(HostError::Command {
            status: Ok(Status::Region),
            ..
        }) => {}
        other => panic!("{other:?}\n{}", pair.story()),
    }
}

#[test]
fn a_window_larger_than_the_sections_and_streams_that_fail_lose_nothing() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let bytes = vec![0xA5; 40 << 20];
    // More spans at once than either section has room for.
    let wide = StreamOptions {
        window: 64,
        ..StreamOptions::default()
    };
    // Nobody was told to take these.
    let hasty = StreamOptions {
        limit: Duration::from_millis(50),
        ..wide
    };
    for _ in 0..3 {
        let lost = pair.host.stream(B, &mut bytes.as_slice(), hasty, |_| {});
        assert!(matches!(lost, Err(HostError::TooSlow { .. })), "{lost:?}");
        let sink = Command::Sink {
            from: A,
            drain: Drain::Hash,
        };
        let source = Command::Source {
            to: B,
            fill: Fill::Relay,
            span_bytes: 1 << 20,
            window: 64,
            total: 0,
        };
        pair.host.send(B, &sink, PATIENCE).unwrap();
        pair.host.send(A, &source, PATIENCE).unwrap();
        pair.host
            .stream(A, &mut bytes.as_slice(), wide, |_| {})
            .unwrap_or_else(|error| panic!("{error}\n{}", pair.story()));
        pair.host.answer(A, PATIENCE).unwrap();
        let taken = pair.host.answer(B, PATIENCE).unwrap();
        assert_eq!(taken.report.digest, *blake3::hash(&bytes).as_bytes());
    }
}
