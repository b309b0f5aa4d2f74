//! The lab's figures: each beside its baseline, measured in turns inside one L1.
//!
//! | figure | file |
//! |---|---|
//! | guest boot, from starting the VMM to our init | `boot` |
//! | doorbell round trip and ring throughput between two guests | `doorbell` |
//! | what KVM did meanwhile | `exits` |
//! | the Guide's page | `page` |
//!
//! Clocks under TCG say nothing about real time; what VMMs cost in the same L1 can
//! still be compared. OpenVMM is one of them where `PORTAL_OPENVMM` names one.

mod boot;
mod doorbell;
mod exits;
mod page;

pub use page::page;

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::lab::Lab;
use crate::lab::LabError;
use crate::programs::Programs;
use crate::session;
use crate::vmm::Vmm;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What the measurement inside L1 may take: several times what a quiet machine needs.
const LIMIT: Duration = Duration::from_secs(1200);
/// Machines of which one has to get to its end.
const TRIES: u32 = 3;
/// Starts the line with the result.
const MARK: &str = "##numbers ";

/// Several samples of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// The middle one, the least and the greatest; `NaN` without samples.
    pub fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        (
            at(sorted.len() / 2),
            at(0),
            at(sorted.len().saturating_sub(1)),
        )
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.spread().0
    }
}

/// What a figure is held to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Baseline {
    /// What it is compared with.
    pub what: String,
    /// In the figure's unit.
    pub samples: Samples,
    /// The ratio of medians that it is held to, at most; `None` where the comparison is
    /// only for information.
    pub bar: Option<f64>,
}

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// The unit of its samples.
    pub unit: String,
    /// Ours.
    pub ours: Samples,
    /// What it is compared with.
    pub baselines: Vec<Baseline>,
}

impl Figure {
    /// The median over a baseline's.
    pub fn ratio(&self, to: &Baseline) -> f64 {
        self.ours.median() / to.samples.median()
    }
}

/// The VMMs that are there, each this many times, and not always in the same order: none
/// has the warmer cache throughout. OpenVMM, which takes longest, is left out of every
/// second round.
fn turns(lab: &Lab, rounds: usize) -> Vec<Vmm> {
    let there = |vmm: &Vmm| *vmm != Vmm::OpenVmm || lab.programs.openvmm.is_some();
    let all: Vec<Vmm> = Vmm::ALL.into_iter().filter(there).collect();
    let mut turns = Vec::new();
    for round in 0..rounds {
        match round % 2 {
            0 => turns.extend(all.iter().copied()),
            _ => turns.extend(all.iter().rev().filter(|vmm| **vmm != Vmm::OpenVmm)),
        }
    }
    turns
}

/// Samples of one thing under several VMMs.
#[derive(Debug, Default)]
struct Taken(BTreeMap<Vmm, Vec<f64>>);

impl Taken {
    fn add(&mut self, vmm: Vmm, samples: impl IntoIterator<Item = f64>) {
        self.0.entry(vmm).or_default().extend(samples);
    }

    fn of(&self, vmm: Vmm) -> Samples {
        Samples(self.0.get(&vmm).cloned().unwrap_or_default())
    }

    /// A figure for each VMM but QEMU, which is the baseline. Only `portal_vmm` is held to
    /// the bar: OpenVMM may be built without optimisation.
    fn figures(&self, what: &str, unit: &str, qemu: &str, bar: Option<f64>) -> Vec<Figure> {
        let others = self.0.keys().filter(|vmm| **vmm != Vmm::Qemu);
        let figure = |&vmm: &Vmm| Figure {
            what: format!("{what}: `{vmm}`"),
            unit: unit.to_owned(),
            ours: self.of(vmm),
            baselines: vec![Baseline {
                what: qemu.to_owned(),
                samples: self.of(Vmm::Qemu),
                bar: bar.filter(|_| vmm == Vmm::PortalVmm),
            }],
        };
        others.map(figure).collect()
    }
}

/// What KVM counted in one VMM, for each round trip.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Counted {
    /// The VMM, and how its guests heard doorbells.
    pub of: String,
    /// Counter and rate, in the order in which `exits` lists them.
    pub rates: Vec<(String, f64)>,
}

/// Everything that is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// The kernel of L1 and of its guests.
    pub kernel: String,
    /// The QEMU that is compared with.
    pub qemu: String,
    /// The OpenVMM that ran too, if any.
    pub openvmm: Option<String>,
    /// The figures.
    pub figures: Vec<Figure>,
    /// What KVM counted during doorbell round trips.
    pub counted: Vec<Counted>,
}

/// Boots L1, measures inside, returns the figures.
///
/// # Errors
/// [`LabError`] when L1 does not come to its end, or a measurement fails in it.
pub fn measure(programs: &Programs, folder: &Path) -> Result<Figures, LabError> {
    let mut tries = 0;
    let report = loop {
        let mut machine = session::equipped(programs)?;
        machine.job("numbers", "/lab/portal-lab measure", LIMIT);
        tries += 1;
        match machine.run(folder) {
            // An emulated machine that dies says nothing of what it measured.
            Err(died @ LabError::Died { .. }) if tries < TRIES => {
                println!("{died}; once more in another one");
            }
            ended => break ended?,
        }
    };
    let output = report.jobs.first().map_or("", |job| job.output.as_str());
    let json = output.lines().find_map(|line| line.strip_prefix(MARK));
    let figures = json.and_then(|json| serde_json::from_str(json).ok());
    figures.ok_or_else(|| LabError::Machine {
        what: format!("no figures: {output}"),
        console: report.console,
    })
}

/// Measures, inside L1; the result is a line on standard output.
///
/// # Errors
/// [`NotPassed`] when a guest does not come up.
pub fn measure_inside() -> Passed {
    let folder = Path::new("/tmp/numbers");
    let lab = Lab::new(Programs::inside(), folder, LIMIT, true)?;
    exits::mount()?;
    let mut figures = boot::measure(&lab)?;
    let (round_trips, counted) = doorbell::measure(&lab).inspect_err(|_| {
        let log = lab.folder.join("switchboard.log");
        println!("{}", std::fs::read_to_string(log).unwrap_or_default());
    })?;
    figures.extend(round_trips);
    let openvmm = match &lab.programs.openvmm {
        Some(openvmm) => Some(first_word(&lab, openvmm, &["--version"])?),
        None => None,
    };
    let all = Figures {
        kernel: first_word(&lab, "uname", &["-r"])?,
        qemu: first_word(&lab, &lab.programs.debian.qemu, &["--version"])?,
        openvmm,
        figures,
        counted,
    };
    let json = serde_json::to_string(&all).map_err(NotPassed::failed)?;
    println!("{MARK}{json}");
    Ok(())
}

/// The first line of what a program says about itself.
fn first_word(lab: &Lab, program: impl AsRef<Path>, words: &[&str]) -> Passed<String> {
    let program = program.as_ref();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let mut command = std::process::Command::new(program);
    let mut process = crate::process::Process::start(&name, command.args(words), &lab.folder)?;
    process.wait(lab.until)?;
    Ok(process.output().lines().next().unwrap_or("").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_sample_counts() {
        let samples = Samples(vec![3.0, 1.0, 9.0, 2.0, 8.0]);
        assert_eq!(samples.spread(), (3.0, 1.0, 9.0));
        assert!(Samples(Vec::new()).median().is_nan());
    }
}
