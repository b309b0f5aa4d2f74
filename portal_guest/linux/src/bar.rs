//! A BAR of a function, mapped through sysfs (`resourceN`).
//!
//! An access is one aligned load or store of 1, 2, 4 or 8 bytes that the compiler
//! neither merges nor leaves out. Trusted: the VMM. Left out: the memory type, which is
//! uncached here (`carrier` has the choice).
#![expect(unsafe_code, reason = "mmap of a BAR, loads and stores in it")]

use crate::GuestError;
use crate::pci::Function;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use std::ffi::c_void;
use std::fs::File;
use std::io;

/// What `mmap` of a BAR works in.
const PAGE: u64 = 4096;

/// How many bytes an access has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 1.
    Byte,
    /// 2.
    Word,
    /// 4.
    Double,
    /// 8.
    Quad,
}

impl Width {
    /// Every one, narrow ones first.
    pub const ALL: [Self; 4] = [Self::Byte, Self::Word, Self::Double, Self::Quad];

    /// Bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Double => 4,
            Self::Quad => 8,
        }
    }
}

/// A BAR, mapped.
#[derive(Debug)]
pub struct MappedBar {
    pages: *mut c_void,
    mapped: usize,
    /// Where the BAR begins in the first page: BARs can be smaller than pages.
    at: usize,
    len: usize,
}

// SAFETY: an address of device memory; each access is one volatile load or store, which
// any thread may do.
unsafe impl Send for MappedBar {}
// SAFETY: as above.
unsafe impl Sync for MappedBar {}

impl MappedBar {
    /// Maps the memory BAR of this number.
    ///
    /// # Errors
    /// [`GuestError::Os`], also when the function has none.
    pub fn map(function: &Function, number: usize) -> Result<Self, GuestError> {
        let path = function.file(&format!("resource{number}"));
        let missing = || io::Error::other(format!("the function has no memory in BAR{number}"));
        let bar = function.bar(number);
        let bar = bar.ok_or_else(|| GuestError::os("map", &path)(missing()))?;
        let at = bar.start % PAGE;
        let whole = (at + bar.len).next_multiple_of(PAGE);
        let sizes = (usize::try_from(bar.len), usize::try_from(whole));
        let (Ok(len), Ok(mapped)) = sizes else {
            return Err(GuestError::os("map", &path)(io::Error::other(
                "more bytes than this machine can address",
            )));
        };
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(GuestError::os("open", &path))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let pages = unsafe {
            let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            rustix::mm::mmap(core::ptr::null_mut(), mapped, prot, flags, &file, 0)
        }
        .map_err(|e| GuestError::os("map", &path)(e.into()))?;
        Ok(Self {
            pages,
            mapped,
            at: at as usize,
            len,
        })
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "no BAR is empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The address of an access; `None` unless it is inside, and aligned.
    fn place(&self, offset: usize, width: Width) -> Option<*mut u8> {
        let end = offset.checked_add(width.bytes())?;
        let inside = end <= self.len && (self.at + offset).is_multiple_of(width.bytes());
        inside.then(|| self.pages.cast::<u8>().wrapping_add(self.at + offset))
    }

    /// Loads a little-endian number; `None` where no access can be.
    pub fn load(&self, offset: usize, width: Width) -> Option<u64> {
        let place = self.place(offset, width)?;
        // SAFETY: `place` is inside the mapping, which lives as long as `self`, and
        // aligned.
        Some(unsafe {
            match width {
                Width::Byte => place.read_volatile().into(),
                Width::Word => u16::from_le(place.cast::<u16>().read_volatile()).into(),
                Width::Double => u32::from_le(place.cast::<u32>().read_volatile()).into(),
                Width::Quad => u64::from_le(place.cast::<u64>().read_volatile()),
            }
        })
    }

    /// Stores the low bytes of a number, little-endian; false where no access can be.
    pub fn store(&self, offset: usize, width: Width, value: u64) -> bool {
        let Some(place) = self.place(offset, width) else {
            return false;
        };
        // SAFETY: as in `load`.
        unsafe {
            match width {
                Width::Byte => place.write_volatile(value as u8),
                Width::Word => place.cast::<u16>().write_volatile((value as u16).to_le()),
                Width::Double => place.cast::<u32>().write_volatile((value as u32).to_le()),
                Width::Quad => place.cast::<u64>().write_volatile(value.to_le()),
            }
        }
        true
    }
}

impl Drop for MappedBar {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`; nobody else has its address.
        let unmapped = unsafe { rustix::mm::munmap(self.pages, self.mapped) };
        debug_assert!(unmapped.is_ok(), "munmap of our own pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn accesses_are_inside_aligned_and_little_endian() {
        let sysfs = tempfile::tempdir().unwrap();
        let folder = sysfs.path().join("bus/pci/devices/0000:00:04.0");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("vendor"), "0x1af4\n").unwrap();
        fs::write(folder.join("device"), "0x1110\n").unwrap();
        let resource = "0x00000000febfd100 0x00000000febfd10f 0x0000000000040200\n";
        fs::write(folder.join("resource"), resource).unwrap();
        fs::write(folder.join("resource0"), vec![0; 4096]).unwrap();
        let function = Function::all(sysfs.path()).remove(0);
        let bar = MappedBar::map(&function, 0).unwrap();
        assert_eq!(bar.len(), 16);
        assert!(bar.store(8, Width::Quad, 0x8877_6655_4433_2211));
        for (offset, width, value) in [
            (8, Width::Byte, 0x11),
            (10, Width::Word, 0x4433),
            (12, Width::Double, 0x8877_6655),
        ] {
            assert_eq!(bar.load(offset, width), Some(value));
        }
        assert_eq!(fs::read(folder.join("resource0")).unwrap()[0x108], 0x11);
        for (offset, width) in [
            (16, Width::Byte),
            (12, Width::Quad),
            (2, Width::Double),
            (usize::MAX, Width::Word),
        ] {
            assert_eq!(bar.load(offset, width), None, "{offset}");
            assert!(!bar.store(offset, width, 0), "{offset}");
        }
        let absent = MappedBar::map(&function, 1).unwrap_err().to_string();
        assert!(absent.contains("BAR1"), "{absent}");
    }
}
