//! The lab's own program: what the tests run inside L1, and what is no test.

use petri_tests::lab::Artifacts;
use petri_tests::lab::LabError;
use petri_tests::lab::Machine;
use petri_tests::lab::stand_in;
use petri_tests::matrix::Matrix;
use petri_tests::numbers;
use petri_tests::numbers::Part;
use petri_tests::numbers::Place;
use petri_tests::numbers::Saved;
use petri_tests::programs;
use petri_tests::programs::Programs;
use petri_tests::scenario;
use petri_tests::session;
use petri_tests::vmm::Vmm;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
usage: portal-lab inside TEST VMM   one cell of the matrix, inside L1
       portal-lab durable [VMM]     the parts of `pmem_durable` inside L1: a guest of this VMM
                                    writes; without it, the disk is looked at
       portal-lab page              the Guide's page from target/lab/matrix.json
       portal-lab numbers [PART]... measures inside L1 and writes the Guide's page: boot,
                                    doorbell, direct, intx, ring; without a name all that
                                    can be (direct: where PORTAL_LAB_IGB_UIO names the module)
       portal-lab measure PART TURN a turn of it, inside L1
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
        ["numbers", ref parts @ ..] => numbers(parts),
        ["measure", part, turn] => measure(part, turn),
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

fn numbers(names: &[&str]) -> Result<(), String> {
    let named = |name: &&str| {
        let all = Part::ALL.map(Part::name).join(", ");
        Part::named(name)
            .ok_or_else(|| format!("{name} is no part of the figures; there are: {all}"))
    };
    let parts: Vec<Part> = names.iter().map(named).collect::<Result<_, _>>()?;
    let this = this_program().map_err(|e| e.to_string())?;
    let programs = Programs::on_host(&this).map_err(|e| e.to_string())?;
    if let Some(part) = parts.iter().find(|part| !part.is_possible(&programs)) {
        return Err(format!(
            "{part}: PORTAL_LAB_IGB_UIO names no igb_uio.ko for the guests' kernel"
        ));
    }
    let parts = match parts.is_empty() {
        true => Part::ALL.to_vec(),
        false => parts,
    };
    let whole = figures(&programs, &parts).map_err(|e| e.to_string())?;
    let missing = "not every VMM had its turn: the page says which";
    whole.then_some(()).ok_or_else(|| missing.to_owned())
}

/// Measures parts and writes the page; whether everything is on it.
fn figures(programs: &Programs, parts: &[Part]) -> Result<bool, LabError> {
    let folder = programs::target_folder().join("lab");
    let file = folder.join("numbers.json");
    let mut saved = Saved::open(&file, Place::here(programs))?;
    let whole = numbers::measure(programs, parts, &folder.join("numbers"), &mut saved)?;
    let page = numbers::page(&saved);
    print!("{page}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Guide/src/lab-figures.md");
    std::fs::write(&path, page).map_err(|source| LabError::File { path, source })?;
    Ok(whole)
}

fn measure(part: &str, turn: &str) -> Result<(), String> {
    match (Part::named(part), turn.parse()) {
        (Some(part), Ok(turn)) => numbers::turn_inside(part, turn).map_err(|e| e.to_string()),
        _ => Err(format!("no turn {turn} of {part}")),
    }
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
