//! L1: one QEMU machine that boots, runs a list of jobs and powers off.
//!
//! The kernel's console goes to one serial port and into a file that is kept; the
//! jobs' output goes to a second one, framed by `##begin NAME` and
//! `##end NAME STATUS` lines.

use super::Artifacts;
use super::BUILT_IN;
use super::Initramfs;
use super::LabError;
use super::emulator;
use super::emulator::Failure;
use super::emulator::Look;
use super::file_error;
use super::in_load_order;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

/// What the machine may take beyond its jobs: boot and power-off.
const BOOT: Duration = Duration::from_secs(90);
/// What its kernel is told.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 no_timer_check";
/// Status with which busybox's `timeout` says that it ended a job.
const TIMED_OUT: i32 = 143;

/// A command line that runs in the machine.
#[derive(Debug, Clone)]
pub struct Job {
    /// Name in the report: no white space.
    pub name: String,
    /// A line for the shell.
    pub command: String,
    /// After this it is ended, and has failed.
    pub deadline: Duration,
}

/// How a job ended.
#[derive(Debug, Clone)]
pub struct JobResult {
    /// The job's name.
    pub name: String,
    /// Its exit status; `None` when the machine died before it ended.
    pub status: Option<i32>,
    /// Standard output and standard error.
    pub output: String,
}

impl JobResult {
    /// Whether it ended with status 0.
    pub fn passed(&self) -> bool {
        self.status == Some(0)
    }

    /// Whether it was ended at its deadline.
    pub fn timed_out(&self) -> bool {
        self.status == Some(TIMED_OUT)
    }
}

/// What a run of the machine left.
#[derive(Debug)]
pub struct MachineReport {
    /// One a job, in order.
    pub jobs: Vec<JobResult>,
    /// The console's output.
    pub console: PathBuf,
}

/// A machine to be started.
#[derive(Debug)]
pub struct Machine {
    artifacts: Artifacts,
    files: Initramfs,
    modules: Vec<String>,
    background: Vec<String>,
    jobs: Vec<Job>,
    disk: Option<PathBuf>,
    command_line: String,
    patience: Option<Duration>,
    limit: Option<Duration>,
    memory_mib: u32,
    cpus: u32,
}

impl Machine {
    /// A machine with `/dev/kvm`, two CPUs and 2 GiB.
    ///
    /// # Errors
    /// [`LabError`] when a file cannot be read.
    pub fn new(artifacts: Artifacts) -> Result<Self, LabError> {
        let files = Initramfs::with_busybox(&artifacts.busybox)?;
        let mut this = Self {
            artifacts,
            files,
            modules: Vec::new(),
            background: Vec::new(),
            jobs: Vec::new(),
            disk: None,
            command_line: COMMAND_LINE.to_owned(),
            patience: None,
            limit: None,
            memory_mib: 2048,
            cpus: 2,
        };
        this.modules(&["kvm_amd"])?;
        Ok(this)
    }

    /// What is on its file system.
    pub fn files(&mut self) -> &mut Initramfs {
        &mut self.files
    }

    /// Has these kernel modules, and what they need, loaded before the jobs run.
    ///
    /// # Errors
    /// [`LabError::Module`].
    pub fn modules(&mut self, names: &[&str]) -> Result<&mut Self, LabError> {
        for file in in_load_order(&self.artifacts.kernel.modules, names)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let path = format!("modules/{name}");
            if !self.modules.contains(&path) {
                self.files.copy(&path, &file)?;
                self.modules.push(path);
            }
        }
        Ok(self)
    }

    /// Puts these modules of the guests' kernel, and what they need, into a folder: for
    /// guests to load.
    ///
    /// # Errors
    /// [`LabError::Module`].
    pub fn guest_modules(&mut self, folder: &str, names: &[&str]) -> Result<(), LabError> {
        let modules = &self.artifacts.guest_kernel.modules;
        let list = Some(modules.join(BUILT_IN)).filter(|list| list.exists());
        for file in in_load_order(modules, names)?.into_iter().chain(list) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let path = format!("{}/{name}", folder.trim_start_matches('/'));
            self.files.copy(&path, &file)?;
        }
        Ok(())
    }

    /// Starts a line for the shell before the jobs, which runs beside them.
    pub fn background(&mut self, command: &str) -> &mut Self {
        self.background.push(command.to_owned());
        self
    }

    /// Sets its memory in MiB.
    pub fn memory(&mut self, mib: u32) -> &mut Self {
        self.memory_mib = mib;
        self
    }

    /// Tells its kernel to take the processor's clock. By itself it takes one that is an
    /// exit to the emulator for each look at it, and KVM has no clock to lend to guests
    /// that they can read without one.
    pub fn tsc(&mut self) -> &mut Self {
        self.command_line.push_str(" clocksource=tsc tsc=reliable");
        self
    }

    /// Has it ended when no job writes anything for this long.
    pub fn patience(&mut self, patience: Duration) -> &mut Self {
        self.patience = Some(patience);
        self
    }

    /// Ends it after this long, whatever its jobs may take.
    pub fn limit(&mut self, limit: Duration) -> &mut Self {
        self.limit = Some(limit);
        self
    }

    /// Gives it a disk, `/dev/vda`: a file of this machine. What its kernel writes there
    /// is in the file when the emulator is killed; nothing else is.
    ///
    /// # Errors
    /// [`LabError::Module`].
    pub fn disk(&mut self, file: &Path) -> Result<&mut Self, LabError> {
        self.disk = Some(file.to_owned());
        self.modules(&["virtio_pci", "virtio_blk"])
    }

    /// Adds a job.
    pub fn job(&mut self, name: &str, command: &str, deadline: Duration) -> &mut Self {
        self.jobs.push(Job {
            name: name.to_owned(),
            command: command.to_owned(),
            deadline,
        });
        self
    }

    /// Boots it, lets the jobs run, powers it off. `folder` receives what its console
    /// (`console.log`) and its jobs (`jobs.log`) write, and stays; where its CPUs were
    /// (`cpus.txt`), when it had to be ended.
    ///
    /// # Errors
    /// [`LabError::Machine`] when it does not power off by itself.
    pub fn run(self, folder: &Path) -> Result<MachineReport, LabError> {
        self.run_watched(folder, &mut |_| {})
    }

    /// As [`Self::run`], and says of each job when it has ended.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_watched(
        self,
        folder: &Path,
        ended: &mut dyn FnMut(&JobResult),
    ) -> Result<MachineReport, LabError> {
        self.run_until(folder, None, ended)
    }

    /// Boots it, and kills it with SIGKILL when a job says `when`.
    ///
    /// # Errors
    /// [`LabError::Machine`] when none says it.
    pub fn run_and_kill(self, folder: &Path, when: &str) -> Result<(), LabError> {
        let report = self.run_until(folder, Some(when), &mut |_| {})?;
        let said: Vec<&str> = report.jobs.iter().map(|j| j.output.as_str()).collect();
        match said.iter().any(|said| said.contains(when)) {
            true => Ok(()),
            false => Err(LabError::Machine {
                what: format!("no {when:?} in {said:?}"),
                console: report.console,
            }),
        }
    }

    fn run_until(
        mut self,
        folder: &Path,
        killed: Option<&str>,
        ended: &mut dyn FnMut(&JobResult),
    ) -> Result<MachineReport, LabError> {
        fs::create_dir_all(folder).map_err(file_error(folder))?;
        let init = self.init();
        self.files.file("init", init);
        let initrd = folder.join("initrd.cpio");
        self.files.write(&initrd)?;
        let console = folder.join("console.log");
        let results = folder.join("jobs.log");
        // What another machine said is not of this one.
        let _ = fs::remove_file(&console);
        let _ = fs::remove_file(&results);

        let mut qemu = Command::new(&self.artifacts.qemu);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-M", "q35", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(["-smp", &self.cpus.to_string()])
            .args(["-m", &format!("{}M", self.memory_mib)])
            .arg("-kernel")
            .arg(&self.artifacts.kernel.image)
            .arg("-initrd")
            .arg(&initrd)
            .args(["-append", &self.command_line])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("file:{}", results.display()));
        if let Some(disk) = &self.disk {
            let disk = disk.display();
            qemu.args(["-drive", &format!("file={disk},format=raw,if=virtio")]);
        }
        let jobs: Duration = self.jobs.iter().map(|j| j.deadline).sum();
        let limit = self.limit.unwrap_or(BOOT + jobs);
        let jobs_so_far = || {
            let output = fs::read(&results).unwrap_or_default();
            self.results(&String::from_utf8_lossy(&output))
        };
        let mut told = 0;
        let mut tell = |jobs: &[JobResult]| {
            // Jobs run one after the other, in order.
            let new = jobs.iter().skip(told).take_while(|j| j.status.is_some());
            told += new.inspect(|job| ended(job)).count();
        };
        let mut was_killed = false;
        let mut written = (0, Instant::now());
        let outcome = emulator::run(qemu, limit, &folder.join("cpus.txt"), &mut || {
            let jobs = jobs_so_far();
            tell(&jobs);
            let said = |job: &JobResult| killed.is_some_and(|k| job.output.contains(k));
            was_killed = jobs.iter().any(said);
            let length = fs::metadata(&results).map_or(0, |file| file.len());
            if written.0 != length {
                written = (length, Instant::now());
            }
            match self.patience {
                _ if was_killed => Look::Enough,
                Some(patience) if written.1.elapsed() > patience => Look::Still,
                _ => Look::On,
            }
        });
        let _ = fs::remove_file(&initrd);
        let jobs = jobs_so_far();
        tell(&jobs);
        let what = match outcome {
            Ok(()) if was_killed || jobs.iter().all(|j| j.status.is_some()) => {
                return Ok(MachineReport { jobs, console });
            }
            Ok(()) => return Err(LabError::Died { console }),
            Err(Failure::Still) => return Err(LabError::Still { console }),
            Err(Failure::Late) => format!("no power-off within {} s", limit.as_secs()),
            Err(Failure::Ended(what)) => what,
            Err(Failure::Lab(error)) => return Err(error),
        };
        Err(LabError::Machine { what, console })
    }

    fn init(&self) -> String {
        let mut s = String::from(
            "#!/bin/busybox sh\n\
             /bin/busybox mkdir -p /sbin /usr/bin /usr/sbin\n\
             /bin/busybox --install -s\n\
             export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root\n\
             mount -t proc proc /proc\n\
             mount -t sysfs sys /sys\n\
             mount -t devtmpfs dev /dev\n\
             mkdir -p /dev/shm /dev/pts\n\
             mount -t devpts pts /dev/pts\n\
             mount -t tmpfs shm /dev/shm\n\
             mount -t tmpfs tmp /tmp\n\
             ip link set lo up\n",
        );
        for module in &self.modules {
            let _ = writeln!(s, "insmod /{module} || echo cannot load {module}");
        }
        for command in &self.background {
            let _ = writeln!(s, "{command} </dev/null &");
        }
        s.push_str(
            "stty -F /dev/ttyS1 raw -echo\n\
             exec 3>/dev/ttyS1\n\
             job() {\n\
             echo \"##begin $1\" >&3\n\
             timeout \"$2\" sh -c \"$3\" >&3 2>&3 </dev/null\n\
             status=$?\n\
             echo >&3\n\
             echo \"##end $1 $status\" >&3\n\
             }\n",
        );
        for job in &self.jobs {
            let quoted = job.command.replace('\'', r"'\''");
            let seconds = job.deadline.as_secs().max(1);
            let _ = writeln!(s, "job {} {seconds} '{quoted}'", job.name);
        }
        s.push_str("exec 3>&-\npoweroff -f\n");
        s
    }

    fn results(&self, output: &str) -> Vec<JobResult> {
        self.jobs
            .iter()
            .map(|job| {
                let after = output.split_once(&format!("##begin {}\n", job.name));
                let after = after.map_or("", |(_, after)| after);
                let end = format!("##end {} ", job.name);
                let (text, status) = match after.split_once(&end) {
                    Some((text, rest)) => (
                        text,
                        rest.lines().next().and_then(|l| l.trim().parse().ok()),
                    ),
                    None => (after, None),
                };
                JobResult {
                    name: job.name.clone(),
                    status,
                    output: text.trim_end().to_owned(),
                }
            })
            .collect()
    }
}
