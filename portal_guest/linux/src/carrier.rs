//! Where a region can be in a Linux machine, and which one is where.
//!
//! | carrier | found at | memory | own peer number |
//! |---|---|---|---|
//! | ivshmem v1 | PCI 1AF4:1110 | BAR2 | IVPosition register |
//! | ivshmem v2 | PCI 110A:4106 | BAR2 | id register |
//! | device DAX | `/sys/bus/dax/devices` | `/dev/daxN.M` | given |
//! | file | the top folder of mounts with `dax`, or a path | the file | given |
//! | pmem | `/dev/pmemN` | not mappable for sharing: the kernel would map its own cache | - |
//!
//! Regions are told apart by the header that they carry (name, UUID), never by the
//! order in which devices were found.
//!
//! # The memory type of a BAR
//!
//! `resource2` gives an *uncached-minus* mapping for any BAR, prefetchable or not,
//! and so does VFIO; `resource2_wc` gives write-combining. Write-combining may reorder
//! stores, which breaks every ring: it is never used here. `/dev/mem` (without
//! `O_SYNC`) asks for write-back and gets it where the MTRRs say write-back: for BARs
//! above 4 GiB, not for those in the hole below. Uncached-minus is correct anywhere;
//! what it costs depends on the VMM's processor (Intel: KVM gives write-back whatever
//! the guest asks for, unless told otherwise; AMD: each access goes to memory).
//!
//! Distrusted: whoever wrote the bytes of a region. Left out: an ivshmem v2 function
//! without BAR2.

use crate::GuestError;
use crate::pci::Function;
use crate::registers::Registers;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::DeviceMemory;
use hv_shmem::backing::OpenAs;
use hv_shmem::header::Header;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use rustix::fs::AtFlags;
use rustix::fs::StatxAttributes;
use rustix::fs::StatxFlags;
use std::fmt;
use std::fs;
use std::fs::File;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use uuid::Uuid;

/// Vendor and device id of ivshmem v1.
const V1: (u16, u16) = (0x1af4, 0x1110);
/// Vendor and device id of ivshmem v2.
const V2: (u16, u16) = (0x110a, 0x4106);
/// Number of the BAR that holds the region.
const REGION_BAR: usize = 2;
/// Files looked at in the top folder of a DAX mount: a look at more would be a
/// search.
const FILES_A_MOUNT: usize = 64;
/// What `mmap` of a BAR or a file works in.
const PAGE: u64 = 4096;

/// Something that may hold a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// An ivshmem v1 function.
    IvshmemV1(Function),
    /// An ivshmem v2 function.
    IvshmemV2(Function),
    /// A device-DAX node.
    Dax(PathBuf),
    /// A file: on a DAX mount, or on the host that owns it.
    File(PathBuf),
    /// A persistent-memory block device.
    Pmem(PathBuf),
}

/// How to map a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BarAccess {
    /// [`BarAccess::WriteBack`] where it is allowed, else [`BarAccess::Sysfs`].
    #[default]
    Auto,
    /// Through `/dev/mem`: write-back where the MTRRs allow it.
    WriteBack,
    /// Through `resource2`: uncached-minus.
    Sysfs,
}

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

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IvshmemV1(function) | Self::IvshmemV2(function) => {
                f.write_str(&function.address())
            }
            Self::Dax(path) | Self::File(path) | Self::Pmem(path) => path.display().fmt(f),
        }
    }
}

/// Looks into every carrier of this machine: functions in the order of their
/// addresses, device DAX, DAX mounts, persistent memory.
pub fn scan(access: BarAccess) -> Vec<Found> {
    scan_below(Path::new("/sys"), access)
}

/// The same with another sysfs.
pub fn scan_below(sysfs: &Path, access: BarAccess) -> Vec<Found> {
    let functions = Function::all(sysfs).into_iter().filter_map(|function| {
        match (function.vendor, function.device) {
            V1 => Some(Carrier::IvshmemV1(function)),
            V2 => Some(Carrier::IvshmemV2(function)),
            _ => None,
        }
    });
    let nodes = |folder: &str| {
        let entries = fs::read_dir(sysfs.join(folder)).into_iter().flatten();
        let names = entries
            .flatten()
            .map(|e| Path::new("/dev").join(e.file_name()));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let dax = nodes("bus/dax/devices").into_iter().map(Carrier::Dax);
    let pmem = nodes("class/block")
        .into_iter()
        .filter(|path| is_pmem(path));
    let files = dax_mounts()
        .into_iter()
        .flat_map(files_in)
        .map(Carrier::File);
    functions
        .chain(dax)
        .chain(files)
        .chain(pmem.map(Carrier::Pmem))
        .map(|carrier| look(carrier, access))
        .collect()
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
        return "it has no ivshmem function, DAX device or persistent memory".to_owned();
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
    format!("it has {}", each.collect::<Vec<_>>().join(", "))
}

impl Carrier {
    /// What kind of carrier it is, in one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::IvshmemV1(_) => "ivshmem-v1",
            Self::IvshmemV2(_) => "ivshmem-v2",
            Self::Dax(_) => "dax",
            Self::File(_) => "file",
            Self::Pmem(_) => "pmem",
        }
    }

    /// The carrier that a path stands for: a DAX node, a block device, a file.
    ///
    /// # Errors
    /// [`GuestError::Os`].
    pub fn at(path: &Path) -> Result<Self, GuestError> {
        let kind = fs::metadata(path).map_err(GuestError::os("open", path))?;
        let kind = kind.file_type();
        let path = path.to_owned();
        Ok(if kind.is_char_device() {
            Self::Dax(path)
        } else if kind.is_block_device() {
            Self::Pmem(path)
        } else {
            Self::File(path)
        })
    }

    /// The registers, where it has any.
    pub(crate) fn function(&self) -> Option<&Function> {
        match self {
            Self::IvshmemV1(function) | Self::IvshmemV2(function) => Some(function),
            _ => None,
        }
    }

    fn peer(&self) -> Option<PeerId> {
        let registers = Registers::map(self.function()?).ok()?;
        match self {
            Self::IvshmemV1(function) => {
                // The plain variant has no BAR1 and no place in a region.
                function.bar(1)?;
                registers.iv_position()
            }
            _ => registers.id(),
        }
    }

    fn header(&self, access: BarAccess) -> Result<Header, GuestError> {
        match self {
            Self::IvshmemV1(function) | Self::IvshmemV2(function) => {
                Ok(bar(function, access, OpenAs::Observer)?.header()?)
            }
            Self::Dax(path) => Ok(dax(path, OpenAs::Observer)?.header()?),
            Self::File(path) | Self::Pmem(path) => read_header(path),
        }
    }

    /// Opens the memory, and says through what.
    ///
    /// # Errors
    /// [`GuestError::NotShared`], [`GuestError::Backing`], [`GuestError::Os`].
    pub fn open(
        &self,
        access: BarAccess,
        open_as: OpenAs,
    ) -> Result<(Backing, PathBuf), GuestError> {
        let device = match self {
            Self::IvshmemV1(function) | Self::IvshmemV2(function) => {
                bar(function, access, open_as)?
            }
            Self::Dax(path) => dax(path, open_as)?,
            Self::File(path) => {
                shared(path)?;
                return Ok((Backing::open_file(path, open_as)?, path.clone()));
            }
            Self::Pmem(path) => {
                return Err(GuestError::NotShared {
                    path: path.clone(),
                    why: "the kernel maps its own cache of a block device; give the region \
                          a file on a file system mounted with -o dax, or a device-DAX node",
                });
            }
        };
        let path = device.path.clone();
        Ok((Backing::open_device(device, open_as)?, path))
    }
}

/// The BAR with the region.
fn bar(
    function: &Function,
    access: BarAccess,
    open_as: OpenAs,
) -> Result<DeviceMemory, GuestError> {
    let sysfs = function.file("resource2");
    let none = || std::io::Error::other("the function has no BAR2 with memory");
    let bar = function
        .bar(REGION_BAR)
        .ok_or_else(|| GuestError::os("map", &sysfs)(none()))?;
    function.config()?.decode_memory()?;
    let open = |path: &Path, at: u64| {
        let write = open_as != OpenAs::Observer;
        let fd = File::options().read(true).write(write).open(path);
        Ok::<_, GuestError>(DeviceMemory {
            path: path.to_owned(),
            fd: fd.map_err(GuestError::os("open", path))?.into(),
            at,
            len: bar.len,
            granule: PAGE,
        })
    };
    let write_back = || open(Path::new("/dev/mem"), bar.start);
    match access {
        BarAccess::Sysfs => open(&sysfs, 0),
        BarAccess::WriteBack => write_back(),
        // Opens and does not map, or maps something else, where the kernel is
        // locked down.
        BarAccess::Auto => match write_back() {
            Ok(memory) if memory.header().is_ok() => Ok(memory),
            _ => open(&sysfs, 0),
        },
    }
}

/// A device-DAX node; what it maps at once stands in sysfs.
fn dax(path: &Path, open_as: OpenAs) -> Result<DeviceMemory, GuestError> {
    let name = path.file_name().unwrap_or_default();
    let folder = Path::new("/sys/bus/dax/devices").join(name);
    let number = |file: &str| {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).map_err(GuestError::os("read", &path))?;
        let number = text.trim().parse::<u64>();
        number.map_err(|e| GuestError::os("read", &path)(std::io::Error::other(e)))
    };
    let write = open_as != OpenAs::Observer;
    let fd = File::options().read(true).write(write).open(path);
    Ok(DeviceMemory {
        path: path.to_owned(),
        fd: fd.map_err(GuestError::os("open", path))?.into(),
        at: 0,
        len: number("size")?,
        granule: number("align")?,
    })
}

fn read_header(path: &Path) -> Result<Header, GuestError> {
    use hv_shmem::header::HEADER_BYTES;
    use std::os::unix::fs::FileExt as _;
    let file = File::open(path).map_err(GuestError::os("open", path))?;
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, hv_shmem::layout::HEADER_AT)
        .map_err(GuestError::os("read", path))?;
    Header::from_bytes(&bytes).map_err(|e| {
        GuestError::Backing(BackingError::Region {
            path: Some(path.to_owned()),
            source: e.into(),
        })
    })
}

/// Refuses a file on persistent memory that is mapped through the kernel's cache.
fn shared(path: &Path) -> Result<(), GuestError> {
    let attributes = rustix::fs::statx(
        rustix::fs::CWD,
        path,
        AtFlags::empty(),
        StatxFlags::BASIC_STATS,
    )
    .map_err(|e| GuestError::os("statx", path)(e.into()))?
    .stx_attributes;
    if attributes.contains(StatxAttributes::DAX) {
        return Ok(());
    }
    let device = fs::metadata(path)
        .map_err(GuestError::os("open", path))?
        .dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    match link {
        Ok(link) if is_pmem(&link) => Err(GuestError::NotShared {
            path: path.to_owned(),
            why: "its file system is not mounted with -o dax: other machines would not see \
                  what is written",
        }),
        _ => Ok(()),
    }
}

fn is_pmem(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("pmem")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Folders that file systems with DAX are mounted on (proc(5), mountinfo).
fn dax_mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(dax_mount).collect()
}

fn dax_mount(line: &str) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    let options = file_system.split_whitespace().nth(2)?;
    let dax = options.split(',').any(|o| o == "dax" || o == "dax=always");
    // Spaces in paths are written in octal; such a mount is left to `--file`.
    dax.then(|| mount.split_whitespace().nth(4).map(PathBuf::from))?
}

fn files_in(folder: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
    let mut files: Vec<_> = files.take(FILES_A_MOUNT).map(|e| e.path()).collect();
    files.sort();
    files
}
