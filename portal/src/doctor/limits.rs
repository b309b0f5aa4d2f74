//! Limits of this process.

use super::Row;
use rustix::process::Resource;
use rustix::process::getrlimit;

const GROUP: &str = "limits";
/// One partition takes about ten descriptors, and one more for each peer and
/// vector: 64 partitions on one region need this many.
const FILES_WANTED: u64 = 16_384;
/// What the demo needs.
const FILES_NEEDED: u64 = 256;

/// Everything about limits.
pub(super) fn probe() -> Vec<Row> {
    vec![files(), locked()]
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or("unlimited".to_owned(), |l| l.to_string())
}

fn files() -> Row {
    const NAME: &str = "open files";
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let found = format!("{} (hard: {})", shown(limit.current), shown(limit.maximum));
    if current >= FILES_WANTED {
        return Row::have(GROUP, NAME, found);
    }
    let cost = "64 partitions on one region want more event descriptors than that";
    let row = Row::lacks(GROUP, NAME, found, cost).remedy(format!(
        "ulimit -n {FILES_WANTED}, or LimitNOFILE= in a service"
    ));
    if current < FILES_NEEDED {
        row.missing()
    } else {
        row
    }
}

fn locked() -> Row {
    const NAME: &str = "locked memory";
    let limit = getrlimit(Resource::Memlock);
    match limit.current {
        None => Row::have(GROUP, NAME, "unlimited"),
        Some(bytes) => {
            let found = bytesize::ByteSize(bytes).display().iec().to_string();
            Row::lacks(
                GROUP,
                NAME,
                found,
                "none: nothing here locks memory; a host that swaps may page a region out",
            )
        }
    }
}
