//! Guests that share one region, whoever makes it.

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::region::Region;
use crate::region::Switchboard;
use crate::vmm::Running;
use crate::vmm::Vmm;
use serde_json::Value;
use std::path::Path;

/// Slots of the region.
const PEERS: u32 = 8;

/// Guests with devices on the region `lake`.
#[derive(Debug)]
pub(crate) struct Group {
    /// Whoever serves the region; `None` where the VMM makes it.
    pub(super) switchboard: Option<Switchboard>,
    /// Processes with the guests, in order.
    running: Vec<Running>,
}

impl Group {
    /// Starts them on a region of `size` bytes: one that the VMM makes where it can
    /// hold several guests, else one that is served.
    pub(crate) fn start(lab: &Lab, vmm: Vmm, guests: &[Guest], size: u64) -> Passed<Self> {
        if vmm == Vmm::PortalVmm {
            let region = Region::own("lake", size, PEERS);
            return Ok(Self {
                switchboard: None,
                running: vmm.start(lab, guests, &[region])?,
            });
        }
        let mut this = Self::served(lab, size)?;
        for (guest, id) in guests.iter().zip(0..) {
            this.join(lab, vmm, guest)?;
            // Numbers are given out in the order in which VMMs come.
            this.joined(id, lab)?;
        }
        Ok(this)
    }

    /// A served region without guests.
    pub(super) fn served(lab: &Lab, size: u64) -> Passed<Self> {
        Ok(Self {
            switchboard: Some(Switchboard::start(lab, "lake", size, PEERS)?),
            running: Vec::new(),
        })
    }

    /// Starts one more guest, on a served region.
    pub(super) fn join(&mut self, lab: &Lab, vmm: Vmm, guest: &Guest) -> Passed {
        self.join_all(lab, vmm, std::slice::from_ref(guest), &[])
    }

    /// Starts guests, on a served region and `others`; in one process where the VMM has
    /// several a process.
    pub(super) fn join_all(
        &mut self,
        lab: &Lab,
        vmm: Vmm,
        guests: &[Guest],
        others: &[Region],
    ) -> Passed {
        let served = self.switchboard.iter().map(|s| s.region().clone());
        let regions: Vec<Region> = served.chain(others.iter().cloned()).collect();
        self.running.extend(vmm.start(lab, guests, &regions)?);
        Ok(())
    }

    /// Waits until the switchboard has given out this id.
    pub(super) fn joined(&mut self, id: u16, lab: &Lab) -> Passed {
        self.switchboard_says(&format!("peer {id} joined"), lab)
    }

    /// Waits until the switchboard has said this.
    pub(super) fn switchboard_says(&mut self, text: &str, lab: &Lab) -> Passed {
        match &mut self.switchboard {
            Some(switchboard) => switchboard.says(text, lab),
            None => Ok(()),
        }
    }

    /// Waits until the switchboard, or one before it, says this once more than
    /// `before`, which [`Self::switchboard_said`] it.
    pub(super) fn switchboard_says_again(
        &mut self,
        text: &str,
        before: usize,
        lab: &Lab,
    ) -> Passed {
        match &mut self.switchboard {
            Some(switchboard) => switchboard.says_times(text, before + 1, lab),
            None => Ok(()),
        }
    }

    /// How often the switchboard, and those before it, said this.
    pub(super) fn switchboard_said(&self, text: &str) -> usize {
        let said = self.switchboard.as_ref().map(Switchboard::output);
        said.map_or(0, |said| said.matches(text).count())
    }

    /// Kills the switchboard with SIGKILL.
    pub(super) fn kill_switchboard(&mut self) {
        if let Some(switchboard) = &mut self.switchboard {
            switchboard.kill();
        }
    }

    /// A switchboard in place of the one before, with `size` bytes and with what outlives
    /// it in `state`.
    pub(super) fn serve_again(&mut self, lab: &Lab, size: u64, state: &Path) -> Passed {
        self.kill_switchboard();
        let again = Switchboard::start_in(lab, "lake", size, PEERS, state)?;
        self.switchboard = Some(again);
        Ok(())
    }

    /// Kills the switchboard with SIGKILL and starts it again.
    pub(super) fn restart_switchboard(&mut self, lab: &Lab) -> Passed {
        match &mut self.switchboard {
            Some(switchboard) => switchboard.kill_and_restart(lab),
            None => Ok(()),
        }
    }

    /// The process with guest `n`, and which of its guests that is.
    pub(super) fn at(&mut self, mut n: usize) -> Passed<(&mut Running, usize)> {
        for running in &mut self.running {
            if n < running.consoles.len() {
                return Ok((running, n));
            }
            n -= running.consoles.len();
        }
        Err(NotPassed::failed("the test has no such guest"))
    }

    /// What a step of guest `n` reports, which has to end well.
    pub(crate) fn json(&mut self, n: usize, step: &str, lab: &Lab) -> Passed<Value> {
        let (running, guest) = self.at(n)?;
        let output = running.passed(guest, step, lab.until)?;
        report(&output)
    }

    /// Waits until guest `n` has said this.
    pub(crate) fn says(&mut self, n: usize, text: &str, lab: &Lab) -> Passed {
        let (running, guest) = self.at(n)?;
        running.says(guest, text, 1, lab.until)
    }

    /// Takes out the process with guest `n`, which has been killed.
    pub(super) fn leave(&mut self, n: usize) {
        if n < self.running.len() {
            self.running.remove(n);
        }
    }

    /// Every guest powers off, its VMM ends with 0, and so does the switchboard.
    pub(crate) fn ends_well(mut self, lab: &Lab) -> Passed {
        for running in &mut self.running {
            running.ends_well(lab.until)?;
        }
        match self.switchboard {
            Some(switchboard) => switchboard.stop(lab),
            None => Ok(()),
        }
    }
}

/// The JSON object in a program's output.
pub(super) fn report(output: &str) -> Passed<Value> {
    let line = output.lines().rev().find(|line| line.starts_with('{'));
    line.and_then(|line| serde_json::from_str(line).ok())
        .ok_or_else(|| NotPassed::failed(format!("no JSON in {output:?}")))
}
