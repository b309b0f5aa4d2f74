//! The region's bytes as descriptors, for VMMs that map them by themselves.

use crate::ClientError;
use hv_shmem::backing::Backing;
use hv_shmem::backing::View;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A run of the region's bytes that one descriptor has.
#[derive(Debug)]
pub struct Stretch {
    /// Where in the window it begins, bytes.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// The descriptor; open for writing where this peer writes.
    pub file: OwnedFd,
    /// Where in the file it begins, bytes.
    pub offset: u64,
}

pub(super) enum Memory {
    Served(Arc<Backing>, View),
    File(OwnedFd, u64),
}

impl Memory {
    pub(super) fn stretches(&self, window: Range<u64>) -> Result<Vec<Stretch>, ClientError> {
        let mut stretches = Vec::new();
        let mut add = |piece: Range<u64>, file: &dyn Fn() -> Result<OwnedFd, ClientError>| {
            let start = piece.start.max(window.start);
            let end = piece.end.min(window.end);
            if start < end {
                stretches.push(Stretch {
                    at: start.saturating_sub(window.start),
                    len: end.saturating_sub(start),
                    file: file()?,
                    offset: start.saturating_sub(piece.start),
                });
            }
            Ok::<_, ClientError>(())
        };
        match self {
            Self::Served(backing, view) => {
                for part in backing.held() {
                    let piece = part.map_or(0..backing.layout().size, |part| backing.range(part));
                    let writes = |p| part.is_none_or(|q| p == q) && view.writes(p);
                    let write = backing.parts().any(writes);
                    add(piece, &|| Ok(backing.share_piece(part, write)?))?;
                }
            }
            Self::File(file, len) => add(0..*len, &|| {
                let again = rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 0);
                again.map_err(ClientError::os("duplicate a descriptor"))
            })?,
        }
        stretches.sort_by_key(|stretch| stretch.at);
        Ok(stretches)
    }
}
