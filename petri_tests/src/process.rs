//! Child processes that end when the test does: each in a process group of its
//! own, killed when dropped, its output in a file of the test's folder.

use crate::ended::NotPassed;
use crate::ended::Passed;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// How often a condition is looked at while waiting for it.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// What a process holds of its kernel, counted by what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Descriptors.
    pub files: BTreeMap<String, usize>,
    /// Mappings of files, memfds and devices.
    pub mappings: BTreeMap<String, usize>,
}

/// A child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; standard output and error go to `folder/NAME.log`,
    /// appended when a process of that name ran before.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it cannot be started.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Passed<Self> {
        Self::start_with(name, command, folder, Stdio::null())
    }

    /// As [`Self::start`], with something on standard input.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        name: &str,
        command: &mut Command,
        folder: &Path,
        input: Stdio,
    ) -> Passed<Self> {
        let log = folder.join(format!("{name}.log"));
        let open = || {
            let file = fs::File::options().create(true).append(true).open(&log)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) = open().map_err(NotPassed::of_file(&log))?;
        let child = command
            .stdin(input)
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|e| {
                let program = command.get_program().display();
                NotPassed::failed(format!("{name}: {program} does not start: {e}"))
            })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            status: None,
        })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it holds now.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it has ended.
    pub fn held(&self) -> Passed<Held> {
        let proc = Path::new("/proc").join(self.id().to_string());
        let (folder, maps) = (proc.join("fd"), proc.join("maps"));
        let mut files = BTreeMap::new();
        let entries = fs::read_dir(&folder).map_err(NotPassed::of_file(&folder))?;
        for entry in entries.flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            *files.entry(kind(&target.to_string_lossy())).or_default() += 1;
        }
        let mut mappings = BTreeMap::new();
        let maps = fs::read_to_string(&maps).map_err(NotPassed::of_file(&maps))?;
        for line in maps.lines() {
            // Not the heap and the stack, which have names in brackets.
            let name = line.split_whitespace().nth(5);
            if let Some(name) = name.filter(|name| !name.starts_with('[')) {
                *mappings.entry(kind(name)).or_default() += 1;
            }
        }
        Ok(Held { files, mappings })
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when `until` passes first.
    pub fn wait(&mut self, until: Instant) -> Passed<ExitStatus> {
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= until {
                return Err(NotPassed::failed(format!(
                    "{} did not end in time; it said: {}",
                    self.name,
                    last_line(&self.output())
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until its output holds `text`.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when it ends or `until` passes first.
    pub fn says(&mut self, text: &str, until: Instant) -> Passed {
        self.says_times(text, 1, until)
    }

    /// Waits until its output holds `text` that many times.
    ///
    /// # Errors
    /// As [`Self::says`].
    pub fn says_times(&mut self, text: &str, times: usize, until: Instant) -> Passed {
        loop {
            // Looked at first: what it said before it ended counts.
            let ended = self.ended();
            if self.output().matches(text).count() >= times {
                return Ok(());
            }
            if let Some(status) = ended {
                return Err(NotPassed::failed(format!(
                    "{} ended ({status}) and said: {}",
                    self.name,
                    last_line(&self.output())
                )));
            }
            if Instant::now() >= until {
                return Err(NotPassed::failed(format!(
                    "{} did not say {text:?} in time; it said: {}",
                    self.name,
                    last_line(&self.output())
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until a file that it writes has this many bytes.
    ///
    /// # Errors
    /// As [`Self::says`].
    pub fn writes(&mut self, file: &Path, bytes: u64, until: Instant) -> Passed {
        loop {
            let ended = self.ended();
            let written = fs::metadata(file).map_or(0, |file| file.len());
            if written >= bytes {
                return Ok(());
            }
            if ended.is_some() || Instant::now() >= until {
                return Err(NotPassed::failed(format!(
                    "{} wrote {written} bytes and no more; it said: {}",
                    self.name,
                    last_line(&self.output())
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sends SIGKILL to it and to what it started, and waits for it.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }

    /// Sends a signal to its process group.
    pub fn signal(&mut self, signal: Signal) {
        // After its end the number may be another process's.
        if self.ended().is_none()
            && let Some(group) = Pid::from_raw(self.child.id().cast_signed())
        {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a descriptor or a mapping is of, without what differs from one process to the
/// next.
fn kind(name: &str) -> String {
    let end = |c: char| c == '[' && !name.starts_with("anon_inode:");
    match name.trim_start_matches('/') {
        name if name.starts_with("memfd:") => "memfd".to_owned(),
        name if name.starts_with("dev/pts/") => "terminal".to_owned(),
        name if name.starts_with("dev/") => name.to_owned(),
        name if name.contains(':') => name.split(end).next().unwrap_or(name).to_owned(),
        _ => "file".to_owned(),
    }
}

/// The last line with something on it.
pub(crate) fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("nothing")
}
