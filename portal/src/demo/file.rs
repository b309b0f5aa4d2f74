//! `portal demo --file`: the bytes of a file from the host to partition A, from A
//! to B, and B's hash against the host's own.

use super::pair::Pair;
use super::report::grouped;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use portal_agent_abi::Command;
use portal_agent_abi::command::Drain;
use portal_agent_abi::command::Fill;
use portal_host::HostError;
use portal_host::StreamOptions;
use portal_host::Streamed;
use portal_vmm::Kvm;
use portal_vmm::Sandbox;
use serde::Serialize;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// Bytes of a span.
const SPAN_BYTES: u32 = 1 << 20;
/// Spans under way at each hop.
const WINDOW: u8 = 4;
/// Longest time without progress.
const LIMIT: Duration = Duration::from_secs(20);

/// A file that is open and can be sent.
pub(super) struct Source {
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// What came of it.
#[derive(Serialize)]
struct Sent {
    file: String,
    bytes: u64,
    spans: u64,
    /// BLAKE3 of the file, by the host.
    host: String,
    /// BLAKE3 of what arrived, by partition B.
    guest: String,
    equal: bool,
    seconds: f64,
    gigabytes_per_second: f64,
}

/// Opens the file.
///
/// # Errors
/// [`Kind::Input`] when it cannot be opened or is no file.
pub(super) fn open(path: &Path) -> Result<Source, Failure> {
    let input = |what: String| Failure::new(Kind::Input, what);
    let shown = path.display();
    let file = File::open(path).map_err(|e| input(format!("cannot open {shown}: {e}")))?;
    let found = file
        .metadata()
        .map_err(|e| input(format!("cannot look at {shown}: {e}")))?;
    if !found.is_file() {
        let failure = input(format!("{shown} is no regular file"));
        return Err(failure.hint("its end has to be known; copy it to a file first"));
    }
    Ok(Source {
        path: path.to_owned(),
        bytes: found.len(),
        file,
    })
}

/// Starts the partitions, sends the file, compares.
///
/// # Errors
/// [`Kind::Failed`] when the hashes differ, else as [`super::run`].
pub(super) fn run(kvm: &Kvm, sandbox: Sandbox, mut source: Source, json: bool) -> Outcome {
    let mut pair = Pair::start(kvm, sandbox)?;
    let bar = bar(source.bytes);
    let sent = send(&mut pair, &mut source, &bar);
    bar.finish_and_clear();
    let sent = sent.map_err(|e| match &e {
        HostError::Input(cause) => Failure::new(
            Kind::Input,
            format!("cannot read {}: {cause}", source.path.display()),
        ),
        other => pair.explain(other),
    })?;
    pair.finish()?;
    show(&sent, json)?;
    if sent.equal {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Failed,
        format!("partition B got other bytes than {} has", sent.file),
    ))
}

fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let template = "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn send(pair: &mut Pair, source: &mut Source, bar: &ProgressBar) -> Result<Sent, HostError> {
    let (a, b) = (pair.a, pair.b);
    let sink = Command::Sink {
        from: a,
        drain: Drain::Hash,
    };
    let relay = Command::Source {
        to: b,
        fill: Fill::Relay,
        span_bytes: SPAN_BYTES,
        window: WINDOW,
        total: 0,
    };
    let controller = &mut pair.party.controller;
    let started = Instant::now();
    controller.send(b, &sink, LIMIT)?;
    controller.send(a, &relay, LIMIT)?;
    let options = StreamOptions {
        span_bytes: SPAN_BYTES as usize,
        window: WINDOW.into(),
        limit: LIMIT,
    };
    let mut hash = blake3::Hasher::new();
    let streamed = controller.stream(a, &mut source.file, options, |bytes| {
        hash.update(bytes);
        bar.inc(bytes.len() as u64);
    })?;
    controller.answer(a, LIMIT)?;
    let answer = controller.answer(b, LIMIT)?;
    let seconds = started.elapsed().as_secs_f64();
    let host = hash.finalize();
    let guest = blake3::Hash::from_bytes(answer.report.digest);
    let Streamed { bytes, spans } = streamed;
    Ok(Sent {
        file: source.path.display().to_string(),
        bytes,
        spans,
        host: host.to_hex().to_string(),
        guest: guest.to_hex().to_string(),
        equal: host == guest && answer.report.bytes == bytes,
        seconds,
        gigabytes_per_second: bytes as f64 / 1e9 / seconds.max(1e-9),
    })
}

fn show(sent: &Sent, json: bool) -> Outcome {
    if json {
        return print::json(sent);
    }
    print::line(format!(
        "{}: {} bytes in {} spans of at most 1 MiB, host -> A -> B",
        sent.file,
        grouped(sent.bytes),
        grouped(sent.spans),
    ));
    print::line(format!("  BLAKE3 by the host         {}", sent.host));
    print::line(format!("  BLAKE3 inside partition B  {}", sent.guest));
    let verdict = if sent.equal { "equal" } else { "DIFFERENT" };
    print::line(format!(
        "  {verdict}; {:.3} s, {:.2} GB/s, hashes and both copies included",
        sent.seconds, sent.gigabytes_per_second
    ));
    Ok(())
}
