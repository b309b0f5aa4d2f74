//! What must hold between values: unique names, regions that exist, addresses
//! that do not overlap, enough peer slots.

use super::Backing;
use super::Config;
use super::Device;
use super::Guest;
use super::Output;
use super::Partition;
use super::Place;
use super::Region;
use super::TaskKind;
use super::host::BAR_MAX;
use super::reader::nearest;
use super::schema::bytes;
use super::source::Flaw;
use super::source::Located;
use hv_shmem::layout::Layout;
use hv_shmem::layout::LayoutError;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use portal_boot_abi as abi;
use portal_resources::GuestAccess;
use std::collections::HashMap;
use std::ops::Range;

/// Regions at fixed addresses are mapped with 2 MiB pages where they are large
/// enough, so that is how they are aligned.
const GPA_ALIGN: u64 = 2 << 20;

/// Checks everything, adding to `flaws`.
pub(super) fn check(config: &Config, flaws: &mut Vec<Flaw>) {
    unique(config.regions.iter().map(|r| &r.name), "region", flaws);
    unique(
        config.partitions.iter().map(|p| &p.name),
        "partition",
        flaws,
    );
    one_file_one_region(config, flaws);
    one_terminal(config, flaws);
    one_file_one_console(config, flaws);
    for partition in &config.partitions {
        devices(config, partition, flaws);
        addresses(config, partition, flaws);
        tasks(config, partition, flaws);
    }
    for region in &config.regions {
        layout(region, flaws);
        peer_slots(config, region, flaws);
    }
}

fn unique<'c>(names: impl Iterator<Item = &'c Located<String>>, kind: &str, flaws: &mut Vec<Flaw>) {
    let mut seen = HashMap::new();
    for name in names {
        if seen.insert(name.value.as_str(), ()).is_some() {
            flaws.push(name.flaw(format!("there is a {kind} {:?} already", name.value)));
        }
    }
}

fn one_file_one_region(config: &Config, flaws: &mut Vec<Flaw>) {
    let mut seen: HashMap<_, &str> = HashMap::new();
    for region in &config.regions {
        if let Backing::File(path) = &region.backing
            && let Some(other) = seen.insert(&path.value, &region.name.value)
        {
            flaws.push(path.flaw(format!(
                "{} is the file of region {other:?} already",
                path.value.display()
            )));
        }
    }
}

fn one_terminal(config: &Config, flaws: &mut Vec<Flaw>) {
    let on_it = config
        .partitions
        .iter()
        .filter(|p| p.console == Output::Terminal);
    for partition in on_it.skip(1) {
        flaws.push(
            partition
                .name
                .flaw("another partition's console is the terminal already")
                .hint("write console = \"prefix\" or console = \"file:PATH\""),
        );
    }
}

fn one_file_one_console(config: &Config, flaws: &mut Vec<Flaw>) {
    let mut seen: HashMap<_, &str> = HashMap::new();
    for partition in &config.partitions {
        if let Output::File(path) = &partition.console
            && let Some(other) = seen.insert(&path.value, &partition.name.value)
        {
            flaws.push(path.flaw(format!(
                "{} is the console of partition {other:?} already",
                path.value.display()
            )));
        }
    }
}

fn region_named<'c>(config: &'c Config, name: &str) -> Option<&'c Region> {
    config.regions.iter().find(|r| r.name.value == name)
}

fn unknown(what: &Located<String>, kind: &str, known: Vec<&str>) -> Flaw {
    let flaw = what.flaw(format!("there is no {kind} {:?}", what.value));
    match nearest(&what.value, &known) {
        Some(near) => flaw.hint(format!("did you mean {near:?}?")),
        None if known.is_empty() => flaw.hint(format!("write a [[{kind}]] with that name")),
        None => flaw.hint(format!("there are: {}", known.join(", "))),
    }
}

fn devices(config: &Config, partition: &Partition, flaws: &mut Vec<Flaw>) {
    let mut seen = HashMap::new();
    let mut fixed = 0;
    for device in &partition.devices {
        let Some(region) = &device.region else {
            continue;
        };
        if region_named(config, &region.value).is_none() {
            let known = config
                .regions
                .iter()
                .map(|r| r.name.value.as_str())
                .collect();
            flaws.push(unknown(region, "region", known));
        }
        if seen.insert(region.value.as_str(), ()).is_some() {
            flaws.push(region.flaw(format!(
                "partition {:?} has region {:?} already",
                partition.name.value, region.value
            )));
        }
        pmem(config, device, region, flaws);
        bar(config, device, region, flaws);
        if let Place::Fixed { gpa, .. } = &device.place {
            fixed += 1;
            if fixed > abi::MAX_REGIONS {
                flaws.push(gpa.flaw(format!(
                    "a partition has at most {} regions at fixed addresses",
                    abi::MAX_REGIONS
                )));
            }
        }
    }
}

/// A region behind a BAR lies in the window for 64-bit BARs, at a multiple of its
/// size.
fn bar(config: &Config, device: &Device, name: &Located<String>, flaws: &mut Vec<Flaw>) {
    let Some(region) = region_named(config, &name.value) else {
        return;
    };
    let fixed = matches!(device.place, Place::Fixed { .. });
    if !fixed && region.size.value > BAR_MAX {
        flaws.push(
            name.flaw(format!(
                "region {:?} has {}, the address space of a partition room for {}",
                name.value,
                bytes(region.size.value),
                bytes(BAR_MAX)
            ))
            .hint("a region behind a BAR has to be smaller"),
        );
    }
}

/// A pmem device maps a region as one, with one right.
fn pmem(config: &Config, device: &Device, name: &Located<String>, flaws: &mut Vec<Flaw>) {
    let Place::Pmem { access, .. } = &device.place else {
        return;
    };
    let Some(region) = region_named(config, &name.value) else {
        return;
    };
    let hint = match region.backing {
        Backing::File(_) => return,
        // Who owns it has served it as it is, and this VMM keeps its sections apart.
        Backing::Served(_) => "give the device access = \"ro\", or kind = \"ivshmem\"",
        Backing::Memfd | Backing::HugePages(_) => {
            "give the region backing = \"file\", or the device access = \"ro\""
        }
    };
    if *access == GuestAccess::ReadWrite {
        flaws.push(
            name.flaw(format!(
                "sections of region {:?} are enforced here; a pmem device that writes maps it as one",
                name.value
            ))
            .hint(hint),
        );
    }
}

fn addresses(config: &Config, partition: &Partition, flaws: &mut Vec<Flaw>) {
    let mut taken: Vec<(Range<u64>, String)> = Vec::new();
    for device in &partition.devices {
        let (Place::Fixed { gpa, .. }, Some(region)) = (
            &device.place,
            device
                .region
                .as_ref()
                .and_then(|it| region_named(config, &it.value)),
        ) else {
            continue;
        };
        // Its size is known when it is joined; what does not fit is an error then.
        if matches!(region.backing, Backing::Served(_)) {
            continue;
        }
        let size = region.size.value;
        let window = abi::WINDOW64_GPA..abi::WINDOW64_END;
        let end = gpa.value.saturating_add(size);
        if gpa.value < window.start || end > window.end {
            flaws.push(outside(gpa, size, &window));
            continue;
        }
        let align = GPA_ALIGN.min(size);
        if !gpa.value.is_multiple_of(align) {
            let down = gpa.value - gpa.value % align;
            flaws.push(
                gpa.flaw(format!(
                    "{:#x} is not aligned to {}",
                    gpa.value,
                    bytes(align)
                ))
                .hint(format!("{down:#x} is")),
            );
        }
        let range = gpa.value..end;
        for (other, name) in &taken {
            if range.start < other.end && other.start < range.end {
                flaws.push(
                    gpa.flaw(format!(
                        "{:#x}..{end:#x} overlaps region {name:?} at {:#x}..{:#x}",
                        gpa.value, other.start, other.end
                    ))
                    .hint(format!("{:#x} is free", free_above(&taken, size))),
                );
            }
        }
        taken.push((range, region.name.value.clone()));
    }
}

fn outside(gpa: &Located<u64>, size: u64, window: &Range<u64>) -> Flaw {
    gpa.flaw(format!(
        "{} at {:#x} do not lie in the window for regions, {:#x}..{:#x}",
        bytes(size),
        gpa.value,
        window.start,
        window.end
    ))
    .hint(format!(
        "addresses below {:#x} belong to RAM, devices and 32-bit BARs",
        window.start
    ))
}

fn free_above(taken: &[(Range<u64>, String)], size: u64) -> u64 {
    let highest = taken.iter().map(|(r, _)| r.end).max();
    let highest = highest.unwrap_or(abi::WINDOW64_GPA);
    highest.next_multiple_of(size.max(GPA_ALIGN))
}

fn tasks(config: &Config, partition: &Partition, flaws: &mut Vec<Flaw>) {
    let Guest::Warp { tasks } = &partition.guest else {
        return;
    };
    for task in tasks {
        let peer = config
            .partitions
            .iter()
            .find(|p| p.name.value == task.peer.value);
        let Some(peer) = peer else {
            let known = config
                .partitions
                .iter()
                .map(|p| p.name.value.as_str())
                .collect();
            flaws.push(unknown(&task.peer, "partition", known));
            continue;
        };
        if peer.name == partition.name {
            flaws.push(
                task.peer
                    .flaw("a partition's task is with another partition"),
            );
            continue;
        }
        if !matches!(peer.guest, Guest::Warp { .. }) {
            flaws.push(task.peer.flaw(format!(
                "{:?} runs a program of its own; only the built-in guest answers a task",
                task.peer.value
            )));
        }
        let shared = match (partition.agent_region(), peer.agent_region()) {
            (Some(own), Some(other)) => own == other,
            _ => false,
        };
        if !shared {
            flaws.push(
                task.peer
                    .flaw(format!(
                        "the agents of {:?} and {:?} share no region",
                        partition.name.value, task.peer.value
                    ))
                    .hint("an agent joins the region of its partition's first ivshmem device"),
            );
        }
        let has_bell = |p: &Partition| {
            let ivshmem = |d: &Device| matches!(d.place, Place::Ivshmem { .. });
            p.devices.iter().any(ivshmem)
        };
        let doorbell = matches!(task.what, TaskKind::Doorbell { .. });
        if doorbell && !(has_bell(partition) && has_bell(peer)) {
            flaws.push(
                task.peer
                    .flaw("a doorbell task needs a doorbell at both ends")
                    .hint("give both partitions an ivshmem device"),
            );
        }
    }
}

/// Whether the parts of the region fit in it, by the rule that lays it out.
fn layout(region: &Region, flaws: &mut Vec<Flaw>) {
    if matches!(region.backing, Backing::Served(_)) {
        return;
    }
    // Names have been checked more strictly than this; the name takes no room.
    let Ok(name) = Name::new(&region.name.value) else {
        return;
    };
    // The schema allows no more than the table's 1024.
    let peers = u16::try_from(region.peers.value).unwrap_or(u16::MAX);
    let spec = RegionSpec::new(name, region.size.value, peers).common(region.common.value);
    let Err(error) = Layout::compute(&spec) else {
        return;
    };
    let at = match error {
        LayoutError::Common { .. } => named(&region.common, region, "common"),
        LayoutError::Sections { .. } => named(&region.peers, region, "peers"),
        _ => region.size.clone(),
    };
    flaws.push(at.flaw(error.to_string()));
}

/// A value that may be a default: then its key is spelt here.
fn named(value: &Located<u64>, region: &Region, key: &str) -> Located<u64> {
    let mut at = value.clone();
    if at.key.is_empty() {
        at.key = format!("region.{}.{key}", region.name.value);
    }
    at
}

fn peer_slots(config: &Config, region: &Region, flaws: &mut Vec<Flaw>) {
    let users = config
        .partitions
        .iter()
        .flat_map(|p| &p.devices)
        .filter_map(|d| d.region.as_ref())
        .filter(|used| used.value == region.name.value)
        .count() as u64;
    // Slot 0 is the host's.
    let needed = users + 1;
    if region.peers.value < needed {
        let at = named(&region.peers, region, "peers");
        flaws.push(
            at.flaw(format!(
                "{} slots are too few for {users} partitions and the host",
                region.peers.value
            ))
            .hint(format!("write peers = {needed} or more")),
        );
    }
}
