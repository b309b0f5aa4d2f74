//! Regions in the memory of a device, as a guest sees them: a PCI BAR through
//! sysfs, VFIO or `/dev/mem`, a device-DAX node.
//!
//! Such memory cannot be read by `read(2)`: the header is copied through a mapping
//! of its own. Distrusted: every other peer, as everywhere; trusted: the VMM, whose
//! device it is.
#![expect(unsafe_code, reason = "mmap of the header's pages")]

use super::Backing;
use super::BackingError;
use super::OpenAs;
use super::Piece;
use super::Storage;
use crate::header::HEADER_BYTES;
use crate::header::Header;
use crate::layout;
use crate::layout::PAGE;
use crate::mem::RawMem;
use crate::region::RegionError;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A range of device memory that can be mapped.
#[derive(Debug)]
pub struct DeviceMemory {
    /// What to call it in messages.
    pub path: PathBuf,
    /// What `mmap` takes, open for reading, and for writing where the region is
    /// opened as a peer.
    pub fd: OwnedFd,
    /// Where in `fd` the memory begins: a multiple of `granule`.
    pub at: u64,
    /// Bytes there.
    pub len: u64,
    /// What mappings have to be multiples of, in bytes: 4096, or the alignment of
    /// a device-DAX node. Above the region's own pages, parts that this process
    /// does not write are writable in its mapping all the same.
    pub granule: u64,
}

impl DeviceMemory {
    /// Copies the region's header out of the device and checks the copy.
    ///
    /// # Errors
    /// [`BackingError::Truncated`], [`BackingError::Region`] when there is no
    /// region, [`BackingError::Io`] when the device cannot be mapped.
    pub fn header(&self) -> Result<Header, BackingError> {
        let need = layout::HEADER_AT + HEADER_BYTES as u64;
        if self.len < layout::MIN_REGION {
            return Err(BackingError::Truncated {
                path: Some(self.path.clone()),
                have: self.len,
                need: layout::MIN_REGION,
            });
        }
        let len = need.next_multiple_of(self.granule.max(PAGE)).min(self.len);
        let failed = |source: rustix::io::Errno| BackingError::Io {
            what: "map",
            path: Some(self.path.clone()),
            source: source.into(),
        };
        let len = usize::try_from(len).map_err(|_| failed(rustix::io::Errno::NOMEM))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            let (prot, flags) = (ProtFlags::READ, MapFlags::SHARED);
            rustix::mm::mmap(core::ptr::null_mut(), len, prot, flags, &self.fd, self.at)
        }
        .map_err(failed)?;
        // SAFETY: mapped above, page-aligned, used only until it is unmapped below.
        let mem = unsafe { RawMem::new(base.cast(), len as u64) };
        let header = Header::copy_from(&mem);
        // SAFETY: the mapping made above; nobody else has its address.
        let unmapped = unsafe { rustix::mm::munmap(base, len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own range");
        header.map_err(|e| BackingError::Region {
            path: Some(self.path.clone()),
            source: RegionError::Header(e),
        })
    }
}

impl Backing {
    /// Opens the region in a device's memory.
    ///
    /// # Errors
    /// As [`DeviceMemory::header`]; [`BackingError::Truncated`] when the device is
    /// smaller than the region.
    pub fn open_device(device: DeviceMemory, open_as: OpenAs) -> Result<Self, BackingError> {
        let layout = device.header()?.layout;
        if device.len < layout.size {
            return Err(BackingError::Truncated {
                path: Some(device.path),
                have: device.len,
                need: layout.size,
            });
        }
        Ok(Self {
            pieces: vec![Piece {
                range: 0..layout.size,
                part: None,
                fd: device.fd,
                at: device.at,
                writable: open_as != OpenAs::Observer,
            }],
            layout,
            storage: Storage::File(device.path),
            numa_node: None,
            populate: false,
            granule: device.granule.max(PAGE),
            measured: false,
        })
    }
}
