//! Running cells: here, or in one L1 that has everything, one job a cell.
//!
//! Inside, `portal-lab inside TEST VMM` runs a cell. What it leaves (consoles, logs)
//! comes out and is put into the same folders as that of cells that ran on the host.

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::lab::JobResult;
use crate::lab::Lab;
use crate::lab::LabError;
use crate::lab::Machine;
use crate::left;
use crate::matrix::Cell;
use crate::matrix::Verdict;
use crate::programs::INSIDE;
use crate::programs::Programs;
use crate::programs::libraries;
use crate::scenario;
use crate::scenario::Scenario;
use crate::vmm::Vmm;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// RAM of L1 in MiB: its RAM disk, and the guests of one cell at a time.
const MEMORY_MIB: u32 = 4096;
/// What a job may take beyond its cell's deadline: start, and sending the files.
const BESIDES: Duration = Duration::from_secs(20);
/// Modules that L1 itself loads.
const MODULES: &[&str] = &["kvm_amd"];
/// Modules that guests may load, and so L1 has as files.
const GUEST_MODULES: &[&str] = &[
    "uio_pci_generic",
    "vfio_pci",
    "vfio_iommu_type1",
    "virtio_pci",
    "virtio_pmem",
    "nd_pmem",
    "dax_pmem",
    "msr",
];
/// Firmware that QEMU loads for a q35 or microvm machine with direct boot.
const FIRMWARE: &[&str] = &[
    "bios-256k.bin",
    "bios-microvm.bin",
    "qboot.rom",
    "linuxboot_dma.bin",
    "kvmvapic.bin",
    "pvh.bin",
];
const FIRMWARE_FOLDERS: &[&str] = &["/usr/share/qemu", "/usr/share/seabios"];

/// A cell's name and folder: unique, fit for a job.
pub fn cell_name(scenario: &Scenario, vmm: Vmm) -> String {
    format!("{}.{vmm}", scenario.name)
}

/// Runs a cell in this machine; files stay in `folder`.
pub fn run_here(
    scenario: &Scenario,
    vmm: Vmm,
    programs: &Programs,
    folder: &Path,
    inside: bool,
) -> Cell {
    let start = Instant::now();
    let ended = Lab::new(programs.clone(), folder, scenario.limit, inside).and_then(|lab| {
        let ended = (scenario.run)(&lab, vmm);
        lab.tidy();
        ended
    });
    Cell::new(scenario, vmm, &ended, start.elapsed())
}

/// Runs a cell inside L1 and writes what it left, and how it ended, to standard
/// output.
pub fn run_inside(scenario: &Scenario, vmm: Vmm) {
    let folder = Path::new("/tmp/cell");
    let cell = run_here(scenario, vmm, &Programs::inside(), folder, true);
    left::show(folder);
    let json = serde_json::to_string(&cell).unwrap_or_default();
    println!("##cell {}", left::escaped(&json));
}

/// An L1 that boots, runs cells and powers off, in a thread of its own.
#[derive(Debug, Default)]
pub struct Inside {
    done: Mutex<Done>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Done {
    cells: HashMap<String, Cell>,
    /// Why no more will come.
    over: Option<String>,
}

impl Inside {
    /// Boots it with these cells to run; returns when it has powered off.
    pub fn run(&self, programs: &Programs, cells: &[(&'static Scenario, Vmm)], folder: &Path) {
        let mut left = cells;
        let mut boots = 0;
        let mut again = None;
        let why = loop {
            boots += 1;
            let at = folder.join(format!("l1-{boots}"));
            let mut told = |job: &JobResult| self.job_ended(job, folder);
            let ran =
                machine(programs, left).and_then(|machine| machine.run_watched(&at, &mut told));
            let error = match ran {
                Ok(_) => break "L1 has powered off".to_owned(),
                Err(error) => error,
            };
            // The cell at which it ended has failed; the others get an L1 of their own.
            let ended = |(scenario, vmm): &(&Scenario, Vmm)| {
                self.locked().cells.contains_key(&cell_name(scenario, *vmm))
            };
            let first = left.iter().position(|cell| !ended(cell));
            left = left.get(first.unwrap_or(left.len())..).unwrap_or_default();
            let Some((&(scenario, vmm), others)) = left.split_first() else {
                break error.to_string();
            };
            let name = cell_name(scenario, vmm);
            // An emulated machine that dies says little of the cell: once more, in another.
            if matches!(error, LabError::Died { .. }) && again.as_ref() != Some(&name) {
                println!("{name}: {error}; once more in another one");
                again = Some(name);
                continue;
            }
            let ended = Err(NotPassed::failed(error));
            let cell = Cell::new(scenario, vmm, &ended, scenario.limit);
            self.locked().cells.insert(name, cell);
            self.changed.notify_all();
            left = others;
            if left.is_empty() {
                break "L1 is gone".to_owned();
            }
        };
        self.locked().over = Some(why);
        self.changed.notify_all();
    }

    /// Waits for a cell.
    pub fn wait(&self, scenario: &Scenario, vmm: Vmm) -> Cell {
        let name = cell_name(scenario, vmm);
        let mut done = self.locked();
        loop {
            if let Some(cell) = done.cells.get(&name) {
                return cell.clone();
            }
            if let Some(why) = &done.over {
                let ended = Err(NotPassed::failed(why));
                return Cell::new(scenario, vmm, &ended, Duration::ZERO);
            }
            done = self
                .changed
                .wait(done)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job_ended(&self, job: &JobResult, folder: &Path) {
        let Some((test, vmm)) = job.name.split_once('.') else {
            return;
        };
        let (Some(scenario), Some(vmm)) = (scenario::named(test), Vmm::named(vmm)) else {
            return;
        };
        let cell = match unpack(&job.output, &folder.join(&job.name)) {
            Some(cell) => cell,
            None => {
                let why = match job.timed_out() {
                    true => "not done in time".to_owned(),
                    false => format!("portal-lab ended with {:?}", job.status),
                };
                Cell::new(scenario, vmm, &Err(NotPassed::Failed(why)), scenario.limit)
            }
        };
        self.locked().cells.insert(job.name.clone(), cell);
        self.changed.notify_all();
    }
}

/// Puts a job's files into `folder`; the cell, if it got to its end.
fn unpack(output: &str, folder: &Path) -> Option<Cell> {
    let lines = left::unpack(output, folder);
    let (_, json) = lines.iter().rev().find(|(name, _)| name == "cell")?;
    serde_json::from_str(json).ok()
}

/// L1 with all programs, and a job a cell.
fn machine(programs: &Programs, cells: &[(&'static Scenario, Vmm)]) -> Result<Machine, LabError> {
    let mut machine = equipped(programs)?;
    for (scenario, vmm) in cells {
        let command = format!("{INSIDE}/portal-lab inside {} {vmm}", scenario.name);
        let deadline = scenario.limit + BESIDES;
        machine.job(&cell_name(scenario, *vmm), &command, deadline);
    }
    Ok(machine)
}

/// L1 with all programs.
///
/// # Errors
/// [`LabError`] when a file cannot be read.
pub fn equipped(programs: &Programs) -> Result<Machine, LabError> {
    let mut machine = Machine::new(programs.debian.clone())?;
    machine.modules(MODULES)?.memory(MEMORY_MIB);
    machine.guest_modules(&format!("{INSIDE}/modules"), GUEST_MODULES)?;
    machine.background(&format!("{INSIDE}/portal-lab stand-in"));
    let put = |name: &str| format!("{}/{name}", INSIDE.trim_start_matches('/'));
    let mut brought = vec![
        ("portal-lab", programs.lab.as_path()),
        ("portal", &programs.portal),
        ("portal-guest", &programs.portal_guest),
        ("qemu-system-x86_64", &programs.debian.qemu),
    ];
    if let Some(openvmm) = &programs.openvmm {
        brought.push(("openvmm", openvmm));
    }
    let mut brought: Vec<(String, &Path)> = brought
        .into_iter()
        .map(|(name, path)| (name.to_owned(), path))
        .collect();
    for test in &programs.kvm_tests {
        let name = test.file_name().unwrap_or_default().to_string_lossy();
        brought.push((format!("tests/{name}"), test));
    }
    for (name, path) in brought {
        bring(&mut machine, &put(&name), path)?;
    }
    if let Some(igb_uio) = &programs.igb_uio {
        machine.files().copy(&put("modules/igb_uio.ko"), igb_uio)?;
    }
    machine
        .files()
        .copy(&put("kernel"), &programs.debian.guest_kernel.image)?;
    for name in FIRMWARE {
        let found = FIRMWARE_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.exists());
        if let Some(path) = found {
            machine.files().copy(&put(name), &path)?;
        }
    }
    Ok(machine)
}

/// Has virtual machines stand in L1 that never run (see [`crate::lab::stand_in`]), for
/// a machine without the other programs. `lab` is the program that makes them.
///
/// # Errors
/// [`LabError::File`].
pub fn stand_in(machine: &mut Machine, lab: &Path) -> Result<(), LabError> {
    bring(machine, "bin/portal-lab", lab)?;
    machine.background("portal-lab stand-in");
    Ok(())
}

/// Puts a program into L1, with the libraries that it needs.
///
/// # Errors
/// [`LabError::File`].
pub fn bring(machine: &mut Machine, at: &str, program: &Path) -> Result<(), LabError> {
    machine.files().copy(at, program)?;
    for library in libraries(program) {
        let at = library.display().to_string();
        machine
            .files()
            .copy_once(at.trim_start_matches('/'), &library)?;
    }
    Ok(())
}

/// What an ordinary test makes of a cell.
///
/// # Errors
/// [`NotPassed`] as the cell says.
pub fn as_test(cell: &Cell) -> Passed {
    match cell.result {
        Verdict::Pass => Ok(()),
        Verdict::Fail => Err(NotPassed::Failed(cell.reason.clone())),
        Verdict::Skip => Err(NotPassed::Skipped(cell.reason.clone())),
    }
}
