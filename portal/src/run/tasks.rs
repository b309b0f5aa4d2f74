//! What the built-in guests are asked to do, one task after the other.

use super::build::Built;
use super::build::Running;
use super::build::host_side;
use crate::config::Config;
use crate::config::Guest;
use crate::config::Task;
use crate::config::TaskKind;
use crate::demo::grouped;
use crate::demo::time;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::print;
use hv_shmem::layout::PeerId;
use portal_agent_abi::Command;
use portal_agent_abi::command::Drain;
use portal_agent_abi::command::Fill;
use portal_agent_abi::command::Listen;
use portal_host::Answer;
use std::time::Duration;

/// Longest time for an agent to join its region.
const JOIN_LIMIT: Duration = Duration::from_secs(20);
/// Longest task; rounds and bytes are the user's to choose.
const TASK_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of a span of a stream.
const SPAN_BYTES: u32 = 1 << 20;
/// Spans under way.
const WINDOW: u8 = 4;

/// Waits until every agent has joined; says so for each.
pub(super) fn await_agents(built: &mut Built<'_>) -> Result<(), Failure> {
    for running in &built.partitions {
        let Some((region, peer)) = &running.agent else {
            continue;
        };
        let Some(host) = built.hosts.get_mut(region) else {
            continue;
        };
        host.controller
            .await_agent(*peer, JOIN_LIMIT)
            .map_err(|e| host_side(&e))?;
        print::line(format!(
            "{}: up, peer {peer} of region {region}",
            running.name
        ));
    }
    Ok(())
}

/// Carries out every task.
pub(super) fn run(config: &Config, built: &mut Built<'_>) -> Result<(), Failure> {
    for partition in &config.partitions {
        let Guest::Warp { tasks } = &partition.guest else {
            continue;
        };
        for task in tasks {
            one(&partition.name.value, task, built)?;
        }
    }
    Ok(())
}

fn one(name: &str, task: &Task, built: &mut Built<'_>) -> Result<(), Failure> {
    let place = |of: &str| -> Option<(String, PeerId)> {
        let running: &Running = built.partitions.iter().find(|r| r.name == of)?;
        running.agent.clone()
    };
    let other = task.peer.value.as_str();
    // The configuration's rules have made sure of this.
    let lost = || {
        Failure::new(
            Kind::Failed,
            format!("{name} and {other} cannot work together"),
        )
    };
    let (region, from) = place(name).ok_or_else(lost)?;
    let (_, to) = place(other).ok_or_else(lost)?;
    let host = built.hosts.get_mut(&region).ok_or_else(lost)?;
    let (first, second) = commands(task.what, from, to);
    let (one, two) = host
        .controller
        .pair((from, first), (to, second), TASK_LIMIT)
        .map_err(|e| host_side(&e))?;
    print::line(format!(
        "{name} -> {other}: {}",
        said(task.what, &one, &two)
    ));
    Ok(())
}

fn commands(what: TaskKind, from: PeerId, to: PeerId) -> (Command, Command) {
    match what {
        TaskKind::Ping { rounds } => (
            Command::Ping { peer: to, rounds },
            Command::Pong { peer: from, rounds },
        ),
        TaskKind::Doorbell { rounds } => (
            Command::DoorbellPing {
                peer: to,
                rounds,
                listen: Listen::Halt,
            },
            Command::DoorbellEcho {
                peer: from,
                rounds,
                listen: Listen::Halt,
            },
        ),
        TaskKind::Stream { bytes } => (
            Command::Source {
                to,
                fill: Fill::Pattern,
                span_bytes: SPAN_BYTES,
                window: WINDOW,
                total: bytes,
            },
            Command::Sink {
                from,
                drain: Drain::Read,
            },
        ),
    }
}

fn said(what: TaskKind, first: &Answer, second: &Answer) -> String {
    match what {
        TaskKind::Ping { rounds } => format!(
            "{} round trips through rings, {}",
            grouped(rounds.into()),
            spread(first)
        ),
        TaskKind::Doorbell { rounds } => format!(
            "{} round trips by doorbell, {}",
            grouped(rounds.into()),
            spread(first)
        ),
        TaskKind::Stream { bytes } => format!(
            "{} bytes in spans of 1 MiB, {:.2} GB/s",
            grouped(bytes),
            second.bytes_per_second().unwrap_or_default() / 1e9
        ),
    }
}

fn spread(answer: &Answer) -> String {
    let at = |ticks: Option<u64>| {
        let time_of = answer.in_time(ticks.unwrap_or_default());
        time(time_of.unwrap_or_default().as_secs_f64() * 1e9)
    };
    format!(
        "min {}, p50 {}, p99 {}, max {}",
        at(Some(answer.report.min)),
        at(answer.counts.quantile(0.50)),
        at(answer.counts.quantile(0.99)),
        at(Some(answer.report.max)),
    )
}
