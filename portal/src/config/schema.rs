//! The keys of the configuration file, their types, defaults and single-value
//! limits.

use super::Backing;
use super::Config;
use super::Guest;
use super::OnReset;
use super::Output;
use super::Partition;
use super::Region;
use super::Task;
use super::TaskKind;
use super::device::device;
use super::reader::Reader;
use super::reader::absent;
use super::reader::choice;
use super::source::Flaw;
use super::source::Located;
use hv_shmem::layout::MAX_PEERS;
use hv_shmem::layout::MIN_REGION;
use hv_shmem::name::NAME_BYTES;
use portal_boot_abi as abi;
use std::ops::Range;
use std::path::PathBuf;
use toml::de::DeTable;

/// Largest region that a file may ask for; more is a slip of a unit.
const REGION_MAX: u64 = 1 << 40;
/// Granularity of guest memory.
const PAGE: u64 = 4096;
/// Least guest RAM: boot tables below 1 MiB, an image above it.
const RAM_MIN: u64 = 2 << 20;
/// Most guest RAM: it ends where the window of the regions starts.
const RAM_MAX: u64 = abi::WINDOW64_GPA - abi::HIGH_RAM_GPA + abi::LOW_RAM_MAX;
/// RAM of a partition that does not say, by what it runs.
const RAM_FLAT: u64 = 16 << 20;
const RAM_LINUX: u64 = 256 << 20;
/// Longest command line of a Linux kernel on x86-64.
const LINUX_CMDLINE_MAX: usize = 2047;
/// What a console key that names a file begins with.
const CONSOLE_FILE: &str = "file:";
/// Most rounds of a task: a command to an agent has 32 bits for them.
const ROUNDS_MAX: u64 = u32::MAX as u64;

/// Reads the whole file. Values that were not readable have made a flaw, and
/// what they belong to is left out.
pub(super) fn read(text: &str, flaws: &mut Vec<Flaw>) -> Config {
    let mut config = Config {
        regions: Vec::new(),
        partitions: Vec::new(),
    };
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(e) => {
            flaws.push(Flaw {
                span: e.span().unwrap_or(0..0),
                key: String::new(),
                what: e.message().to_owned(),
                hint: None,
            });
            return config;
        }
    };
    let mut reader = Reader::new(root.get_ref(), 0..0, "");
    for table in reader.tables("region", flaws) {
        config.regions.extend(region(table, flaws));
    }
    let partitions = reader.tables("partition", flaws);
    if partitions.is_empty() && flaws.is_empty() {
        flaws.push(reader.missing("partition", "write at least one [[partition]]"));
    }
    for table in partitions {
        config.partitions.extend(partition(table, flaws));
    }
    reader.finish(flaws);
    config
}

fn region(mut table: Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Option<Region> {
    let name = name_of(&mut table, "region", flaws);
    if let Some(switchboard) = table.string("switchboard", flaws) {
        for key in ["size", "peers", "common", "backing", "path"] {
            if table.take(key) {
                flaws.push(
                    switchboard
                        .flaw(format!("the switchboard decides the region's {key}"))
                        .hint(format!("leave {key} out")),
                );
            }
        }
        let (size, peers) = (absent(&table, 0), absent(&table, u64::from(MAX_PEERS)));
        let common = absent(&table, 0);
        table.finish(flaws);
        return Some(Region {
            name: name?,
            size,
            peers,
            common,
            backing: Backing::Served(switchboard.map(PathBuf::from)),
        });
    }
    let size = size_within(&mut table, "size", MIN_REGION..REGION_MAX + 1, flaws);
    if size.is_none() && !table.has("size") {
        flaws.push(table.missing("size", "write the region's size: size = \"64 MiB\""));
    }
    if let Some(size) = &size
        && !size.value.is_power_of_two()
    {
        let below = 1u64 << size.value.ilog2();
        flaws.push(
            size.flaw(format!("{} is no power of two", bytes(size.value)))
                .hint(format!("{} and {} are", bytes(below), bytes(below << 1))),
        );
    }
    let peers = table.number("peers", 2..u64::from(MAX_PEERS) + 1, flaws);
    let peers = peers.unwrap_or_else(|| absent(&table, 8));
    let common = size_within(&mut table, "common", 0..REGION_MAX, flaws);
    let common = common.unwrap_or_else(|| absent(&table, 0));
    let backing = backing(&mut table, flaws);
    table.finish(flaws);
    Some(Region {
        name: name?,
        size: size?,
        peers,
        common,
        backing: backing?,
    })
}

fn backing(table: &mut Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Option<Backing> {
    let kind = choice(table, "backing", &["memfd", "huge", "file"], flaws);
    let path = table.string("path", flaws);
    let Some(kind) = kind else {
        if table.has("backing") {
            return None;
        }
        if let Some(path) = path {
            let hint = "add backing = \"file\"";
            flaws.push(path.flaw("only a file backing has a path").hint(hint));
        }
        return Some(Backing::Memfd);
    };
    match (kind.value.as_str(), path) {
        ("file", Some(path)) => Some(Backing::File(path.map(PathBuf::from))),
        ("file", None) => {
            let hint = "name the file: path = \"shared.region\"";
            flaws.push(table.missing("path", hint));
            None
        }
        (other, Some(path)) => {
            flaws.push(path.flaw(format!("a {other} backing has no path")));
            None
        }
        ("huge", None) => Some(Backing::HugePages(kind.map(|_| ()))),
        (_, None) => Some(Backing::Memfd),
    }
}

/// Most interrupts a second that a budget may allow: more than a vCPU can take.
const INTERRUPT_BUDGET_MAX: u64 = 1_000_000;

fn partition(mut table: Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Option<Partition> {
    let name = name_of(&mut table, "partition", flaws);
    let vcpus = table.number("vcpus", 1..u64::from(abi::MAX_VCPUS) + 1, flaws);
    let vcpus = vcpus.unwrap_or_else(|| absent(&table, 1));
    let ram = size_within(&mut table, "ram", RAM_MIN..RAM_MAX + 1, flaws);
    let linux = table.has("kernel");
    let ram_default = if linux { RAM_LINUX } else { RAM_FLAT };
    let ram = ram.unwrap_or_else(|| absent(&table, ram_default));
    if !ram.value.is_multiple_of(PAGE) {
        flaws.push(ram.flaw(format!("{} is no multiple of 4 KiB", bytes(ram.value))));
    }
    let interrupt_budget = table.number("interrupt_budget", 1..INTERRUPT_BUDGET_MAX + 1, flaws);
    let iommu = table.flag("iommu", flaws).filter(|found| found.value);
    if let Some(iommu) = iommu.as_ref().filter(|_| !linux) {
        let flaw = iommu.flaw("only a Linux guest can be told of an IOMMU");
        flaws.push(flaw.hint("leave it out, or add kernel = \"bzImage\""));
    }
    let guest = guest(&mut table, flaws);
    let console = console(&mut table, flaws);
    let on_reset = choice(&mut table, "on_reset", &["restart", "stop"], flaws);
    let on_reset = on_reset.map_or(OnReset::Restart, |found| match found.value.as_str() {
        "stop" => OnReset::Stop,
        _ => OnReset::Restart,
    });
    let mut devices = Vec::new();
    for reader in table.tables("device", flaws) {
        devices.extend(device(reader, flaws));
    }
    table.finish(flaws);
    Some(Partition {
        name: name?,
        vcpus,
        ram,
        interrupt_budget,
        iommu: iommu.is_some(),
        guest: guest?,
        console: console?,
        on_reset,
        devices,
    })
}

fn guest(table: &mut Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Option<Guest> {
    let builtin = choice(table, "guest", &["warp"], flaws);
    let image = table.string("image", flaws);
    let kernel = table.string("kernel", flaws);
    let initrd = table.string("initrd", flaws);
    let cmdline = table.string("cmdline", flaws);
    let has_tasks = table.has("task");
    let task_tables = table.tables("task", flaws);
    if let (Some(initrd), None) = (&initrd, &kernel) {
        flaws.push(
            initrd
                .flaw("only a Linux kernel has an initrd")
                .hint("add kernel = \"bzImage\""),
        );
    }
    let Some(own) = image.as_ref().or(kernel.as_ref()) else {
        if let Some(cmdline) = cmdline {
            flaws.push(cmdline.flaw("only a kernel or an image has a command line"));
        }
        let named = ["guest", "image", "kernel"]
            .iter()
            .any(|key| table.has(key));
        if builtin.is_none() && !named {
            let hint = "write guest = \"warp\" for the built-in one, kernel = \"bzImage\" for Linux, \
                        or image = \"file\"";
            flaws.push(table.missing("guest", hint));
        }
        let tasks = task_tables
            .into_iter()
            .filter_map(|t| task(t, flaws))
            .collect();
        return builtin.map(|_| Guest::Warp { tasks });
    };
    if table.has("guest") {
        flaws.push(own.flaw("a partition has a built-in guest, a kernel or an image: one of them"));
    }
    if has_tasks {
        flaws.push(
            own.flaw("only the built-in guest carries out tasks")
                .hint("tasks are for the agent of guest = \"warp\""),
        );
    }
    let limit = if kernel.is_some() {
        LINUX_CMDLINE_MAX
    } else {
        abi::CMDLINE_MAX
    };
    if let Some(cmdline) = &cmdline
        && cmdline.value.len() > limit
    {
        flaws.push(cmdline.flaw(format!(
            "{} bytes are more than {limit}",
            cmdline.value.len(),
        )));
    }
    match (kernel, image) {
        (Some(kernel), Some(image)) => {
            flaws.push(image.flaw(format!(
                "a partition has a kernel or an image, not both; its kernel is {:?}",
                kernel.value
            )));
            None
        }
        (Some(kernel), None) => Some(Guest::Linux {
            kernel: kernel.map(PathBuf::from),
            initrd: initrd.map(|at| at.map(PathBuf::from)),
            cmdline,
        }),
        (None, image) => image.map(|path| Guest::Image {
            path: path.map(PathBuf::from),
            cmdline,
        }),
    }
}

fn console(table: &mut Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Option<Output> {
    let Some(found) = table.string("console", flaws) else {
        return (!table.has("console")).then_some(Output::Prefix);
    };
    match found.value.strip_prefix(CONSOLE_FILE) {
        Some(path) if !path.is_empty() => {
            let path = PathBuf::from(path);
            Some(Output::File(found.map(|_| path)))
        }
        None if found.value == "prefix" => Some(Output::Prefix),
        None if found.value == "terminal" => Some(Output::Terminal),
        _ => {
            flaws.push(
                found
                    .flaw(format!("{:?} is not known", found.value))
                    .hint("it is \"prefix\", \"terminal\", or \"file:\" and a path"),
            );
            None
        }
    }
}

fn task(mut table: Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Option<Task> {
    let what = choice(&mut table, "do", &["ping", "doorbell", "stream"], flaws);
    if what.is_none() && !table.has("do") {
        flaws.push(table.missing("do", "write do = \"ping\", \"doorbell\" or \"stream\""));
    }
    let peer = table.string("peer", flaws);
    if peer.is_none() && !table.has("peer") {
        flaws.push(table.missing("peer", "name the partition at the other end"));
    }
    let kind = what.and_then(|what| match what.value.as_str() {
        "stream" => {
            let bytes = size_within(&mut table, "bytes", 0..1 << 50, flaws);
            if bytes.is_none() && !table.has("bytes") {
                flaws.push(table.missing("bytes", "write how much: bytes = \"1 GiB\""));
            }
            bytes.map(|b| TaskKind::Stream { bytes: b.value })
        }
        other => {
            let rounds = table.number("rounds", 1..ROUNDS_MAX + 1, flaws);
            let rounds = rounds.map_or(100_000, |r| r.value as u32);
            Some(match other {
                "ping" => TaskKind::Ping { rounds },
                _ => TaskKind::Doorbell { rounds },
            })
        }
    });
    table.finish(flaws);
    Some(Task {
        what: kind?,
        peer: peer?,
    })
}

/// Takes `name`; from then on the table is called by it in flaws.
fn name_of(
    table: &mut Reader<'_, '_>,
    kind: &str,
    flaws: &mut Vec<Flaw>,
) -> Option<Located<String>> {
    let Some(name) = table.string("name", flaws) else {
        if !table.has("name") {
            let hint = format!("give the {kind} a name: name = \"a\"");
            flaws.push(table.missing("name", &hint));
        }
        return None;
    };
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.value.is_empty() || name.value.len() > NAME_BYTES || !name.value.chars().all(good) {
        flaws.push(
            name.flaw(format!("{:?} is no name", name.value))
                .hint(format!(
                    "a name is 1 to {NAME_BYTES} letters, digits, - and _"
                )),
        );
        return None;
    }
    table.name(format!("{kind}.{}", name.value));
    Some(name)
}

fn size_within(
    table: &mut Reader<'_, '_>,
    key: &'static str,
    limits: Range<u64>,
    flaws: &mut Vec<Flaw>,
) -> Option<Located<u64>> {
    let size = table.size(key, flaws)?;
    if limits.contains(&size.value) {
        return Some(size);
    }
    flaws.push(size.flaw(format!(
        "{} is not between {} and {}",
        bytes(size.value),
        bytes(limits.start),
        bytes(limits.end - 1)
    )));
    None
}

/// A number of bytes as a person writes it, exact.
pub(super) fn bytes(n: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        // 64 MB would read as 62500 KiB: true, and no help.
        let small = n >> shift <= 8192 || unit == "GiB";
        if n >= 1 << shift && n.is_multiple_of(1 << shift) && small {
            return format!("{} {unit}", n >> shift);
        }
    }
    format!("{n} bytes")
}
