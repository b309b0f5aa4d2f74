//! Mapping a backing: one contiguous address range, each part with its own
//! rights, and the memory in it.
#![expect(unsafe_code, reason = "mmap and munmap")]

use super::Backing;
use super::BackingError;
use super::Storage;
use super::View;
use super::fault_guard;
use super::huge::PoolState;
use super::numa;
use crate::layout::HUGE_PAGE;
use crate::layout::PAGE;
use crate::mem::KeptMem;
use crate::mem::RawMem;
use rustix::mm::Advice;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use std::ffi::c_void;
use std::fmt;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A mapped region. Clones share the mapping; it is unmapped when the last
/// clone and the last [`MappedMem`] are gone.
#[derive(Debug, Clone)]
pub struct Mapping {
    owned: Arc<Owned>,
}

/// Address space that is ours until dropped.
struct Owned {
    /// What was reserved, alignment included.
    reserved: *mut c_void,
    reserved_len: usize,
    base: *mut u8,
    len: u64,
    watch: Option<fault_guard::Watch>,
}

// SAFETY: an address range and a slot of a static table; the memory is only
// reached through `RawMem`.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl fmt::Debug for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owned")
            .field("base", &self.base)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // First the watch: a fault at these addresses is no longer ours.
        self.watch = None;
        // SAFETY: the range was reserved by `map` and nobody has its address
        // any more: every `MappedMem` keeps this value alive.
        let unmapped = unsafe { rustix::mm::munmap(self.reserved, self.reserved_len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own range");
    }
}

impl Mapping {
    /// The region's memory.
    pub fn mem(&self) -> MappedMem {
        // SAFETY: mapped for as long as `owned` lives, which the result keeps;
        // 2 MiB-aligned; no reference into it is ever made.
        let raw = unsafe { RawMem::new(self.owned.base, self.owned.len) };
        // SAFETY: as above; a clone of this mapping holds `owned`.
        unsafe { KeptMem::keep(self.clone(), raw) }
    }

    /// Address of the region's first byte, for a VMM's second-stage mappings.
    pub fn as_ptr(&self) -> *mut u8 {
        self.owned.base
    }

    /// Size of the region in bytes.
    pub fn len(&self) -> u64 {
        self.owned.len
    }

    /// Whether the region has no bytes: never.
    pub fn is_empty(&self) -> bool {
        self.owned.len == 0
    }

    /// Whether all pages are still there, as far as this mapping was used.
    /// Needs [`fault_guard::install`] (without it, the process is dead by then).
    ///
    /// # Errors
    /// [`BackingError::Faulted`].
    pub fn check(&self) -> Result<(), BackingError> {
        match self.owned.watch.as_ref().map_or(0, |w| w.pages_lost()) {
            0 => Ok(()),
            pages => Err(BackingError::Faulted { pages }),
        }
    }
}

/// A run of bytes with one fd (or none) and one set of rights.
struct Run<'a> {
    range: Range<u64>,
    fd: Option<(BorrowedFd<'a>, u64)>,
    writable: bool,
}

/// Neighbouring parts with the same fd and rights become one run.
fn runs(backing: &Backing, view: View) -> Result<Vec<Run<'_>>, BackingError> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    // Parts smaller than what the device maps at once share one mapping.
    let one = backing.granule > backing.layout.page && view != View::OBSERVER;
    for part in backing.parts() {
        let range = backing.range(part);
        // The tail of a sectioned backing has no fd.
        let piece = backing.piece(part).ok();
        if piece.is_none() && part != super::Part::Tail {
            return Err(BackingError::NoSuchPart { part });
        }
        let writable = (one || view.writes(part)) && piece.is_some_and(|p| p.writable);
        let (next, flat) = match piece {
            Some(p) => (
                Some((p.fd.as_fd(), p.at + range.start - p.range.start)),
                p.part.is_none(),
            ),
            None => (None, false),
        };
        match runs.last_mut() {
            Some(last) if flat && last.writable == writable => last.range.end = range.end,
            _ => runs.push(Run {
                range,
                fd: next,
                writable,
            }),
        }
    }
    Ok(runs)
}

pub(super) fn map(backing: &Backing, view: View) -> Result<Mapping, BackingError> {
    let len = backing.layout.size;
    let huge = backing.storage == Storage::HugePages;
    let align = if len >= HUGE_PAGE { HUGE_PAGE } else { PAGE };
    if !len.is_multiple_of(backing.granule) || backing.granule > align {
        let granule = backing.granule;
        return Err(BackingError::Granule { len, granule });
    }
    let reserved_len = usize::try_from(len + align)
        .map_err(|_| BackingError::io("map", rustix::io::Errno::NOMEM))?;
    // SAFETY: a new range of no rights; nothing else is touched.
    let reserved = unsafe {
        rustix::mm::mmap_anonymous(
            core::ptr::null_mut(),
            reserved_len,
            ProtFlags::empty(),
            MapFlags::PRIVATE,
        )
    }
    .map_err(|e| BackingError::io("reserve addresses", e))?;
    let base = reserved
        .cast::<u8>()
        .wrapping_add(reserved.cast::<u8>().align_offset(align as usize));
    let mut owned = Owned {
        reserved,
        reserved_len,
        base,
        len,
        watch: None,
    };
    let shift = if huge { HUGE_PAGE } else { PAGE }.trailing_zeros();
    owned.watch = Some(fault_guard::watch(base as usize, len as usize, shift)?);
    for run in runs(backing, view)? {
        map_run(&owned, &run).map_err(|e| short_pool(e, &run, huge))?;
        if run.fd.is_some()
            && let Some(node) = backing.numa_node
        {
            let at = base.wrapping_add(run.range.start as usize);
            numa::bind(at, run.range.end - run.range.start, node)?;
        }
        if run.writable && backing.populate {
            populate(&owned, &run)?;
        }
    }
    Ok(Mapping {
        owned: Arc::new(owned),
    })
}

/// A huge-page mapping that the kernel refuses means that the pool is short.
fn short_pool(e: rustix::io::Errno, run: &Run<'_>, huge: bool) -> BackingError {
    if huge && run.fd.is_some() && e == rustix::io::Errno::NOMEM {
        return BackingError::HugePages {
            need: (run.range.end - run.range.start) / HUGE_PAGE,
            pool: PoolState::read(),
        };
    }
    BackingError::io("map the region", e)
}

fn map_run(owned: &Owned, run: &Run<'_>) -> rustix::io::Result<()> {
    let at = owned.base.wrapping_add(run.range.start as usize);
    let len = (run.range.end - run.range.start) as usize;
    let mut prot = ProtFlags::READ;
    if run.writable {
        prot |= ProtFlags::WRITE;
    }
    match run.fd {
        Some((fd, offset)) => {
            // SAFETY: inside the range that `owned` reserved. No NORESERVE: the
            // kernel promises huge pages here or refuses.
            unsafe {
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                rustix::mm::mmap(at.cast(), len, prot, flags, fd, offset)?;
            }
        }
        None => {
            // SAFETY: as above; zeros that nobody can write.
            unsafe {
                let flags = MapFlags::PRIVATE | MapFlags::FIXED;
                rustix::mm::mmap_anonymous(at.cast(), len, prot, flags)?;
            }
        }
    }
    Ok(())
}

fn populate(owned: &Owned, run: &Run<'_>) -> Result<(), BackingError> {
    let at = owned.base.wrapping_add(run.range.start as usize);
    let len = (run.range.end - run.range.start) as usize;
    // SAFETY: our own mapping; populating changes no byte.
    unsafe { rustix::mm::madvise(at.cast(), len, Advice::LinuxPopulateWrite) }
        .map_err(|e| BackingError::io("touch all pages of the region", e))
}

/// [`SharedMem`](crate::mem::SharedMem) over a mapping that it keeps mapped.
pub type MappedMem = KeptMem<Mapping>;

impl MappedMem {
    /// The mapping that this is a window of.
    pub fn mapping(&self) -> Mapping {
        self.keeper().clone()
    }
}
