//! The lab itself: boots, has a usable `/dev/kvm`, reports jobs as they ended.

use petri_tests::lab::Artifacts;
use petri_tests::lab::LabError;
use petri_tests::lab::Machine;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);

/// What the lab needs; `None` where it cannot be had.
fn artifacts() -> Result<Option<Artifacts>, LabError> {
    match Artifacts::prepare() {
        Err(e) if e.is_missing() => {
            println!("skipped: {e}");
            Ok(None)
        }
        other => other.map(Some),
    }
}

#[test]
fn boots_runs_jobs_and_powers_off() -> Result<(), LabError> {
    let Some(artifacts) = artifacts()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = Machine::new(artifacts)?;
    machine
        .job(
            "kvm",
            "test -c /dev/kvm && cat /sys/module/kvm_amd/parameters/npt",
            SHORT,
        )
        .job("fails", "echo it\\'s 'no use'; exit 3", SHORT)
        .job("hangs", "sleep 100", Duration::from_secs(1));
    let report = machine.run(folder.path())?;
    let [kvm, fails, hangs] = &report.jobs[..] else {
        panic!("three jobs, {report:?}");
    };
    assert!(kvm.passed(), "{kvm:?}");
    assert!(
        matches!(kvm.output.as_str(), "Y" | "1"),
        "nested paging: {kvm:?}"
    );
    assert_eq!(fails.status, Some(3));
    assert_eq!(fails.output, "it's no use");
    assert!(hangs.timed_out(), "{hangs:?}");
    Ok(())
}

/// At whatever point of its boot, or in its job: nothing is written there any more.
#[test]
fn one_that_stands_still_is_ended_and_says_where_its_cpus_are() -> Result<(), LabError> {
    let Some(artifacts) = artifacts()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = Machine::new(artifacts)?;
    machine
        .patience(Duration::from_secs(4))
        .job("still", "sleep 1000", Duration::from_secs(1000));
    let ended = machine.run(folder.path());
    assert!(matches!(ended, Err(LabError::Still { .. })), "{ended:?}");
    let cpus = std::fs::read_to_string(folder.path().join("cpus.txt")).expect("cpus.txt");
    assert!(cpus.contains("RIP="), "{cpus}");
    Ok(())
}
