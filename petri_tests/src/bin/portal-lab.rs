//! The lab's own program: what the tests run inside L1, and what is no test.

use petri_tests::lab::Artifacts;
use petri_tests::lab::LabError;
use petri_tests::lab::Machine;
use petri_tests::lab::stand_in;
use petri_tests::matrix::Matrix;
use petri_tests::numbers;
use petri_tests::programs;
use petri_tests::programs::Programs;
use petri_tests::scenario;
use petri_tests::session;
use petri_tests::vmm::Vmm;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
usage: portal-lab inside TEST VMM   one cell of the matrix, inside L1
       portal-lab durable [VMM]     the parts of `pmem_durable` inside L1: a guest of this VMM
                                    writes; without it, the disk is looked at
       portal-lab page              the Guide's page from target/lab/matrix.json
       portal-lab numbers           measures inside L1 and writes the Guide's page
       portal-lab measure           the part of it that runs inside L1
       portal-lab run COMMAND       a command for the shell inside L1, for whoever looks
                                    for a mistake
       portal-lab demo              `portal demo` inside L1
       portal-lab stand-in          virtual machines that never run, inside L1";

/// The demo takes less than a minute on a quiet machine.
const DEMO: Duration = Duration::from_secs(300);

/// What a command by hand may take.
const BY_HAND: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["inside", test, vmm] => inside(test, vmm),
        ["durable"] => scenario::durable::inside(None).map_err(|e| e.to_string()),
        ["durable", vmm] if Vmm::named(vmm).is_some() => {
            scenario::durable::inside(Vmm::named(vmm)).map_err(|e| e.to_string())
        }
        ["page"] => page().map_err(|e| e.to_string()),
        ["numbers"] => numbers().map_err(|e| e.to_string()),
        ["measure"] => numbers::measure_inside().map_err(|e| e.to_string()),
        ["stand-in"] => match stand_in() {
            Ok(never) => match never {},
            Err(error) => Err(error.to_string()),
        },
        ["run", command] => run(command).map_err(|e| e.to_string()),
        ["demo"] => demo().map_err(|e| e.to_string()).and_then(|passed| {
            passed
                .then_some(())
                .ok_or_else(|| "the demo did not end well".to_owned())
        }),
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("portal-lab: {why}");
            ExitCode::FAILURE
        }
    }
}

fn inside(test: &str, vmm: &str) -> Result<(), String> {
    match (scenario::named(test), Vmm::named(vmm)) {
        (Some(scenario), Some(vmm)) => {
            session::run_inside(scenario, vmm);
            Ok(())
        }
        _ => Err(format!("no test {test} with {vmm}")),
    }
}

fn page() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let matrix = Matrix::read(&programs::target_folder().join("lab/matrix.json"))?;
    std::fs::write(root.join("Guide/src/conformance.md"), matrix.page())
}

fn this_program() -> Result<PathBuf, LabError> {
    std::env::current_exe().map_err(|source| LabError::File {
        path: "portal-lab".into(),
        source,
    })
}

fn run(command: &str) -> Result<(), LabError> {
    let folder = programs::target_folder().join("lab");
    let programs =
        Programs::on_host(&this_program()?)?.with_kvm_tests(&folder.join("kvm-tests"))?;
    let mut machine = session::equipped(&programs)?;
    machine.job("run", command, BY_HAND);
    let report = machine.run(&folder.join("run"))?;
    for job in &report.jobs {
        println!("{}\nstatus {:?}", job.output, job.status);
    }
    Ok(())
}

fn numbers() -> Result<(), LabError> {
    let programs = Programs::on_host(&this_program()?)?;
    let folder = programs::target_folder().join("lab/numbers");
    let figures = numbers::measure(&programs, &folder)?;
    let page = numbers::page(&figures, &commit(), &machine());
    print!("{page}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Guide/src/lab-figures.md");
    std::fs::write(&path, page).map_err(|source| LabError::File { path, source })
}

/// The commit that is measured, and whether it is what is in the folder.
fn commit() -> String {
    let git = |words: &[&str]| {
        let out = Command::new("git")
            .args(words)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        let text = out.ok().filter(|out| out.status.success())?.stdout;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    };
    let clean =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| s.is_empty());
    match git(&["rev-parse", "--short", "HEAD"]) {
        Some(commit) if clean => commit,
        Some(commit) => format!("{commit} and changes that are not committed"),
        None => "unknown".to_owned(),
    }
}

/// The machine that emulates.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .and_then(|line| line.split_once(':'))
        .map_or("", |m| m.1.trim());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} CPUs, {model}, Linux {}", kernel.trim())
}

fn demo() -> Result<bool, LabError> {
    let mut machine = Machine::new(Artifacts::prepare()?)?;
    session::bring(&mut machine, "bin/portal", &programs::portal()?)?;
    session::stand_in(&mut machine, &this_program()?)?;
    machine.job("demo", "portal demo", DEMO);
    let report = machine.run(&programs::target_folder().join("lab/demo"))?;
    for job in &report.jobs {
        println!("{}", job.output);
    }
    println!(
        "\nThis ran in an emulated machine, whose clocks mean nothing: what it shows is that \
         everything works."
    );
    Ok(report.jobs.iter().all(|job| job.passed()))
}
