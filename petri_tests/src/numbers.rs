//! The lab's figures: each a ratio of medians, taken in turns inside one L1.
//!
//! Clocks under TCG say nothing about real time; what two VMMs cost in the same L1 can
//! still be compared.

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::lab::LabError;
use crate::programs::Programs;
use crate::scenario;
use crate::scenario::Group;
use crate::session;
use crate::vmm;
use crate::vmm::Vmm;
use serde::Deserialize;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// Rounds of which the median counts.
const ROUNDS: usize = 3;
/// The same for doorbells, each with two guests that boot.
const DOORBELL_ROUNDS: usize = 3;
/// Round trips of one of these.
const TRIPS: u32 = 500;
/// How guests hear doorbells: a way that both VMMs have, with the kernel alone between
/// the two guests.
const BELL: &str = "vfio";
/// What the measurement inside L1 may take.
const LIMIT: Duration = Duration::from_secs(200);
/// The line with the result.
const MARK: &str = "##numbers ";

/// One figure beside its baseline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// Median, in the unit.
    pub ours: f64,
    /// What it is compared with.
    pub baseline: String,
    /// Median of the baseline, in the same unit.
    pub theirs: f64,
    /// Of both.
    pub unit: String,
    /// The ratio that it is held to, at most.
    pub bar: f64,
    /// Rounds of each.
    pub rounds: usize,
}

impl Figure {
    /// Ours over theirs.
    pub fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }
}

/// Boots L1, measures inside, returns the figures.
///
/// # Errors
/// [`LabError`] when L1 does not come to its end, or a measurement fails in it.
pub fn measure(programs: &Programs, lab: &Path, folder: &Path) -> Result<Vec<Figure>, LabError> {
    let mut machine = session::equipped(programs, lab)?;
    machine.job("numbers", "/lab/portal-lab measure", LIMIT);
    let report = machine.run(folder)?;
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
    let figures = vec![boot(&lab)?, doorbell(&lab)?];
    let json = serde_json::to_string(&figures).map_err(NotPassed::failed)?;
    println!("{MARK}{json}");
    Ok(())
}

/// From the start of the VMM's process to the first line of our init.
fn boot(lab: &Lab) -> Passed<Figure> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 0..ROUNDS {
        // Who goes first changes: neither has the warmer cache throughout.
        let order = match round % 2 {
            0 => [Vmm::PortalVmm, Vmm::Qemu],
            _ => [Vmm::Qemu, Vmm::PortalVmm],
        };
        for vmm in order {
            let took = boot_once(lab, vmm, round)?;
            match vmm {
                Vmm::PortalVmm => ours.push(took),
                Vmm::Qemu | Vmm::OpenVmm => theirs.push(took),
            }
        }
    }
    Ok(Figure {
        what: "guest boot, from starting the VMM to our init".to_owned(),
        ours: median(&mut ours),
        baseline: "QEMU q35, direct boot of the same kernel and RAM disk".to_owned(),
        theirs: median(&mut theirs),
        unit: "s".to_owned(),
        bar: 0.7,
        rounds: ROUNDS,
    })
}

fn boot_once(lab: &Lab, vmm: Vmm, round: usize) -> Passed<f64> {
    let guest = [Guest::new(&format!("boot{round}-{vmm}"))];
    let files = vmm::prepare(lab, &guest)?;
    let start = Instant::now();
    let mut running = vmm.launch(lab, &files, &[])?.remove(0);
    running.says(0, "##up", 1, lab.until)?;
    let took = start.elapsed();
    running.ends_well(lab.until)?;
    lab.tidy();
    Ok(took.as_secs_f64())
}

/// Medians of round trips in which both programs sleep until their doorbell.
fn doorbell(lab: &Lab) -> Passed<Figure> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 0..DOORBELL_ROUNDS {
        ours.push(doorbell_once(lab, Vmm::PortalVmm, round)?);
        theirs.push(doorbell_once(lab, Vmm::Qemu, round)?);
    }
    Ok(Figure {
        what: "doorbell round trip, guest user space to guest user space, MSI-X by \
               VFIO"
            .to_owned(),
        ours: median(&mut ours),
        baseline: "QEMU ivshmem-doorbell, the same program".to_owned(),
        theirs: median(&mut theirs),
        unit: "ms".to_owned(),
        bar: 1.0,
        rounds: DOORBELL_ROUNDS,
    })
}

fn doorbell_once(lab: &Lab, vmm: Vmm, round: usize) -> Passed<f64> {
    let program = format!("portal-guest --json --bell {BELL}");
    let first = format!("a{round}-{vmm}");
    let to = scenario::first_guest(vmm, &first);
    let pong = format!("{program} pong");
    let ping = format!("{program} ping --to {to} --wait sleep --count {TRIPS}");
    let a = scenario::guest_with(&first, BELL).step("pong", 60, &pong);
    let b = scenario::guest_with(&format!("b{round}-{vmm}"), BELL).step("ping", 60, &ping);
    let mut group = Group::start(lab, vmm, &[a, b], 16 << 20)?;
    let ping = group.json(1, "ping", lab)?;
    group.ends_well(lab)?;
    lab.tidy();
    let unheard = ping["trips"]["unheard"].as_u64().unwrap_or(u64::MAX);
    check(unheard < u64::from(TRIPS) / 100, || {
        format!("{vmm}: {unheard} of {TRIPS} waits ended without a doorbell")
    })?;
    let nanoseconds = ping["trips"]["ns"]["p50"].as_f64();
    nanoseconds
        .map(|ns| ns / 1e6)
        .ok_or_else(|| NotPassed::failed(format!("no median in {ping}")))
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The page of the Guide.
pub fn page(figures: &[Figure]) -> String {
    let mut text = String::from(PAGE);
    text.push_str(
        "\n| what | ours | baseline | | ratio | bar | held |\n|---|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        let _ = writeln!(
            text,
            "| {} | {:.2} {} | {} | {:.2} {} | {:.2} | {:.2} | {} |",
            figure.what,
            figure.ours,
            figure.unit,
            figure.baseline,
            figure.theirs,
            figure.unit,
            figure.ratio(),
            figure.bar,
            if figure.ratio() <= figure.bar {
                "yes"
            } else {
                "**no**"
            },
        );
    }
    text
}

const PAGE: &str = "# Figures of the lab

Stock Linux guests under `portal_vmm` and under stock QEMU, in the same L1 (a Debian
machine under QEMU's TCG with a nested `/dev/kvm`), in turns, medians. Clocks under
emulation mean nothing, so only the ratios do. `cargo flowey lab --numbers` measures
them and writes this page.
";
