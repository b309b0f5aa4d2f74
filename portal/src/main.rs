//! `portal`: virtual machines that share memory and ring each other.
//!
//! This crate is the command line and nothing else: it parses arguments and
//! configuration files, wires the other crates together and prints what they
//! did. What guests and region files say is checked by the crates that read it.

mod bench;
mod cli;
mod config;
mod demo;
mod doctor;
mod exit;
mod observe;
mod print;
mod region;
mod run;
mod serve;

use clap::Parser as _;
use cli::Cli;
use cli::Command;
use exit::Outcome;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Benchmarks between two processes start this program again.
    if portal_bench::serve_if_child() {
        return ExitCode::SUCCESS;
    }
    match carry_out(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.kind.into()
        }
    }
}

fn carry_out(command: Command) -> Outcome {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Doctor { json } => doctor::run(json),
        Command::Region(command) => region::run(&command),
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Ls(args) => observe::ls(&args),
        Command::Inspect(args) => observe::inspect(&args),
        Command::Top(args) => observe::top(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
