//! The demo's measurements. Baseline and figure take turns, so that both see the
//! machine in the same mood; a row shows the round with the median ratio.

use super::baseline;
use super::neighbours::Since;
use super::pair::Pair;
use super::report::Fact;
use super::report::Latency;
use super::report::Report;
use super::report::Row;
use super::report::Unit;
use crate::exit::Failure;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use portal_agent_abi::Command;
use portal_agent_abi::command::Drain;
use portal_agent_abi::command::Fill;
use portal_agent_abi::command::Listen;
use portal_host::Answer;
use portal_host::HostError;
use portal_vmm::Kvm;
use portal_vmm::PartitionStats;
use portal_vmm::Sandbox;
use std::time::Duration;
use std::time::Instant;

/// Rounds of each row, where the machine is quiet enough to do them in time.
const ROUNDS: usize = 5;
/// No further round of a row is begun after this: the demo ends in half a minute
/// on a busy machine too.
const BUDGET: Duration = Duration::from_secs(4);
/// Round trips of one sample through rings, about 30 ms.
const RING_TRIPS: u32 = 100_000;
/// Round trips of one sample by doorbell, about 50 ms.
const BELL_TRIPS: u32 = 500;
/// Bytes of one sample of the stream, about 100 ms.
const STREAM_BYTES: u64 = 1 << 30;
/// Bytes of a span.
const SPAN_BYTES: u32 = 1 << 20;
/// Spans under way: two at either end.
const WINDOW: u8 = 4;
/// Longest time for one sample.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest round trip that a histogram distinguishes, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;

/// One row while it is being measured.
struct Samples {
    /// (Portal, baseline) of each round.
    rounds: Vec<(f64, f64)>,
    histogram: Histogram<u64>,
}

/// Starts the partitions, measures, ends them.
///
/// # Errors
/// [`crate::exit::Kind::Host`], `Guest`, `Deadline`.
pub(crate) fn run(kvm: &Kvm, sandbox: Sandbox) -> Result<Report, Failure> {
    let progress = progress();
    progress.set_message("starting two partitions");
    let mut pair = Pair::start(kvm, sandbox)?;
    let measured = measure(&mut pair, &progress);
    progress.finish_and_clear();
    let report = measured.map_err(|e| pair.explain(&e))?;
    pair.finish()?;
    Ok(report)
}

fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn measure(pair: &mut Pair, progress: &ProgressBar) -> Result<Report, HostError> {
    let since = Since::now();
    let mut rows = Vec::new();
    let mut latency = Vec::new();
    let facts_of_start = start_facts(pair);

    progress.set_message("round trips through rings");
    let ring = rounds(pair, ring_trip, || Ok(nanoseconds(baseline::two_lines())))?;
    rows.push(ring.row(
        "message and answer through rings",
        "two cache lines, two threads",
    ));
    let ring_p50 = ring.histogram.value_at_quantile(0.5) as f64;
    latency.extend(ring.latency("message and answer through rings"));

    progress.set_message("calls answered in place");
    let call = rounds(pair, in_place_trip, || {
        Ok(nanoseconds(baseline::two_lines()))
    })?;
    rows.push(call.row(
        "call answered in its own line",
        "two cache lines, two threads",
    ));
    latency.extend(call.latency("call answered in its own line"));

    progress.set_message("1 MiB spans");
    let stream = rounds(pair, stream_rate, || Ok(baseline::stream() / 1e9))?;
    rows.push(stream.row_in(
        "1 MiB spans, A writes, B reads",
        "the same between two threads",
    ));

    progress.set_message("doorbells");
    let before = stats(pair);
    let bells = rounds(pair, doorbell_trip, || baseline::eventfd().map(nanoseconds))?;
    let after = stats(pair);
    rows.push(bells.row("doorbell and answering doorbell", "eventfd, two threads"));
    latency.extend(bells.latency("doorbell and answering doorbell"));

    progress.set_message("a Unix socket");
    let socket = baseline::unix_socket().map_err(HostError::Input)?;
    rows.push(Row::new(
        "message and answer through rings",
        "a Unix socket, two threads",
        Unit::Nanoseconds,
        ring_p50,
        nanoseconds(socket),
    ));

    let mut facts = facts_of_start;
    let doorbells = bells.rounds.len() as u64 * u64::from(BELL_TRIPS) * 2;
    facts.push(Fact {
        what: "doorbells rung from guest to guest",
        value: doorbells as f64,
        unit: "doorbells",
    });
    facts.push(Fact {
        what: "stores that left a guest for user space meanwhile",
        value: after.mmio_writes.saturating_sub(before.mmio_writes) as f64,
        unit: "stores, which switch vectors on and off",
    });
    Ok(Report {
        rows,
        latency,
        facts,
        others: since.and_then(|since| since.cores_of_others()),
    })
}

/// Figure and baseline in turns.
fn rounds(
    pair: &mut Pair,
    mut figure: impl FnMut(&mut Pair, &mut Histogram<u64>) -> Result<f64, HostError>,
    mut baseline: impl FnMut() -> std::io::Result<f64>,
) -> Result<Samples, HostError> {
    let histogram = Histogram::new_with_max(LONGEST, 3)
        .map_err(|e| HostError::Input(std::io::Error::other(e)))?;
    let mut samples = Samples {
        rounds: Vec::new(),
        histogram,
    };
    let started = Instant::now();
    for round in 0..ROUNDS {
        if round > 0 && started.elapsed() > BUDGET {
            break;
        }
        let before = baseline().map_err(HostError::Input)?;
        let portal = figure(pair, &mut samples.histogram)?;
        let after = baseline().map_err(HostError::Input)?;
        samples.rounds.push((portal, f64::midpoint(before, after)));
    }
    Ok(samples)
}

impl Samples {
    /// The round with the median ratio.
    fn median(&self) -> (f64, f64) {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(|one, two| (one.0 / one.1).total_cmp(&(two.0 / two.1)));
        sorted.get(sorted.len() / 2).copied().unwrap_or((0.0, 0.0))
    }

    fn row(&self, what: &'static str, baseline_of: &'static str) -> Row {
        let (portal, baseline) = self.median();
        Row::new(what, baseline_of, Unit::Nanoseconds, portal, baseline)
    }

    fn row_in(&self, what: &'static str, baseline_of: &'static str) -> Row {
        let (portal, baseline) = self.median();
        Row::new(what, baseline_of, Unit::Gigabytes, portal, baseline)
    }

    fn latency(&self, what: &'static str) -> Option<Latency> {
        (!self.histogram.is_empty()).then(|| Latency::of(what, &self.histogram))
    }
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// Adds an answer's histogram; returns the median round trip in nanoseconds.
fn take(answer: &Answer, into: &mut Histogram<u64>) -> f64 {
    let time = |ticks| answer.in_time(ticks).unwrap_or_default();
    for (ticks, count) in &answer.counts.values {
        let value = time(*ticks).as_nanos().min(LONGEST.into()) as u64;
        into.saturating_record_n(value, u64::from(*count));
    }
    let median = answer.counts.quantile(0.5).unwrap_or_default();
    nanoseconds(time(median))
}

fn ring_trip(pair: &mut Pair, into: &mut Histogram<u64>) -> Result<f64, HostError> {
    let (a, b, rounds) = (pair.a, pair.b, RING_TRIPS);
    let first = (a, Command::Ping { peer: b, rounds });
    let second = (b, Command::Pong { peer: a, rounds });
    let (answer, _) = pair.party.controller.pair(first, second, LIMIT)?;
    Ok(take(&answer, into))
}

fn in_place_trip(pair: &mut Pair, into: &mut Histogram<u64>) -> Result<f64, HostError> {
    let (a, b, rounds) = (pair.a, pair.b, RING_TRIPS);
    let first = (a, Command::InPlacePing { peer: b, rounds });
    let second = (b, Command::InPlacePong { peer: a, rounds });
    let (answer, _) = pair.party.controller.pair(first, second, LIMIT)?;
    Ok(take(&answer, into))
}

fn doorbell_trip(pair: &mut Pair, into: &mut Histogram<u64>) -> Result<f64, HostError> {
    let (a, b, rounds, listen) = (pair.a, pair.b, BELL_TRIPS, Listen::Halt);
    let ping = Command::DoorbellPing {
        peer: b,
        rounds,
        listen,
    };
    let echo = Command::DoorbellEcho {
        peer: a,
        rounds,
        listen,
    };
    let (answer, _) = pair.party.controller.pair((a, ping), (b, echo), LIMIT)?;
    Ok(take(&answer, into))
}

fn stream_rate(pair: &mut Pair, _: &mut Histogram<u64>) -> Result<f64, HostError> {
    let (a, b) = (pair.a, pair.b);
    let source = Command::Source {
        to: b,
        fill: Fill::Pattern,
        span_bytes: SPAN_BYTES,
        window: WINDOW,
        total: STREAM_BYTES,
    };
    let sink = Command::Sink {
        from: a,
        drain: Drain::Read,
    };
    let (_, answer) = pair.party.controller.pair((a, source), (b, sink), LIMIT)?;
    Ok(answer.bytes_per_second().unwrap_or_default() / 1e9)
}

/// What starting cost.
fn start_facts(pair: &Pair) -> Vec<Fact> {
    let starts = pair.party.guests.iter().filter_map(|guest| {
        let stats = guest.partition.stats();
        stats.first_entry.map(|d| d.as_secs_f64() * 1e3)
    });
    let slowest = starts.fold(0.0, f64::max);
    vec![Fact {
        what: "partition start, create to first guest instruction",
        value: slowest,
        unit: "ms",
    }]
}

/// What both partitions did so far.
fn stats(pair: &Pair) -> Exits {
    let mut exits = Exits { mmio_writes: 0 };
    for guest in &pair.party.guests {
        let PartitionStats { vcpus, .. } = guest.partition.stats();
        exits.mmio_writes += vcpus.iter().map(|v| v.mmio_writes).sum::<u64>();
    }
    exits
}

struct Exits {
    mmio_writes: u64,
}
