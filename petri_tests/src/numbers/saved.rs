//! What is measured, in a file from the moment it is there.
//!
//! A file has figures of one commit on one machine, with the same programs: what was
//! measured elsewhere is put aside (`.before.json`) and a new one begun. Whatever was
//! measured stays in: no run is taken for a better one.

use super::Figure;
use super::Part;
use super::Taken;
use crate::lab::LabError;
use crate::programs::Programs;
use crate::vmm::Vmm;
use serde::Deserialize;
use serde::Serialize;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Says how the `openvmm` of `PORTAL_OPENVMM` was built: a program does not.
const OPENVMM_BUILD: &str = "PORTAL_OPENVMM_BUILD";

/// What is measured, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The newest commit of what is no text, and whether it is what is in the folder.
    pub commit: String,
    /// The machine that emulates.
    pub machine: String,
    /// The kernels of L1 and of its guests.
    pub kernels: [String; 2],
    /// The QEMU that emulates, and that is compared with.
    pub qemu: String,
    /// The OpenVMM that runs too, if any, and how it was built.
    pub openvmm: Option<String>,
}

impl Place {
    /// This one.
    pub fn here(programs: &Programs) -> Self {
        let kernel = |modules: &Path| {
            let name = modules.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let openvmm = programs.openvmm.as_ref().map(|openvmm| {
            let built = std::env::var(OPENVMM_BUILD).ok().filter(|b| !b.is_empty());
            let built = built.unwrap_or_else(|| "nobody said how it was built".to_owned());
            format!("{} ({built})", first_line(openvmm, &["--version"]))
        });
        let debian = &programs.debian;
        Self {
            commit: commit(),
            machine: machine(),
            kernels: [&debian.kernel, &debian.guest_kernel].map(|k| kernel(&k.modules)),
            qemu: first_line(&debian.qemu, &["--version"]),
            openvmm,
        }
    }
}

/// What one L1 did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// What it was to measure.
    pub part: Part,
    /// When it was started: UTC, to the minute.
    pub at: String,
    /// What it took from its start to its end.
    pub seconds: u64,
    /// What its turns took, one after the other.
    pub taken: Vec<Taken>,
    /// Turns that came to no end, and why.
    pub lost: Vec<String>,
    /// Why it did not come to its own end, if it did not.
    pub died: Option<String>,
}

impl Run {
    pub(super) fn new(part: Part) -> Self {
        Self {
            part,
            at: first_line("date", &["-u", "+%Y-%m-%d %H:%M"]),
            seconds: 0,
            taken: Vec::new(),
            lost: Vec::new(),
            died: None,
        }
    }

    /// Samples of one figure under one VMM.
    pub(super) fn samples(&self, figure: Figure, vmm: Vmm) -> impl Iterator<Item = f64> {
        let of = move |t: &&Taken| t.figure == figure && t.vmm == vmm;
        self.taken
            .iter()
            .filter(of)
            .flat_map(|t| &t.samples)
            .copied()
    }
}

/// Everything that was measured in one place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    /// Where.
    pub place: Place,
    /// By each L1, in the order of time.
    pub runs: Vec<Run>,
    #[serde(skip)]
    file: PathBuf,
}

impl Saved {
    /// What was measured in this place, from `file`; nothing if it was elsewhere.
    ///
    /// # Errors
    /// [`LabError::File`] when what is there cannot be put aside.
    pub fn open(file: &Path, place: Place) -> Result<Self, LabError> {
        let bytes = fs::read(file).unwrap_or_default();
        let saved = serde_json::from_slice(&bytes).ok();
        let runs = match saved {
            Some(Self {
                place: of, runs, ..
            }) if of == place => runs,
            _ if bytes.is_empty() => Vec::new(),
            _ => {
                let before = file.with_extension("before.json");
                println!("other figures: they are in {}", before.display());
                fs::rename(file, &before).map_err(crate::lab::file_error(&before))?;
                Vec::new()
            }
        };
        Ok(Self {
            place,
            runs,
            file: file.to_owned(),
        })
    }

    #[cfg(test)]
    pub(super) fn of(place: Place, runs: Vec<Run>) -> Self {
        let file = PathBuf::new();
        Self { place, runs, file }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// [`LabError::File`].
    pub fn write(&self) -> Result<(), LabError> {
        let new = self.file.with_extension("new");
        let failed = |source| LabError::File {
            path: new.clone(),
            source,
        };
        let json = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::write(&new, json).map_err(failed)?;
        fs::rename(&new, &self.file).map_err(failed)
    }
}

/// The newest commit of what is no text, and whether it is what is in the folder and
/// what runs.
fn commit() -> String {
    let not_text = [":/", ":(top,exclude)Guide", ":(top,exclude)*.md"];
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.args(words).arg("--").args(not_text);
        let out = git.current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let text = out.ok().filter(|out| out.status.success())?.stdout;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    };
    let Some(mut commit) = git(&["log", "-1", "--format=%h"]) else {
        return "unknown".to_owned();
    };
    let clean = git(&["status", "--porcelain", "--untracked-files=no"]);
    if !clean.is_some_and(|changes| changes.is_empty()) {
        commit.push_str(" and changes that are not committed");
    }
    for named in ["PORTAL_STATIC", "PORTAL_GUEST_STATIC"] {
        if std::env::var_os(named).is_some_and(|value| !value.is_empty()) {
            commit.push_str(&format!("; a program that {named} names"));
        }
    }
    commit
}

/// The machine that emulates.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .and_then(|line| line.split_once(':'))
        .map_or("", |m| m.1.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} CPUs, {model}, Linux {}", kernel.trim())
}

/// The first line of what a program says.
fn first_line(program: impl AsRef<OsStr>, words: &[&str]) -> String {
    let out = Command::new(program).args(words).output();
    let said = out.map(|out| out.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or("unknown").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(commit: &str) -> Place {
        Place {
            commit: commit.to_owned(),
            machine: "m".to_owned(),
            kernels: ["6.1".to_owned(), "6.1".to_owned()],
            qemu: "QEMU".to_owned(),
            openvmm: None,
        }
    }

    #[test]
    fn figures_of_another_commit_are_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lab/numbers.json");
        let mut saved = Saved::open(&file, place("a")).unwrap();
        saved.runs.push(Run::new(Part::Boot));
        saved.write().unwrap();
        assert_eq!(Saved::open(&file, place("a")).unwrap().runs.len(), 1);
        assert!(Saved::open(&file, place("b")).unwrap().runs.is_empty());
        assert!(file.with_extension("before.json").exists());
        assert!(Saved::open(&file, place("a")).unwrap().runs.is_empty());
    }
}
