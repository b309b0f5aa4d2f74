//! A stock kernel boots, sees its CPUs, reboots and powers off.

use super::Scenario;
use super::anywhere;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm::Vmm;
use std::time::Duration;

pub(super) const BOOT: Scenario = Scenario {
    name: "boot",
    what: "Debian's kernel, unmodified, boots to our init and powers off; the VMM ends with 0",
    limit: Duration::from_secs(60),
    place: anywhere,
    run: boot,
};

pub(super) const TWO_CPUS: Scenario = Scenario {
    name: "two_cpus",
    what: "a guest with two CPUs runs a program on each",
    limit: Duration::from_secs(60),
    place: anywhere,
    run: two_cpus,
};

pub(super) const REBOOT: Scenario = Scenario {
    name: "reboot",
    what: "a guest that reboots itself comes up again, and again",
    limit: Duration::from_secs(90),
    place: anywhere,
    run: reboot,
};

fn boot(lab: &Lab, vmm: Vmm) -> Passed {
    let guest = Guest::new("one").step("kernel", 10, "uname -r");
    let mut running = vmm.start_one(lab, &guest, &[])?;
    let kernel = running.passed(0, "kernel", lab.until)?;
    check(kernel.contains("cloud-amd64"), || {
        format!("the kernel says that it is {kernel:?}")
    })?;
    running.ends_well(lab.until)
}

fn two_cpus(lab: &Lab, vmm: Vmm) -> Passed {
    let mut guest = Guest::new("two")
        .step("count", 10, "nproc")
        .step(
            "first",
            10,
            "taskset 1 sh -c 'cut -d\" \" -f39 /proc/self/stat'",
        )
        .step(
            "second",
            10,
            "taskset 2 sh -c 'cut -d\" \" -f39 /proc/self/stat'",
        );
    guest.cpus = 2;
    let mut running = vmm.start_one(lab, &guest, &[])?;
    for (step, expected) in [("count", "2"), ("first", "0"), ("second", "1")] {
        let said = running.passed(0, step, lab.until)?;
        check(said == expected, || format!("{step}: {said:?}"))?;
    }
    running.ends_well(lab.until)
}

fn reboot(lab: &Lab, vmm: Vmm) -> Passed {
    let mut guest = Guest::new("again").line("reboot -f; sleep 60");
    guest.reboots = true;
    let mut running = vmm.start_one(lab, &guest, &[])?;
    if vmm == Vmm::PortalVmm {
        // Each start empties the console's file; the VMM says how often it was.
        let again = "reset itself, starts again";
        running.process.says_times(again, 2, lab.until)?;
        return running.says(0, "##up", 1, lab.until);
    }
    running.says(0, "##up", 3, lab.until)
}
