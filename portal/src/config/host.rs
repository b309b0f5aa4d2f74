//! What a configuration asks of this host: files that are there, memory that is
//! free. The only part of the configuration that looks outside its text.

use super::Backing;
use super::Config;
use super::Guest;
use super::Output;
use super::Partition;
use super::Place;
use super::schema::bytes;
use super::source::Flaw;
use super::source::Located;
use portal_vmm::LinuxImage;
use portal_vmm::VmmError;
use std::path::Path;
use std::path::PathBuf;

/// Length of a file for a pmem device is a multiple of this: the pages that Linux
/// maps DAX with.
const PMEM_ALIGN: u64 = 2 << 20;

/// Bytes of the largest BAR that a partition has addresses for.
pub(super) const BAR_MAX: u64 = portal_boot_abi::WINDOW64_END - portal_boot_abi::WINDOW64_GPA;

/// Checks files, relative to `folder`, and memory.
pub(crate) fn check(config: &Config, folder: &Path) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for region in &config.regions {
        if let Backing::File(path) = &region.backing
            && let Some(size) = file(folder, path, region_hint(region.size.value), &mut flaws)
            && size != region.size.value
        {
            flaws.push(region.size.flaw(format!(
                "{} is not the size of {}, which has {}",
                bytes(region.size.value),
                path.value.display(),
                bytes(size)
            )));
        }
    }
    for partition in &config.partitions {
        for device in &partition.devices {
            if let Place::Pmem {
                path: Some(path), ..
            } = &device.place
            {
                pmem(folder, path, &mut flaws);
            }
        }
        linux(folder, partition, &mut flaws);
        console(folder, partition, &mut flaws);
        if let Guest::Image { path, .. } = &partition.guest
            && let Some(size) = file(
                folder,
                path,
                "name a flat 64-bit image".to_owned(),
                &mut flaws,
            )
        {
            let room = partition
                .ram
                .value
                .saturating_sub(portal_boot_abi::IMAGE_GPA);
            if size == 0 {
                flaws.push(path.flaw(format!("{} is empty", path.value.display())));
            } else if size > room {
                flaws.push(path.flaw(format!(
                    "{} has {}, its partition room for {}",
                    path.value.display(),
                    bytes(size),
                    bytes(room)
                )));
            }
        }
    }
    memory(config, &mut flaws);
    flaws
}

/// A file that a guest is to map with pages of 2 MiB.
fn pmem(folder: &Path, path: &Located<PathBuf>, flaws: &mut Vec<Flaw>) {
    let hint = "make it with: truncate --size 64M PATH".to_owned();
    let Some(size) = file(folder, path, hint, flaws) else {
        return;
    };
    if size == 0 || !size.is_multiple_of(PMEM_ALIGN) {
        let up = size.max(1).next_multiple_of(PMEM_ALIGN);
        flaws.push(
            path.flaw(format!(
                "{} has {}, not a multiple of {}",
                path.value.display(),
                bytes(size),
                bytes(PMEM_ALIGN)
            ))
            .hint(format!("make it longer: truncate --size {up} PATH")),
        );
    }
    if size > BAR_MAX {
        flaws.push(
            path.flaw(format!(
                "{} has {}, the address space of a partition room for {}",
                path.value.display(),
                bytes(size),
                bytes(BAR_MAX)
            ))
            .hint("a file behind a BAR has to be smaller"),
        );
    }
}

/// The folder that a console's file goes into. The file itself is left as it is.
fn console(folder: &Path, partition: &Partition, flaws: &mut Vec<Flaw>) {
    let Output::File(path) = &partition.console else {
        return;
    };
    let full = folder.join(&path.value);
    if full.is_dir() {
        flaws.push(path.flaw(format!("{} is a folder", full.display())));
    } else if let Some(parent) = full.parent()
        && !parent.as_os_str().is_empty()
        && !parent.is_dir()
    {
        let flaw = path.flaw(format!("there is no folder {}", parent.display()));
        flaws.push(flaw.hint(format!("make it: mkdir -p {}", parent.display())));
    }
}

/// A kernel that is one, and RAM for it and its initrd.
fn linux(folder: &Path, partition: &Partition, flaws: &mut Vec<Flaw>) {
    let Guest::Linux {
        kernel,
        initrd,
        cmdline,
    } = &partition.guest
    else {
        return;
    };
    let image = LinuxImage {
        kernel: folder.join(&kernel.value),
        initrd: initrd.as_ref().map(|path| folder.join(&path.value)),
    };
    let line = cmdline.as_ref().map_or("", |line| &line.value);
    let Err(error) = image.check(&partition.name.value, line, partition.ram.value) else {
        return;
    };
    let VmmError::Config {
        field,
        value,
        limit,
        ..
    } = &error
    else {
        flaws.push(kernel.flaw(error.to_string()));
        return;
    };
    let what = format!("{value}, {limit}");
    flaws.push(match (*field, initrd, cmdline) {
        ("initrd", Some(initrd), _) => initrd
            .flaw(what)
            .hint("give the partition more ram, or name an initrd, for example one of /boot"),
        ("cmdline", _, Some(cmdline)) => cmdline.flaw(what),
        ("ram", ..) => named_ram(partition).flaw(what),
        _ => kernel
            .flaw(what)
            .hint("name a bzImage or vmlinux, for example one of /boot"),
    });
}

/// The partition's RAM; where that is a default, its key is spelt here.
fn named_ram(partition: &Partition) -> Located<u64> {
    let mut at = partition.ram.clone();
    if at.key.is_empty() {
        at.key = format!("partition.{}.ram", partition.name.value);
    }
    at
}

fn region_hint(size: u64) -> String {
    format!(
        "make it with: portal region create --size \"{}\" PATH",
        bytes(size)
    )
}

/// The size of a file that can be opened; otherwise a flaw.
fn file(
    folder: &Path,
    path: &Located<PathBuf>,
    hint: String,
    flaws: &mut Vec<Flaw>,
) -> Option<u64> {
    let full = folder.join(&path.value);
    let opened = std::fs::File::open(&full).and_then(|f| f.metadata());
    match opened {
        Ok(found) if found.is_file() => Some(found.len()),
        Ok(_) => {
            flaws.push(
                path.flaw(format!("{} is no file", full.display()))
                    .hint(hint),
            );
            None
        }
        Err(e) => {
            let flaw = path.flaw(format!("cannot open {}: {e}", full.display()));
            flaws.push(flaw.hint(hint));
            None
        }
    }
}

fn memory(config: &Config, flaws: &mut Vec<Flaw>) {
    let mut anonymous: u64 = 0;
    let mut largest: Option<&Located<u64>> = None;
    let mut huge: u64 = 0;
    for region in &config.regions {
        let size = &region.size;
        match &region.backing {
            Backing::Memfd => {
                anonymous = anonymous.saturating_add(size.value);
                largest = largest.into_iter().chain([size]).max_by_key(|l| l.value);
            }
            Backing::HugePages(at) => {
                huge = huge.saturating_add(size.value);
                huge_pool(at, huge, flaws);
            }
            Backing::File(_) | Backing::Served(_) => {}
        }
    }
    for partition in &config.partitions {
        let ram = &partition.ram;
        anonymous = anonymous.saturating_add(ram.value);
        largest = largest.into_iter().chain([ram]).max_by_key(|l| l.value);
    }
    let (Some(available), Some(largest)) = (available_memory(), largest) else {
        return;
    };
    if anonymous > available {
        flaws.push(
            largest
                .flaw(format!(
                    "all partitions and regions need {}, this host has {} free",
                    bytes(anonymous),
                    bytes(available >> 20 << 20)
                ))
                .hint("lower ram and size, or free memory on the host"),
        );
    }
}

fn huge_pool(at: &Located<()>, needed: u64, flaws: &mut Vec<Flaw>) {
    let pool = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB");
    let free = std::fs::read_to_string(pool.join("free_hugepages"));
    let Ok(free) = free.unwrap_or_default().trim().parse::<u64>() else {
        flaws.push(at.flaw("this host has no huge pages of 2 MiB"));
        return;
    };
    let pages = needed.div_ceil(2 << 20);
    if pages > free {
        flaws.push(
            at.flaw(format!(
                "{pages} pages of 2 MiB are needed, {free} are free"
            ))
            .hint(format!(
                "reserve them: echo {pages} | sudo tee {}",
                pool.join("nr_hugepages").display()
            )),
        );
    }
}

/// Memory that is free or can be made free, in bytes.
pub(crate) fn available_memory() -> Option<u64> {
    meminfo(&["MemAvailable:"])
}

/// Memory and swap, free or not, in bytes.
pub(crate) fn whole_memory() -> Option<u64> {
    meminfo(&["MemTotal:", "SwapTotal:"])
}

/// The sum of these lines of /proc/meminfo, in bytes.
fn meminfo(names: &[&str]) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    names.iter().try_fold(0u64, |sum, name| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        sum.checked_add(kib.checked_mul(1024)?)
    })
}
