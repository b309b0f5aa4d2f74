//! `portal-guest recv`: what a peer sends, to nowhere or a file.

use crate::Outcome;
use crate::cli;
use crate::cli::Place;
use crate::place::describe;
use crate::protocol::TRANSFER;
use crate::protocol::Word;
use crate::protocol::unexpected;
use crate::send::file;
use crate::send::report;
use crate::stream;
use portal_guest_linux::Link;
use portal_guest_linux::Target;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

pub(crate) fn run(place: &Place, args: &cli::Recv) -> Outcome {
    let mut to: Box<dyn Write> = match &args.out {
        None => Box::new(io::sink()),
        Some(path) if path == Path::new("-") => Box::new(io::stdout().lock()),
        Some(path) => Box::new(File::create(path).map_err(|e| file(path, e))?),
    };
    let mut at = place.join()?;
    let about = describe(&at);
    let from = args.from.from.clone().unwrap_or(Target::Any);
    let mut link = Link::accept(&mut at, &from, &place.link(TRANSFER, args.wait.mode()))?;
    let peer = link.peer();
    let start = Instant::now();
    let message = link.recv("a stream")?;
    let Some(Word::Stream { hashed, ring }) = Word::decode(&message) else {
        return Err(unexpected(peer, &message, "a stream"));
    };
    let limit = args.limit.unwrap_or(u64::MAX);
    let sum = stream::take(&mut link, hashed, ring, limit, &mut to)?;
    let took = start.elapsed();
    link.close();
    let mut report = report("recv", about, &format!("from peer {peer}"), sum, took);
    // The bytes have standard output.
    if args.out.as_deref() == Some(Path::new("-")) {
        eprintln!("{}", report.text);
        report.text.clear();
    }
    Ok(report)
}
