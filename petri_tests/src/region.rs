//! Regions of a test: served by a `portal serve` of its own, or made by the VMM.

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::lab::Lab;
use crate::process::Process;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// A region that guests' devices refer to by name.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Doorbells of each peer.
    pub vectors: u32,
    /// Who makes it.
    pub source: Source,
}

/// Who makes a region.
#[derive(Debug, Clone)]
pub enum Source {
    /// The VMM, in its own process.
    Own {
        /// Bytes, a power of two.
        size: u64,
        /// Slots for peers.
        peers: u32,
    },
    /// A switchboard.
    Served {
        /// The socket that speaks QEMU's protocol.
        qemu: PathBuf,
        /// The socket that speaks Portal's.
        portal: PathBuf,
    },
}

impl Region {
    /// A region that the VMM makes.
    pub fn own(name: &str, size: u64, peers: u32) -> Self {
        Self {
            name: name.to_owned(),
            vectors: 2,
            source: Source::Own { size, peers },
        }
    }

    /// The region of this name.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when there is none.
    pub(crate) fn named<'a>(regions: &'a [Self], name: &str) -> Passed<&'a Self> {
        let found = regions.iter().find(|r| r.name == name);
        found.ok_or_else(|| NotPassed::failed(format!("the test has no region {name}")))
    }
}

/// A `portal serve` with one region.
#[derive(Debug)]
pub struct Switchboard {
    process: Process,
    arguments: Vec<String>,
    region: Region,
}

impl Switchboard {
    /// Serves `name` with `size` bytes and `peers` slots, and two vectors a peer.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it does not come up.
    pub fn start(lab: &Lab, name: &str, size: u64, peers: u32) -> Passed<Self> {
        Self::start_in(lab, name, size, peers, lab.memory.path())
    }

    /// The same, with what outlives it in the folder `state`: another region where that
    /// is another folder.
    ///
    /// # Errors
    /// As of [`Self::start`].
    pub fn start_in(lab: &Lab, name: &str, size: u64, peers: u32, state: &Path) -> Passed<Self> {
        // A Unix socket's path is short; the test's folder may not be.
        let qemu = lab.sockets.join(format!("{name}.sock"));
        let portal = lab.sockets.join(format!("{name}.portal.sock"));
        let region = format!(
            "{name},size={size},peers={peers},vectors=2,socket={}",
            qemu.display()
        );
        let arguments = vec![
            "serve".to_owned(),
            "--portal-socket".to_owned(),
            portal.display().to_string(),
            "--state".to_owned(),
            state.display().to_string(),
            // On a loaded machine peers come back late.
            "--grace".to_owned(),
            "60".to_owned(),
            "--region".to_owned(),
            region,
        ];
        let region = Region {
            name: name.to_owned(),
            vectors: 2,
            source: Source::Served { qemu, portal },
        };
        Ok(Self {
            process: Self::spawn(lab, name, &arguments)?,
            arguments,
            region,
        })
    }

    fn spawn(lab: &Lab, name: &str, arguments: &[String]) -> Passed<Process> {
        let ready = format!("{name}: ");
        // What it says comes behind what one before it said.
        let before = fs::read_to_string(lab.folder.join("switchboard.log")).unwrap_or_default();
        let times = before.matches(&ready).count() + 1;
        let mut command = Command::new(&lab.programs.portal);
        command.args(arguments).env("XDG_RUNTIME_DIR", &lab.sockets);
        let mut process = Process::start("switchboard", &mut command, &lab.folder)?;
        process.says_times(&ready, times, lab.until)?;
        Ok(process)
    }

    /// Its region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The socket that speaks Portal's protocol.
    ///
    /// # Errors
    /// Never: a switchboard has one.
    pub fn portal_socket(&self) -> Passed<&Path> {
        match &self.region.source {
            Source::Served { portal, .. } => Ok(portal),
            Source::Own { .. } => Err(NotPassed::failed("no switchboard")),
        }
    }

    /// What it said.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Waits until it says `text`.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it does not in time.
    pub fn says(&mut self, text: &str, lab: &Lab) -> Passed {
        self.process.says(text, lab.until)
    }

    /// Waits until it has said `text` that many times.
    ///
    /// # Errors
    /// As of [`Self::says`].
    pub fn says_times(&mut self, text: &str, times: usize, lab: &Lab) -> Passed {
        self.process.says_times(text, times, lab.until)
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it with SIGKILL and starts it again as it was started before.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it does not come up again.
    pub fn kill_and_restart(&mut self, lab: &Lab) -> Passed {
        self.process.kill();
        self.process = Self::spawn(lab, &self.region.name, &self.arguments)?;
        Ok(())
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it does not end in time or with a failure.
    pub fn stop(mut self, lab: &Lab) -> Passed {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(lab.until)?;
        crate::ended::check(status.success(), || {
            format!("the switchboard ended with {status}")
        })
    }
}
