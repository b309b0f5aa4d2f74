//! Looking into every carrier of this machine, and which one has the region.
//!
//! Regions are told apart by the header that they carry (name, UUID), never by the
//! order in which devices were found. A carrier that cannot be looked into is found all
//! the same, with the reason.
//!
//! Distrusted: whoever wrote the bytes of a region; trusted: this machine's kernel.

use crate::GuestError;
use crate::carrier::BarAccess;
use crate::carrier::Carrier;
use crate::carrier::is_pmem;
use crate::pci::Function;
use hv_shmem::header::Header;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use uuid::Uuid;

/// Vendor and device id of ivshmem v1.
const V1: (u16, u16) = (0x1af4, 0x1110);
/// Vendor and device id of ivshmem v2.
const V2: (u16, u16) = (0x110a, 0x4106);
/// Files looked at in the top folder of a DAX mount: a look at more would be a
/// search.
const FILES_A_MOUNT: usize = 64;

/// A carrier and what is in it.
#[derive(Debug)]
pub struct Found {
    /// The carrier.
    pub carrier: Carrier,
    /// The region's header, or why there is none.
    pub header: Result<Header, GuestError>,
    /// This machine's peer number, where the carrier tells it.
    pub peer: Option<PeerId>,
}

/// Which region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The only one.
    Any,
    /// By name.
    Name(&'a str),
    /// By UUID.
    Uuid(Uuid),
}

impl<'a> Wanted<'a> {
    /// A UUID where the text is one, else a name.
    pub fn parse(text: &'a str) -> Self {
        Uuid::try_parse(text).map_or(Self::Name(text), Self::Uuid)
    }

    /// Whether a region of this name and UUID is meant.
    pub fn matches(&self, name: &Name, uuid: Uuid) -> bool {
        match self {
            Self::Any => true,
            Self::Name(wanted) => name.as_str() == *wanted,
            Self::Uuid(wanted) => uuid == *wanted,
        }
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("a region"),
            Self::Name(name) => write!(f, "region {name}"),
            Self::Uuid(uuid) => write!(f, "region {uuid}"),
        }
    }
}

/// Looks into every carrier of this machine: functions in the order of their
/// addresses, device DAX, DAX mounts, persistent memory.
pub fn scan(access: BarAccess) -> Vec<Found> {
    scan_below(Path::new("/"), access)
}

/// The same in another tree than `/`: its `sys`, `dev` and `proc`. There, only
/// [`BarAccess::Sysfs`] has to do with the tree: `/dev/mem` is this machine's.
pub fn scan_below(root: &Path, access: BarAccess) -> Vec<Found> {
    let sysfs = root.join("sys");
    let functions = Function::all(&sysfs).into_iter().filter_map(|function| {
        match (function.vendor, function.device) {
            V1 => Some(Carrier::IvshmemV1(function)),
            V2 => Some(Carrier::IvshmemV2(function)),
            _ => None,
        }
    });
    let node = |folder: &Path| {
        root.join("dev")
            .join(folder.file_name().unwrap_or_default())
    };
    let dax = entries(&sysfs.join("bus/dax/devices"))
        .into_iter()
        .map(|folder| Carrier::Dax {
            node: node(&folder),
            folder,
        });
    let pmem = entries(&sysfs.join("class/block"));
    let pmem = pmem.iter().filter(|folder| is_pmem(folder));
    let files = dax_mounts(&root.join("proc/self/mountinfo"))
        .into_iter()
        .flat_map(files_in)
        .map(Carrier::File);
    functions
        .chain(dax)
        .chain(files)
        .chain(pmem.map(|folder| Carrier::Pmem(node(folder))))
        .map(|carrier| look(carrier, access))
        .collect()
}

/// What is in a folder, in the order of names.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|e| e.path()).collect();
    paths.sort();
    paths
}

/// Looks into one carrier.
pub fn look(carrier: Carrier, access: BarAccess) -> Found {
    let header = carrier.header(access);
    let peer = carrier.peer();
    Found {
        carrier,
        header,
        peer,
    }
}

/// The first carrier of the wanted region. The same region in several carriers is one
/// region; the first is the one with most: interrupts before device DAX before files.
///
/// # Errors
/// [`GuestError::NotFound`], [`GuestError::Ambiguous`].
pub fn find(found: Vec<Found>, wanted: Wanted<'_>) -> Result<Found, GuestError> {
    let seen = seen(&found);
    let mut matching = found.into_iter().filter(|f| {
        f.header
            .as_ref()
            .is_ok_and(|h| wanted.matches(&h.name, h.uuid))
    });
    let wanted = wanted.to_string();
    let Some(first) = matching.next() else {
        return Err(GuestError::NotFound { wanted, seen });
    };
    let uuid = |f: &Found| f.header.as_ref().ok().map(|h| h.uuid);
    match matching.find(|other| uuid(other) != uuid(&first)) {
        Some(_) => Err(GuestError::Ambiguous { wanted, seen }),
        None => Ok(first),
    }
}

fn seen(found: &[Found]) -> String {
    if found.is_empty() {
        return "this machine has no ivshmem function, DAX device or persistent memory".to_owned();
    }
    let each = found.iter().map(|f| match &f.header {
        Ok(header) => format!(
            "{} ({}) at {}",
            header.name.as_str(),
            header.uuid,
            f.carrier
        ),
        Err(error) => format!("none at {} ({error})", f.carrier),
    });
    format!("this machine has {}", each.collect::<Vec<_>>().join(", "))
}

/// Folders that file systems with DAX are mounted on (proc(5), mountinfo).
fn dax_mounts(mountinfo: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(mountinfo).unwrap_or_default();
    text.lines().filter_map(dax_mount).collect()
}

fn dax_mount(line: &str) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    let options = file_system.split_whitespace().nth(2)?;
    let dax = options.split(',').any(|o| o == "dax" || o == "dax=always");
    // Spaces in paths are written in octal; such a mount is left to
    // whoever names the file.
    dax.then(|| mount.split_whitespace().nth(4).map(PathBuf::from))?
}

fn files_in(folder: PathBuf) -> Vec<PathBuf> {
    let mut files = entries(&folder);
    files.retain(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()));
    files.truncate(FILES_A_MOUNT);
    files
}
