//! Regions in files: locked by their host, whole from the start.
//!
//! A file can be truncated by anyone who may write it. Nothing seals it, so the
//! host takes `flock` (against a second host and against `check`), allocates
//! every block when it creates the file (a full disk is an error then, not a
//! signal later), and watches the size.

use super::Backing;
use super::BackingError;
use super::Piece;
use super::Storage;
use crate::header::HEADER_BYTES;
use crate::header::Header;
use crate::layout::HEADER_AT;
use crate::layout::PAGE;
use crate::region::RegionError;
use rustix::fs::FallocateFlags;
use rustix::fs::FileType;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

/// As whom a process opens a region file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenAs {
    /// The one host (or `check` with repair): takes the lock.
    Host,
    /// A peer that writes its own section.
    Peer,
    /// Reads only.
    Observer,
}

impl Backing {
    /// Opens a region file that exists and holds a region.
    ///
    /// # Errors
    /// [`BackingError::Busy`] for a second host, [`BackingError::Truncated`],
    /// [`BackingError::Region`] when the header cannot be used,
    /// [`BackingError::Io`].
    pub fn open_file(path: &Path, open_as: OpenAs) -> Result<Self, BackingError> {
        let fd = open(path, open_as)?;
        let bytes = header_bytes(&fd, path)?;
        let header = Header::from_bytes(&bytes).map_err(|e| BackingError::Region {
            path: Some(path.into()),
            source: RegionError::Header(e),
        })?;
        let this = Self::over_file(path, fd, header.layout, open_as);
        this.check()?;
        Ok(this)
    }

    pub(crate) fn over_file(
        path: &Path,
        fd: OwnedFd,
        layout: crate::layout::Layout,
        open_as: OpenAs,
    ) -> Self {
        Self {
            pieces: vec![Piece {
                range: 0..layout.size,
                part: None,
                fd,
                at: 0,
                writable: open_as != OpenAs::Observer,
            }],
            layout,
            storage: Storage::File(path.into()),
            numa_node: None,
            populate: false,
            granule: PAGE,
            measured: true,
        }
    }

    /// Writes what is in memory to the file's disk and returns when it is there.
    ///
    /// # Errors
    /// [`BackingError::Io`].
    pub fn sync(&self) -> Result<(), BackingError> {
        for piece in &self.pieces {
            rustix::fs::fsync(&piece.fd).map_err(|e| failed("fsync", self.path(), e))?;
        }
        Ok(())
    }
}

/// Creates a file of `size` bytes, every block allocated, locked.
pub(super) fn create(path: &Path, size: u64) -> Result<OwnedFd, BackingError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| failed("create", Some(path.into()), e))?;
    let filled = lock(&fd, path).and_then(|()| fill(&fd, path, size));
    if let Err(e) = filled {
        // Half a file is no use to anybody; the first error is the one to tell.
        let _ = rustix::fs::unlink(path);
        return Err(e);
    }
    Ok(fd)
}

fn fill(fd: &OwnedFd, path: &Path, size: u64) -> Result<(), BackingError> {
    match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size) {
        // File systems that cannot allocate ahead get a sparse file.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => rustix::fs::ftruncate(fd, size)
            .map_err(|e| failed("set the size of", Some(path.into()), e)),
        other => other.map_err(|e| failed("allocate the blocks of", Some(path.into()), e)),
    }
}

/// Opens a file and, as a host, locks it.
pub(crate) fn open(path: &Path, open_as: OpenAs) -> Result<OwnedFd, BackingError> {
    let access = match open_as {
        OpenAs::Observer => OFlags::RDONLY,
        OpenAs::Host | OpenAs::Peer => OFlags::RDWR,
    };
    // NONBLOCK: a FIFO by that name is an error below, not a wait for a writer.
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| failed("open", Some(path.into()), e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed("fstat", Some(path.into()), e))?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(BackingError::NotAFile { path: path.into() });
    }
    if open_as == OpenAs::Host {
        lock(&fd, path)?;
    }
    Ok(fd)
}

fn lock(fd: &OwnedFd, path: &Path) -> Result<(), BackingError> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(BackingError::Busy { path: path.into() }),
        Err(e) => Err(failed("lock", Some(path.into()), e)),
    }
}

/// The header's bytes, copied once. A file too short to have any is truncated.
pub(crate) fn header_bytes(fd: impl AsFd, path: &Path) -> Result<[u8; HEADER_BYTES], BackingError> {
    let mut bytes = [0; HEADER_BYTES];
    let got = rustix::io::pread(fd.as_fd(), &mut bytes, HEADER_AT)
        .map_err(|e| failed("read", Some(path.into()), e))?;
    if got < HEADER_BYTES {
        let stat = rustix::fs::fstat(fd.as_fd()).map_err(|e| BackingError::io("fstat", e))?;
        return Err(BackingError::Truncated {
            path: Some(path.into()),
            have: stat.st_size.max(0) as u64,
            need: crate::layout::MIN_REGION,
        });
    }
    Ok(bytes)
}

fn failed(what: &'static str, path: Option<PathBuf>, e: Errno) -> BackingError {
    BackingError::Io {
        what,
        path,
        source: e.into(),
    }
}
