//! Memory: how much, huge pages, sealed memfds.

use super::Row;
use crate::config::host::available_memory;
use bytesize::ByteSize;
use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;

const GROUP: &str = "memory";
/// What the demo needs: two small partitions and a region of 64 MiB.
const DEMO_BYTES: u64 = 256 << 20;

/// Everything about memory.
pub(super) fn probe() -> Vec<Row> {
    vec![available(), seals(), huge_pages(), shared_memory_folder()]
}

fn available() -> Row {
    const NAME: &str = "available";
    let Some(bytes) = available_memory() else {
        let cost = "a configuration is not checked against the host's memory";
        return Row::lacks(GROUP, NAME, "/proc/meminfo does not say", cost);
    };
    let found = ByteSize(bytes).display().iec().to_string();
    if bytes >= DEMO_BYTES {
        return Row::have(GROUP, NAME, found);
    }
    Row::lacks(GROUP, NAME, found, "the demo needs 256 MiB").remedy("free some memory")
}

fn seals() -> Row {
    const NAME: &str = "memfd seals";
    let sealed = rustix::fs::memfd_create(
        "portal-doctor",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )
    .and_then(|fd| {
        rustix::fs::ftruncate(&fd, 4096)?;
        let size = SealFlags::SHRINK | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&fd, size)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE)?;
        Ok(rustix::fs::ftruncate(&fd, 0).is_err())
    });
    match sealed {
        Ok(true) => Row::have(GROUP, NAME, "size and future writes can be sealed"),
        Ok(false) => Row::lacks(
            GROUP,
            NAME,
            "taken, but do not hold",
            "whoever holds a region's fd can truncate it under its peers",
        ),
        Err(e) => Row::lacks(
            GROUP,
            NAME,
            format!("absent: {e}"),
            "whoever holds a region's fd can truncate it or punch holes in it",
        )
        .remedy("Linux 5.1 or newer"),
    }
}

fn huge_pages() -> Row {
    const NAME: &str = "huge pages (2 MiB)";
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let number = |file: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("{POOL}/{file}")).ok()?;
        text.trim().parse().ok()
    };
    match (number("free_hugepages"), number("nr_hugepages")) {
        (Some(free @ 1..), Some(all)) => Row::have(GROUP, NAME, format!("{free} of {all} free")),
        (Some(_), Some(all)) => Row::lacks(
            GROUP,
            NAME,
            format!("none free of {all}"),
            "regions above 16 MiB miss the TLB more often; backing = \"huge\" is refused",
        )
        .remedy(format!("echo 64 | sudo tee {POOL}/nr_hugepages")),
        _ => Row::lacks(
            GROUP,
            NAME,
            "this kernel has none",
            "regions above 16 MiB miss the TLB more often; backing = \"huge\" is refused",
        ),
    }
}

fn shared_memory_folder() -> Row {
    const NAME: &str = "/dev/shm";
    let space = rustix::fs::statvfs("/dev/shm").map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    match space {
        Ok(bytes) => {
            let free = ByteSize(bytes).display().iec();
            Row::have(GROUP, NAME, format!("{free} free for file-backed regions"))
        }
        Err(e) => Row::lacks(
            GROUP,
            NAME,
            format!("absent: {e}"),
            "file-backed regions go to a disk",
        ),
    }
}
