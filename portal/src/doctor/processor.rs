//! Cores, virtualization extensions, clocks.

use super::Row;

const GROUP: &str = "processor";

/// The KVM module for this processor, where it shows VT-x or SVM.
pub(super) fn virtualization() -> Option<&'static str> {
    let flags = flags();
    if flags.iter().any(|f| f == "vmx") {
        Some("kvm_intel")
    } else if flags.iter().any(|f| f == "svm") {
        Some("kvm_amd")
    } else {
        None
    }
}

fn flags() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("flags"));
    let list = line.and_then(|l| l.split_once(':')).map_or("", |(_, f)| f);
    list.split_whitespace().map(str::to_owned).collect()
}

/// Everything about the processor.
pub(super) fn probe() -> Vec<Row> {
    let flags = flags();
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let mut rows = Vec::new();
    rows.push(match virtualization() {
        Some("kvm_intel") => Row::have(GROUP, "virtualization", "VT-x"),
        Some(_) => Row::have(GROUP, "virtualization", "SVM"),
        None => Row::lacks(
            GROUP,
            "virtualization",
            "the processor shows neither VT-x nor SVM",
            "KVM, where it works at all, emulates guest ring 0 (about 0.4 us an \
             instruction); ring 3 runs at full speed",
        )
        .remedy("turn (nested) virtualization on, in the firmware or in this machine's host"),
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    rows.push(match cores {
        2.. => Row::have(GROUP, "cores", format!("{cores} for this process")),
        _ => Row::lacks(
            GROUP,
            "cores",
            "1 for this process",
            "two partitions take turns: every latency is a scheduler's time slice",
        )
        .remedy("give this machine or this process (taskset, cgroup) two cores or more"),
    });
    rows.push(if has("constant_tsc") && has("nonstop_tsc") {
        Row::have(GROUP, "time stamp counter", "constant and never stops")
    } else {
        Row::lacks(
            GROUP,
            "time stamp counter",
            "may change its rate or stop",
            "latencies in ticks do not convert to time exactly",
        )
    });
    rows
}
