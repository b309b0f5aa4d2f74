//! The conformance matrix as ordinary tests, named `TEST::VMM`.
//!
//! Cells that need nesting share one L1, which boots while the others run on the host.
//! Consoles and logs stay in `target/lab/TEST.VMM`, the result in
//! `target/lab/matrix.json`.

use libtest_mimic::Arguments;
use libtest_mimic::Completion;
use libtest_mimic::Failed;
use libtest_mimic::Trial;
use petri_tests::ended::NotPassed;
use petri_tests::matrix::Cell;
use petri_tests::matrix::Matrix;
use petri_tests::programs;
use petri_tests::programs::Programs;
use petri_tests::scenario;
use petri_tests::scenario::Place;
use petri_tests::scenario::Scenario;
use petri_tests::session;
use petri_tests::session::Inside;
use petri_tests::vmm::Vmm;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let wanted: Vec<_> = cells()
        .filter(|(scenario, vmm)| {
            let trial = Trial::test(test_name(scenario, *vmm), || Ok(()));
            !args.is_filtered_out(&trial)
        })
        .collect();
    if args.list || wanted.is_empty() {
        let nothing = |(s, v): &(&Scenario, Vmm)| Trial::test(test_name(s, *v), || Ok(()));
        return libtest_mimic::run(&args, wanted.iter().map(nothing).collect()).exit_code();
    }
    let folder = folder();
    let matrix = Arc::new(Mutex::new(Matrix::default()));
    let kvm_tests = wanted
        .iter()
        .any(|(s, v)| s.name == scenario::KVM_TESTS && (s.place)(*v) == Place::Inside);
    let lab = Path::new(env!("CARGO_BIN_EXE_portal-lab"));
    let programs = Programs::on_host(lab).and_then(|programs| match kvm_tests {
        true => programs.with_kvm_tests(&folder.join("kvm-tests")),
        false => Ok(programs),
    });
    let programs = programs.map_err(|error| match error.is_missing() {
        true => NotPassed::skipped(error),
        false => NotPassed::failed(error),
    });
    let inside = Arc::new(Inside::default());
    let mut l1 = None;
    if let Ok(programs) = &programs {
        let jobs: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|(scenario, vmm)| place(scenario, *vmm, programs) == Place::Inside)
            .collect();
        if !jobs.is_empty() {
            let (programs, inside, folder) =
                (programs.clone(), Arc::clone(&inside), folder.clone());
            l1 = Some(std::thread::spawn(move || {
                inside.run(&programs, &jobs, &folder);
            }));
        }
    }
    // What runs here first: L1 needs its time, and its cells end in their order.
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for (scenario, vmm) in wanted {
        let matrix = Arc::clone(&matrix);
        let programs = programs.clone();
        let (inside, folder) = (Arc::clone(&inside), folder.clone());
        let is_inside = matches!(&programs, Ok(p) if place(scenario, vmm, p) == Place::Inside);
        let run = move || {
            let cell = run(scenario, vmm, &programs, &inside, &folder);
            let ended = session::as_test(&cell);
            matrix.lock().expect("no panic").cells.push(cell);
            match ended {
                Ok(()) => Ok(Completion::Completed),
                Err(NotPassed::Skipped(why)) => Ok(Completion::ignored_with(why)),
                Err(NotPassed::Failed(why)) => Err(Failed::from(why)),
            }
        };
        let trial = Trial::ignorable_test(test_name(scenario, vmm), run);
        if is_inside { &mut there } else { &mut here }.push(trial);
    }
    here.append(&mut there);
    let conclusion = libtest_mimic::run(&args, here);
    if let Some(l1) = l1 {
        let _ = l1.join();
    }
    let mut matrix = matrix.lock().expect("no panic");
    let table = matrix.table();
    let path = folder.join("matrix.json");
    // A run of some cells leaves what is known of the others.
    if args.filter.is_some() {
        matrix.keep(Matrix::read(&path).unwrap_or_default());
    }
    if let Err(error) = matrix.write(&path) {
        println!("{}: {error}", path.display());
    }
    println!("{}consoles and logs: {}\n", table, folder.display());
    conclusion.exit_code()
}

fn cells() -> impl Iterator<Item = (&'static Scenario, Vmm)> {
    let rows = scenario::ALL.iter();
    rows.flat_map(|scenario| Vmm::ALL.into_iter().map(move |vmm| (scenario, vmm)))
}

fn test_name(scenario: &Scenario, vmm: Vmm) -> String {
    format!("{}::{vmm}", scenario.name)
}

fn folder() -> PathBuf {
    let folder = programs::target_folder().join("lab");
    std::fs::create_dir_all(&folder).expect("a folder in target/");
    folder.canonicalize().expect("a folder in target/")
}

fn place(scenario: &Scenario, vmm: Vmm, programs: &Programs) -> Place {
    match vmm {
        Vmm::OpenVmm if programs.openvmm.is_none() => {
            Place::Nowhere("PORTAL_OPENVMM names no openvmm")
        }
        _ => (scenario.place)(vmm),
    }
}

fn run(
    scenario: &Scenario,
    vmm: Vmm,
    programs: &Result<Programs, NotPassed>,
    inside: &Inside,
    folder: &Path,
) -> Cell {
    let not_run = |why: NotPassed| Cell::new(scenario, vmm, &Err(why), Duration::ZERO);
    let programs = match programs {
        Ok(programs) => programs,
        Err(why) => return not_run(why.clone()),
    };
    match place(scenario, vmm, programs) {
        Place::Nowhere(why) => not_run(NotPassed::skipped(why)),
        Place::Inside => inside.wait(scenario, vmm),
        Place::OnHost => {
            let folder = folder.join(session::cell_name(scenario, vmm));
            session::run_here(scenario, vmm, programs, &folder, false)
        }
    }
}
