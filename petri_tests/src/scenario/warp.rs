//! The WARP partitions on a KVM with nested paging: the path that ordinary hardware
//! takes, whatever this host's own `/dev/kvm` is like.

use super::Place;
use super::Scenario;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::lab::Lab;
use crate::process::Process;
use crate::process::last_line;
use crate::vmm::Vmm;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

pub(super) const DEMO: Scenario = Scenario {
    name: "warp_demo",
    what: "`portal demo` and `portal demo --file`: two WARP partitions on one region",
    limit: Duration::from_secs(240),
    place: own_vmm,
    run: demo,
};

pub(super) const KVM_TESTS: Scenario = Scenario {
    name: "kvm_tests",
    what: "the tests of `portal_vmm` that start partitions, but for one that measures time",
    limit: Duration::from_secs(400),
    place: own_vmm,
    run: kvm_tests,
};

/// Tests that are left out: they hold something to the clock, which means nothing under
/// TCG.
const LEFT_OUT: &[&str] = &["t3_a_flood_of_doorbells_stays_within_the_budget"];
/// Cases of each harness that has as many as it is told.
const CASES: &str = "20";
/// Limit of one program with tests.
const PROGRAM_LIMIT: Duration = Duration::from_secs(150);
/// Bytes of the file that crosses: no multiple of anything.
const BYTES: usize = 10_000_003;

const fn own_vmm(vmm: Vmm) -> Place {
    match vmm {
        Vmm::PortalVmm => Place::Inside,
        Vmm::Qemu | Vmm::OpenVmm => Place::Nowhere("WARP partitions are portal_vmm's"),
    }
}

fn demo(lab: &Lab, _: Vmm) -> Passed {
    // What it lacks is in the log; the demo is what counts.
    let mut doctor = Command::new(&lab.programs.portal);
    Process::start("doctor", doctor.arg("doctor"), &lab.folder)?.wait(lab.until)?;
    let file = lab.scratch("file");
    let bytes: Vec<u8> = (0..BYTES).map(|n| (n * 31 / 7) as u8).collect();
    fs::write(&file, bytes).map_err(NotPassed::of_file(&file))?;
    let file = file.display().to_string();
    for (name, args) in [
        ("demo-file", ["demo", "--file", &file].as_slice()),
        ("demo", &["demo", "--json"]),
    ] {
        let mut portal = Command::new(&lab.programs.portal);
        let mut process = Process::start(name, portal.args(args), &lab.folder)?;
        let status = process.wait(lab.until)?;
        check(status.success(), || {
            let said = process.output();
            format!(
                "portal {} ended with {status}: {}",
                args.join(" "),
                last_line(&said)
            )
        })?;
    }
    Ok(())
}

fn kvm_tests(lab: &Lab, _: Vmm) -> Passed {
    // Some partitions have more RAM than L1; they touch little of it.
    let overcommit = Path::new("/proc/sys/vm/overcommit_memory");
    fs::write(overcommit, "1").map_err(NotPassed::of_file(overcommit))?;
    check(!lab.programs.kvm_tests.is_empty(), || {
        "no test of portal_vmm was brought".to_owned()
    })?;
    let mut failed = Vec::new();
    for program in &lab.programs.kvm_tests {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let mut command = Command::new(program);
        // One after the other: the deadlines of these tests are those of a quiet host.
        command.arg("--test-threads=1").current_dir("/tmp");
        // What the evidence counts in thousands is counted on the host; here it is
        // enough that each step is taken on this kind of KVM.
        command.env("PORTAL_CASES", CASES);
        for name in LEFT_OUT {
            command.args(["--skip", name]);
        }
        let mut process = Process::start(&name, &mut command, &lab.folder)?;
        // One that hangs is named, and the others still run.
        let ended = match process.wait(lab.until.min(Instant::now() + PROGRAM_LIMIT)) {
            Ok(status) => status.success(),
            Err(_) => false,
        };
        if !ended {
            let said = process.output();
            failed.extend(
                said.lines()
                    .filter(|l| l.ends_with("FAILED"))
                    .map(str::to_owned),
            );
            failed.push(format!("{name}: {}", last_line(&said)));
        }
    }
    check(failed.is_empty(), || failed.join("; "))
}
