//! The lab: the conformance matrix, its page, its figures, and the demo inside it.
//!
//! The work is done by `petri_tests`; here are the commands that one would type.

use crate::ended::Ended;
use crate::process;
use crate::process::Echo;
use crate::tally::Tally;
use crate::workspace::cargo;
use std::process::Command;
use std::time::Duration;

/// Limit of the whole matrix, on a loaded machine and with what it builds.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Names the OpenVMM that is one of the VMMs, and the kernel package of guests.
const OPENVMM: &str = "PORTAL_OPENVMM";
const GUEST_KERNEL: &str = "PORTAL_LAB_GUEST_KERNEL";
/// One whose driver knows OpenVMM's virtio-pmem, which is behind a BAR.
const NEWER_KERNEL: &str = "linux-image-6.12-cloud-amd64";

/// What `cargo flowey lab` does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the Guide's page from the matrix when the tests have run.
    #[arg(long)]
    page: bool,
    /// Measure the lab's figures instead, and write their page; the machine must be
    /// quiet.
    #[arg(long, conflicts_with_all = ["page", "tests"])]
    numbers: bool,
    /// Only this part of the figures: boot, doorbell, direct, intx or ring. What was measured at
    /// the same commit before stays on the page.
    #[arg(long, value_name = "PART", requires = "numbers")]
    only: Vec<String>,
    /// Only tests with this in their name, `TEST::VMM`.
    #[arg(value_name = "FILTER")]
    tests: Option<String>,
}

/// `cargo flowey lab`; whether everything passed.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    if args.numbers {
        let parts = args.only.iter().map(String::as_str);
        return program(&["numbers"].into_iter().chain(parts).collect::<Vec<_>>());
    }
    let mut tally = Tally::default();
    let mut test = tests();
    test.args(["--test", "matrix"]);
    if let Some(filter) = &args.tests {
        test.args(["--", filter]);
    }
    let mut passed = said(matrix(&mut tally, &mut test)?);
    if args.tests.is_none() && is_set(OPENVMM) && !is_set(GUEST_KERNEL) {
        let mut pmem = tests();
        pmem.env(GUEST_KERNEL, NEWER_KERNEL);
        pmem.args(["--test", "matrix", "--", "pmem_"]);
        pmem.args(["--skip", "::portal_vmm", "--skip", "::qemu"]);
        passed &= said(matrix(&mut tally, &mut pmem)?);
    }
    let written = !args.page || program(&["page"])?;
    println!("{tally}");
    Ok(passed && written)
}

/// The pipeline's step: every test of the lab.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn step(tally: &mut Tally) -> anyhow::Result<Ended> {
    matrix(tally, &mut tests())
}

/// `cargo flowey demo-lab`.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn demo() -> anyhow::Result<bool> {
    program(&["demo"])
}

fn tests() -> Command {
    cargo([
        "test",
        "--locked",
        "--package=petri_tests",
        "--no-fail-fast",
    ])
}

fn matrix(tally: &mut Tally, command: &mut Command) -> anyhow::Result<Ended> {
    println!("    {}", process::shown(command));
    let outcome = process::run(command, LIMIT, Echo::Yes)?;
    tally.add_output(&outcome.stdout);
    Ok(match (outcome.timed_out, outcome.ok()) {
        (true, _) => Ended::Failed(format!(
            "`{}` ran longer than {} s",
            process::shown(command),
            LIMIT.as_secs()
        )),
        (false, true) => Ended::Passed,
        (false, false) => Ended::Failed(format!("`{}`", process::shown(command))),
    })
}

fn program(words: &[&str]) -> anyhow::Result<bool> {
    let mut command = cargo(["run", "--quiet", "--locked", "--package=petri_tests"]);
    command.args(["--bin=portal-lab", "--"]).args(words);
    let outcome = process::run(&mut command, LIMIT, Echo::Yes)?;
    Ok(outcome.ok())
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn said(ended: Ended) -> bool {
    match ended {
        Ended::Passed | Ended::Skipped(_) => true,
        Ended::Failed(why) => {
            eprintln!("failed: {why}");
            false
        }
    }
}
