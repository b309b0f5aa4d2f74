//! The pipeline of this repository: `cargo flowey ci` is what a laptop,
//! `.ci/run` and a hosted runner all call.
//!
//! Steps have names, are timed, and stop at the first failure with the command
//! that failed. Everything a step runs can be pasted into a shell. What a host
//! lacks (a nightly toolchain, a usable /dev/kvm) is said on one line and skipped.

mod bench;
mod book;
mod contribution;
mod ended;
mod evidence;
mod fuzz;
mod lab;
mod process;
mod steps;
mod tally;
mod workspace;

use clap::Parser;
use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

/// Builds, tests, measures and documents this repository.
#[derive(Debug, Parser)]
#[command(
    name = "cargo flowey",
    bin_name = "cargo flowey",
    max_term_width = 96,
    after_help = "Examples:\n  \
        cargo flowey ci                 everything that a change must pass\n  \
        cargo flowey ci fmt clippy      only these steps\n  \
        cargo flowey lab --page         real guests with every VMM, and the Guide's page\n  \
        cargo flowey bench --page       every benchmark, and the figures on the Guide's page\n  \
        cargo flowey evidence --full    the long form of the hostility harnesses (hours)\n\n\
        Exit codes: 0 all passed, 1 something failed, 2 usage."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every step that a change must pass, in order; the README's test command.
    Ci {
        /// Only these steps, in the pipeline's order.
        #[arg(value_name = "STEP", value_parser = steps::names())]
        only: Vec<String>,
    },
    /// The tests of the whole workspace.
    Test,
    /// All benchmarks with their baselines, in release.
    Bench(bench::Args),
    /// API documentation without warnings, and the Guide.
    Doc,
    /// Real guests: the conformance matrix, tests x VMMs.
    Lab(lab::Args),
    /// `portal demo` inside an emulated machine with nested KVM, for a host without a
    /// usable /dev/kvm.
    DemoLab,
    /// The hostility harnesses, one row a threat, and their negative controls.
    #[command(
        long_about = "The hostility harnesses, one row a threat, and their negative \
        controls.\n\nHarnesses are tests named t<N>_... after the threat; controls are named \
        control_t<N>_... and must fail with a guard taken out. See flowey/src/evidence/mod.rs \
        for the line that each prints."
    )]
    Evidence {
        /// The full counts of the trust model; hours.
        #[arg(long)]
        full: bool,
        /// One JSON object a row instead of the table.
        #[arg(long)]
        json: bool,
        /// Seed of all random numbers; the short form's default never changes, so
        /// that a failure in CI repeats on a laptop.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Where to write the page.
        #[arg(long, value_name = "PATH")]
        page: Option<PathBuf>,
    },
    /// Puts our files and lines into a checkout of OpenVMM.
    #[command(
        long_about = "Puts our files and lines into a checkout of OpenVMM.\n\nOnce more changes \
        nothing. Nothing is fetched and nothing is built; the Guide's chapter on OpenVMM says \
        what to do before and after."
    )]
    Contribution {
        /// The checkout.
        #[arg(long, value_name = "DIR")]
        upstream: PathBuf,
        /// Only these; all when absent.
        #[arg(long, value_name = "NAME", value_parser = contribution::names())]
        only: Vec<String>,
        /// Also into another commit than the one it was made against; says which
        /// places it could not find.
        #[arg(long)]
        any_commit: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Ci { only } => steps::run(&only),
        Command::Test => steps::run(&["test".to_owned()]),
        Command::Doc => steps::run(&["doc".to_owned(), "book".to_owned()]),
        Command::Bench(args) => bench::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::DemoLab => lab::demo(),
        Command::Evidence {
            full,
            json,
            seed,
            page,
        } => {
            let page = page.unwrap_or_else(|| workspace::root().join("Guide/src/evidence.md"));
            let output = evidence::Output {
                json,
                page: Some(page),
            };
            evidence::run(full, seed, &output).map(|(_, broken)| broken == 0)
        }
        Command::Contribution {
            upstream,
            only,
            any_commit,
        } => contribution::run(&upstream, &only, any_commit),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
