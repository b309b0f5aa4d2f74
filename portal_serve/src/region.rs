//! A region's memory: one flat memfd for regions that QEMU may join, because it
//! takes one fd; one a section where sections are enforced.
//!
//! Size seals keep a client from truncating it under the others, and a seal on
//! seals keeps it from sealing the others out. In a flat region, that a client writes
//! only its own section is agreement, not mapping: hole punching and stray writes are
//! possible (a flat backing relies on checks alone). A client without the right to
//! write gets an fd that is open for reading only.

use crate::RegionConfig;
use crate::ServeError;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::Part;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use uuid::Uuid;

/// The memory of one region.
#[derive(Debug)]
pub(crate) struct Memory {
    backing: Backing,
}

impl Memory {
    /// Makes and formats it.
    pub(crate) fn make(config: &RegionConfig) -> Result<(Self, HostPages<MappedMem>), ServeError> {
        let fail = |reason: String| ServeError::Region {
            name: config.name,
            reason,
        };
        let spec = config.spec()?;
        let backing = Backing::create(&spec, &BackingConfig::default())
            .map_err(|error| fail(error.to_string()))?;
        backing
            .seal_seals()
            .map_err(|error| fail(error.to_string()))?;
        let view = View {
            host_pages: true,
            ..View::OBSERVER
        };
        let mapping = backing.map(view).map_err(|error| fail(error.to_string()))?;
        let pages = HostPages::format(mapping.mem(), &spec, fresh_uuid()?)
            .map_err(|error| fail(error.to_string()))?;
        Ok((Self { backing }, pages))
    }

    /// The fd that clients of the compatibility socket get.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.backing.part_fd(Part::HostPages).ok().map(|(fd, _)| fd)
    }

    /// What holds the bytes, for people.
    pub(crate) fn describe(&self) -> &'static str {
        if self.backing.is_sectioned() {
            "sealed memory, one descriptor a section"
        } else {
            "sealed memory, one descriptor"
        }
    }

    /// The pieces that have an fd.
    pub(crate) fn pieces(&self) -> Vec<Option<Part>> {
        self.backing.held().collect()
    }

    /// An fd of a piece, to be sent.
    pub(crate) fn piece(&self, piece: Option<Part>, write: bool) -> Result<OwnedFd, Errno> {
        self.backing
            .share_piece(piece, write)
            .map_err(|error| match error {
                BackingError::Io { source, .. } => {
                    Errno::from_io_error(&source).unwrap_or(Errno::IO)
                }
                _ => Errno::BADF,
            })
    }
}

fn fresh_uuid() -> Result<Uuid, ServeError> {
    let mut bytes = [0; 16];
    let flags = rustix::rand::GetRandomFlags::empty();
    // So few bytes come whole (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, flags).map_err(ServeError::os("get random bytes"))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
