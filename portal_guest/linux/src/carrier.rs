//! Where a region can be in a Linux machine, and how it is opened there.
//!
//! | carrier | found at | memory | own peer number |
//! |---|---|---|---|
//! | ivshmem v1 | PCI 1AF4:1110 | BAR2 | IVPosition register |
//! | ivshmem v2 | PCI 110A:4106 | BAR2 | id register |
//! | device DAX | `/sys/bus/dax/devices` | `/dev/daxN.M` | given |
//! | file | the top folder of mounts with `dax`, or a path | the file | given |
//! | pmem | `/dev/pmemN` | not mappable for sharing: the kernel would map its own cache | - |
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

/// Number of the BAR that holds the region.
const REGION_BAR: usize = 2;
/// Where sysfs has device-DAX devices.
const DAX_DEVICES: &str = "/sys/bus/dax/devices";
/// What `mmap` of a BAR or a file works in.
const PAGE: u64 = 4096;

/// Something that may hold a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// An ivshmem v1 function.
    IvshmemV1(Function),
    /// An ivshmem v2 function.
    IvshmemV2(Function),
    /// A device-DAX device.
    Dax {
        /// Its node.
        node: PathBuf,
        /// Its folder in sysfs.
        folder: PathBuf,
    },
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

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IvshmemV1(function) | Self::IvshmemV2(function) => {
                f.write_str(&function.address())
            }
            Self::Dax { node: path, .. } | Self::File(path) | Self::Pmem(path) => {
                path.display().fmt(f)
            }
        }
    }
}

impl Carrier {
    /// What kind of carrier it is, in one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::IvshmemV1(_) => "ivshmem-v1",
            Self::IvshmemV2(_) => "ivshmem-v2",
            Self::Dax { .. } => "dax",
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
            let folder = Path::new(DAX_DEVICES).join(path.file_name().unwrap_or_default());
            Self::Dax { node: path, folder }
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

    /// This machine's peer number, where the carrier tells it.
    pub(crate) fn peer(&self) -> Option<PeerId> {
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

    /// The header of the region in it.
    pub(crate) fn header(&self, access: BarAccess) -> Result<Header, GuestError> {
        match self {
            Self::IvshmemV1(function) | Self::IvshmemV2(function) => {
                Ok(bar(function, access, OpenAs::Observer)?.header()?)
            }
            Self::Dax { node, folder } => Ok(dax(node, folder, OpenAs::Observer)?.header()?),
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
            Self::Dax { node, folder } => dax(node, folder, open_as)?,
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
fn dax(path: &Path, folder: &Path, open_as: OpenAs) -> Result<DeviceMemory, GuestError> {
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

/// Whether a block device's name is one of persistent memory.
pub(crate) fn is_pmem(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("pmem")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
