//! /dev/kvm and what the KVM behind it can do.

use super::Row;
use crate::exit::Failure;
use crate::exit::Kind;
use kvm_ioctls::Cap;
use kvm_ioctls::Kvm;
use kvm_ioctls::VmFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const GROUP: &str = "kvm";
/// The node that the kernel's KVM module makes.
const NODE: &str = "/dev/kvm";
/// The one API version that KVM has had since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// `KVM_CAP_BINARY_STATS_FD` of linux/kvm.h.
const CAP_BINARY_STATS_FD: u64 = 203;

/// Whether partitions can run here.
///
/// # Errors
/// [`Kind::Host`]: what is wrong with /dev/kvm and how to mend it.
pub(crate) fn usable() -> Result<(), Failure> {
    open().map(|_| ())
}

fn open() -> Result<Kvm, Failure> {
    let kvm = Kvm::new().map_err(|e| {
        let facts = Facts::look(Path::new(NODE));
        explain(std::io::Error::from(e), &facts)
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        other => Err(Failure::new(
            Kind::Host,
            format!("{NODE} speaks KVM API version {other}; only {API_VERSION} is known"),
        )
        .hint("the node is no KVM device, or of a kernel before Linux 2.6.22")),
    }
}

/// What can be seen of a node that does not open.
struct Facts {
    exists: bool,
    is_device: bool,
    mode: u32,
    group: u32,
    module: bool,
    vendor: Option<&'static str>,
    container: bool,
}

impl Facts {
    fn look(node: &Path) -> Self {
        let found = std::fs::metadata(node);
        Self {
            exists: found.is_ok(),
            is_device: found.as_ref().is_ok_and(|m| m.file_type().is_char_device()),
            mode: found.as_ref().map_or(0, |m| m.mode() & 0o777),
            group: found.as_ref().map_or(0, |m| m.gid()),
            module: Path::new("/sys/module/kvm").exists(),
            vendor: super::processor::virtualization(),
            container: Path::new("/.dockerenv").exists()
                || Path::new("/run/.containerenv").exists(),
        }
    }
}

fn explain(error: std::io::Error, facts: &Facts) -> Failure {
    use std::io::ErrorKind;
    let fail = |what: String| Failure::new(Kind::Host, what);
    if !facts.exists || error.kind() == ErrorKind::NotFound {
        if facts.container {
            return fail(format!("there is no {NODE} in this container"))
                .hint("start the container with: --device /dev/kvm");
        }
        if facts.module {
            return fail(format!("the kvm module is loaded, but there is no {NODE}"))
                .hint("make the node: sudo mknod /dev/kvm c 10 232 && sudo chmod 660 /dev/kvm");
        }
        return match facts.vendor {
            Some(module) => fail(format!("there is no {NODE}: the kvm module is not loaded"))
                .hint(format!("load it: sudo modprobe {module}")),
            None => fail(format!(
                "there is no {NODE}, and this processor shows neither VT-x nor SVM"
            ))
            .hint(
                "on a real machine: turn virtualization on in the firmware's setup\n\
                 in a virtual machine: turn nested virtualization on in its host",
            ),
        };
    }
    if !facts.is_device {
        return fail(format!("{NODE} is there, but it is no device"))
            .hint("remove it and load the kvm module again");
    }
    if error.kind() == ErrorKind::PermissionDenied {
        return fail(format!(
            "{NODE} is there, but this user may not open it (mode {:03o}, group {})",
            facts.mode,
            group_name(facts.group),
        ))
        .hint(format!(
            "join the group: sudo usermod -aG {} $USER, then log in again",
            match facts.group {
                0 => "kvm".to_owned(),
                group => group_name(group),
            }
        ));
    }
    if error.kind() == ErrorKind::ResourceBusy {
        return fail(format!("{NODE} is in use by another hypervisor"))
            .hint("stop the other one (VirtualBox, VMware) and try again");
    }
    fail(format!("{NODE} does not open: {error}"))
        .hint("see what the kernel said: sudo dmesg | grep -i kvm")
}

fn group_name(id: u32) -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let id = id.to_string();
    groups
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&id.as_str()))
        .map_or(id.clone(), |fields| fields[0].to_owned())
}

/// Everything about KVM.
pub(super) fn probe() -> Vec<Row> {
    let kvm = match open() {
        Ok(kvm) => kvm,
        Err(failure) => {
            let cost = "no partition runs";
            let row = Row::lacks(GROUP, NODE, failure.what, cost).missing();
            return vec![match failure.hint {
                Some(hint) => row.remedy(hint.replace('\n', "; ")),
                None => row,
            }];
        }
    };
    let mut rows = vec![Row::have(
        GROUP,
        NODE,
        format!("opens, API version {API_VERSION}"),
    )];
    match kvm.create_vm() {
        Ok(vm) => rows.push(partition(&vm)),
        Err(e) => rows.push(
            Row::lacks(
                GROUP,
                "a partition",
                format!("cannot be created: {e}"),
                "no partition runs",
            )
            .missing()
            .remedy("see what the kernel said: sudo dmesg | grep -i kvm"),
        ),
    }
    rows.extend(capabilities(&kvm));
    rows
}

fn partition(vm: &VmFd) -> Row {
    const NAME: &str = "a partition";
    match vm.create_irq_chip() {
        Ok(()) => Row::have(GROUP, NAME, "can be created, with interrupt controllers"),
        Err(e) => Row::lacks(
            GROUP,
            NAME,
            format!("has no interrupt controllers in the kernel: {e}"),
            "no interrupt reaches a guest",
        )
        .missing(),
    }
}

struct Wanted {
    name: &'static str,
    caps: &'static [Cap],
    needed: bool,
    cost: &'static str,
    remedy: Option<&'static str>,
}

const WANTED: &[Wanted] = &[
    Wanted {
        name: "guest memory",
        caps: &[Cap::UserMemory],
        needed: true,
        cost: "no partition runs",
        remedy: None,
    },
    Wanted {
        name: "irqfd and ioeventfd",
        caps: &[Cap::Irqfd, Cap::Ioeventfd],
        needed: true,
        cost: "doorbells have no path",
        remedy: None,
    },
    Wanted {
        name: "MSI routing",
        caps: &[Cap::IrqRouting, Cap::SignalMsi],
        needed: true,
        cost: "no doorbell raises an interrupt",
        remedy: None,
    },
    Wanted {
        name: "read-only guest memory",
        caps: &[Cap::ReadonlyMem],
        needed: false,
        cost: "other peers' sections are protected by checks alone, not by mapping",
        remedy: None,
    },
    Wanted {
        name: "immediate exit",
        caps: &[Cap::ImmediateExit],
        needed: false,
        cost: "stopping a spinning guest takes a signal and may need a second one",
        remedy: None,
    },
    Wanted {
        name: "MSR exits to user space",
        caps: &[Cap::X86UserSpaceMsr, Cap::X86MsrFilter],
        needed: false,
        cost: "no Hyper-V enlightenments of our own",
        remedy: None,
    },
    Wanted {
        name: "in-kernel Hyper-V",
        caps: &[Cap::Hyperv],
        needed: false,
        cost: "none for rings and doorbells; VMBus guests are served from user space",
        remedy: Some("a kernel built with CONFIG_KVM_HYPERV"),
    },
    Wanted {
        name: "in-kernel SynIC",
        caps: &[Cap::HypervSynic2],
        needed: false,
        cost: "each SynIC message and signal is an exit to user space",
        remedy: Some("a kernel built with CONFIG_KVM_HYPERV"),
    },
];

fn capabilities(kvm: &Kvm) -> Vec<Row> {
    let mut rows = Vec::new();
    for wanted in WANTED {
        let absent = wanted.caps.iter().filter(|c| !kvm.check_extension(**c));
        let absent: Vec<String> = absent.map(|c| format!("{c:?}")).collect();
        if absent.is_empty() {
            rows.push(Row::have(GROUP, wanted.name, "yes"));
            continue;
        }
        let found = format!("absent: {}", absent.join(", "));
        let mut row = Row::lacks(GROUP, wanted.name, found, wanted.cost);
        row.remedy = wanted.remedy.map(str::to_owned);
        rows.push(if wanted.needed { row.missing() } else { row });
    }
    rows.push(match kvm.check_extension_raw(CAP_BINARY_STATS_FD) {
        1.. => Row::have(GROUP, "statistics", "yes"),
        _ => Row::lacks(
            GROUP,
            "statistics",
            "absent",
            "`portal bench` cannot count the exits of a doorbell",
        )
        .remedy("Linux 5.14 or newer"),
    });
    let slots = kvm.get_nr_memslots();
    rows.push(Row::have(
        GROUP,
        "limits",
        format!(
            "{} vCPUs a partition, {slots} memory slots",
            kvm.get_max_vcpus()
        ),
    ));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;
    use std::io::ErrorKind;

    fn facts() -> Facts {
        Facts {
            exists: true,
            is_device: true,
            mode: 0o660,
            group: 0,
            module: true,
            vendor: Some("kvm_intel"),
            container: false,
        }
    }

    fn told(kind: ErrorKind, facts: &Facts) -> String {
        let failure = explain(Error::from(kind), facts);
        assert_eq!(failure.kind, Kind::Host);
        failure.to_string()
    }

    #[test]
    fn each_cause_has_its_own_remedy() {
        let gone = Facts {
            exists: false,
            ..facts()
        };
        let told_gone = told(ErrorKind::NotFound, &gone);
        assert!(told_gone.contains("mknod"), "{told_gone}");
        let no_module = Facts {
            module: false,
            exists: false,
            ..facts()
        };
        assert!(told(ErrorKind::NotFound, &no_module).contains("modprobe kvm_intel"));
        let no_vendor = Facts {
            module: false,
            exists: false,
            vendor: None,
            ..facts()
        };
        assert!(told(ErrorKind::NotFound, &no_vendor).contains("firmware"));
        let container = Facts {
            container: true,
            exists: false,
            ..facts()
        };
        assert!(told(ErrorKind::NotFound, &container).contains("--device /dev/kvm"));
        let denied = told(ErrorKind::PermissionDenied, &facts());
        assert!(
            denied.contains("mode 660") && denied.contains("usermod -aG"),
            "{denied}"
        );
        assert!(told(ErrorKind::ResourceBusy, &facts()).contains("another hypervisor"));
        let file = Facts {
            is_device: false,
            ..facts()
        };
        assert!(told(ErrorKind::Other, &file).contains("no device"));
    }

    #[test]
    fn a_node_that_is_a_file_is_seen_as_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let seen = Facts::look(file.path());
        assert!(seen.exists && !seen.is_device);
        assert!(!Facts::look(Path::new("/dev/no-such-node")).exists);
    }
}
