//! What KVM counts about guests (kernel documentation, `virt/kvm/api.rst`, 4.129: the
//! same counters as files of debugfs).

use crate::ended::NotPassed;
use crate::ended::Passed;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

const DEBUGFS: &str = "/sys/kernel/debug";

/// Counters that say where a round trip goes.
pub(super) const SHOWN: &[&str] = &[
    "exits",
    "io_exits",
    "mmio_exits",
    "insn_emulation",
    "halt_exits",
    "halt_wakeup",
    "irq_injections",
    "host_state_reload",
];

/// Sums over all virtual machines, also of those that are gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters(BTreeMap<String, u64>);

/// Makes the counters readable.
///
/// # Errors
/// [`NotPassed::Failed`] when debugfs cannot be mounted.
pub(super) fn mount() -> Passed {
    if Path::new(DEBUGFS).join("kvm").exists() {
        return Ok(());
    }
    let mounted = Command::new("mount")
        .args(["-t", "debugfs", "debugfs", DEBUGFS])
        .status();
    match mounted {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(NotPassed::failed(format!("mount {DEBUGFS}: {status}"))),
        Err(error) => Err(NotPassed::failed(format!("mount {DEBUGFS}: {error}"))),
    }
}

impl Counters {
    pub(super) fn now() -> Passed<Self> {
        let folder = Path::new(DEBUGFS).join("kvm");
        let entries = fs::read_dir(&folder).map_err(NotPassed::of_file(&folder))?;
        let counter = |path: &Path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            let value = fs::read_to_string(path).ok()?.trim().parse().ok()?;
            Some((name, value))
        };
        let found = entries.flatten().filter_map(|entry| counter(&entry.path()));
        Ok(Self(found.collect()))
    }

    /// What was counted between `before` and this.
    pub(super) fn since(&self, before: &Self) -> Self {
        let less = |(name, now): (&String, &u64)| {
            let before = before.0.get(name).copied().unwrap_or(0);
            (name.clone(), now.saturating_sub(before))
        };
        Self(self.0.iter().map(less).collect())
    }

    pub(super) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_went_back_count_nothing() {
        let counters = |exits| Counters(BTreeMap::from([("exits".to_owned(), exits)]));
        assert_eq!(counters(7).since(&counters(3)).get("exits"), 4);
        assert_eq!(counters(3).since(&counters(7)).get("exits"), 0);
        assert_eq!(counters(3).since(&Counters::default()).get("exits"), 3);
        assert_eq!(counters(3).get("io_exits"), 0);
    }
}
