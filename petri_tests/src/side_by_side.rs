//! One program's figures in guests of every VMM, taken in one L1: `portal-guest bench`
//! between two guests that hear doorbells by MSI-X.
//!
//! Nothing is held to a bar here: a VMM that is built without optimisation may be one of
//! them.

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::lab::Lab;
use crate::lab::LabError;
use crate::programs::Programs;
use crate::scenario;
use crate::scenario::Group;
use crate::session;
use crate::vmm::Vmm;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// What all of it may take inside L1.
const LIMIT: Duration = Duration::from_secs(300);
/// Seconds of each of the program's three measurements.
const SECONDS: u32 = 3;
/// Bytes of the region.
const REGION: u64 = 16 << 20;
/// Starts each line of the result.
const MARK: &str = "##beside ";

/// Boots L1, measures inside, returns a table.
///
/// # Errors
/// [`LabError`] when L1 does not come to its end, or a measurement fails in it.
pub fn measure(programs: &Programs, lab: &Path, folder: &Path) -> Result<String, LabError> {
    let mut machine = session::equipped(programs, lab)?;
    machine.job("beside", "/lab/portal-lab beside-inside", LIMIT);
    let report = machine.run(folder)?;
    let job = report.jobs.first().filter(|job| job.passed());
    let Some(job) = job else {
        let output = report.jobs.first().map_or("", |job| job.output.as_str());
        return Err(LabError::Machine {
            what: format!("no figures: {output}"),
            console: report.console,
        });
    };
    let mut table = String::from(
        "| VMM | doorbell round trip | ring round trip | ring throughput |\n|---|---|---|---|\n",
    );
    for row in job.output.lines().filter_map(|l| l.strip_prefix(MARK)) {
        let _ = writeln!(table, "{row}");
    }
    Ok(table)
}

/// Measures, inside L1; the result is a line a VMM on standard output.
///
/// # Errors
/// [`NotPassed`] when a guest does not come up or its program fails.
pub fn measure_inside() -> Passed {
    let lab = Lab::new(Programs::inside(), Path::new("/tmp/beside"), LIMIT, true)?;
    for vmm in Vmm::ALL {
        if vmm == Vmm::OpenVmm && lab.programs.openvmm.is_none() {
            continue;
        }
        println!("{MARK}{}", row(&lab, vmm)?);
        lab.tidy();
    }
    Ok(())
}

fn row(lab: &Lab, vmm: Vmm) -> Passed<String> {
    let program = "portal-guest --json --bell vfio --patience 120";
    let first = format!("a-{vmm}");
    let to = scenario::first_guest(vmm, &first);
    let a = scenario::guest_with(&first, "vfio").step("pong", 120, &format!("{program} pong"));
    let bench = format!("{program} bench --to {to} --seconds {SECONDS}");
    let b = scenario::guest_with(&format!("b-{vmm}"), "vfio").step("bench", 120, &bench);
    let mut group = Group::start(lab, vmm, &[a, b], REGION)?;
    let bench = group.json(1, "bench", lab)?;
    group.ends_well(lab)?;
    let microseconds = |what: &str| {
        let median = bench[what]["ns"]["p50"].as_f64();
        median
            .map(|ns| ns / 1e3)
            .ok_or_else(|| NotPassed::failed(format!("no median in {bench}")))
    };
    let rate = bench["throughput"]["bytes_per_second"].as_f64();
    Ok(format!(
        "| `{vmm}` | {:.0} µs | {:.1} µs | {:.1} MiB/s |",
        microseconds("doorbell_round_trip")?,
        microseconds("ring_round_trip")?,
        rate.unwrap_or(f64::NAN) / f64::from(1 << 20),
    ))
}
