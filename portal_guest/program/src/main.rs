//! `portal-guest`: what a region can do, shown from inside any Linux machine. One
//! static program for every guest: stock QEMU's, `portal_vmm`'s, OpenVMM's.
//!
//! What it does with a region is `portal_guest_linux`'s and `hv_shmem`'s; this is the
//! command line, a small protocol on top ([`protocol`]), and reports.
//!
//! Distrusted: the other peer. Left out: the host's side (`portal`).

mod bench;
mod cli;
mod exit;
mod hostile;
mod ls;
mod numbers;
mod ping;
mod place;
mod pong;
mod protocol;
mod recv;
mod send;
mod stream;

use clap::Parser as _;
use cli::Cli;
use cli::Command;
use exit::Failure;
use serde_json::Value;
use serde_json::json;
use std::fmt;
use std::io;
use std::io::Write as _;
use std::process::ExitCode;

/// What a command has to say: for people, and for programs.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) json: Value,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A region in a file that somebody cuts off is an error then, and not a signal.
    if let Err(error) = hv_shmem::backing::fault_guard::install() {
        eprintln!("warning: no guard against truncated files: {error}");
    }
    let place = &cli.place;
    let done = match &cli.command {
        Command::Ls => ls::run(place),
        Command::Ping(args) => ping::run(place, args),
        Command::Pong(args) => pong::run(place, args),
        Command::Send(args) => send::run(place, args),
        Command::Recv(args) => recv::run(place, args),
        Command::Bench(args) => bench::run(place, args),
        Command::Hostile(args) => hostile::run(place, args),
    };
    let failure = match done {
        Ok(report) => {
            print(place.json, &report);
            return ExitCode::SUCCESS;
        }
        Err(failure) => failure,
    };
    eprintln!("error: {}", failure.what);
    if place.json {
        let error = json!({
            "error": failure.what,
            "kind": failure.kind.word(),
            "exit": failure.kind as u8,
        });
        say(&error);
    }
    ExitCode::from(failure.kind as u8)
}

fn print(as_json: bool, report: &Report) {
    if as_json {
        say(&report.json);
    } else if !report.text.is_empty() {
        say(&report.text);
    }
}

/// A line for whoever reads standard output, which may be nobody any more.
fn say(line: &dyn fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// What a command returns.
pub(crate) type Outcome = Result<Report, Failure>;
