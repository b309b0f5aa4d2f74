//! `portal-guest send`: a file, or bytes of a pattern.

use crate::Outcome;
use crate::Report;
use crate::cli;
use crate::cli::Place;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::numbers::Numbers;
use crate::place::describe;
use crate::protocol::Sum;
use crate::protocol::TRANSFER;
use crate::stream;
use portal_guest_linux::Link;
use portal_guest_linux::Target;
use serde_json::Value;
use serde_json::json;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

pub(crate) fn run(place: &Place, args: &cli::Send) -> Outcome {
    let mut from: Box<dyn Read> = match (&args.file, args.bytes) {
        (Some(path), _) if path == Path::new("-") => Box::new(io::stdin().lock()),
        (Some(path), _) => Box::new(File::open(path).map_err(|e| file(path, e))?),
        (None, bytes) => Box::new(Pattern::new(args.seed).take(bytes.unwrap_or(0))),
    };
    let mut at = place.join()?;
    let about = describe(&at);
    let to = args.to.to.clone().unwrap_or(Target::Any);
    let mut link = Link::connect(&mut at, &to, &place.link(TRANSFER, args.wait.mode()))?;
    let peer = link.peer();
    let start = Instant::now();
    let sum = stream::give(&mut link, true, &mut |buffer| {
        fill(&mut from, buffer).map_err(|e| Failure::new(Kind::File, e))
    })?;
    let took = start.elapsed();
    link.close();
    Ok(report("send", about, &format!("to peer {peer}"), sum, took))
}

/// What send and recv report.
pub(crate) fn report(command: &str, about: Value, whom: &str, sum: Sum, took: Duration) -> Report {
    let hash = blake3::Hash::from_bytes(sum.hash).to_hex();
    let seconds = took.as_secs_f64();
    let rate = if seconds > 0.0 {
        sum.bytes as f64 / seconds
    } else {
        0.0
    };
    Report {
        text: format!(
            "{} bytes {whom} in {seconds:.3} s ({:.1} MiB/s), BLAKE3 {hash} on both ends",
            sum.bytes,
            rate / f64::from(1 << 20),
        ),
        json: json!({
            "command": command,
            "place": about,
            "bytes": sum.bytes,
            "seconds": seconds,
            "bytes_per_second": rate,
            "blake3": hash.to_string(),
        }),
    }
}

pub(crate) fn file(path: &Path, error: io::Error) -> Failure {
    Failure::new(Kind::File, format!("{}: {error}", path.display()))
}

/// Reads until the buffer is full or nothing is left.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|r| !r.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Bytes that look random and are the same for the same seed.
struct Pattern {
    numbers: Numbers,
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    fn new(seed: u64) -> Self {
        Self {
            numbers: Numbers(seed),
            word: [0; 8],
            used: 8,
        }
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *buffer {
            if self.used == self.word.len() {
                self.word = self.numbers.next().to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
        Ok(buffer.len())
    }
}
