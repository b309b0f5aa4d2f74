//! What a partition's process can be confined with.

use super::Row;
use landlock::ABI;
use landlock::Access as _;
use landlock::AccessFs;
use landlock::CompatLevel;
use landlock::Compatible as _;
use landlock::Ruleset;
use landlock::RulesetAttr as _;

const GROUP: &str = "sandbox";

/// Everything about confinement.
pub(super) fn probe() -> Vec<Row> {
    vec![seccomp(), landlock()]
}

fn seccomp() -> Row {
    const NAME: &str = "seccomp";
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    let actions = actions.unwrap_or_default();
    if actions.split_whitespace().any(|a| a == "kill_process") {
        return Row::have(GROUP, NAME, "filters can end the process");
    }
    Row::lacks(
        GROUP,
        NAME,
        "no filters that end the process",
        "a partition that takes over its thread may use every system call",
    )
    .remedy("a kernel built with CONFIG_SECCOMP_FILTER")
}

fn landlock() -> Row {
    const NAME: &str = "Landlock";
    // Each of these added file system rights; creating a ruleset changes nothing.
    let versions = [(5, ABI::V5), (3, ABI::V3), (2, ABI::V2), (1, ABI::V1)];
    let best = versions.into_iter().find(|(_, abi)| {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(*abi))
            .and_then(Ruleset::create)
            .is_ok()
    });
    match best {
        Some((version, _)) => Row::have(GROUP, NAME, format!("ABI {version} or newer")),
        None => Row::lacks(
            GROUP,
            NAME,
            "absent",
            "a partition that takes over its thread sees the user's files",
        )
        .remedy("a kernel with CONFIG_SECURITY_LANDLOCK and lsm=landlock,..."),
    }
}
