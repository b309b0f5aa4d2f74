//! /dev/kvm and what the KVM behind it can do.

use super::Row;
use crate::exit::Failure;
use crate::exit::Kind;
use portal_vmm::Image;
use portal_vmm::Kvm;
use portal_vmm::PartitionBuilder;
use portal_vmm::VmmError;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const GROUP: &str = "kvm";
/// The node that the kernel's KVM module makes.
const NODE: &str = "/dev/kvm";
/// `cli; hlt` at the image's first byte: enough for a partition that is only built.
const PROBE_IMAGE: &[u8] = &[0xFA, 0xF4];

/// Opens /dev/kvm and makes sure that partitions can run here.
///
/// # Errors
/// [`Kind::Host`]: what is wrong with /dev/kvm and how to mend it.
pub(crate) fn open() -> Result<Kvm, Failure> {
    Kvm::open().map_err(failure)
}

fn failure(error: VmmError) -> Failure {
    match error {
        VmmError::NoKvm { source, .. } => explain(&source, &Facts::look(Path::new(NODE))),
        other => Failure::new(Kind::Host, other).hint("see what this host has: portal doctor"),
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

fn explain(error: &std::io::Error, facts: &Facts) -> Failure {
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
    let capabilities = match Kvm::capabilities_of_host() {
        Ok(capabilities) => capabilities,
        Err(error) => {
            let failure = failure(error);
            let cost = "no partition runs";
            let row = Row::lacks(GROUP, NODE, failure.what, cost).missing();
            return vec![match failure.hint {
                Some(hint) => row.remedy(hint.replace('\n', "; ")),
                None => row,
            }];
        }
    };
    let version = capabilities.api_version;
    let mut rows = vec![Row::have(
        GROUP,
        NODE,
        format!("opens, API version {version}"),
    )];
    if let Ok(kvm) = Kvm::open() {
        rows.push(partition(&kvm));
    }
    for item in capabilities.items() {
        let row = match item.present {
            true => Row::have(GROUP, item.name, "yes"),
            false => Row::lacks(GROUP, item.name, "absent", item.cost),
        };
        rows.push(match item.required && !item.present {
            true => row.missing(),
            false => row,
        });
    }
    rows.push(Row::have(
        GROUP,
        "limits",
        format!(
            "{} vCPUs a partition, {} memory slots",
            capabilities.max_vcpus, capabilities.memory_slots
        ),
    ));
    rows
}

/// Builds a partition and throws it away: proof that the pieces fit together.
fn partition(kvm: &Kvm) -> Row {
    const NAME: &str = "a partition";
    let probe = PartitionBuilder::new("doctor", Image::Flat(PROBE_IMAGE.into())).ram(2 << 20);
    match probe.build(kvm) {
        Ok(_) => Row::have(GROUP, NAME, "can be built"),
        Err(e) => Row::lacks(
            GROUP,
            NAME,
            format!("cannot be built: {e}"),
            "no partition runs",
        )
        .missing()
        .remedy("see what the kernel said: sudo dmesg | grep -i kvm"),
    }
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
        let failure = explain(&Error::from(kind), facts);
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
