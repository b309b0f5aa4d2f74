//! What this machine is, and what it did to us meanwhile.

use crate::BenchError;
use rustix::thread::CpuSet;
use serde::Deserialize;
use serde::Serialize;
use std::fs;

/// Length of one tick of `/proc/stat`, in milliseconds: USER_HZ is 100 on every
/// Linux ABI that this crate builds for.
const STAT_TICK_MS: u64 = 10;

/// The machine, as the published table names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model as the kernel says it.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// The hypervisor below, where there is one.
    pub hypervisor: String,
    /// Counter frequency in kHz.
    pub tsc_khz: u64,
    /// Commit of the measured source, when it is known.
    pub commit: String,
    /// When the run began, seconds since 1970.
    pub unix_time: u64,
}

impl Machine {
    /// Looks at the machine that this runs on.
    pub fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").into(),
            cores: cores().len(),
            memory_mib: field(&meminfo, "MemTotal")
                .and_then(|kib| kib.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
                / 1024,
            kernel: rustix::system::uname().release().to_string_lossy().into(),
            hypervisor: hypervisor(&cpuinfo),
            tsc_khz: (super::clock::ticks_per_ns() * 1e6) as u64,
            commit: commit(),
            unix_time: since.as_secs(),
        }
    }
}

fn hypervisor(cpuinfo: &str) -> String {
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    if !flags.split(' ').any(|flag| flag == "hypervisor") {
        return "none".into();
    }
    let vendor = fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    match vendor.trim() {
        "" => "yes, unnamed".into(),
        vendor => vendor.into(),
    }
}

/// The commit of the source tree in the current directory; with a `+` when files
/// differ from it.
fn commit() -> String {
    let git = |args: &[&str]| {
        let done = std::process::Command::new("git").args(args).output().ok()?;
        let said = String::from_utf8(done.stdout).ok()?;
        done.status.success().then(|| said.trim().to_string())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]).as_deref() {
        Some("") => head,
        _ => head + "+",
    }
}

/// The value behind `name:` or `name\t:` in a /proc file.
pub(crate) fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The cores that this process may run on, lowest first.
pub(crate) fn cores() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect()
}

/// Keeps the calling thread on `core`.
pub(crate) fn pin(core: usize) -> Result<(), BenchError> {
    let mut set = CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(BenchError::os("pinning a thread to its core"))
}

/// How often the kernel took the core from the calling thread.
pub(crate) fn preemptions() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    field(&status, "nonvoluntary_ctxt_switches")
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// Time that the hypervisor below gave to others, all cores, in milliseconds
/// since boot.
pub(crate) fn stolen_ms() -> u64 {
    steal_of(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn steal_of(stat: &str) -> u64 {
    let line = stat.lines().find(|line| line.starts_with("cpu "));
    let ticks = line
        .and_then(|line| line.split_whitespace().nth(8))
        .and_then(|steal| steal.parse::<u64>().ok());
    ticks.unwrap_or(0) * STAT_TICK_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_eighth_column() {
        assert_eq!(
            steal_of("cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 0 0 0 0 0 0 0 7"),
            880
        );
        assert_eq!(steal_of("cpu0 1 2 3"), 0);
    }

    #[test]
    fn fields_of_proc_files() {
        let text = "model name\t: Some CPU\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(text, "model name"), Some("Some CPU"));
        assert_eq!(field(text, "model"), None);
    }

    #[test]
    fn this_machine_has_cores_a_clock_and_a_pinnable_thread() {
        let here = Machine::here();
        assert!(here.cores >= 1 && here.tsc_khz > 100_000 && here.memory_mib > 0);
        let first = cores()[0];
        std::thread::spawn(move || {
            pin(first).expect("own core");
            assert_eq!(cores(), [first]);
        })
        .join()
        .expect("pinned");
    }
}
