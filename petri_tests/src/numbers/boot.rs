//! From the start of the VMM's process to the first line of our init.

use super::Baseline;
use super::Figure;
use super::Samples;
use crate::ended::Passed;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm;
use crate::vmm::GuestFiles;
use crate::vmm::Vmm;
use std::time::Instant;

/// Boots of each VMM of which the median counts.
const ROUNDS: usize = 3;

pub(super) fn measure(lab: &Lab) -> Passed<Figure> {
    let guest = [Guest::new("boot")];
    // One RAM disk for all.
    let files = vmm::prepare(lab, &guest)?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 0..ROUNDS {
        // Who goes first changes: neither has the warmer cache throughout.
        let order = match round % 2 {
            0 => [Vmm::PortalVmm, Vmm::Qemu],
            _ => [Vmm::Qemu, Vmm::PortalVmm],
        };
        for vmm in order {
            let took = once(lab, vmm, &files)?;
            match vmm {
                Vmm::PortalVmm => ours.push(took),
                Vmm::Qemu | Vmm::OpenVmm => theirs.push(took),
            }
        }
    }
    lab.tidy();
    Ok(Figure {
        what: "guest boot, from starting the VMM to our init".to_owned(),
        unit: "s".to_owned(),
        ours: Samples(ours),
        baselines: vec![Baseline {
            what: "QEMU q35, direct boot of the same kernel and RAM disk".to_owned(),
            samples: Samples(theirs),
            bar: Some(0.7),
        }],
    })
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
