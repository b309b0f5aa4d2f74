//! From the start of the VMM's process to the first line of our init.

use super::Figure;
use super::Taken;
use super::turns;
use crate::ended::Passed;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm;
use crate::vmm::GuestFiles;
use crate::vmm::Vmm;
use std::time::Instant;

/// Boots of each VMM of which the median counts.
const ROUNDS: usize = 3;

pub(super) fn measure(lab: &Lab) -> Passed<Vec<Figure>> {
    let guest = [Guest::new("boot")];
    // One RAM disk for all.
    let files = vmm::prepare(lab, &guest)?;
    let mut taken = Taken::default();
    for vmm in turns(lab, ROUNDS) {
        taken.add(vmm, [once(lab, vmm, &files)?]);
    }
    lab.tidy();
    Ok(taken.figures(
        "guest boot, from starting the VMM to our init",
        "s",
        "QEMU q35, direct boot of the same kernel and RAM disk",
        Some(0.7),
    ))
}

fn once(lab: &Lab, vmm: Vmm, files: &[GuestFiles<'_>]) -> Passed<f64> {
    for files in files {
        files.forget_console()?;
    }
    let start = Instant::now();
    let mut running = vmm.launch(lab, files, &[])?.remove(0);
    running.says(0, "##up", 1, lab.until)?;
    let took = start.elapsed();
    running.ends_well(lab.until)?;
    Ok(took.as_secs_f64())
}
