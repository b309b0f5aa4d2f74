//! A sectioned backing in another process: which fds it gets, and the backing
//! that it makes of them.

use super::Backing;
use super::BackingError;
use super::Part;
use super::Piece;
use super::Storage;
use super::View;
use super::file;
use crate::header::Header;
use crate::layout::Layout;
use crate::layout::PAGE;
use crate::region::RegionError;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::path::Path;

/// One fd on its way to another process.
#[derive(Debug)]
pub struct SharedPart {
    /// What it holds; `None` when it is the whole of a flat backing.
    pub part: Option<Part>,
    /// Whether it is open for writing.
    pub writable: bool,
    /// The fd.
    pub fd: OwnedFd,
}

impl Backing {
    /// The fds that a process with this view gets: read-write for what it
    /// writes, opened again read-only for the rest. A flat backing has one fd,
    /// read-write as soon as the view writes anything.
    ///
    /// # Errors
    /// [`BackingError::Io`].
    pub fn share(&self, view: View) -> Result<Vec<SharedPart>, BackingError> {
        let flat_writes = self.parts().any(|p| view.writes(p));
        self.pieces
            .iter()
            .map(|piece| {
                let writable = piece.part.map_or(flat_writes, |p| view.writes(p));
                let fd = if writable {
                    piece
                        .fd
                        .try_clone()
                        .map_err(|e| BackingError::io("duplicate an fd", e))?
                } else {
                    read_only(&piece.fd)?
                };
                Ok(SharedPart {
                    part: piece.part,
                    writable,
                    fd,
                })
            })
            .collect()
    }

    /// The pieces that have an fd: the whole of a flat backing is `None`.
    pub fn held(&self) -> impl Iterator<Item = Option<Part>> + '_ {
        self.pieces.iter().map(|piece| piece.part)
    }

    /// One piece's fd, as [`Self::share`] gives it.
    ///
    /// # Errors
    /// [`BackingError::NoSuchPart`], [`BackingError::Io`].
    pub fn share_piece(&self, part: Option<Part>, write: bool) -> Result<OwnedFd, BackingError> {
        let found = self.pieces.iter().find(|piece| piece.part == part);
        let piece = found.ok_or(BackingError::NoSuchPart {
            part: part.unwrap_or(Part::HostPages),
        })?;
        if !write {
            return read_only(&piece.fd);
        }
        let cloned = piece.fd.try_clone();
        cloned.map_err(|e| BackingError::io("duplicate an fd", e))
    }

    /// The backing that the receiver of [`Self::share`]'s fds makes of them. The
    /// layout comes from the header in the first part.
    ///
    /// # Errors
    /// [`BackingError::Region`] when that holds no region,
    /// [`BackingError::NoSuchPart`] when one is missing,
    /// [`BackingError::Truncated`].
    pub fn from_shared(parts: Vec<SharedPart>) -> Result<Self, BackingError> {
        let first = parts
            .iter()
            .find(|p| matches!(p.part, None | Some(Part::HostPages)))
            .ok_or(BackingError::NoSuchPart {
                part: Part::HostPages,
            })?;
        let bytes = file::header_bytes(&first.fd, Path::new("the host pages"))?;
        let header = Header::from_bytes(&bytes).map_err(|e| BackingError::Region {
            path: None,
            source: RegionError::Header(e),
        })?;
        Self::assemble(header.layout, parts)
    }

    /// A backing of these parts for a layout that this process knows without looking
    /// at the memory: the host's, whose peers may have written there.
    ///
    /// # Errors
    /// [`BackingError::NoSuchPart`] when one is missing,
    /// [`BackingError::Truncated`].
    pub fn assemble(layout: Layout, parts: Vec<SharedPart>) -> Result<Self, BackingError> {
        let mut this = Self {
            layout,
            storage: Storage::Memfd,
            numa_node: None,
            populate: false,
            granule: PAGE,
            measured: true,
            pieces: Vec::new(),
        };
        for shared in parts {
            let range = match shared.part {
                None => 0..this.layout.size,
                Some(part) => this.range(part),
            };
            this.pieces.push(Piece {
                range,
                part: shared.part,
                fd: shared.fd,
                at: 0,
                writable: shared.writable,
            });
        }
        let missing = this
            .parts()
            .find(|&p| p != Part::Tail && this.piece(p).is_err());
        if let Some(part) = missing {
            return Err(BackingError::NoSuchPart { part });
        }
        this.check()?;
        Ok(this)
    }
}

/// The same memory behind an fd that is open for reading only: its holder can
/// neither map it writable, nor write, nor punch holes.
fn read_only(fd: &OwnedFd) -> Result<OwnedFd, BackingError> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| BackingError::io("open a part read-only", e))
}
