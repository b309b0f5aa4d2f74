//! `portal` on a KVM with nested paging: the path that ordinary hardware takes,
//! inside the lab, whatever this machine's own `/dev/kvm` is like.
//!
//! `PORTAL_STATIC` names a statically linked `portal`; without it, it is built here.

mod portal;

use petri_tests::lab::Artifacts;
use petri_tests::lab::LabError;
use petri_tests::lab::Machine;
use std::time::Duration;

#[test]
fn demo_and_doctor_on_nested_paging() -> Result<(), LabError> {
    let artifacts = match Artifacts::prepare() {
        Err(e) if e.is_missing() => {
            println!("skipped: {e}");
            return Ok(());
        }
        other => other?,
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = Machine::new(artifacts)?;
    machine.files().copy("bin/portal", &portal::program())?;
    machine
        .job("doctor", "portal doctor; true", Duration::from_secs(60))
        .job(
            "file",
            "head -c 10000003 /dev/urandom > /tmp/f && portal demo --file /tmp/f",
            Duration::from_secs(120),
        )
        .job("demo", "portal demo --json", Duration::from_secs(240));
    let report = machine.run(folder.path())?;
    for job in &report.jobs {
        println!("{}: {:?}\n{}", job.name, job.status, job.output);
    }
    assert!(report.jobs.iter().all(|job| job.passed()));
    Ok(())
}
