//! Memory with storage behind it: a file that guests map, and the descriptor by
//! which its bytes become durable.
//!
//! Several partitions may map one file; the host's page cache is what they share.
//! The file's other users may truncate it: an access behind its end stops the
//! partition that makes it ([`crate::FaultKind::RegionLost`]). Nothing here reads
//! the bytes.

use crate::SharedRegion;
use crate::VmmError;
use crate::memory::HostMemory;
use crate::memory::HostRange;
use hv_shmem::backing::Part;
use portal_device::Access;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A file in memory.
#[derive(Debug)]
pub struct Storage {
    name: String,
    memory: HostRange,
    access: Access,
    file: OwnedFd,
}

impl Storage {
    /// Memory that somebody mapped from `file`; `name` is for messages.
    pub fn new(name: impl Into<String>, memory: HostRange, access: Access, file: OwnedFd) -> Self {
        Storage {
            name: name.into(),
            memory,
            access,
            file,
        }
    }

    /// Maps the whole of a file that exists.
    ///
    /// # Errors
    /// [`VmmError::Storage`]: no such file, no regular file, empty; [`VmmError::Memory`].
    pub fn open(path: &Path, access: Access) -> Result<Self, VmmError> {
        let name = path.display().to_string();
        let fail = |reason: String| VmmError::Storage {
            storage: name.clone(),
            reason,
        };
        let writable = access == Access::ReadWrite;
        let mode = if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        // A FIFO would block.
        let flags = mode | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| fail(format!("cannot open it: {errno}")))?;
        let stat =
            rustix::fs::fstat(&file).map_err(|errno| fail(format!("cannot fstat it: {errno}")))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(fail("it is no regular file".to_owned()));
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if bytes == 0 {
            return Err(fail("it is empty; give it a size: truncate -s".to_owned()));
        }
        let memory = HostMemory::of_file(&name, &file, bytes, writable)?;
        Ok(Storage::new(name, memory.range(), access, file))
    }

    /// The memory of a region, whole.
    ///
    /// # Errors
    /// [`VmmError::Storage`] when sections of the region are enforced and the guest
    /// is to write: one mapping has one right.
    pub fn of_region(region: &SharedRegion, access: Access) -> Result<Self, VmmError> {
        let fail = |reason: String| VmmError::Storage {
            storage: format!("region {:?}", region.name()),
            reason,
        };
        if region.enforced() && access == Access::ReadWrite {
            return Err(fail(
                "its sections are enforced, and a pmem device maps it as one; give it a file \
                 backing (one descriptor, flat) or the device access = \"ro\""
                    .to_owned(),
            ));
        }
        let backing = region
            .backing()
            .ok_or_else(|| fail("its storage belongs to another process".to_owned()))?;
        let (file, _) = backing
            .part_fd(Part::HostPages)
            .map_err(|error| fail(error.to_string()))?;
        let file = file
            .try_clone_to_owned()
            .map_err(|error| fail(format!("cannot copy its descriptor: {error}")))?;
        Ok(Storage::new(
            region.name(),
            region.memory().clone(),
            access,
            file,
        ))
    }

    /// Name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.memory.len()
    }

    /// What a guest may do with the memory.
    pub fn access(&self) -> Access {
        self.access
    }

    pub(crate) fn memory(&self) -> &HostRange {
        &self.memory
    }

    pub(crate) fn file(&self) -> std::io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}
