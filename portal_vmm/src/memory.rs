//! Host memory that backs guests: [`HostMemory`] owns a mapping, [`HostRange`] is
//! a part of one that keeps it alive.
//!
//! Guests change this memory at any moment, so the host touches it only through
//! [`hv_shmem::mem::SharedMem`]. Huge pages are mapped without `MAP_NORESERVE`,
//! so that an empty pool is an error here and not a SIGBUS later.
#![expect(
    unsafe_code,
    reason = "mmap and munmap, copies by the kernel, and the promise that a mapping outlives \
              its windows"
)]

use crate::VmmError;
use hv_shmem::backing::Mapping;
use hv_shmem::mem::RawMem;
use hv_shmem::mem::SharedMem;
use rustix::fs::MemfdFlags;
use rustix::mm::Advice;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::mm::madvise;
use std::any::Any;
use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;
use std::ptr::null_mut;
use std::sync::Arc;

/// Alignment of mappings of at least this many bytes: a 2 MiB page of the host
/// can then back a 2 MiB page of the guest.
const HUGE_PAGE: u64 = 2 << 20;
/// The smallest unit of mapping.
pub(crate) const PAGE: u64 = 4096;

/// Where a partition's RAM comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RamBacking {
    /// Private anonymous memory.
    #[default]
    Anonymous,
    /// A memfd, shared.
    Memfd,
    /// 2 MiB huge pages from the host's pool.
    HugePages,
}

/// A mapping of host memory, unmapped when the last [`HostRange`] of it goes.
#[derive(Debug)]
pub struct HostMemory {
    base: *mut c_void,
    len: usize,
    /// Address and length of what was mapped, larger when it had to be aligned.
    mapped: (*mut c_void, usize),
}

// SAFETY: the address is only used through `RawMem`, whose accesses are atomic.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// `bytes` of zeroed memory; `what` names it in errors.
    ///
    /// # Errors
    /// [`VmmError::Memory`] when the host has not got it (for huge pages: when
    /// the pool is too small).
    pub fn new(what: &str, bytes: u64, backing: RamBacking) -> Result<Arc<Self>, VmmError> {
        let fail = |source: io::Error| VmmError::Memory {
            what: what.to_owned(),
            bytes,
            source,
        };
        let memory = Self::reserve(bytes).map_err(fail)?;
        let (base, len) = (memory.base, memory.len);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let done = match backing {
            // SAFETY: replaces pages of our own reservation, which nobody uses yet.
            RamBacking::Anonymous => unsafe {
                rustix::mm::mmap_anonymous(base, len, prot, MapFlags::PRIVATE | MapFlags::FIXED)
            },
            // SAFETY: as above.
            RamBacking::HugePages => unsafe {
                rustix::mm::mmap_anonymous(
                    base,
                    len,
                    prot,
                    MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::HUGETLB | MapFlags::HUGE_2MB,
                )
            },
            RamBacking::Memfd => {
                let fd = rustix::fs::memfd_create(what, MemfdFlags::CLOEXEC)
                    .map_err(|errno| fail(errno.into()))?;
                rustix::fs::ftruncate(&fd, bytes).map_err(|errno| fail(errno.into()))?;
                // SAFETY: as above; the memfd is ours alone and never shrinks.
                unsafe {
                    rustix::mm::mmap(base, len, prot, MapFlags::SHARED | MapFlags::FIXED, &fd, 0)
                }
            }
        };
        done.map_err(|errno| match (backing, errno) {
            (RamBacking::HugePages, rustix::io::Errno::NOMEM) => fail(io::Error::other(format!(
                "the host's pool has too few free 2 MiB pages ({} are needed); raise \
                 /proc/sys/vm/nr_hugepages",
                bytes.div_ceil(HUGE_PAGE)
            ))),
            _ => fail(errno.into()),
        })?;
        Ok(Arc::new(memory))
    }

    /// The whole of a file, shared with everybody else who maps it. Stores are
    /// not possible without `writable`.
    ///
    /// # Errors
    /// [`VmmError::Memory`] with what the kernel says.
    pub(crate) fn of_file(
        what: &str,
        file: impl AsFd,
        bytes: u64,
        writable: bool,
    ) -> Result<Arc<Self>, VmmError> {
        let fail = |source: io::Error| VmmError::Memory {
            what: what.to_owned(),
            bytes,
            source,
        };
        let memory = Self::reserve(bytes).map_err(fail)?;
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: replaces pages of our own reservation, which nobody uses yet.
        unsafe { rustix::mm::mmap(memory.base, memory.len, prot, flags, file, 0) }
            .map_err(|errno| fail(errno.into()))?;
        Ok(Arc::new(memory))
    }

    /// Addresses for `bytes`, aligned for the largest pages that fit, with nothing
    /// behind them yet. Dropping gives them back.
    fn reserve(bytes: u64) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let len = usize::try_from(bytes).ok().filter(|len| *len > 0);
        let len = len.ok_or_else(invalid)?;
        // With slack, to map over its aligned part.
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { PAGE } as usize;
        let room = len.checked_add(align).ok_or_else(invalid)?;
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                null_mut(),
                room,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let skip = start.addr().next_multiple_of(align) - start.addr();
        Ok(Self {
            base: start.wrapping_byte_add(skip),
            len,
            mapped: (start, room),
        })
    }

    /// Asks for 2 MiB pages wherever the host can make them, without a pool: fewer
    /// and larger faults for a guest that touches most of its RAM. Best effort.
    pub(crate) fn prefer_huge_pages(&self) {
        // SAFETY: advice about pages of our own mapping; their contents stay.
        let done = unsafe { madvise(self.base, self.len, Advice::LinuxHugepage) };
        if let Err(errno) = done {
            tracing::debug!(%errno, "no transparent huge pages");
        }
    }

    /// The whole mapping.
    pub fn range(self: &Arc<Self>) -> HostRange {
        HostRange {
            // SAFETY: mapped for as long as `owner` lives; page-aligned. What is
            // mapped read-only is given to guests as such and written by nobody here.
            mem: unsafe { RawMem::new(self.base.cast(), self.len as u64) },
            _owner: self.clone(),
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; every window held an `Arc` of self.
        let done = unsafe { rustix::mm::munmap(self.mapped.0, self.mapped.1) };
        if let Err(errno) = done {
            tracing::warn!(%errno, "guest memory stays mapped");
        }
    }
}

/// A page-aligned part of a host mapping, together with what keeps it mapped.
#[derive(Clone)]
pub struct HostRange {
    mem: RawMem,
    _owner: Arc<dyn Any + Send + Sync>,
}

impl HostRange {
    /// A range of a mapping that another crate owns.
    ///
    /// # Safety
    /// `mem` stays mapped, readable and (where a slot will be writable) writable,
    /// for as long as `owner` lives.
    pub unsafe fn new(mem: RawMem, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { mem, _owner: owner }
    }

    /// The whole of a region's mapping, kept alive.
    pub(crate) fn of_mapping(mapping: &Mapping) -> Self {
        Self {
            // SAFETY: mapped for as long as any clone of `mapping` lives; aligned
            // to 2 MiB. Where it is read-only in this process nothing writes: the
            // caller of `SharedRegion::new` promises so, and the kernel holds it.
            mem: unsafe { RawMem::new(mapping.as_ptr(), mapping.len()) },
            _owner: Arc::new(mapping.clone()),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.mem.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.mem.len() == 0
    }

    /// Host virtual address of the first byte.
    pub fn address(&self) -> u64 {
        self.mem.as_ptr().addr() as u64
    }

    /// The first byte. Whatever is made of it must not outlive the range.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.mem.as_ptr()
    }

    /// `len` bytes from `at`; `None` when they do not lie inside.
    pub fn part(&self, at: u64, len: u64) -> Option<Self> {
        Some(Self {
            mem: self.mem.window(at, len).ok()?,
            _owner: self._owner.clone(),
        })
    }

    /// Copies out; `None` when the bytes do not lie inside.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Option<()> {
        at.checked_add(to.len() as u64)
            .filter(|end| *end <= self.len())?;
        self.mem.read(at, to);
        Some(())
    }

    /// Copies in; `None` when the bytes do not lie inside.
    pub fn write(&self, at: u64, from: &[u8]) -> Option<()> {
        at.checked_add(from.len() as u64)
            .filter(|end| *end <= self.len())?;
        self.mem.write(at, from);
        Some(())
    }

    /// As [`HostRange::read`], of memory that may be gone: where the access would be a
    /// SIGBUS (a file that was truncated) it is `None`.
    pub(crate) fn read_if_there(&self, at: u64, to: &mut [u8]) -> Option<()> {
        let here = iovec(to.as_mut_ptr(), to.len());
        let there = self.iovec_at(at, to.len())?;
        // SAFETY: the kernel writes to `to` alone, which is borrowed for the call; what
        // it reads is this process's own, and what is not mapped there is an error.
        let done = unsafe { libc::process_vm_readv(libc::getpid(), &here, 1, &there, 1, 0) };
        (usize::try_from(done) == Ok(to.len())).then_some(())
    }

    /// As [`HostRange::write`], of memory that may be gone, or that this process may
    /// only read: `None` then.
    pub(crate) fn write_if_there(&self, at: u64, from: &[u8]) -> Option<()> {
        let here = iovec(from.as_ptr().cast_mut(), from.len());
        let there = self.iovec_at(at, from.len())?;
        // SAFETY: the kernel only reads `from`; it writes inside this range, to which no
        // Rust reference exists, and what is not mapped writable there is an error.
        let done = unsafe { libc::process_vm_writev(libc::getpid(), &here, 1, &there, 1, 0) };
        (usize::try_from(done) == Ok(from.len())).then_some(())
    }

    fn iovec_at(&self, at: u64, len: usize) -> Option<libc::iovec> {
        at.checked_add(len as u64)
            .filter(|end| *end <= self.len())?;
        let at = usize::try_from(at).ok()?;
        Some(iovec(self.as_ptr().wrapping_add(at), len))
    }
}

fn iovec(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base.cast(),
        iov_len: len,
    }
}

impl std::fmt::Debug for HostRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "HostRange({:#x}, {:#x} bytes)",
            self.address(),
            self.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_refuse_what_lies_outside() {
        for backing in [RamBacking::Anonymous, RamBacking::Memfd] {
            let range = HostMemory::new("test", 4 * PAGE, backing).unwrap().range();
            assert_eq!(range.address() % PAGE, 0);
            assert!(range.write(4 * PAGE - 2, b"ab").is_some());
            assert!(range.write(4 * PAGE - 1, b"ab").is_none());
            assert!(range.write(u64::MAX, b"ab").is_none());
            let mut back = [0; 2];
            assert!(
                range
                    .part(3 * PAGE, PAGE)
                    .unwrap()
                    .read(PAGE - 2, &mut back)
                    .is_some()
            );
            assert_eq!(&back, b"ab");
            assert!(range.part(3 * PAGE, PAGE + 8).is_none());
        }
    }

    #[test]
    fn what_lost_its_backing_is_none_and_no_signal() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * PAGE).unwrap();
        for writable in [true, false] {
            let memory = HostMemory::of_file("test", &file, 2 * PAGE, writable).unwrap();
            let range = memory.range();
            let mut back = [7; 4];
            assert_eq!(range.read_if_there(PAGE - 2, &mut back), Some(()));
            assert_eq!(back, [0; 4]);
            assert_eq!(range.read_if_there(2 * PAGE - 3, &mut back), None);
            assert_eq!(range.read_if_there(u64::MAX, &mut back), None);
            let wrote = range.write_if_there(PAGE, b"abcd");
            assert_eq!(wrote.is_some(), writable);
            assert_eq!(range.write_if_there(2 * PAGE - 3, b"abcd"), None);
            file.set_len(PAGE).unwrap();
            assert_eq!(range.read_if_there(PAGE, &mut back), None);
            assert_eq!(range.write_if_there(PAGE, &back), None);
            assert_eq!(range.read_if_there(PAGE - 4, &mut back), Some(()));
            file.set_len(2 * PAGE).unwrap();
        }
    }

    #[test]
    fn large_memory_is_aligned_for_huge_pages() {
        let memory = HostMemory::new("test", 3 * HUGE_PAGE, RamBacking::Anonymous).unwrap();
        assert_eq!(memory.range().address() % HUGE_PAGE, 0);
    }

    #[test]
    fn memory_that_is_not_there_is_an_error_that_says_so() {
        let error = HostMemory::new("RAM of a", 1 << 60, RamBacking::Anonymous).unwrap_err();
        assert!(error.to_string().contains("RAM of a"), "{error}");
        // More than any pool has.
        let error = HostMemory::new("RAM of b", 1 << 46, RamBacking::HugePages).unwrap_err();
        assert!(error.to_string().contains("nr_hugepages"), "{error}");
        assert!(HostMemory::new("nothing", 0, RamBacking::Anonymous).is_err());
    }
}
