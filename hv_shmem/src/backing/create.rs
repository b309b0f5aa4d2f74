//! Making backings: memfd and huge pages, flat and sectioned; files.

use super::Backing;
use super::BackingConfig;
use super::BackingError;
use super::Part;
use super::Piece;
use super::Storage;
use super::file;
use super::huge;
use crate::layout::HUGE_PAGE;
use crate::layout::Layout;
use crate::layout::PAGE;
use crate::layout::RegionSpec;
use rustix::fs::MemfdFlags;
use rustix::fs::Mode;
use rustix::fs::SealFlags;
use std::ops::Range;
use std::os::fd::OwnedFd;

impl Backing {
    /// Makes the storage of a new region, all zeros. Nothing is in it until the
    /// host formats it ([`crate::host_pages::HostPages::format`]).
    ///
    /// # Errors
    /// [`BackingError`] says which field, file or pool stands in the way.
    pub fn create(spec: &RegionSpec, config: &BackingConfig) -> Result<Self, BackingError> {
        let layout = Layout::compute(spec)?;
        let mut this = Self {
            layout,
            storage: config.storage.clone(),
            numa_node: config.numa_node,
            populate: config.populate,
            granule: PAGE,
            measured: true,
            pieces: Vec::new(),
        };
        let whole = 0..spec.size;
        match &config.storage {
            Storage::File(path) => {
                if spec.sectioned {
                    let path = path.clone();
                    return Err(BackingError::FileSectioned { path });
                }
                let fd = file::create(path, spec.size)?;
                this.pieces.push(Piece {
                    range: whole,
                    part: None,
                    fd,
                    at: 0,
                    writable: true,
                });
            }
            storage => {
                let huge = *storage == Storage::HugePages;
                if huge {
                    huge_enough(&this.layout, spec)?;
                    huge::expect(spec.size / HUGE_PAGE)?;
                }
                if spec.sectioned {
                    let parts: Vec<Part> = this.parts().filter(|&p| p != Part::Tail).collect();
                    for &part in &parts {
                        let range = this.range(part);
                        let piece = memfd(range, Some(part), huge)
                            .map_err(|e| too_many_files(e, parts.len()))?;
                        this.pieces.push(piece);
                    }
                } else {
                    this.pieces.push(memfd(whole, None, huge)?);
                }
            }
        }
        Ok(this)
    }
}

/// A process without fds gets told how many it needs.
fn too_many_files(e: BackingError, parts: usize) -> BackingError {
    match &e {
        BackingError::Io { source, .. }
            if source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) =>
        {
            BackingError::TooManyFiles { parts }
        }
        _ => e,
    }
}

/// Whether huge pages can hold the parts.
fn huge_enough(layout: &Layout, spec: &RegionSpec) -> Result<(), BackingError> {
    let fits = if spec.sectioned {
        layout.page == HUGE_PAGE
    } else {
        spec.size >= HUGE_PAGE
    };
    if fits {
        return Ok(());
    }
    let limit = if spec.sectioned {
        2 * crate::layout::ALIGN_HUGE_ABOVE
    } else {
        HUGE_PAGE
    };
    Err(BackingError::HugeAlign {
        size: spec.size,
        sectioned: spec.sectioned,
        limit,
    })
}

/// A memfd of the range's length whose size can never change.
fn memfd(range: Range<u64>, part: Option<Part>, huge: bool) -> Result<Piece, BackingError> {
    let fd = sealable(huge)?;
    rustix::fs::ftruncate(&fd, range.end - range.start)
        .map_err(|e| BackingError::io("set the size of a memfd", e))?;
    // Without these, any holder of the fd kills every reader with SIGBUS.
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)
        .map_err(|e| BackingError::io("seal the size of a memfd", e))?;
    // Whoever gets a read-only fd and is another user cannot open it again for
    // writing through /proc.
    rustix::fs::fchmod(&fd, Mode::RUSR).map_err(|e| BackingError::io("chmod a memfd", e))?;
    Ok(Piece {
        range,
        part,
        fd,
        at: 0,
        writable: true,
    })
}

/// An empty memfd. Kernels before 6.3 do not know `MFD_NOEXEC_SEAL`.
fn sealable(huge: bool) -> Result<OwnedFd, BackingError> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if huge {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let name = c"portal-region";
    let made = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    };
    made.map_err(|e| BackingError::io("create a memfd", e))
}
