//! From the start of the VMM's process to the first line of our init.

use super::Figure;
use super::Taken;
use crate::ended::Passed;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm;
use crate::vmm::Vmm;
use std::time::Instant;

pub(super) fn take(lab: &Lab, vmm: Vmm) -> Passed<Taken> {
    let guest = [Guest::new("boot")];
    let files = vmm::prepare(lab, &guest)?;
    let start = Instant::now();
    let mut running = vmm.launch(lab, &files, &[])?.remove(0);
    running.says(0, "##up", 1, lab.until)?;
    let took = start.elapsed();
    running.ends_well(lab.until)?;
    Ok(Taken {
        figure: Figure::Boot,
        vmm,
        samples: vec![took.as_secs_f64()],
        rates: Vec::new(),
    })
}
