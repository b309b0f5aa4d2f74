//! Stock Debian guests under `portal run`, on the lab's nested paging.

use petri_tests::lab::Artifacts;
use petri_tests::lab::Initramfs;
use petri_tests::lab::LabError;
use petri_tests::lab::Machine;
use petri_tests::lab::MachineReport;
use petri_tests::programs;
use petri_tests::session;
use std::path::Path;
use std::time::Duration;

/// Longest time for a guest to boot, do its part and power off.
const GUEST: Duration = Duration::from_secs(90);

/// The lab, or `None` and a line that says why it cannot run here.
fn lab() -> Result<Option<Artifacts>, LabError> {
    match Artifacts::prepare() {
        Err(e) if e.is_missing() => {
            println!("skipped: {e}");
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// A machine with `portal`, the kernel at `/bzImage` and, at `/guest.cpio`, an
/// initramfs whose init runs `script` with a mounted /proc, /sys and /dev.
fn machine(artifacts: &Artifacts, folder: &Path, script: &str) -> Result<Machine, LabError> {
    let mut guest = Initramfs::with_busybox(&artifacts.busybox)?;
    let init = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /sbin /usr/bin /usr/sbin\n\
         /bin/busybox --install -s\n\
         export PATH=/bin:/sbin:/usr/bin:/usr/sbin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         {script}\n"
    );
    guest.file("init", init);
    let cpio = folder.join("guest.cpio");
    guest.write(&cpio)?;
    let mut machine = Machine::new(artifacts.clone())?;
    session::bring(&mut machine, "bin/portal", &programs::portal()?)?;
    machine.files().copy("bzImage", &artifacts.kernel)?;
    machine.files().copy("guest.cpio", &cpio)?;
    Ok(machine)
}

fn show(report: &MachineReport) {
    for job in &report.jobs {
        println!("{}: {:?}\n{}", job.name, job.status, job.output);
    }
}

#[test]
fn debian_boots_on_two_vcpus_and_powers_off() -> Result<(), LabError> {
    let Some(artifacts) = lab()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = "echo up $(uname -r) on $(nproc) in $(cut -d' ' -f1 /proc/uptime)\n\
                  poweroff -f";
    let mut machine = machine(&artifacts, folder.path(), script)?;
    let config = "[[partition]]\n\
                  name = \"a\"\n\
                  vcpus = 2\n\
                  ram = \"256 MiB\"\n\
                  kernel = \"bzImage\"\n\
                  initrd = \"guest.cpio\"\n\
                  cmdline = \"console=ttyS0 quiet panic=-1\"\n";
    machine.files().file("one-linux.toml", config);
    machine.job("one", "portal run /one-linux.toml", GUEST);
    let report = machine.run(folder.path())?;
    show(&report);
    let [one] = &report.jobs[..] else {
        panic!("one job, {report:?}");
    };
    assert!(one.passed(), "status {:?}", one.status);
    assert!(one.output.contains("a| up 6.1."), "no sign of the guest");
    assert!(one.output.contains(" on 2 in "), "both processors");
    assert!(one.output.contains("a: powered off"), "a clean end");
    Ok(())
}
