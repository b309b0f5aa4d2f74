//! The VMM under test as a parameter: each turns the same [`Guest`]s into a command
//! line or a configuration of its own.

pub(crate) mod openvmm;
pub(crate) mod portal_vmm;
mod qemu;

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::guest::Console;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::process::POLL;
use crate::process::Process;
use crate::process::last_line;
use crate::region::Region;
use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// How long the rest of a line may take once its start is there.
const LINE: Duration = Duration::from_secs(2);

/// A VMM.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Vmm {
    /// `portal run`.
    PortalVmm,
    /// Stock QEMU.
    Qemu,
    /// The OpenVMM that `PORTAL_OPENVMM` names.
    #[serde(rename = "openvmm")]
    OpenVmm,
}

impl Vmm {
    /// Every one, in the order of the matrix's columns.
    pub const ALL: [Self; 3] = [Self::PortalVmm, Self::Qemu, Self::OpenVmm];

    /// Its name in the matrix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortalVmm => "portal_vmm",
            Self::Qemu => "qemu",
            Self::OpenVmm => "openvmm",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vmm| vmm.name() == name)
    }

    /// Starts guests. Those of one call are in one process where the VMM has
    /// several partitions a process: needed for regions that it makes itself.
    ///
    /// # Errors
    /// [`NotPassed::Skipped`] for a device that the VMM does not have,
    /// [`NotPassed::Failed`] when it does not start.
    pub fn start(self, lab: &Lab, guests: &[Guest], regions: &[Region]) -> Passed<Vec<Running>> {
        self.launch(lab, &prepare(lab, guests)?, regions)
    }

    /// As [`Self::start`], with RAM disks that are there already.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn launch(
        self,
        lab: &Lab,
        guests: &[GuestFiles<'_>],
        regions: &[Region],
    ) -> Passed<Vec<Running>> {
        if self != Self::OpenVmm && guests.iter().any(|f| f.guest.saved.is_some()) {
            return Err(NotPassed::skipped(format!("{self} saves no guests")));
        }
        match self {
            Self::PortalVmm => portal_vmm::start(lab, guests, regions).map(|r| vec![r]),
            Self::Qemu => guests
                .iter()
                .map(|f| qemu::start(lab, f, regions))
                .collect(),
            Self::OpenVmm => {
                let start = |f| openvmm::start(lab, f, regions);
                guests.iter().map(start).collect()
            }
        }
    }

    /// Starts one guest.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_one(self, lab: &Lab, guest: &Guest, regions: &[Region]) -> Passed<Running> {
        let mut running = self.start(lab, std::slice::from_ref(guest), regions)?;
        running
            .pop()
            .ok_or_else(|| NotPassed::failed("the VMM started nothing"))
    }
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes the guests' RAM disks.
///
/// # Errors
/// [`NotPassed::Failed`] when a file cannot be read or written.
pub fn prepare<'a>(lab: &Lab, guests: &'a [Guest]) -> Passed<Vec<GuestFiles<'a>>> {
    let files = |guest: &'a Guest| {
        let initrd = lab.folder.join(format!("{}.initrd", guest.name));
        guest.write_initrd(&lab.programs, &initrd)?;
        Ok(GuestFiles {
            guest,
            initrd,
            console: lab.folder.join(format!("{}.console.log", guest.name)),
        })
    };
    guests.iter().map(files).collect()
}

/// A guest with what it boots from and writes to.
#[derive(Debug)]
pub struct GuestFiles<'a> {
    guest: &'a Guest,
    initrd: PathBuf,
    console: PathBuf,
}

impl GuestFiles<'_> {
    fn console(&self) -> Console {
        Console::new(self.console.clone())
    }

    fn kernel_command_line(&self) -> String {
        let mut line = String::from("console=ttyS0 quiet panic=-1");
        if self.guest.iommu {
            // An emulated timer on a loaded machine is late, which is no reason to panic.
            line.push_str(" intel_iommu=on no_timer_check");
        }
        if let Some(khz) = self.guest.tsc_khz {
            let _ = write!(line, " clocksource=tsc tsc=reliable tsc_early_khz={khz}");
        }
        line
    }
}

/// A VMM's process and the guests in it.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub process: Process,
    /// Its guests' consoles, in the order in which they were given.
    pub consoles: Vec<Console>,
    inspected: Inspected,
}

/// How one looks into a VMM.
#[derive(Debug)]
enum Inspected {
    /// Not at all.
    Never,
    /// By `portal inspect`, at this socket.
    By(PathBuf),
    /// At its own console: the end of the terminal that types.
    At(File),
}

impl Running {
    /// Waits until a guest's console has `text` that many times.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when `until` passes or the VMM ends first.
    pub fn says(&mut self, guest: usize, text: &str, times: usize, until: Instant) -> Passed {
        loop {
            let ended = self.process.ended();
            if self.consoles[guest].text().matches(text).count() >= times {
                return Ok(());
            }
            let said = self.consoles[guest].everything();
            let last = last_line(&said);
            if let Some(status) = ended {
                let vmm = self.process.output();
                let vmm = last_line(&vmm);
                return Err(NotPassed::failed(format!(
                    "{} ended with {status} before its guest said {text:?}; its last words: \
                     {vmm}; the guest's: {last}",
                    self.process.name()
                )));
            }
            if Instant::now() >= until {
                return Err(NotPassed::failed(format!(
                    "{}: guest {guest} did not say {text:?} in time; its last words: {last}",
                    self.process.name()
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    /// The output of a guest's step that ends in time and with status 0.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] otherwise.
    pub fn passed(&mut self, guest: usize, step: &str, until: Instant) -> Passed<String> {
        match self.ended(guest, step, until)? {
            (0, output) => Ok(output),
            (status, output) => Err(NotPassed::failed(format!(
                "{}: guest {guest}: {step} ended with {status}: {}",
                self.process.name(),
                last_line(&output)
            ))),
        }
    }

    /// The status and output of a guest's step that ends in time.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it does not.
    pub fn ended(&mut self, guest: usize, step: &str, until: Instant) -> Passed<(i32, String)> {
        self.says(guest, &format!("##end {step} "), 1, until)?;
        let patience = Instant::now() + LINE;
        loop {
            if let Some(ended) = self.consoles[guest].step(step) {
                return Ok(ended);
            }
            if Instant::now() >= patience {
                return Err(NotPassed::failed(format!("{step} has no status")));
            }
            std::thread::sleep(POLL);
        }
    }

    /// What the VMM shows of a guest's first device, with the line that names `counter`.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it shows nothing in time.
    pub fn inspect(&mut self, lab: &Lab, guest: &str, counter: &str) -> Passed<String> {
        match &self.inspected {
            Inspected::Never => Err(NotPassed::failed("this VMM shows nothing")),
            Inspected::By(control) => portal_vmm::inspect(lab, control, guest),
            Inspected::At(keyboard) => {
                let (process, line) = (&mut self.process, openvmm::INSPECT);
                openvmm::typed(lab, process, keyboard, line, counter)
            }
        }
    }

    /// Types a line at the VMM's own console and waits until it says `wanted`.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it does not in time, or has no such console.
    pub fn typed(&mut self, lab: &Lab, line: &str, wanted: &str) -> Passed<String> {
        match &self.inspected {
            Inspected::At(keyboard) => {
                openvmm::typed(lab, &mut self.process, keyboard, line, wanted)
            }
            Inspected::Never | Inspected::By(_) => {
                Err(NotPassed::failed("this VMM has no console of its own"))
            }
        }
    }

    /// Ends it from its own console, whatever its guest does.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it does not end in time, or with a failure.
    pub fn quit(&mut self, lab: &Lab) -> Passed {
        let Inspected::At(keyboard) = &self.inspected else {
            return Err(NotPassed::failed("this VMM has no console of its own"));
        };
        openvmm::type_line(keyboard, "quit")?;
        let status = self.process.wait(lab.until)?;
        crate::ended::check(status.success(), || {
            format!("{} ended with {status}", self.process.name())
        })
    }

    /// Waits until every guest has powered off, and the VMM has ended well.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] otherwise.
    pub fn ends_well(&mut self, until: Instant) -> Passed {
        for guest in 0..self.consoles.len() {
            self.says(guest, "##done", 1, until)?;
        }
        let status = self.process.wait(until)?;
        crate::ended::check(status.success(), || {
            format!("{} ended with {status}", self.process.name())
        })
    }
}
