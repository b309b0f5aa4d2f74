//! `portal` on a KVM with nested paging: the path that ordinary hardware takes,
//! inside the lab, whatever this machine's own `/dev/kvm` is like.
//!
//! `PORTAL_STATIC` names a statically linked `portal`; without it, it is built here.

use petri_tests::lab::Artifacts;
use petri_tests::lab::LabError;
use petri_tests::lab::Machine;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A `portal` that needs no library: the lab's machine has none.
fn portal() -> PathBuf {
    if let Some(path) = std::env::var_os("PORTAL_STATIC") {
        return path.into();
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    // A target folder of its own: this runs while another build may hold the lock.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("static");
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package=portal",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .current_dir(root)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build ended with {status}");
    target.join(TARGET).join("debug/portal")
}

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
    machine.files().copy("bin/portal", &portal())?;
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
